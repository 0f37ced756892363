//! `millrace replay FILE --from T1 --to T2 --path s3://...`: computes a past range of the streams
//! into another place, by an application of its own that ends by itself.
//!
//! Promises: what the stream does not hold, and a place that is not the replay's own, are refused
//! before anything starts; the same command again goes on with the same replay. Never does: touch
//! the application whose file it is, its head or what it wrote.

mod checks;

use millrace_client::Client;
use millrace_client::view::{ReplayView, has_ended, state_name};
use millrace_common::application::ApplicationSpec;
use millrace_common::application::replay::{self, Range};
use millrace_common::clock::SystemClock;
use millrace_common::error::{Code, Error, Result};
use millrace_common::random;
use millrace_proto::v1;
use serde_json::json;

use super::{aws, master, plan, wait};
use crate::arguments::{Global, Replay};
use crate::ended::{Ended, Outcome};
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, command: Replay) -> Outcome {
    let of = command.source.load()?;
    let aws = aws(output, &of.aws).await?;
    let streams = checks::streams(&of, &aws, output).await?;
    let dated = streams.iter().map(|stream| stream.server_ms).filter(|ms| *ms > 0).max();
    let now_ms = dated.unwrap_or_else(|| SystemClock::shared().now_ms());
    let range = Range::new(command.from.resolve(now_ms), command.to.resolve(now_ms))?;
    for stream in &streams {
        range.check_held(&stream.name, stream.retention, stream.created_ms, stream.server_ms)?;
    }
    let mut spec = replay::derive(&of, range, command.path, command.dead_letter_path)?;
    note_origins(&mut spec);
    millrace_sql::validate(&spec).await?;
    let client = master(global).await?;
    if let Some(running) = known(&client, of.name.as_str()).await? {
        beside(&running, &of, &spec)?;
    }
    let name = spec.name.as_str();
    let before = known(&client, name).await?;
    let mut attempt = 0;
    let state = match before.as_ref().map(v1::Application::state) {
        Some(v1::ApplicationState::Finished) => v1::ApplicationState::Finished,
        Some(state) if !has_ended(state) => {
            output.say("this replay is under way already");
            state
        }
        before => {
            if before.is_none() {
                checks::is_empty(&spec, &aws, output).await?;
            }
            let answer = submit(&client, output, &spec).await?;
            attempt = answer.attempt;
            answer.state()
        }
    };
    if command.wait {
        let what = format!("waiting for {name}");
        let finished =
            wait::until(&client, output, name, &what, |seen| outcome(seen, attempt)).await??;
        return shown(output, &spec, range, &finished);
    }
    if let Some(finished) = before.filter(|_| state == v1::ApplicationState::Finished) {
        return shown(output, &spec, range, &finished);
    }
    let value = result(&spec, range, state, None);
    output.result(&value, || format!("{name} {}: a replay {range}", state_name(state)))?;
    if !output.json() {
        output.say(&format!("it ends by itself; follow it with `millrace status {name}`"));
    }
    Ok(())
}

/// Where the values come from that are not the file's.
fn note_origins(spec: &mut ApplicationSpec) {
    let mut note = |key: String, origin: &str| spec.origins.insert(key, origin.to_owned());
    note("name".to_owned(), "millrace replay");
    note("sink.path".to_owned(), "flag --path");
    if spec.sink.dead_letter_path.is_some() {
        note("sink.dead_letter_path".to_owned(), "flag --dead-letter-path");
    }
    for source in spec.sources.keys() {
        note(format!("source.{source}.start"), "flag --from");
    }
}

/// An application, if the master knows it.
async fn known(client: &Client, name: &str) -> Result<Option<v1::Application>> {
    match client.application(name).await {
        Ok((application, _)) => Ok(Some(application)),
        Err(error) if error.code() == Code::UnknownApplication => Ok(None),
        Err(error) => Err(error),
    }
}

/// The application may run with another file than the one that was given.
fn beside(running: &v1::Application, of: &ApplicationSpec, replay: &ApplicationSpec) -> Result<()> {
    let Some(spec) = &running.spec else { return Ok(()) };
    // A specification that this client can not read says nothing that it could hold against it.
    let Ok(spec) = ApplicationSpec::from_proto(spec) else { return Ok(()) };
    replay::check_places(&of.name, &spec.sink, &replay.sink)
}

async fn submit(
    client: &Client,
    output: &Output,
    spec: &ApplicationSpec,
) -> Outcome<v1::SubmitApplicationResponse> {
    let mut warnings = millrace_sql::warnings(spec).await?;
    let request = v1::SubmitApplicationRequest {
        spec: Some(spec.to_proto()),
        // So that it can be sent again when an answer is lost.
        request_id: random::uuid().to_string(),
        ..Default::default()
    };
    let answer = match client.submit(request).await {
        Err(refusal) if refusal.code() == Code::DoesNotFit && !output.json() => {
            plan::say(client, output, spec).await;
            return Err(refusal.into());
        }
        answer => answer?,
    };
    warnings.extend(answer.warnings.iter().cloned());
    warnings.iter().for_each(|warning| output.warn(warning));
    Ok(answer)
}

/// Whether the replay is where the wait ends, and how.
fn outcome(seen: &v1::Application, attempt: u32) -> Option<Outcome<v1::Application>> {
    use v1::ApplicationState as S;
    let newest = seen.attempts.iter().map(|attempt| attempt.number).max().unwrap_or(0);
    if newest < attempt || !has_ended(seen.state()) {
        return None;
    }
    Some(match seen.state() {
        S::Finished => Ok(seen.clone()),
        S::Failed | S::Rejected => Err(Ended::application(wait::failure_of(seen))),
        state => Err(Ended::from(Error::new(
            Code::WrongState,
            format!(
                "the replay {} was ended before its range was: {}",
                seen.name,
                state_name(state)
            ),
            "run the same command again: it goes on where it was",
        ))),
    })
}

fn shown(
    output: &Output,
    spec: &ApplicationSpec,
    range: Range,
    finished: &v1::Application,
) -> Outcome {
    let done = ReplayView::new(finished);
    let value = result(spec, range, finished.state(), done.as_ref());
    output.result(&value, || {
        format!("{} {}: {}", spec.name, state_name(finished.state()), finished.reason)
    })
}

fn result(
    spec: &ApplicationSpec,
    range: Range,
    state: v1::ApplicationState,
    done: Option<&ReplayView>,
) -> serde_json::Value {
    json!({
        "name": spec.name.as_str(),
        "state": state_name(state),
        "from_ms": range.from_ms(),
        "to_ms": range.to_ms(),
        "path": spec.sink.path.to_string(),
        "num_records": done.and_then(|done| done.num_records),
        "num_rows": done.and_then(|done| done.num_rows),
        "num_files": done.and_then(|done| done.num_files),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(state: v1::ApplicationState, number: u32) -> Option<bool> {
        let seen = v1::Application {
            state: state.into(),
            attempts: vec![v1::Attempt { number, ..Default::default() }],
            ..Default::default()
        };
        outcome(&seen, 2).map(|outcome| outcome.is_ok())
    }

    #[test]
    fn only_a_finished_replay_is_what_was_waited_for() {
        use v1::ApplicationState as S;
        assert_eq!(ends(S::Running, 2), None);
        assert_eq!(ends(S::Finished, 1), None, "an earlier attempt's end is not ours");
        assert_eq!(ends(S::Finished, 2), Some(true));
        for state in [S::Stopped, S::Killed, S::Failed, S::Rejected] {
            assert_eq!(ends(state, 2), Some(false), "{state:?}");
        }
    }
}
