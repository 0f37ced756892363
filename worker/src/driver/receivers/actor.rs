//! The actor that keeps lineage, assignment and ledger: it collects what executors and Kinesis say,
//! asks the core, and sends what the core decides.
//!
//! Promises: whoever asks for a batch or for its blocks gets an answer, or hears that the driver
//! ends. Owned by the driver's main. Never does: decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Core, Effect, Home, Planned, PlannedBlock, Snapshot, Stream};
use super::discovery::{Description, Filter, Shards, Streams};
use crate::driver::executors::actor::{BlockMissing, ExecutorEvent, FromExecutor, Report};
use crate::driver::executors::core::Registration;
use crate::driver::executors::outbox::Outbox;
use crate::driver::stall::Stall;

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);

/// What the actor is made of.
pub struct Setup {
    /// What it decides with.
    pub core: Core,
    /// The streams of the sources, by source.
    pub streams: BTreeMap<String, Stream>,
    /// Kinesis.
    pub kinesis: Arc<dyn Streams>,
    /// The way to the executors.
    pub outbox: Outbox,
    /// Time.
    pub clock: SharedClock,
    /// How often shards are listed.
    pub discovery_interval: Duration,
    /// How long a cut waits for the slowest receiver.
    pub cut_wait: Duration,
    /// Whom to tell that the application can not go on.
    pub failures: mpsc::Sender<Error>,
    /// Shows the input.
    pub snapshot: watch::Sender<Snapshot>,
}

struct Preparing {
    batch: u64,
    drained_since_ms: Option<i64>,
    reply: oneshot::Sender<Prepared>,
}

/// What asking for a source's shards came to.
enum Listing {
    /// The stream as it is, and its shards if they could be had.
    Described(Result<Shards, Error>, Description),
    /// Kinesis does not know the stream.
    Missing(Error),
    /// Nothing is known.
    Failed(Error),
}

/// The input of an application.
pub struct Receivers {
    setup: Setup,
    preparing: Option<Preparing>,
    /// Who waits for the blocks of which batch.
    gathering: Option<(u64, oneshot::Sender<Vec<PlannedBlock>>)>,
    listing: BTreeMap<String, SpawnHandle>,
    stall: Stall,
}

