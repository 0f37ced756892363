//! The executor's session with its driver: one stream each way, on a thread of its own.
//!
//! Promises: heartbeats go out whatever the receivers, tasks and their runtimes do, because thread,
//! timer and connection are the session's own; a broken session is made again within the grace
//! time. Owned by the executor's main, which hears of its end. Never does: act on a command.

pub mod core;

use std::sync::Arc;
use std::time::Duration;

use millrace_common::access::Token;
use millrace_common::random;
use millrace_common::rpc::{self, Caller};
use millrace_common::{Code, Error};
use millrace_proto::v1::driver_service_client::DriverServiceClient;
use millrace_proto::v1::{
    ExecutorCommand, ExecutorHeartbeat, ExecutorMessage, ExecutorRegister, executor_command,
    executor_message,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use self::core::{Loss, Next, SessionCore};

/// Messages on their way to the wire. Small: what waits here is old when it arrives.
const WIRE_MAX: usize = 16;
/// How long the driver may take to open the stream: it may wait for the master's word on us.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Until the driver names another.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What the session tells the executor.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is moved once; boxing each costs more")]
pub enum SessionEvent {
    /// The driver took the executor on, for the first time or again.
    Registered,
    /// The driver wants something.
    Command(executor_command::Body),
    /// There will be no more: the driver refuses the executor, or is gone.
    Ended(Error),
}

/// What a session needs.
pub struct Session {
    /// `host:port` of the driver.
    pub driver: String,
    /// What the driver is shown.
    pub token: Option<Token>,
    /// How long to go on without it.
    pub grace: Duration,
    /// Makes the registration, anew for each connection.
    pub register: Arc<dyn Fn() -> ExecutorRegister + Send + Sync>,
    /// Makes the heartbeat of this sequence number.
    pub heartbeat: Arc<dyn Fn(u64) -> ExecutorHeartbeat + Send + Sync>,
    /// What the executor sends.
    pub outbox: mpsc::Receiver<ExecutorMessage>,
    /// What the executor hears.
    pub events: mpsc::Sender<SessionEvent>,
}

impl Session {
    /// Starts the session's thread. It ends when the events' receiver is dropped, or after
    /// [`SessionEvent::Ended`].
    ///
    /// # Errors
    /// When the operating system refuses a thread or a runtime.
    pub fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || runtime.block_on(self.run()))
    }

    /// Keeps the session up, here; ends as [`Session::start`] says.
    pub async fn run(mut self) {
        let begun = Instant::now();
        let mut core = SessionCore::new(begun.elapsed(), self.grace);
        let mut sequence = 0;
        loop {
            let Some(loss) = self.connection(&mut core, &mut sequence).await else { return };
            match core.lost(begun.elapsed(), loss, random::unit()) {
                Next::Again(delay) => tokio::time::sleep(delay).await,
                Next::GiveUp(error) => {
                    // Nobody listens any more: then nobody needs to know.
                    let _heard = self.events.send(SessionEvent::Ended(error)).await;
                    return;
                }
            }
        }
    }

    /// One connection, from its making to its end. None when the executor ends.
    async fn connection(&mut self, core: &mut SessionCore, sequence: &mut u64) -> Option<Loss> {
        let (wire, outgoing) = mpsc::channel(WIRE_MAX);
        let register = executor_message::Body::Register((self.register)());
        if wire.try_send(ExecutorMessage { body: Some(register) }).is_err() {
            return Some(Loss::Broken("a new queue is full".into()));
        }
        let inbound = match self.open(ReceiverStream::new(outgoing)).await {
            Ok(inbound) => inbound,
            Err(loss) => return Some(loss),
        };
        let (registered_tx, mut registered) = mpsc::channel(1);
        let mut hearing = tokio::spawn(hear(inbound, self.events.clone(), registered_tx));
        let mut beat = tokio::time::interval(HEARTBEAT_INTERVAL);
        let loss = loop {
            let message = tokio::select! {
                biased;
                end = &mut hearing => break match end {
                    Ok(loss) => loss,
                    Err(error) => Some(Loss::Broken(error.into())),
                },
                Some(interval) = registered.recv() => {
                    core.registered();
                    beat = tokio::time::interval(interval);
                    continue;
                }
                _ = beat.tick() => {
                    *sequence += 1;
                    let body = executor_message::Body::Heartbeat((self.heartbeat)(*sequence));
                    ExecutorMessage { body: Some(body) }
                }
                message = self.outbox.recv() => match message {
                    Some(message) => message,
                    None => break None,
                },
            };
            tokio::select! {
                biased;
                sent = wire.send(message) => if sent.is_err() {
                    // The stream is closed; the other direction says why.
                    tracing::debug!("the stream to the driver is closed");
                },
                end = &mut hearing => break match end {
                    Ok(loss) => loss,
                    Err(error) => Some(Loss::Broken(error.into())),
                },
            }
        };
        hearing.abort();
        loss
    }

    async fn open(
        &self,
        outgoing: ReceiverStream<ExecutorMessage>,
    ) -> Result<Streaming<ExecutorCommand>, Loss> {
        let peer = format!("the driver at {}", self.driver);
        let connect = async {
            let channel = rpc::connect(&self.driver).await.map_err(|error| {
                Loss::Broken(format!("{peer} can not be reached: {error}").into())
            })?;
            let caller = Caller::new(channel, self.token.as_ref());
            let mut client = DriverServiceClient::new(caller)
                .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(rpc::MESSAGE_BYTES_MAX);
            let answer = client.session(outgoing).await;
            answer.map(tonic::Response::into_inner).map_err(|status| loss_of(&peer, &status))
        };
        match tokio::time::timeout(OPEN_DEADLINE, connect).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Loss::Broken(
                format!("{peer} did not open the session in {OPEN_DEADLINE:?}").into(),
            )),
        }
    }
}

/// Passes what the driver says on, until the stream ends.
async fn hear(
    mut inbound: Streaming<ExecutorCommand>,
    events: mpsc::Sender<SessionEvent>,
    registered: mpsc::Sender<Duration>,
) -> Option<Loss> {
    loop {
        let command = match inbound.message().await {
            Ok(Some(command)) => command,
            Ok(None) => {
                return Some(Loss::Broken("the driver closed the session".into()));
            }
            Err(status) => return Some(loss_of("the driver", &status)),
        };
        let event = match command.body {
            Some(executor_command::Body::Registered(answer)) => {
                if let Err(error) = millrace_sql::fault::adopt_seal(&answer.fault_seal) {
                    let error = Error::new(
                        Code::Fenced,
                        error.to_string(),
                        "nothing: the driver starts executors of its own",
                    );
                    return Some(Loss::Refused(error));
                }
                let interval = match answer.heartbeat_interval_ms {
                    0 => HEARTBEAT_INTERVAL,
                    ms => Duration::from_millis(ms),
                };
                if registered.send(interval).await.is_err() {
                    return None;
                }
                SessionEvent::Registered
            }
            Some(body) => SessionEvent::Command(body),
            None => continue,
        };
        if events.send(event).await.is_err() {
            return None;
        }
    }
}

/// A refusal is what no new connection changes.
fn loss_of(peer: &str, status: &tonic::Status) -> Loss {
    use tonic::Code;
    let error = Error::from_status(peer, status);
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Loss::Refused(error),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable => Loss::Broken(error.into()),
    }
}

#[cfg(test)]
mod tests;
