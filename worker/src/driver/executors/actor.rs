//! The actor that keeps the executors: it collects what sessions and the master say, asks the core,
//! and tells the receivers and the batch.
//!
//! Promises: whoever listens hears of every executor that joins, is lost, or is excluded from work,
//! in order. Owned by the driver's main. Never does: decide who is an executor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actix::prelude::*;
use millrace_common::clock::SharedClock;
use millrace_common::error::Error;
use millrace_common::id::{BlockId, ContainerId};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::core::{Answer, Core, ExecutorView, Limits, Registration, Review, SessionId};
use super::exclusion::Exclusion;
use super::outbox::{Outbox, Outgoing};
use crate::driver::session::MasterHandle;
use crate::driver::stall::Stall;

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(100);
/// Suspicions that wait to be counted. A run brings one at most, and runs follow one another.
pub const SUSPICION_CAPACITY: usize = 16;

/// An executor that a run could not use, though it may be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Who.
    pub container: ContainerId,
    /// What the run saw.
    pub why: String,
}

/// What happened to an executor.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum ExecutorEvent {
    /// It is here and may be given work.
    Joined(Registration),
    /// It opened another session and still holds these blocks.
    Rejoined(Registration),
    /// It and everything it held is gone.
    Lost(ContainerId),
    /// These get no work until they are named no more; never all that are here.
    Excluded(BTreeSet<ContainerId>),
    /// It lives.
    Heartbeat {
        /// Who.
        container: ContainerId,
        /// Bytes of its blocks in memory and on disk.
        block_bytes: u64,
        /// True when its receivers have stopped reading for want of room.
        over_budget: bool,
    },
}

/// What the actor is made of.
pub struct Setup {
    /// Name of the application.
    pub application: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Times to keep.
    pub limits: Limits,
    /// What executors are told to keep.
    pub heartbeat_interval: Duration,
    /// The way to the executors.
    pub outbox: Outbox,
    /// The way to the master.
    pub master: MasterHandle,
    /// Time.
    pub clock: SharedClock,
    /// Shows the executors that are here.
    pub views: watch::Sender<Vec<ExecutorView>>,
    /// Who hears of executors.
    pub listeners: Vec<Recipient<ExecutorEvent>>,
}

/// The executors of one attempt.
pub struct Executors {
    core: Core,
    setup: Setup,
    stall: Stall,
    /// Taken when the actor starts.
    suspicions: Option<mpsc::Receiver<Suspicion>>,
    /// Senders of registrations that wait for their grant.
    waiting: BTreeMap<SessionId, mpsc::Sender<Outgoing>>,
}

impl Executors {
    /// No executor yet; runs tell of those they could not use.
    #[must_use]
    pub fn new(setup: Setup, suspicions: mpsc::Receiver<Suspicion>) -> Self {
        let core = Core::new(&setup.application, setup.attempt, setup.limits);
        let (stall, suspicions) = (Stall::new(TICK), Some(suspicions));
        Self { core, setup, stall, suspicions, waiting: BTreeMap::new() }
    }

    fn now(&self) -> Duration {
        self.setup.clock.monotonic()
    }

    fn tell(&self, event: &ExecutorEvent, ctx: &mut Context<Self>) {
        for listener in &self.setup.listeners {
            // Sends in order; a full mailbox delays and never drops.
            let sent = listener.send(event.clone());
            ctx.spawn(sent.into_actor(self).map(|_, _, _| ()));
        }
    }

    fn show(&self) {
        self.setup.views.send_replace(self.core.views());
    }

