//! The driver's own gRPC server: one stream each way per executor.
//!
//! Promises: what an executor sends is handled in order, one message at a time, so that a slow
//! driver slows the executor down and nothing piles up. Never does: keep state of its own.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Addr;
use futures::Stream;
use millrace_common::access::Token;
use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use millrace_common::rpc::{self, Guard};
use millrace_proto::v1;
use millrace_proto::v1::driver_service_server::{DriverService, DriverServiceServer};
use millrace_proto::v1::executor_message::Body;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::actor::{Beat, Closed, Executors, FromExecutor, Register, Report};
use super::core::SessionId;
use super::outbox::{OUTBOX_CAPACITY, Outgoing};
use crate::driver::receivers::actor::Receivers;

/// An executor registers with its first message, at once.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

/// The service; the actors behind it decide.
pub struct Service {
    executors: Addr<Executors>,
    receivers: Addr<Receivers>,
    sessions: AtomicU64,
}

impl Service {
    /// In front of these actors.
    #[must_use]
    pub fn new(executors: Addr<Executors>, receivers: Addr<Receivers>) -> Self {
        Self { executors, receivers, sessions: AtomicU64::new(1) }
    }

    /// Serves those who show `token` until `stop` is cancelled.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(
        self,
        incoming: rpc::Incoming,
        token: Option<Token>,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let service = DriverServiceServer::new(self)
            .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rpc::MESSAGE_BYTES_MAX);
        rpc::server()
            .layer(Guard::new(token))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await
    }
}

#[tonic::async_trait]
impl DriverService for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Outgoing> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ExecutorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(REGISTER_WITHIN, inbound.message())
            .await
            .map_err(|_| wrong("an executor did not register").to_status())??;
        let Some(Body::Register(message)) = first.and_then(|message| message.body) else {
            return Err(wrong("an executor's first message is not its registration").to_status());
        };
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let container = ContainerId::new(message.container_id.clone());
        let (sender, receiver) = mpsc::channel(OUTBOX_CAPACITY);
        self.executors
            .send(Register { message, session, sender })
            .await
            .map_err(|_| Status::unavailable("the driver ends"))?;
        let pump = Pump {
            container,
            session,
            executors: self.executors.clone(),
            receivers: self.receivers.clone(),
        };
        // The task ends with the session's stream and tells the actor.
        tokio::spawn(pump.run(inbound));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn wrong(what: &str) -> Error {
    Error::new(Code::Protocol, what, "see that all processes run the same version")
}

/// Carries the messages of one session to the actors.
struct Pump {
    container: ContainerId,
    session: SessionId,
    executors: Addr<Executors>,
    receivers: Addr<Receivers>,
}

impl Pump {
    async fn run(self, mut inbound: Streaming<v1::ExecutorMessage>) {
        let why = loop {
            match inbound.message().await {
                Ok(Some(v1::ExecutorMessage { body: Some(body) })) => {
                    if !self.deliver(body).await {
                        break "the driver ends".to_owned();
                    }
                }
                Ok(Some(_)) => tracing::warn!(executor = %self.container, "an empty message"),
                Ok(None) => break "closed by the executor".to_owned(),
                Err(status) => break status.to_string(),
            }
        };
        tracing::info!(executor = %self.container, session = self.session, %why, "session ended");
        let closed = Closed { container: self.container, session: self.session };
        if self.executors.send(closed).await.is_err() {
            tracing::debug!("the driver has ended before the session");
        }
    }

    /// False when there is nobody to deliver to.
    async fn deliver(&self, body: Body) -> bool {
        let container = self.container.clone();
        let report = match body {
            Body::Heartbeat(heartbeat) => {
                let beat = Beat { container, session: self.session, heartbeat };
                return self.executors.send(beat).await.is_ok();
            }
            Body::Announcement(announcement) => Report::Announcement(announcement),
            Body::Trouble(trouble) => Report::Trouble(trouble),
            Body::Reread(done) => Report::Reread(done),
            Body::Copied(done) => Report::Copied(done),
            Body::Register(_) => {
                tracing::warn!(executor = %container, "a second registration on one session");
                return true;
            }
        };
        self.receivers.send(FromExecutor { container, body: report }).await.is_ok()
    }
}
