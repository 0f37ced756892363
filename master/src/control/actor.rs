//! The control actor: collects events, has the core decide, performs the effects.
//!
//! It lives for one term of leadership. Whoever started it hears through `lost` when a node has seen
//! a higher term, and through the writer when another leader has written.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use actix::prelude::*;
use millrace_common::access::Token;
use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use millrace_proto::v1::{self, node_message};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::SessionId;
use super::core::Core;
use super::effect::Effect;
use crate::moment::Moment;
use crate::store::{Tenure, Writer, WriterEvent};

/// How often the passing of time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Events that may wait for the actor. Senders wait when it is full.
const MAILBOX_CAPACITY: usize = 1_024;
/// Log chunks that may be on their way at once, over all clients.
const LOG_REQUESTS_MAX: usize = 256;
/// How long a node may take to send a piece of a log.
const LOG_DEADLINE: Duration = Duration::from_secs(10);
/// How long a request may wait for the store.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// The sending half of a stream to a node or a driver. Dropping it ends the stream both ways.
#[derive(Debug)]
pub(crate) struct StreamTo<T> {
    queue: mpsc::Sender<Result<T, tonic::Status>>,
    _end: DropGuard,
}

impl<T> StreamTo<T> {
    /// The sending half; `end` is cancelled with it.
    #[must_use]
    pub(crate) fn new(
        queue: mpsc::Sender<Result<T, tonic::Status>>,
        end: CancellationToken,
    ) -> Self {
        Self { queue, _end: end.drop_guard() }
    }

    /// False when the peer does not keep up or is gone.
    fn send(&self, message: T) -> bool {
        self.queue.try_send(Ok(message)).is_ok()
    }
}

/// The master's one actor.
#[derive(Debug)]
pub(crate) struct Control {
    clock: SharedClock,
    pub(super) core: Core,
    writer: Writer,
    tenure: Tenure,
    nodes: HashMap<SessionId, StreamTo<v1::NodeCommand>>,
    drivers: HashMap<SessionId, StreamTo<v1::DriverCommand>>,
    last_session: SessionId,
    log_requests: BTreeMap<u64, oneshot::Sender<v1::LogChunk>>,
    last_log_request: u64,
    lost: watch::Sender<Option<u64>>,
}

impl Control {
    /// A new actor, which acts while `tenure` lasts; `lost` is told the term when somebody has seen
    /// a higher one.
    #[must_use]
    pub(crate) fn new(
        clock: SharedClock,
        core: Core,
        writer: Writer,
        tenure: Tenure,
        lost: watch::Sender<Option<u64>>,
    ) -> Self {
        Self {
            clock,
            core,
            writer,
            tenure,
            nodes: HashMap::new(),
            drivers: HashMap::new(),
            last_session: 0,
            log_requests: BTreeMap::new(),
            last_log_request: 0,
            lost,
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment { wall_ms: self.clock.now_ms(), monotonic: self.clock.monotonic() }
    }

    fn next_session(&mut self) -> SessionId {
        self.last_session += 1;
        self.last_session
    }

    /// Performs what the core decided, and what follows from that. Nothing is performed when
    /// leadership was not renewed: what the core knows may be long past.
    pub(super) fn perform(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            if !self.tenure.is_valid() {
                let (term, num_dropped) = (self.core.identity.term, effects.len());
                tracing::warn!(term, num_dropped, "leadership was not renewed: nothing is done");
                self.lost.send_replace(Some(term));
                return;
            }
            for effect in effects {
                self.perform_one(effect);
            }
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        let term = self.core.identity.term;
        match effect {
            Effect::ToNode(session, body) => {
                let message = v1::NodeCommand { term, body: Some(body) };
                if self.nodes.get(&session).is_some_and(|stream| !stream.send(message)) {
                    tracing::warn!(session, "a node does not read its stream: closed");
                    self.close_node(session, false);
                }
            }
            Effect::ToDriver(session, body) => {
                let message = v1::DriverCommand { term, body: Some(body) };
                if self.drivers.get(&session).is_some_and(|stream| !stream.send(message)) {
                    tracing::warn!(session, "a driver does not read its stream: closed");
                    self.close_driver(session);
                }
            }
            Effect::CloseNode(session) => drop(self.nodes.remove(&session)),
            Effect::CloseDriver(session) => drop(self.drivers.remove(&session)),
            Effect::Write(ticket, record) => self.writer.push(ticket, record),
            Effect::HigherTerm(seen) => {
                tracing::warn!(term, seen, "a node has seen a higher term");
                self.lost.send_replace(Some(seen));
            }
        }
    }

    fn close_node(&mut self, session: SessionId, is_orderly: bool) {
        if self.nodes.remove(&session).is_some() {
            let now = self.now();
            self.core.node_closed(now, session, is_orderly);
        }
    }

    fn close_driver(&mut self, session: SessionId) {
        if self.drivers.remove(&session).is_some() {
            let now = self.now();
            self.core.driver_closed(now, session);
        }
    }

    /// Resolves once everything up to the ticket is in the store.
    pub(super) fn written(&self, ticket: u64) -> impl Future<Output = Result<(), Error>> + use<> {
        let mut events = self.writer.events();
        async move {
            let is_done = |event: &WriterEvent| match event {
                WriterEvent::Written(written) => *written >= ticket,
                WriterEvent::Fenced => true,
            };
            let outcome = tokio::time::timeout(WRITE_DEADLINE, events.wait_for(is_done)).await;
            match outcome.map(|seen| seen.map(|event| *event)) {
                Ok(Ok(WriterEvent::Written(_))) => Ok(()),
                Ok(_) => Err(not_leading()),
                Err(_) => Err(Error::new(
                    Code::AwsUnreachable,
                    format!("DynamoDB did not take the change within {WRITE_DEADLINE:?}"),
                    "look with `millrace list` whether it was taken after all; see the master's log",
                )),
            }
        }
    }
}

fn not_leading() -> Error {
    Error::new(
        Code::MasterUnreachable,
        "this master does not lead any more",
        "try again: another master takes over",
    )
}

impl Actor for Control {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        ctx.run_interval(TICK, |control, _| {
            let now = control.now();
            control.core.tick(now);
            control.perform();
        });
        ctx.add_stream(WatchStream::new(self.writer.events()));
    }
}

