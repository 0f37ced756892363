//! Waiting: for the master, and for an application to reach a state.
//!
//! Promises: the master is asked a few times a second. One that is away is waited for, since a
//! restart takes seconds, and said so: [`RESTART`] by every command that begins, [`PATIENCE`] by one
//! that was waiting already.

use std::time::{Duration, Instant};

use millrace_client::Client;
use millrace_common::error::{Code, Error};
use millrace_proto::v1;

use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::Output;

/// How often the master is asked.
pub(super) const POLL: Duration = Duration::from_millis(200);
/// How long a master may be away while a command waits: a new leader takes 15 s to be sure of its
/// nodes, a restart by a service manager somewhat longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a command that begins waits for a master that does not answer: it may be restarting, or
/// not be there at all.
const RESTART: Duration = Duration::from_secs(10);

/// The leading master of those that the command line or the environment names.
pub(super) async fn master(global: &Global) -> Outcome<Client> {
    let output = Output::new(global.json);
    let mut away = Away { patience: RESTART, since: None };
    loop {
        match Client::connect(&global.master, global.token()?).await {
            // Where none leads, that was waited for already.
            Err(error) if error.code() == Code::NotLeader => return Err(error.into()),
            answer => {
                if let Some(client) = away.notice(answer, &output)? {
                    return Ok(client);
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks until `wanted` gives an answer.
pub(super) async fn until<T>(
    client: &Client,
    output: &Output,
    name: &str,
    what: &str,
    wanted: impl Fn(&v1::Application) -> Option<T>,
) -> Outcome<T> {
    let spinner = output.spinner(what);
    let mut away = Away::default();
    loop {
        if let Some(application) = away.notice(client.application(name).await, output)? {
            let (application, _) = application;
            if let Some(answer) = wanted(&application) {
                spinner.finish_and_clear();
                return Ok(answer);
            }
            if application.reason.is_empty() {
                spinner.set_message(what.to_owned());
            } else {
                spinner.set_message(format!("{what}: {}", application.reason));
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Since when the master does not answer, and how long that is borne.
#[derive(Debug)]
pub(super) struct Away {
    patience: Duration,
    since: Option<Instant>,
}

impl Default for Away {
    /// For a command that waits: [`PATIENCE`].
    fn default() -> Self {
        Self { patience: PATIENCE, since: None }
    }
}

impl Away {
    /// Passes an answer on; none while the master is away for less than it is waited for. People
    /// are told when that begins and ends.
    pub(super) fn notice<T>(
        &mut self,
        answer: Result<T, Error>,
        output: &Output,
    ) -> Result<Option<T>, Error> {
        match answer {
            Ok(answer) => {
                if self.since.take().is_some() && !output.json() {
                    output.say("the master is back");
                }
                Ok(Some(answer))
            }
            Err(error) if matches!(error.code(), Code::MasterUnreachable | Code::NotLeader) => {
                let since = match self.since {
                    Some(since) => since,
                    None => {
                        if !output.json() {
                            let seconds = self.patience.as_secs();
                            let what = error.message();
                            output.warn(&format!("{what}; waiting for it, {seconds} s at most"));
                        }
                        *self.since.insert(Instant::now())
                    }
                };
                if since.elapsed() > self.patience { Err(error) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }
}

/// The failure of an application that has ended badly, as an error to end with.
pub(super) fn failure_of(application: &v1::Application) -> Error {
    match &application.failure {
        Some(failure) => Error::from_failure(failure.clone()),
        None => Error::new(
            Code::WrongState,
            format!(
                "application {} is {}: {}",
                application.name,
                millrace_client::view::state_name(application.state()),
                if application.reason.is_empty() { "no reason given" } else { &application.reason }
            ),
            format!("read `millrace logs {}`", application.name),
        ),
    }
}