    fn welcome(
        &mut self,
        registration: Registration,
        session: SessionId,
        sender: mpsc::Sender<Outgoing>,
        answer: &Answer,
        ctx: &mut Context<Self>,
    ) {
        let container = registration.container.clone();
        let interval = u64::try_from(self.setup.heartbeat_interval.as_millis()).unwrap_or(u64::MAX);
        self.setup.outbox.open(container.clone(), session, sender);
        let registered = v1::ExecutorRegistered {
            heartbeat_interval_ms: interval,
            fault_seal: millrace_sql::fault::seal().to_owned(),
        };
        self.setup.outbox.send(&container, Body::Registered(registered));
        tracing::info!(executor = %container, address = %registration.address, "executor is here");
        let event = match answer {
            Answer::Rejoined => ExecutorEvent::Rejoined(registration),
            _ => ExecutorEvent::Joined(registration),
        };
        // First whether it may be given work.
        self.review(ctx);
        self.tell(&event, ctx);
        self.show();
    }

    fn lose(&mut self, container: &ContainerId, ctx: &mut Context<Self>) {
        self.setup.outbox.forget(container);
        self.tell(&ExecutorEvent::Lost(container.clone()), ctx);
        self.review(ctx);
        self.show();
    }

    /// Tells who gets no work, when that has changed.
    fn review(&mut self, ctx: &mut Context<Self>) {
        let Review { executors, nodes } = self.core.review(self.now());
        if let Some(nodes) = nodes {
            self.setup.master.avoid(self.to_proto(&nodes));
        }
        if let Some(excluded) = executors {
            for view in self.core.views() {
                if let Some(Exclusion { reason, .. }) = view.exclusion {
                    let executor = &view.registration.container;
                    tracing::warn!(%executor, %reason, "executor gets no work for a while");
                }
            }
            self.tell(&ExecutorEvent::Excluded(excluded), ctx);
            self.show();
        }
    }

    fn to_proto(&self, nodes: &BTreeMap<String, Exclusion>) -> Vec<v1::NodeExclusion> {
        let exclusion = |(node, exclusion): (&String, &Exclusion)| {
            tracing::warn!(%node, reason = %exclusion.reason, "node is avoided for a while");
            v1::NodeExclusion {
                node_id: node.clone(),
                reason: exclusion.reason.clone(),
                until_ms: exclusion.until_ms(&*self.setup.clock),
            }
        };
        nodes.iter().map(exclusion).collect()
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        if let Some(pause) = self.stall.tick(now) {
            tracing::warn!(?pause, "this driver stood still: executors are given the time again");
            self.core.stood_still(pause);
        }
        let (lost, refused) = self.core.tick(now);
        for container in lost {
            tracing::warn!(executor = %container, "executor is silent: given up");
            self.lose(&container, ctx);
            self.setup.master.release(&container, "silent: its driver gave it up");
        }
        for session in refused {
            if let Some(sender) = self.waiting.remove(&session) {
                refuse(&sender, &Error::internal("the master never told of this grant"));
            }
        }
        self.review(ctx);
    }
}

/// Ends a session with the reason; a stream that takes nothing more has ended already.
fn refuse(sender: &mpsc::Sender<Outgoing>, error: &Error) {
    if sender.try_send(Err(error.to_status())).is_err() {
        tracing::debug!(%error, "a refused executor has gone already");
    }
}

impl Actor for Executors {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, Self::tick);
        if let Some(suspicions) = self.suspicions.take() {
            ctx.add_stream(ReceiverStream::new(suspicions));
        }
    }
}

impl StreamHandler<Suspicion> for Executors {
    fn handle(&mut self, Suspicion { container, why }: Suspicion, ctx: &mut Self::Context) {
        self.core.suspected(&container, &why, self.now());
        self.review(ctx);
    }

    /// The batches have ended; the executors go on until the driver does.
    fn finished(&mut self, _: &mut Self::Context) {}
}

/// The master granted a container.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Granted(pub ContainerId);

impl Handler<Granted> for Executors {
    type Result = ();

    fn handle(&mut self, Granted(container): Granted, ctx: &mut Self::Context) {
        let waiting = self.core.granted(&container);
        self.setup.master.hold(self.core.held());
        let Some((session, registration)) = waiting else { return };
        if let Some(sender) = self.waiting.remove(&session) {
            let answer = self.core.admit(registration.clone(), session, self.now());
            self.welcome(registration, session, sender, &answer, ctx);
        }
    }
}