impl StreamHandler<WriterEvent> for Control {
    fn handle(&mut self, event: WriterEvent, _: &mut Self::Context) {
        match event {
            WriterEvent::Written(ticket) => {
                self.core.written(ticket);
                self.perform();
            }
            WriterEvent::Fenced => {
                self.lost.send_replace(Some(self.core.identity.term));
            }
        }
    }

    /// The writer has ended: without it this actor can do nothing.
    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// A node opened its stream.
#[derive(Debug, Message)]
#[rtype(result = "Result<SessionId, Error>")]
pub(crate) struct NodeOpened {
    /// Highest term the node has seen.
    pub term: u64,
    /// Its first message.
    pub register: v1::NodeRegister,
    /// The way back.
    pub stream: StreamTo<v1::NodeCommand>,
}

impl Handler<NodeOpened> for Control {
    type Result = Result<SessionId, Error>;

    fn handle(&mut self, message: NodeOpened, _: &mut Self::Context) -> Self::Result {
        let (session, now) = (self.next_session(), self.now());
        let outcome = self.core.node_opened(now, session, message.term, message.register);
        if outcome.is_ok() {
            self.nodes.insert(session, message.stream);
        }
        self.perform();
        outcome.map(|()| session)
    }
}

/// A node spoke.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct NodeSaid(pub SessionId, pub v1::NodeMessage);

impl Handler<NodeSaid> for Control {
    type Result = ();

    fn handle(&mut self, NodeSaid(session, mut message): NodeSaid, _: &mut Self::Context) {
        if let Some(node_message::Body::LogChunk(chunk)) = message.body {
            message.body = None;
            if let Some(asker) = self.log_requests.remove(&chunk.request_id)
                && asker.send(chunk).is_err()
            {
                tracing::debug!("a piece of a log came after its reader had left");
            }
        }
        let now = self.now();
        self.core.node_said(now, session, message);
        self.perform();
    }
}

/// The stream of a node has ended; orderly when the node closed it itself.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct NodeClosed(pub SessionId, pub bool);

impl Handler<NodeClosed> for Control {
    type Result = ();

