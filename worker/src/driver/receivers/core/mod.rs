//! What the receivers' actor decides: state and event in, commands out.
//!
//! Promises: every readable shard has a reader while there is an executor; every command that
//! follows from an event is in the answer to that event. Owned by the receivers' actor.
//! Never does: send, wait, or read a clock.

mod announce;
mod copy;
mod exclude;
mod gaps;
mod leave;
mod listing;
mod place;
mod plan;
mod range;
mod reread;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use millrace_common::error::Error;
use millrace_common::id::{BlockId, ContainerId, ReceiverId};
use millrace_common::position::{Position, ShardKey};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;

use super::assignment::{Assignment, Layout};
use super::lineage::{Lineage, Origin, Start};
use super::rates::Rates;
use crate::driver::head::Gaps;
use crate::driver::ledger::Ledger;

use gaps::Counted;
use listing::Missing;
pub use plan::{Planned, PlannedBlock};
pub use range::RangeView;
use reread::Reread;
pub use snapshot::{GapView, LateView, ReceiverView, Snapshot};

/// How long a shard may bring neither block nor empty read before it gets another reader.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How old an idle shard's entry in the head may grow.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(3600);
/// How long a command to drop blocks is remembered: a broken session is found in seconds.
const RELEASED_MEMORY: Duration = Duration::from_secs(120);
/// How often the shards are weighed again when nothing else moves them.
const BALANCE_INTERVAL: Duration = Duration::from_secs(20);

/// A stream that a source reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// When it was created, Unix milliseconds.
    pub created_ms: i64,
    /// True unless records are spread without regard to their keys.
    pub keyed: bool,
}

impl Stream {
    /// The key of one of its shards, as `source` reads it.
    #[must_use]
    pub fn shard(&self, source: &str, shard_id: &str) -> ShardKey {
        ShardKey {
            source: source.to_owned(),
            stream_arn: self.arn.clone(),
            stream_created_ms: self.created_ms,
            shard_id: shard_id.to_owned(),
        }
    }
}

/// What the core must know of a source.
#[derive(Clone, Debug)]
pub struct SourceSetup {
    /// Name in the application file.
    pub name: String,
    /// Its stream.
    pub stream: Stream,
    /// Where the application began with it.
    pub start: Start,
    /// How long the stream keeps records.
    pub retention: Duration,
    /// How its receivers are laid out.
    pub layout: Layout,
    /// True when the application goes on after a loss.
    pub survives_loss: bool,
    /// True when each block is to be held by a second executor.
    pub copies: bool,
}

/// Where an executor is and what it can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// Bytes of blocks it can hold, in memory and on disk.
    pub budget_bytes: u64,
    /// Its node.
    pub node_id: String,
    /// `host:port` of its server.
    pub address: String,
}

/// What is to be done about an event.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is moved once; boxing each costs more")]
pub enum Effect {
    /// To an executor.
    Send(ContainerId, Body),
    /// List the shards of this source now.
    Discover(String),
    /// The application can not go on.
    Fail(Error),
    /// Records are lost and the application goes on, by its policy.
    Gap(Error),
}

#[derive(Clone, Debug)]
struct Source {
    setup: SourceSetup,
    lineage: Lineage,
    /// True when a shard has ended since the last listing began.
    listing_is_stale: bool,
    /// Server time of the last listing, Unix milliseconds.
    listed_ms: i64,
}

#[derive(Clone, Debug, Default)]
struct Executor {
    over_budget: bool,
    home: Home,
    block_bytes: u64,
}

#[derive(Clone, Debug)]
struct Cut {
    id: u64,
    waiting: BTreeSet<(ContainerId, ReceiverId)>,
}

/// Lineage, assignment and ledger of an application.
#[derive(Clone, Debug)]
pub struct Core {
    sources: BTreeMap<String, Source>,
    /// Where the range that is read ends, by arrival, Unix milliseconds; none: nowhere.
    until_ms: Option<i64>,
    ledger: Ledger,
    executors: BTreeMap<ContainerId, Executor>,
    /// Executors that are to be given up in order.
    leaving: BTreeSet<ContainerId>,
    /// Executors that get no work for a while.
    excluded: BTreeSet<ContainerId>,
    assignment: Assignment,
    /// Executors that fell silent on a shard.
    avoid: BTreeMap<ShardKey, ContainerId>,
    rates: Rates,
    rereads: BTreeMap<BlockId, Reread>,
    planned: BTreeMap<u64, plan::Kept>,
    cut: Option<Cut>,
    last_cut: u64,
    lags: BTreeMap<ShardKey, i64>,
    /// Why a shard can not be read for now.
    troubles: BTreeMap<ShardKey, v1::Failure>,
    /// Shards that Kinesis did not find when they were to be read.
    missing: BTreeMap<ShardKey, Missing>,
    /// Losses that were passed over by policy, those of earlier attempts included.
    gaps: BTreeMap<ShardKey, Counted>,
    /// As the head has them.
    committed_gaps: BTreeMap<ShardKey, Gaps>,
    balanced_at: Duration,
    /// Blocks that executors were told to drop, and when, for those whose session broke.
    released: VecDeque<(Duration, ContainerId, BlockId)>,
}