/// A container has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ended(pub v1::ContainerEnded);

impl Handler<Ended> for Executors {
    type Result = ();

    fn handle(&mut self, Ended(ended): Ended, ctx: &mut Self::Context) {
        let container = ContainerId::new(ended.container_id);
        let exit = ended.exit.unwrap_or_default();
        tracing::warn!(executor = %container, reason = %exit.reason, "executor has ended");
        let was_live = self.core.exited(&container, &ended.node_id, &exit, self.now());
        self.setup.master.hold(self.core.held());
        if was_live {
            self.lose(&container, ctx);
        }
        self.review(ctx);
    }
}

/// Nothing needs this executor any more, and it was to be given up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Retired(pub ContainerId);

impl Handler<Retired> for Executors {
    type Result = ();

    fn handle(&mut self, Retired(container): Retired, ctx: &mut Self::Context) {
        if !self.core.held().contains(&container) {
            return;
        }
        tracing::info!(executor = %container, "executor is given up in order");
        let reason = "its shards and blocks have moved".to_owned();
        let stop = Body::Stop(v1::StopExecutor { reason: reason.clone() });
        self.setup.outbox.send(&container, stop);
        if self.core.ended(&container) {
            self.lose(&container, ctx);
        }
        self.setup.master.hold(self.core.held());
        self.setup.master.release(&container, &reason);
    }
}

/// An executor opened a session.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Register {
    /// Its first message.
    pub message: v1::ExecutorRegister,
    /// The session.
    pub session: SessionId,
    /// Its stream of commands.
    pub sender: mpsc::Sender<Outgoing>,
}

impl Handler<Register> for Executors {
    type Result = ();

    fn handle(&mut self, msg: Register, ctx: &mut Self::Context) {
        let (registration, answer) = self.core.register(msg.message, msg.session, self.now());
        match answer {
            Answer::Wait => {
                self.waiting.insert(msg.session, msg.sender);
            }
            Answer::Refused(error) => refuse(&msg.sender, &error),
            Answer::Joined | Answer::Rejoined => {
                self.welcome(registration, msg.session, msg.sender, &answer, ctx);
            }
        }
    }
}

/// A heartbeat of an executor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Beat {
    /// Who.
    pub container: ContainerId,
    /// On which session.
    pub session: SessionId,
    /// What it says.
    pub heartbeat: v1::ExecutorHeartbeat,
}

impl Handler<Beat> for Executors {
    type Result = ();

    fn handle(&mut self, Beat { container, session, heartbeat }: Beat, ctx: &mut Self::Context) {
        let block_bytes = heartbeat.block_bytes.saturating_add(heartbeat.disk_bytes);
        let over_budget = heartbeat.over_budget;
        if self.core.heartbeat(&container, session, heartbeat, self.now()) {
            self.tell(&ExecutorEvent::Heartbeat { container, block_bytes, over_budget }, ctx);
            self.show();
        }
    }
}

/// A session has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Closed {
    /// Whose.
    pub container: ContainerId,
    /// Which.
    pub session: SessionId,
}

impl Handler<Closed> for Executors {
    type Result = ();

    fn handle(&mut self, Closed { container, session }: Closed, _: &mut Self::Context) {
        self.waiting.remove(&session);
        self.setup.outbox.close(&container, session);
        self.core.closed(&container, session, self.now());
    }
}

/// What an executor sends beside heartbeats, for the receivers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromExecutor {
    /// Who.
    pub container: ContainerId,
    /// What.
    pub body: Report,
}

/// Reports of an executor about its shards and blocks.
#[derive(Debug)]
pub enum Report {
    /// New blocks and empty reads.
    Announcement(v1::BlockAnnouncement),
    /// A shard can not be read.
    Trouble(v1::ShardTrouble),
    /// A lost block was read again, or could not be.
    Reread(v1::RereadDone),
    /// A block was copied, or could not be.
    Copied(v1::BlockCopied),
}

/// A block that a run did not find where it should be.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct BlockMissing(pub BlockId);