    fn handle(&mut self, NodeClosed(session, is_orderly): NodeClosed, _: &mut Self::Context) {
        self.close_node(session, is_orderly);
        self.perform();
    }
}

/// A driver opened its stream.
#[derive(Debug, Message)]
#[rtype(result = "Result<SessionId, Error>")]
pub(crate) struct DriverOpened {
    /// Its first message.
    pub register: v1::DriverRegister,
    /// What it showed; none in a cluster without tokens.
    pub token: Option<Token>,
    /// The way back.
    pub stream: StreamTo<v1::DriverCommand>,
}

impl Handler<DriverOpened> for Control {
    type Result = Result<SessionId, Error>;

    fn handle(&mut self, message: DriverOpened, _: &mut Self::Context) -> Self::Result {
        let (session, now) = (self.next_session(), self.now());
        let outcome = self.core.driver_opened(now, session, message.register);
        if outcome.is_ok() {
            self.core.driver_shows(session, message.token);
            self.drivers.insert(session, message.stream);
        }
        self.perform();
        outcome.map(|()| session)
    }
}

/// A driver spoke.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct DriverSaid(pub SessionId, pub v1::DriverMessage);

impl Handler<DriverSaid> for Control {
    type Result = ();

    fn handle(&mut self, DriverSaid(session, message): DriverSaid, _: &mut Self::Context) {
        let Some(body) = message.body else { return };
        let now = self.now();
        self.core.driver_said(now, session, body);
        self.perform();
    }
}

/// The stream of a driver has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct DriverClosed(pub SessionId);

impl Handler<DriverClosed> for Control {
    type Result = ();

    fn handle(&mut self, DriverClosed(session): DriverClosed, _: &mut Self::Context) {
        self.close_driver(session);
        self.perform();
    }
}

/// A question to the core.
pub(crate) struct Read<T>(Box<dyn FnOnce(&Core) -> T + Send>);

impl<T> Read<T> {
    /// The question; it is asked in the actor's turn.
    pub(crate) fn new(question: impl FnOnce(&Core) -> T + Send + 'static) -> Self {
        Self(Box::new(question))
    }
}

impl<T: Send + 'static> Message for Read<T> {
    type Result = ReadAnswer<T>;
}

/// The answer to a [`Read`].
#[derive(Debug, MessageResponse)]
pub(crate) struct ReadAnswer<T: 'static>(pub T);

impl<T: Send + 'static> Handler<Read<T>> for Control {
    type Result = ReadAnswer<T>;

    fn handle(&mut self, Read(question): Read<T>, _: &mut Self::Context) -> Self::Result {
        ReadAnswer(question(&self.core))
    }
}

/// A piece of a container's log is asked for; the request's id is given here.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::LogChunk, Error>")]
pub(crate) struct ReadLog(pub v1::ReadLogChunk);

impl Handler<ReadLog> for Control {
    type Result = ResponseFuture<Result<v1::LogChunk, Error>>;

    fn handle(&mut self, ReadLog(mut request): ReadLog, _: &mut Self::Context) -> Self::Result {
        let id = ContainerId::new(request.container_id.clone());
        let node = self.core.cluster.containers.get(&id).map(|entry| entry.node.clone());
        let session = node.as_ref().and_then(|node| self.core.cluster.node(node)?.session);
        self.log_requests.retain(|_, asker| !asker.is_closed());
        let Some(stream) = session.and_then(|session| self.nodes.get(&session)) else {
            return Box::pin(async move { Err(log_unreachable(&id, "its node is not connected")) });
        };
        if self.log_requests.len() >= LOG_REQUESTS_MAX {
            return Box::pin(async move { Err(log_unreachable(&id, "too many readers")) });
        }
        self.last_log_request += 1;
        request.request_id = self.last_log_request;
        let (tell, answer) = oneshot::channel();
        self.log_requests.insert(request.request_id, tell);
        let body = Some(v1::node_command::Body::ReadLog(request));
        let is_sent = stream.send(v1::NodeCommand { term: self.core.identity.term, body });
        Box::pin(async move {
            if !is_sent {
                return Err(log_unreachable(&id, "its node does not keep up"));
            }
            match tokio::time::timeout(LOG_DEADLINE, answer).await {
                Ok(Ok(chunk)) => Ok(chunk),
                _ => Err(log_unreachable(&id, "its node does not answer")),
            }
        })
    }
}

fn log_unreachable(container: &ContainerId, why: &str) -> Error {
    Error::new(
        Code::UnknownContainer,
        format!("the log of {container} can not be read now: {why}"),
        "see `millrace nodes`, and try again",
    )
}
