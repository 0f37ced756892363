//! `millrace submit FILE`: checks an application file, or the message as JSON, then hands it to the
//! master.
//!
//! Promises: what can be found wrong without the cluster is found before the master is asked.

use std::path::Path;

use millrace_client::Client;
use millrace_client::view::{has_ended, state_name};
use millrace_common::application::ApplicationSpec;
use millrace_common::error::{Code, Error, Result};
use millrace_common::random;
use millrace_proto::v1;
use serde_json::json;

use super::{master, plan, wait};
use crate::arguments::{Global, Submit, WaitUntil};
use crate::ended::{Ended, Outcome};
use crate::from_json;
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, command: Submit) -> Outcome {
    let (spec, request) = request(&command)?;
    millrace_sql::validate(&spec).await?;
    let mut warnings = millrace_sql::warnings(&spec).await?;
    let client = master(global).await?;
    let answer = match client.submit(request).await {
        Err(refusal) if refusal.code() == Code::DoesNotFit && !output.json() => {
            plan::say(&client, output, &spec).await;
            return Err(refusal.into());
        }
        answer => answer?,
    };
    if answer.repeated_request {
        output.say("this submission was taken before: nothing is changed");
    }
    warnings.extend(answer.warnings.iter().cloned());
    for warning in &warnings {
        output.warn(warning);
    }
    let (name, attempt, mut state) = (answer.name.clone(), answer.attempt, answer.state());
    if command.upgrade {
        taken(&client, output, &name, answer.revision, command.wait.is_some()).await?;
        state = client.application(&name).await?.0.state();
    }
    if let Some(until) = command.wait {
        let what = format!("waiting for {name}");
        let ended = |application: &v1::Application| match replaced(application, answer.revision) {
            Some(error) => Some(Err(error.into())),
            None => outcome(application, attempt, until),
        };
        state = wait::until(&client, output, &name, &what, ended).await??;
    }
    let value = json!({
        "name": name,
        "attempt": attempt,
        "revision": answer.revision,
        "repeated": answer.repeated_request,
        "state": state_name(state),
        "warnings": warnings,
    });
    output.result(&value, || format!("{name} attempt {attempt} {}", state_name(state)))?;
    if command.wait.is_none() && !output.json() {
        output.say(&format!("follow it with `millrace batches {name} --follow`"));
    }
    Ok(())
}

/// What is to run, and the message that says so.
fn request(command: &Submit) -> Result<(ApplicationSpec, v1::SubmitApplicationRequest)> {
    let file = &command.source.file;
    let mut request = if command.from_json {
        from_json::parse(&file.display().to_string(), &read(file)?)?
    } else {
        let mut spec = command.source.load()?;
        spec.drop_sources.extend(command.drop_source.iter().cloned());
        v1::SubmitApplicationRequest { spec: Some(spec.to_proto()), ..Default::default() }
    };
    request.upgrade |= command.upgrade;
    if let Some(id) = &command.request_id {
        request.request_id.clone_from(id);
    }
    if request.request_id.is_empty() {
        // So that it can be sent again when an answer is lost.
        request.request_id = random::uuid().to_string();
    }
    let spec = request.spec.as_ref().ok_or_else(|| {
        Error::new(
            Code::IncompleteMessage,
            format!("{} has no field `spec`", file.display()),
            "write {\"spec\": {...}}: see proto/millrace/v1/client.proto",
        )
    })?;
    Ok((ApplicationSpec::from_proto(spec)?, request))
}

fn read(file: &Path) -> Result<String> {
    let text = match file.as_os_str().to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    text.map_err(|error| {
        Error::new(
            Code::FileUnreadable,
            format!("{} can not be read", file.display()),
            "give a file that you may read, or - for standard input",
        )
        .caused_by(error)
    })
}

/// Waits until it is known whether a revision takes the place of the one before: until it was
/// checked, or with `until_works` until it is at work.
async fn taken(
    client: &Client,
    output: &Output,
    name: &str,
    revision: u32,
    until_works: bool,
) -> Outcome {
    let what = format!("checking revision {revision} of {name}");
    let failure = wait::until(client, output, name, &what, |application| {
        if let Some(error) = replaced(application, revision) {
            return Some(Err(error));
        }
        let found = application.revisions.iter().find(|known| known.number == revision)?;
        match found.state() {
            v1::RevisionState::Checking if !has_ended(application.state()) => None,
            v1::RevisionState::Starting if until_works && !has_ended(application.state()) => None,
            v1::RevisionState::Refused if application.revision != revision => {
                Some(Ok(Some((found.clone(), application.revision))))
            }
            _ => Some(Ok(None)),
        }
    })
    .await??;
    let Some((refused, in_use)) = failure else { return Ok(()) };
    let cause = refused.failure.map(Error::from_failure);
    let error = Error::new(
        cause.as_ref().map_or(Code::WrongState, Error::code),
        format!(
            "revision {revision} of {name} is refused, and revision {in_use} stays: {}",
            cause.as_ref().map_or(refused.reason.as_str(), Error::message)
        ),
        cause.as_ref().map_or("submit it again", Error::next_move),
    );
    Err(error.into())
}

/// The error for a revision that another one has taken the place of, if one has.
fn replaced(application: &v1::Application, revision: u32) -> Option<Error> {
    let found = application.revisions.iter().find(|known| known.number == revision);
    // Only the newest are listed.
    let is_over = found.is_none_or(|known| known.state() == v1::RevisionState::Ended);
    let (name, in_use) = (&application.name, application.revision);
    (is_over && in_use > revision).then(|| {
        Error::new(
            Code::WrongState,
            format!("revision {revision} of {name} was replaced by revision {in_use} meanwhile"),
            format!("see `millrace history {name}` for whose it is, and submit again if need be"),
        )
    })
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
        (state @ (S::Stopped | S::Killed | S::Finished), _)
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
    fn a_revision_that_another_followed_was_replaced() {
        use v1::RevisionState as R;
        let with = |in_use, states: &[(u32, R)]| {
            let revision = |&(number, state): &(u32, R)| {
                let mut revision = v1::Revision { number, ..Default::default() };
                revision.set_state(state);
                revision
            };
            v1::Application {
                name: "wc".to_owned(),
                revision: in_use,
                revisions: states.iter().map(revision).collect(),
                ..Default::default()
            }
        };
        let is_replaced = |application: &v1::Application| replaced(application, 2).is_some();
        assert!(!is_replaced(&with(1, &[(1, R::Active), (2, R::Checking)])));
        assert!(!is_replaced(&with(2, &[(1, R::Ended), (2, R::Active)])));
        assert!(!is_replaced(&with(2, &[(1, R::Ended), (2, R::Active), (3, R::Checking)])));
        assert!(!is_replaced(&with(2, &[(2, R::Ended)])), "the application has ended with it");
        assert!(!is_replaced(&with(3, &[(2, R::Refused), (3, R::Active)])), "it is refused");
        let late = with(3, &[(2, R::Ended), (3, R::Starting)]);
        let error = replaced(&late, 2).unwrap();
        assert!(error.message().contains("replaced by revision 3"), "{error}");
        assert!(is_replaced(&with(30, &[(11, R::Ended), (30, R::Active)])), "it is not listed");
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