impl Receivers {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            preparing: None,
            gathering: None,
            listing: BTreeMap::new(),
            stall: Stall::new(TICK),
        }
    }

    fn now(&self) -> Duration {
        self.setup.clock.monotonic()
    }

    fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        self.carry_out(effects, ctx);
        if let Some((batch, _)) = &self.gathering {
            let effects = self.setup.core.settle_lost(*batch, self.now());
            self.carry_out(effects, ctx);
        }
        self.settle(ctx);
        let now = self.setup.clock.monotonic();
        self.setup.snapshot.send_replace(self.setup.core.snapshot(now));
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Send(to, body) => {
                    // An executor without a session is told everything again when it is back.
                    self.setup.outbox.send(&to, body);
                }
                Effect::Discover(source) => self.discover(&source, ctx),
                Effect::Gap(error) => {
                    tracing::error!(%error, "records are lost; going on by on_data_loss = continue")
                }
                Effect::Fail(error) => {
                    if self.setup.failures.try_send(error).is_err() {
                        tracing::debug!("the driver fails already");
                    }
                }
            }
        }
    }

    /// Answers whoever can be answered now.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        if self.preparing.is_some() && self.setup.core.cut_is_answered() {
            self.prepare(ctx);
        }
        if let Some((batch, _)) = &self.gathering
            && let Some(blocks) = self.setup.core.blocks(*batch)
            && let Some((_, reply)) = self.gathering.take()
            && reply.send(blocks).is_err()
        {
            tracing::debug!("nobody waits for the blocks any more");
        }
    }

    /// The cut is over: plan what there is.
    fn prepare(&mut self, ctx: &mut Context<Self>) {
        let Some(Preparing { batch, drained_since_ms, reply }) = self.preparing.take() else {
            return;
        };
        let now = self.now();
        let mut planned = None;
        if self.setup.core.has_news(now) {
            let (plan, effects) = self.setup.core.plan(batch, now);
            planned = Some(plan);
            self.perform(effects, ctx);
        }
        let core = &self.setup.core;
        let drained =
            core.is_range_read() || drained_since_ms.is_some_and(|since| core.is_read_past(since));
        if reply.send(Prepared { planned, drained }).is_err() {
            tracing::debug!("nobody waits for the batch any more");
        }
    }

    /// Lists a source's shards and describes its stream, unless that is being done.
    fn discover(&mut self, source: &str, ctx: &mut Context<Self>) {
        let Some(stream) = self.setup.streams.get(source).cloned() else { return };
        if self.listing.contains_key(source) {
            return;
        }
        let kinesis = self.setup.kinesis.clone();
        let listing = async move {
            let shards = match kinesis.list(&stream, Filter::All).await {
                // Whether it is the stream that is missing its description says.
                Err(error) if error.code() != Code::StreamMissing => return Listing::Failed(error),
                shards => shards,
            };
            // After the listing: if the stream is the one it was, the listing was of that one.
            match kinesis.describe(&stream.name).await {
                Ok(today) => Listing::Described(shards, today),
                Err(error) if error.code() == Code::StreamMissing => Listing::Missing(error),
                Err(error) => Listing::Failed(error),
            }
        };
        self.setup.core.listing_begins(source);
        let name = source.to_owned();
        let listed = listing.into_actor(self).map(move |listing, actor, ctx| {
            actor.listing.remove(&name);
            let effects = actor.listed(&name, listing);
            actor.perform(effects, ctx);
        });
        let handle = ctx.spawn(listed);
        self.listing.insert(source.to_owned(), handle);
    }

    fn listed(&mut self, source: &str, listing: Listing) -> Vec<Effect> {
        let now = self.now();
        let core = &mut self.setup.core;
        let (shards, today) = match listing {
            Listing::Described(shards, today) => (shards, today),
            Listing::Missing(cause) => return core.stream_missing(source, cause),
            Listing::Failed(error) => {
                tracing::warn!(source, %error, "the shards could not be listed");
                core.listing_failed(source);
                return Vec::new();
            }
        };
        let mut effects = core.described(source, &today.stream, today.retention, now);
        if effects.iter().any(|effect| matches!(effect, Effect::Fail(_))) {
            return effects;
        }
        match shards {
            Ok(Shards { shards, server_ms }) => {
                effects.extend(core.listed(source, shards, server_ms, now));
            }
            Err(error) => {
                tracing::warn!(source, %error, "the shards could not be listed");
                core.listing_failed(source);
            }
        }
        effects
    }

    fn discover_all(&mut self, ctx: &mut Context<Self>) {
        let sources: Vec<String> = self.setup.streams.keys().cloned().collect();
        for source in sources {
            self.discover(&source, ctx);
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        if let Some(pause) = self.stall.tick(now) {
            self.setup.core.stood_still(pause);
        }
        let effects = self.setup.core.tick(now);
        self.perform(effects, ctx);
    }
}

fn home(executor: &Registration) -> Home {
    Home {
        budget_bytes: executor.budget_bytes,
        node_id: executor.node_id.clone(),
        address: executor.address.clone(),
    }
}

impl Actor for Receivers {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.discover_all(ctx);
        ctx.run_interval(self.setup.discovery_interval, Self::discover_all);
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Handler<ExecutorEvent> for Receivers {
    type Result = ();

    fn handle(&mut self, event: ExecutorEvent, ctx: &mut Self::Context) {
        let now = self.now();
        let core = &mut self.setup.core;
        let effects = match event {
            ExecutorEvent::Joined(executor) => {
                let home = home(&executor);
                core.joined(executor.container, home, &executor.held, now)
            }
            ExecutorEvent::Rejoined(executor) => {
                core.rejoined(&executor.container, home(&executor), &executor.held, now)
            }
            ExecutorEvent::Lost(container) => core.lost(&container, now),
            ExecutorEvent::Excluded(containers) => core.exclude(containers, now),
            ExecutorEvent::Heartbeat { container, block_bytes, over_budget } => {
                core.heartbeat(&container, block_bytes, over_budget);
                Vec::new()
            }
        };
        self.perform(effects, ctx);
    }
}

impl Handler<FromExecutor> for Receivers {
    type Result = ();

    fn handle(&mut self, FromExecutor { container, body }: FromExecutor, ctx: &mut Self::Context) {
        let now = self.now();
        let core = &mut self.setup.core;
        let effects = match body {
            Report::Announcement(announcement) => core.announced(&container, announcement, now),
            Report::Trouble(trouble) => core.troubled(&container, trouble, now),
            Report::Reread(done) => core.reread_done(&container, done, now),
            Report::Copied(done) => core.copied(&container, done),
        };
        self.perform(effects, ctx);
    }
}

impl Handler<BlockMissing> for Receivers {
    type Result = ();