impl Core {
    /// An application with these sources whose head holds these positions.
    #[must_use]
    pub fn new(
        sources: Vec<SourceSetup>,
        positions: &BTreeMap<ShardKey, Position>,
        now: Duration,
    ) -> Self {
        Self::until(None, sources, positions, now)
    }

    /// The same, of an application that reads what arrived before `until_ms`, Unix milliseconds.
    #[must_use]
    pub fn until(
        until_ms: Option<i64>,
        sources: Vec<SourceSetup>,
        positions: &BTreeMap<ShardKey, Position>,
        now: Duration,
    ) -> Self {
        let mut ledger = Ledger::until(until_ms);
        for (shard, position) in positions {
            ledger.open(shard.clone(), *position, now);
        }
        let source = |setup: SourceSetup| {
            let mine = positions.iter().filter(|(shard, _)| shard.source == setup.name);
            let entries = mine.map(|(shard, position)| (shard.shard_id.clone(), position.ended));
            let lineage = Lineage::new(setup.start.clone(), entries);
            let name = setup.name.clone();
            (name, Source { setup, lineage, listing_is_stale: false, listed_ms: 0 })
        };
        Self {
            sources: sources.into_iter().map(source).collect(),
            until_ms,
            ledger,
            executors: BTreeMap::new(),
            leaving: BTreeSet::new(),
            excluded: BTreeSet::new(),
            assignment: Assignment::new(),
            avoid: BTreeMap::new(),
            rates: Rates::default(),
            rereads: BTreeMap::new(),
            planned: BTreeMap::new(),
            cut: None,
            last_cut: 0,
            lags: BTreeMap::new(),
            troubles: BTreeMap::new(),
            missing: BTreeMap::new(),
            gaps: BTreeMap::new(),
            committed_gaps: BTreeMap::new(),
            balanced_at: now,
            released: VecDeque::new(),
        }
    }

    /// An executor registered. Whatever it holds nobody needs.
    pub fn joined(
        &mut self,
        executor: ContainerId,
        home: Home,
        held: &BTreeSet<BlockId>,
        now: Duration,
    ) -> Vec<Effect> {
        let mut effects = self.release_again(&executor, held);
        self.executors.entry(executor).or_default().home = home;
        effects.extend(self.place(now));
        effects.extend(self.reread(now));
        effects
    }

    /// An executor opened another session and holds these blocks. What it should hold and does not
    /// is lost; what it need not hold it may drop; its assignments are said again.
    pub fn rejoined(
        &mut self,
        executor: &ContainerId,
        home: Home,
        held: &BTreeSet<BlockId>,
        now: Duration,
    ) -> Vec<Effect> {
        let complete = self.ledger.held_by(executor).all(|block| held.contains(block));
        if !complete || !self.executors.contains_key(executor) {
            // What it still has of them it may drop: it is read again by whoever is asked.
            let had = self.ledger.held_by(executor).filter(|block| held.contains(*block));
            let block_ids: Vec<String> = had.map(|id| id.as_str().to_owned()).collect();
            let mut effects = self.lost(executor, now);
            if !block_ids.is_empty() {
                let release = Body::Release(v1::ReleaseBlocks { block_ids });
                effects.push(Effect::Send(executor.clone(), release));
            }
            effects.extend(self.joined(executor.clone(), home, held, now));
            return effects;
        }
        self.reread_lost_on(executor);
        self.copies_lost_on(executor, held);
        let mut effects = self.release_again(executor, held);
        effects.extend(self.resend(executor));
        effects.extend(self.reread(now));
        effects
    }

    /// Says again which of these blocks are to be dropped: the command may have been lost with the
    /// session before.
    fn release_again(&self, executor: &ContainerId, held: &BTreeSet<BlockId>) -> Vec<Effect> {
        let mine =
            self.released.iter().filter(|(_, holder, id)| holder == executor && held.contains(id));
        let block_ids: Vec<String> = mine.map(|(_, _, id)| id.as_str().to_owned()).collect();
        if block_ids.is_empty() {
            return Vec::new();
        }
        vec![Effect::Send(executor.clone(), Body::Release(v1::ReleaseBlocks { block_ids }))]
    }

    /// Tells the living holders to drop blocks, and remembers that for a while.
    fn drop_blocks(
        &mut self,
        blocks: BTreeMap<ContainerId, Vec<BlockId>>,
        now: Duration,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (holder, ids) in blocks {
            if !self.executors.contains_key(&holder) {
                continue;
            }
            let block_ids = ids.iter().map(|id| id.as_str().to_owned()).collect();
            self.released.extend(ids.into_iter().map(|id| (now, holder.clone(), id)));
            effects.push(Effect::Send(holder, Body::Release(v1::ReleaseBlocks { block_ids })));
        }
        effects
    }

