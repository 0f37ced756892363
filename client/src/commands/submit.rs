//! `millrace submit FILE`: checks an application file, then hands it to the master.
//!
//! Promises: what can be found wrong without the cluster is found before the master is asked.

use millrace_client::view::state_name;
use millrace_common::error::Code;
use millrace_proto::v1;
use serde_json::json;

use super::{master, plan, wait};
use crate::arguments::{Global, Submit, WaitUntil};
use crate::ended::{Ended, Outcome};
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, command: Submit) -> Outcome {
    let mut spec = command.source.load()?;
    spec.drop_sources.extend(command.drop_source);
    millrace_sql::validate(&spec).await?;
    let mut warnings = millrace_sql::warnings(&spec).await?;
    let client = master(global).await?;
    let answer = match client.submit(spec.to_proto()).await {
        Err(refusal) if refusal.code() == Code::DoesNotFit && !output.json() => {
            plan::say(&client, output, &spec).await;
            return Err(refusal.into());
        }
        answer => answer?,
    };
    warnings.extend(answer.warnings.iter().cloned());
    for warning in &warnings {
        output.warn(warning);
    }
    let (name, attempt, state) = (answer.name.clone(), answer.attempt, answer.state());
    let state = match command.wait {
        None => state,
        Some(until) => {
            let what = format!("waiting for {name}");
            let ended = |application: &v1::Application| outcome(application, attempt, until);
            wait::until(&client, output, &name, &what, ended).await??
        }
    };
    let value = json!({
        "name": name,
        "attempt": attempt,
        "state": state_name(state),
        "warnings": warnings,
    });
    output.result(&value, || format!("{name} attempt {attempt} {}", state_name(state)))?;
    if command.wait.is_none() && !output.json() {
        output.say(&format!("follow it with `millrace batches {name} --follow`"));
    }
    Ok(())
}

/// Whether an application is where the wait ends, and how.
fn outcome(
    application: &v1::Application,
    attempt: u32,
    until: WaitUntil,
) -> Option<Outcome<v1::ApplicationState>> {
    use v1::ApplicationState as S;
    let newest = application.attempts.iter().map(|attempt| attempt.number).max().unwrap_or(0);
    if newest < attempt {
        return None;
    }
    match (application.state(), until) {
        (S::Failed | S::Rejected, _) => {
            Some(Err(Ended::application(wait::failure_of(application))))
        }
        (state @ (S::Stopped | S::Killed), _)
        | (state @ (S::Running | S::Stopping), WaitUntil::Running) => Some(Ok(state)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(state: v1::ApplicationState, attempt: u32) -> v1::Application {
        v1::Application {
            name: "wc".to_owned(),
            state: state.into(),
            attempts: vec![v1::Attempt { number: attempt, ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn a_wait_ends_at_work_or_at_the_end() {
        use v1::ApplicationState as S;
        let ends =
            |state, attempt, until| outcome(&application(state, attempt), 2, until).is_some();
        assert!(!ends(S::Queued, 2, WaitUntil::Running));
        assert!(!ends(S::Starting, 2, WaitUntil::Running));
        assert!(ends(S::Running, 2, WaitUntil::Running));
        assert!(!ends(S::Running, 2, WaitUntil::Ended));
        assert!(ends(S::Stopped, 2, WaitUntil::Ended));
        assert!(!ends(S::Failed, 1, WaitUntil::Running), "an earlier attempt's end is not ours");
    }

    #[test]
    fn a_rejected_application_ends_the_wait_with_its_failure() {
        let mut rejected = application(v1::ApplicationState::Rejected, 1);
        rejected.failure = Some(v1::Failure {
            code: "MR3002".to_owned(),
            message: "stream app-logs is missing".to_owned(),
            next_move: "make it".to_owned(),
            ..Default::default()
        });
        match outcome(&rejected, 1, WaitUntil::Running) {
            Some(Err(Ended::Error(error, crate::ended::Exit::ApplicationFailed))) => {
                assert_eq!(error.code(), Code::StreamMissing);
            }
            other => panic!("{other:?}"),
        }
    }
}