    fn handle(&mut self, BlockMissing(block): BlockMissing, ctx: &mut Self::Context) {
        let now = self.now();
        let effects = self.setup.core.block_missing(&block, now);
        self.perform(effects, ctx);
    }
}

/// This executor is to be given up: its shards move, and its blocks are made into a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Leave(pub ContainerId);

impl Handler<Leave> for Receivers {
    type Result = ();

    fn handle(&mut self, Leave(container): Leave, ctx: &mut Self::Context) {
        let now = self.now();
        let effects = self.setup.core.leave(container, now);
        self.perform(effects, ctx);
    }
}

/// Cut all receivers and make everything accepted into this batch.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Prepared, oneshot::error::RecvError>")]
pub struct Prepare {
    /// The batch's number.
    pub batch: u64,
    /// Set while draining: since when (server time) everything must have been read.
    pub drained_since_ms: Option<i64>,
}

/// The answer to [`Prepare`].
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The batch; none when there is nothing new.
    pub planned: Option<Planned>,
    /// True when everything that arrived before the drain was asked for, or all of the range that
    /// is read, is planned.
    pub drained: bool,
}

impl Handler<Prepare> for Receivers {
    type Result = ResponseFuture<Result<Prepared, oneshot::error::RecvError>>;

    fn handle(&mut self, msg: Prepare, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        let Prepare { batch, drained_since_ms } = msg;
        if let Some(planned) = self.setup.core.planned(batch) {
            // The rest of a batch that was divided: nothing is cut for it.
            let prepared = Prepared { planned: Some(planned), drained: false };
            return Box::pin(std::future::ready(Ok(prepared)));
        }
        if drained_since_ms.is_some() {
            // The drain must know of every shard that was there when it was asked for.
            self.discover_all(ctx);
        }
        let (cut, effects) = self.setup.core.cut();
        self.preparing = Some(Preparing { batch, drained_since_ms, reply });
        ctx.run_later(self.setup.cut_wait, move |actor, ctx| {
            if actor.preparing.is_some() && actor.setup.core.is_cut(cut) {
                tracing::debug!(batch, "a receiver is late: its blocks come with the next batch");
                actor.prepare(ctx);
            }
        });
        self.perform(effects, ctx);
        Box::pin(answer)
    }
}

/// Divide a planned batch; gives its first part, or none when it is one block.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<Planned>")]
pub struct Split(pub u64);

impl Handler<Split> for Receivers {
    type Result = Option<Planned>;

    fn handle(&mut self, Split(batch): Split, _: &mut Self::Context) -> Self::Result {
        self.setup.core.split(batch)
    }
}

/// Close open blocks without making a batch.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct CloseBlocks;

impl Handler<CloseBlocks> for Receivers {
    type Result = ();

    fn handle(&mut self, CloseBlocks: CloseBlocks, ctx: &mut Self::Context) {
        if self.preparing.is_none() {
            let (_, effects) = self.setup.core.cut();
            self.perform(effects, ctx);
        }
    }
}

/// Give the blocks of a planned batch once living executors hold all of them.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Vec<PlannedBlock>, oneshot::error::RecvError>")]
pub struct Gather(pub u64);

impl Handler<Gather> for Receivers {
    type Result = ResponseFuture<Result<Vec<PlannedBlock>, oneshot::error::RecvError>>;

    fn handle(&mut self, Gather(batch): Gather, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.gathering = Some((batch, reply));
        self.perform(Vec::new(), ctx);
        Box::pin(answer)
    }
}

/// k5 of a batch was applied.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct BatchCommitted(pub u64);

impl Handler<BatchCommitted> for Receivers {
    type Result = ();

    fn handle(&mut self, BatchCommitted(batch): BatchCommitted, _: &mut Self::Context) {
        let now = self.now();
        self.setup.core.committed(batch, now);
    }
}

/// A batch is published: its blocks may be dropped.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct BatchPublished(pub u64);

impl Handler<BatchPublished> for Receivers {
    type Result = ();

    fn handle(&mut self, BatchPublished(batch): BatchPublished, ctx: &mut Self::Context) {
        let now = self.now();
        let effects = self.setup.core.release(batch, now);
        self.perform(effects, ctx);
    }
}