    /// An executor and everything it held is gone.
    pub fn lost(&mut self, executor: &ContainerId, now: Duration) -> Vec<Effect> {
        self.leaving.remove(executor);
        if self.executors.remove(executor).is_none() {
            return Vec::new();
        }
        self.assignment.retain(|_, seat| seat.container != *executor);
        self.avoid.retain(|_, avoided| avoided != executor);
        let mut effects = self.lose_blocks(executor, now);
        effects.extend(self.place(now));
        effects.extend(self.reread(now));
        effects
    }

    /// Nothing is awaited of the executor any more: what nobody else holds is read again.
    fn lose_blocks(&mut self, executor: &ContainerId, now: Duration) -> Vec<Effect> {
        if let Some(cut) = &mut self.cut {
            cut.waiting.retain(|(container, _)| container != executor);
        }
        let lost = self.ledger.lose(executor, now);
        let mut effects = self.drop_blocks(lost.dropped, now);
        self.reread_lost_on(executor);
        for block in lost.reread {
            self.rereads.insert(block.id.clone(), Reread::of(block));
        }
        effects.extend(self.went_with_their_shard(&lost.rolled_back));
        effects
    }

    /// An executor's heartbeat.
    pub fn heartbeat(&mut self, executor: &ContainerId, block_bytes: u64, over_budget: bool) {
        if let Some(executor) = self.executors.get_mut(executor) {
            executor.block_bytes = block_bytes;
            executor.over_budget = over_budget;
        }
    }

    /// This process stood still for so long, and heard of no shard.
    pub fn stood_still(&mut self, pause: Duration) {
        self.ledger.stood_still(pause);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        while self
            .released
            .pop_front_if(|(at, ..)| now.saturating_sub(*at) > RELEASED_MEMORY)
            .is_some()
        {}
        let mut moved = false;
        for (shard, reader) in self.ledger.silent(now, SILENCE_LIMIT) {
            // An executor without room stops reading on purpose.
            if self.executors.get(&reader).is_some_and(|executor| executor.over_budget) {
                continue;
            }
            tracing::warn!(%shard, executor = %reader, "nothing heard of the shard for {SILENCE_LIMIT:?}: assigned again");
            self.ledger.unassign(&shard, now);
            self.avoid.insert(shard, reader);
            moved = true;
        }
        let mut effects = self.reread(now);
        if moved || now.saturating_sub(self.balanced_at) >= BALANCE_INTERVAL {
            effects.extend(self.place(now));
        }
        effects
    }

    /// Closes every open block: the command to every executor that reads, and the cut's number.
    pub fn cut(&mut self) -> (u64, Vec<Effect>) {
        self.last_cut += 1;
        let id = self.last_cut;
        let waiting: BTreeSet<_> = self
            .assignment
            .values()
            .map(|seat| (seat.container.clone(), seat.receiver.clone()))
            .collect();
        let executors: BTreeSet<&ContainerId> =
            waiting.iter().map(|(container, _)| container).collect();
        let effects = executors
            .into_iter()
            .map(|executor| Effect::Send(executor.clone(), Body::Cut(v1::CutBlocks { cut_id: id })))
            .collect();
        self.cut = Some(Cut { id, waiting });
        (id, effects)
    }

    /// True when every receiver has answered the last cut.
    #[must_use]
    pub fn cut_is_answered(&self) -> bool {
        self.cut.as_ref().is_none_or(|cut| cut.waiting.is_empty())
    }

    /// True while this is the last cut.
    #[must_use]
    pub fn is_cut(&self, id: u64) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.id == id)
    }

    /// True when everything that arrived before `since_ms` (server time) in any shard, and in any
    /// shard that may still be found, is accepted.
    #[must_use]
    pub fn is_read_past(&self, since_ms: i64) -> bool {
        if self.until_ms.is_some() {
            // A range ends where it ends, whoever wants it drained.
            return self.is_range_read();
        }
        self.sources.iter().all(|(name, source)| {
            let stream = &source.setup.stream;
            let mut unended = source.lineage.unended().map(|id| stream.shard(name, id));
            source.listed_ms >= since_ms
                && !source.listing_is_stale
                && unended.all(|shard| self.ledger.is_read_past(&shard, since_ms))
        })
    }

    /// Where a reader of this shard begins or goes on.
    fn read_from(&self, shard: &ShardKey, position: Position) -> v1::ReadFrom {
        use v1::read_from::At;
        let origin = self.sources.get(&shard.source).map(|s| s.lineage.origin(&shard.shard_id));
        let until_ms = position.empty_until_ms;
        let at = match (position.sequence_number, origin) {
            (Some(_), _) => At::Position(position.to_proto()),
            // What is known to be empty may reach back before the moment the application began at.
            (None, Some(Origin::Timestamp(ms))) if until_ms < ms => At::TimestampMs(ms),
            (None, _) if until_ms > 0 => At::Position(position.to_proto()),
            (None, _) => At::TrimHorizon(true),
        };
        v1::ReadFrom { at: Some(at) }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
