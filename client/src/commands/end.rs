//! `millrace stop APP` and `millrace kill APP`: how an application ends.
//!
//! Promises: returns when the application has ended (with `--no-wait`: when it was asked to); a
//! drain that ran into its deadline has exit code 5, a stop that found a failure exit code 4.

use millrace_client::Client;
use millrace_client::view::{ApplicationView, has_ended, state_name};
use millrace_common::error::Code;
use millrace_proto::v1;
use serde_json::json;

use super::{master, wait};
use crate::arguments::{Global, Stop};
use crate::ended::{Ended, Outcome};
use crate::output::Output;

pub(super) async fn stop(global: &Global, output: &Output, command: &Stop) -> Outcome {
    let client = master(global).await?;
    let name = &command.named.name;
    let state = client.stop(name, command.drain, command.deadline).await?;
    if command.no_wait {
        let value = json!({ "name": name, "state": state_name(state) });
        return output.result(&value, || format!("{name} {}", state_name(state)));
    }
    let what = format!("{} {name}", if command.drain { "draining" } else { "stopping" });
    ended(&client, output, name, &what).await
}

pub(super) async fn kill(global: &Global, output: &Output, name: &str) -> Outcome {
    let client = master(global).await?;
    client.kill(name).await?;
    ended(&client, output, name, &format!("killing {name}")).await
}

/// Waits for the end and says how it was.
async fn ended(client: &Client, output: &Output, name: &str, what: &str) -> Outcome {
    let application = wait::until(client, output, name, what, |application| {
        has_ended(application.state()).then(|| application.clone())
    })
    .await?;
    verdict(&application)?;
    let view = ApplicationView::new(&application, &[]);
    let value = json!({
        "name": name,
        "state": view.state,
        "reason": view.reason,
        "batch": view.batch,
        "millis_behind_latest": view.millis_behind_latest,
    });
    output.result(&value, || {
        let batch = view.batch.map(|batch| format!(" after batch {batch}")).unwrap_or_default();
        format!("{name} {}{batch}", view.state)
    })
}

/// Whether the end is the one that was asked for.
fn verdict(application: &v1::Application) -> Outcome {
    use v1::ApplicationState as S;
    let drained_in_part = application
        .failure
        .as_ref()
        .is_some_and(|failure| failure.code == Code::DrainDeadline.as_str());
    match application.state() {
        S::Failed | S::Rejected => Err(Ended::application(wait::failure_of(application))),
        _ if drained_in_part => Err(Ended::from(wait::failure_of(application))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::ended::Exit;

    use super::*;

    fn exit(state: v1::ApplicationState, code: Option<&str>) -> Exit {
        let failure = code.map(|code| v1::Failure { code: code.to_owned(), ..Default::default() });
        let application = v1::Application { state: state.into(), failure, ..Default::default() };
        match verdict(&application) {
            Err(Ended::Error(_, exit)) => exit,
            Err(Ended::OutputClosed) | Ok(()) => Exit::Done,
        }
    }

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        use v1::ApplicationState as S;
        assert_eq!(exit(S::Stopped, None), Exit::Done);
        assert_eq!(exit(S::Killed, None), Exit::Done);
        assert_eq!(exit(S::Stopped, Some("MR4010")), Exit::DrainDeadline);
        assert_eq!(exit(S::Failed, Some("MR5001")), Exit::ApplicationFailed);
        assert_eq!(exit(S::Failed, None), Exit::ApplicationFailed);
    }
}
