//! The connection to the leading master, found among the masters that were given.
//!
//! Promises: every address is asked in turn, each within [`REACH_DEADLINE`]; a leader that a master
//! names is followed; while masters answer and none leads, it is asked again for [`ELECTION`] at
//! most. Owned by the client, whose clones share it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::access::Token;
use millrace_common::error::{Code, Error, Result};
use millrace_common::masters::Masters;
use millrace_common::random;
use millrace_common::retry::Backoff;
use millrace_common::rpc::{self, Caller};
use millrace_proto::v1;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tonic::Status;

/// How long it may take to find out that a master can not be reached.
pub const REACH_DEADLINE: Duration = Duration::from_millis(2_500);
/// How long the masters may take to agree on a leader: a standby waits 10 s before it takes over.
const ELECTION: Duration = Duration::from_secs(20);
/// Between rounds in which masters answered and none led.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) };

/// A connection to a master that leads.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    pub(crate) inner: ClientServiceClient<Caller>,
    /// `host:port`.
    pub(crate) address: String,
}

/// The way to the leading master. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    masters: Arc<Mutex<Masters>>,
    token: Option<Token>,
    open: Arc<tokio::sync::Mutex<Option<Leader>>>,
}

impl Link {
    /// No connection yet; `list` is an address, or several separated by commas. Each is shown
    /// `token`.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] for text that is no address.
    pub(crate) fn new(list: &str, token: Option<Token>) -> Result<Self> {
        let masters = Arc::new(Mutex::new(Masters::parse(list)?));
        Ok(Self { masters, token, open: Arc::default() })
    }

    /// The leading master: the one that was found before, or looked for now.
    ///
    /// # Errors
    /// [`Code::MasterUnreachable`], or [`Code::NotLeader`] when none leads for long.
    pub(crate) async fn leader(&self) -> Result<Leader> {
        let mut open = self.open.lock().await;
        if let Some(leader) = &*open {
            return Ok(leader.clone());
        }
        let found = self.find().await?;
        Ok(open.insert(found).clone())
    }

    /// This master does not lead any more, or does not answer; the next call looks again, at
    /// `named` first.
    pub(crate) async fn lose(&self, leader: &Leader, named: Option<&str>) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| open.address == leader.address) {
            *open = None;
            if named.is_some() {
                self.masters().failed(named, BACKOFF, random::unit());
            }
        }
    }

    fn masters(&self) -> std::sync::MutexGuard<'_, Masters> {
        self.masters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(&self) -> Result<Leader> {
        let started = Instant::now();
        let mut errors: Vec<Error> = Vec::new();
        loop {
            let address = self.masters().current().to_owned();
            let error = match greet(&address, self.token.as_ref()).await {
                Ok(leader) => {
                    self.masters().succeeded();
                    return Ok(leader);
                }
                Err(error) => error,
            };
            let delay = self.masters().failed(error.leader(), BACKOFF, random::unit());
            errors.push(error);
            if delay.is_zero() {
                continue;
            }
            let is_election = errors.iter().any(|error| error.code() == Code::NotLeader);
            if !is_election || started.elapsed() + delay > ELECTION {
                return Err(all_failed(errors));
            }
            errors.clear();
            tokio::time::sleep(delay).await;
        }
    }
}

/// One error for a round in which nobody led.
fn all_failed(mut errors: Vec<Error>) -> Error {
    if errors.len() == 1
        && let Some(only) = errors.pop()
    {
        return only;
    }
    let is_refused = |error: &Error| error.code().grpc() == tonic::Code::Unauthenticated;
    if let Some(refused) = errors.iter().position(is_refused) {
        return errors.swap_remove(refused);
    }
    let code = match errors.iter().find(|error| error.code() == Code::NotLeader) {
        Some(_) => Code::NotLeader,
        None => Code::MasterUnreachable,
    };
    let each: Vec<String> = errors.iter().map(|error| error.message().to_owned()).collect();
    Error::new(
        code,
        format!("none of the masters leads: {}", each.join("; ")),
        "start them, or name others with --master or MILLRACE_MASTER",
    )
}

/// Connects to the master at `address` and asks it who it is, which only a leader answers.
async fn greet(address: &str, token: Option<&Token>) -> Result<Leader> {
    let address = address.to_owned();
    let greet = async {
        let channel = rpc::connect(&address)
            .await
            .map_err(|error| unreachable(&address, &error.to_string()))?;
        let mut inner = ClientServiceClient::new(Caller::new(channel, token))
            .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rpc::MESSAGE_BYTES_MAX);
        inner
            .get_cluster(v1::GetClusterRequest {})
            .await
            .map_err(|status| explain(&address, &status))?;
        Ok(inner)
    };
    match tokio::time::timeout(REACH_DEADLINE, greet).await {
        Ok(outcome) => outcome.map(|inner| Leader { inner, address: address.clone() }),
        Err(_) => {
            let why = format!("no answer within {} ms", REACH_DEADLINE.as_millis());
            Err(unreachable(&address, &why))
        }
    }
}

/// A status as an error: the master's own words where it sent them, else what the connection met.
pub(crate) fn explain(address: &str, status: &Status) -> Error {
    if std::error::Error::source(status).is_some() {
        return unreachable(address, &deepest_cause(status));
    }
    let error = Error::from_status(&format!("the master at {address}"), status);
    match (error.code(), status.code()) {
        (Code::Protocol, tonic::Code::Internal | tonic::Code::Unimplemented) => Error::new(
            Code::MasterUnreachable,
            format!(
                "what listens on {address} does not answer as a Millrace master: {}",
                status.message()
            ),
            "name the master's address with --master or MILLRACE_MASTER",
        ),
        _ => error,
    }
}

/// The error for a master that does not answer.
pub(crate) fn unreachable(address: &str, why: &str) -> Error {
    Error::new(
        Code::MasterUnreachable,
        format!("the master at {address} can not be reached: {why}"),
        "start it (`millrace local up` starts a local cluster), or name another with --master or \
         MILLRACE_MASTER",
    )
}

/// The text at the bottom of a chain of causes: "Connection refused (os error 111)" instead of
/// "transport error".
fn deepest_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
