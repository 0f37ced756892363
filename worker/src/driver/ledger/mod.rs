//! What was read and how far it is dealt with: per shard a chain of blocks without a gap.
//!
//! Promises: a block is accepted only from the shard's reader of the current generation and only if
//! it begins where the last accepted one ended, so the planned sequence holds each record exactly
//! once whatever is lost, late, doubled or read by a zombie; a block is lost only when the last
//! executor that holds it is. Owned by the receivers' core. Never does: choose readers, decode
//! records, or write the head.

mod block;
mod gaps;
mod holders;
mod range;
mod track;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::id::{BlockId, ContainerId};
use millrace_common::position::{Position, SequenceNumber, ShardKey};
use millrace_proto::v1;

pub use block::Block;
pub use holders::Held;
use track::Track;

/// A server date is kept back by this much: it has whole seconds, and an answer may be on its way
/// while a record arrives.
pub const EMPTY_MARGIN_MS: i64 = 60_000;

/// What becomes of an announced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It continues the chain.
    Accepted,
    /// It was accepted before, and perhaps released since: its acknowledgement was lost.
    Known,
    /// It does not chain, and will stay refused. Its receiver begins a new chain after `tail`, if
    /// the generation is its own.
    Refused {
        /// Of the driver, now; 0 for a shard that is not read.
        generation: u64,
        /// The last accepted record.
        tail: Option<SequenceNumber>,
    },
}

/// An answer of Kinesis without records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyRead {
    /// Generation of the assignment it was read under.
    pub generation: u64,
    /// The last record read before it.
    pub after: Option<SequenceNumber>,
    /// HTTP Date of the answer, Unix milliseconds.
    pub server_ms: i64,
    /// As Kinesis says.
    pub millis_behind_latest: i64,
    /// Set at the end of the range that is read: records are behind `after`, and the first of them
    /// arrived at this time or later, Unix milliseconds. 0 anywhere else.
    pub nothing_before_ms: i64,
}

/// What one batch covers of one shard: `(from, to]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The shard.
    pub shard: ShardKey,
    /// The last record before the batch.
    pub from: Option<SequenceNumber>,
    /// The last record of the batch.
    pub to: Option<SequenceNumber>,
    /// True when the batch ends the shard.
    pub ends: bool,
}

/// What the loss of an executor costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Shards whose tail went back, because blocks not yet planned are gone: to be assigned anew.
    pub rolled_back: Vec<ShardKey>,
    /// Blocks behind the gap on other executors: they chain no more and may be dropped.
    pub dropped: BTreeMap<ContainerId, Vec<BlockId>>,
    /// Planned blocks that must be read again.
    pub reread: Vec<Block>,
}

/// The ledger of one application.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tracks: BTreeMap<ShardKey, Track>,
    /// Where the range that is read ends, by arrival, Unix milliseconds; none: nowhere.
    until_ms: Option<i64>,
    /// Blocks of batches that are planned and not released, by batch.
    planned: BTreeMap<u64, Vec<Held>>,
    /// Batches whose commit was applied: their blocks need not be read again.
    committed: BTreeSet<u64>,
    /// Ids of accepted blocks that are not released.
    known: BTreeMap<BlockId, ShardKey>,
}

impl Ledger {
    /// Begins a shard at the position of the head.
    pub fn open(&mut self, shard: ShardKey, position: Position, now: Duration) {
        let until_ms = self.until_ms.unwrap_or(i64::MAX);
        self.tracks.entry(shard).or_insert_with(|| Track::new(position, until_ms, now));
    }

    /// True when the shard is kept here.
    #[must_use]
    pub fn contains(&self, shard: &ShardKey) -> bool {
        self.tracks.contains_key(shard)
    }

    /// Gives the shard a new reader and gives the generation and where to go on.
    pub fn assign(
        &mut self,
        shard: &ShardKey,
        reader: ContainerId,
        now: Duration,
    ) -> Option<(u64, Position)> {
        let track = self.tracks.get_mut(shard)?;
        track.assign(reader, now);
        Some((track.generation, track.tail_position()))
    }

    /// The current generation and where a reader of it goes on.
    #[must_use]
    pub fn reading(&self, shard: &ShardKey) -> Option<(u64, Position)> {
        let track = self.tracks.get(shard)?;
        Some((track.generation, track.tail_position()))
    }

    /// The shard has no reader from now on; what comes late is refused.
    pub fn unassign(&mut self, shard: &ShardKey, now: Duration) {
        if let Some(track) = self.tracks.get_mut(shard) {
            track.unassign(now);
        }
    }

    /// The executor that reads the shard now.
    #[must_use]
    pub fn reader(&self, shard: &ShardKey) -> Option<&ContainerId> {
        self.tracks.get(shard)?.reader.as_ref()
    }

    /// Judges an announced block by the chain rule.
    pub fn accept(&mut self, from: &ContainerId, block: Block, now: Duration) -> Verdict {
        if self.known.contains_key(&block.id) {
            return Verdict::Known;
        }
        let Some(track) = self.tracks.get_mut(&block.shard) else {
            return Verdict::Refused { generation: 0, tail: None };
        };
        if track.is_past(from, &block) {
            return Verdict::Known;
        }
        if !track.chains(from, &block) {
            track.give_up_chain(from, &block);
            return Verdict::Refused { generation: track.generation, tail: track.tail };
        }
        self.known.insert(block.id.clone(), block.shard.clone());
        track.push(from.clone(), block, now);
        Verdict::Accepted
    }

    /// Takes in an answer without records. False when it is of no use: another reader's or old.
    pub fn empty_read(
        &mut self,
        from: &ContainerId,
        shard: &ShardKey,
        read: EmptyRead,
        now: Duration,
    ) -> bool {
        self.tracks.get_mut(shard).is_some_and(|track| track.empty_read(from, read, now))
    }

    /// True when blocks wait to be planned.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.tracks.values().any(|track| !track.pending.is_empty())
    }

    /// Accepted bytes that wait to be planned, by executor.
    #[must_use]
    pub fn pending_bytes(&self) -> BTreeMap<ContainerId, u64> {
        let mut bytes = BTreeMap::new();
        for held in self.tracks.values().flat_map(|track| &track.pending) {
            held.add_bytes(&mut bytes);
        }
        bytes
    }

    /// Bytes of planned blocks that are not released, by executor.
    #[must_use]
    pub fn planned_bytes(&self) -> BTreeMap<ContainerId, u64> {
        let mut bytes = BTreeMap::new();
        for held in self.planned.values().flatten() {
            held.add_bytes(&mut bytes);
        }
        bytes
    }

    /// Makes everything that waits into batch `batch` and gives what it covers, shard by shard.
    pub fn plan(&mut self, batch: u64) -> Vec<Advance> {
        let mut advances = Vec::new();
        let mut blocks = Vec::new();
        for (shard, track) in &mut self.tracks {
            if track.pending.is_empty() {
                continue;
            }
            let from = track.planned;
            let (held, ends) = track.take_pending();
            advances.push(Advance { shard: shard.clone(), from, to: track.planned, ends });
            blocks.extend(held);
        }
        self.planned.insert(batch, blocks);
        advances
    }

    /// Makes a planned batch into two: about half of its blocks keep the number, the others become
    /// the batch after it, and batches that were after it move on by one. Blocks that end a shard
    /// stay together in the later one, since what they end changes who else may be read. Gives what
    /// each covers; none when the batch can not be divided.
    pub fn split(&mut self, batch: u64) -> Option<(Vec<Advance>, Vec<Advance>)> {
        let blocks = self.planned.get_mut(&batch)?;
        let ends = blocks.iter().filter(|held| held.block.ends_shard).count();
        let movable = blocks.len() - ends;
        let first = if ends == 0 { movable / 2 } else { movable.div_ceil(2) };
        if first == 0 {
            return None;
        }
        // The end of a shard is the last of its blocks, so that each shard keeps its order.
        blocks.sort_by_key(|held| held.block.ends_shard);
        let rest = blocks.split_off(first);
        let both = (advances_of(blocks), advances_of(&rest));
        let later = self.planned.split_off(&(batch + 1));
        self.planned.extend(later.into_iter().map(|(number, blocks)| (number + 1, blocks)));
        self.planned.insert(batch + 1, rest);
        Some(both)
    }

    /// Position of a shard as the head has it.
    #[must_use]
    pub fn committed_position(&self, shard: &ShardKey) -> Option<Position> {
        self.tracks.get(shard).map(Track::committed_position)
    }

    /// The blocks of a planned batch.
    #[must_use]
    pub fn blocks(&self, batch: u64) -> &[Held] {
        self.planned.get(&batch).map_or(&[], Vec::as_slice)
    }

    /// Position of a shard once everything that is planned is committed.
    #[must_use]
    pub fn planned_position(&self, shard: &ShardKey) -> Option<Position> {
        self.tracks.get(shard).map(Track::planned_position)
    }

    /// The commit of a batch was applied with these positions.
    pub fn commit(&mut self, batch: u64, positions: &BTreeMap<ShardKey, Position>, now: Duration) {
        self.committed.insert(batch);
        for (shard, position) in positions {
            if let Some(track) = self.tracks.get_mut(shard) {
                track.commit(*position, now);
            }
        }
    }

    /// Lets go of a committed batch and gives the blocks to drop, by executor.
    pub fn release(&mut self, batch: u64) -> BTreeMap<ContainerId, Vec<BlockId>> {
        let mut dropped = BTreeMap::<ContainerId, Vec<BlockId>>::new();
        self.committed.remove(&batch);
        for held in self.planned.remove(&batch).unwrap_or_default() {
            self.known.remove(&held.block.id);
            held.drop_everywhere(&mut dropped);
        }
        dropped
    }

    /// An executor and everything it held is gone.
    pub fn lose(&mut self, executor: &ContainerId, now: Duration) -> Lost {
        let mut lost = Lost::default();
        for (shard, track) in &mut self.tracks {
            if track.reader.as_ref() == Some(executor) {
                track.unassign(now);
            }
            for held in &mut track.pending {
                held.lose(executor);
            }
            let first = track.pending.iter().position(Held::is_lost);
            if let Some(first) = first {
                for held in track.roll_back(first, now) {
                    self.known.remove(&held.block.id);
                    held.drop_everywhere(&mut lost.dropped);
                }
                lost.rolled_back.push(shard.clone());
            }
        }
        for (batch, blocks) in &mut self.planned {
            for held in blocks.iter_mut() {
                if held.lose(executor) && held.is_lost() && !self.committed.contains(batch) {
                    lost.reread.push(held.block.clone());
                }
            }
        }
        lost
    }

    /// The executor that was to give this block to a run does not have it any more. Gives that
    /// executor, and the block if nobody else holds it. None when no planned batch needs it.
    pub fn lose_block(&mut self, id: &BlockId) -> Option<(Option<ContainerId>, Option<Block>)> {
        for (_, blocks) in self.planned.iter_mut().filter(|(b, _)| !self.committed.contains(*b)) {
            if let Some(held) = blocks.iter_mut().find(|held| held.block.id == *id) {
                let loser = held.holders().first().cloned();
                if let Some(loser) = &loser {
                    held.lose(loser);
                }
                return Some((loser, held.is_lost().then(|| held.block.clone())));
            }
        }
        None
    }

    /// Leaves a block that can not be had again out of its batch, whose commit passes over it. Gives
    /// the executors that may still get a copy of it.
    pub fn give_up(&mut self, id: &BlockId) -> BTreeMap<ContainerId, Vec<BlockId>> {
        let mut dropped = BTreeMap::new();
        self.known.remove(id);
        for blocks in self.planned.values_mut() {
            if let Some(place) = blocks.iter().position(|held| held.block.id == *id) {
                blocks.remove(place).drop_everywhere(&mut dropped);
            }
        }
        dropped
    }

    /// Executor `to` is told to copy the block.
    pub fn copying(&mut self, id: &BlockId, to: &ContainerId) {
        if let Some(held) = self.held_mut(id) {
            held.copying(to.clone());
        }
    }

    /// A copy has come about, or has not. False when the block is not needed any more.
    pub fn copied(&mut self, id: &BlockId, by: &ContainerId, is_held: bool) -> bool {
        self.held_mut(id).is_some_and(|held| held.copied(by, is_held))
    }

    /// The accepted blocks that this executor was told to copy and has not answered for.
    #[must_use]
    pub fn copying_to(&self, executor: &ContainerId) -> Vec<BlockId> {
        let pending = self.tracks.values().flat_map(|track| &track.pending);
        let all = pending.chain(self.planned.values().flatten());
        all.filter(|held| held.copy_to() == Some(executor)).map(|h| h.block.id.clone()).collect()
    }

    /// An accepted block as it was announced; none when it is not needed any more.
    #[must_use]
    pub fn descriptor(&self, id: &BlockId) -> Option<v1::BlockDescriptor> {
        let track = self.tracks.get(self.known.get(id)?);
        let pending = track.into_iter().flat_map(|track| track.pending.iter().rev());
        let mut all = pending.chain(self.planned.values().flatten());
        all.find(|held| held.block.id == *id).map(|held| held.block.descriptor.clone())
    }

    fn held_mut(&mut self, id: &BlockId) -> Option<&mut Held> {
        let track = self.tracks.get_mut(self.known.get(id)?);
        let pending = track.into_iter().flat_map(|track| &mut track.pending);
        let mut all = pending.chain(self.planned.values_mut().flatten());
        all.find(|held| held.block.id == *id)
    }

    /// True while a batch that is not committed needs the block.
    #[must_use]
    pub fn needs(&self, id: &BlockId) -> bool {
        self.planned
            .iter()
            .filter(|(batch, _)| !self.committed.contains(*batch))
            .any(|(_, blocks)| blocks.iter().any(|held| held.block.id == *id))
    }

    /// A lost block is held again.
    pub fn found(&mut self, id: &BlockId, holder: &ContainerId) {
        for held in self.planned.values_mut().flatten().filter(|held| held.block.id == *id) {
            held.found(holder);
        }
    }

    /// The accepted blocks that an executor must hold.
    pub fn held_by<'a>(&'a self, executor: &'a ContainerId) -> impl Iterator<Item = &'a BlockId> {
        let pending = self.tracks.values().flat_map(|track| &track.pending);
        let uncommitted = self.planned.iter().filter(|(batch, _)| !self.committed.contains(*batch));
        let all = pending.chain(uncommitted.flat_map(|(_, blocks)| blocks));
        all.filter(move |held| held.holders().contains(executor)).map(|held| &held.block.id)
    }

    /// Silence of the last `pause` is not held against any reader.
    pub fn stood_still(&mut self, pause: Duration) {
        self.tracks.values_mut().for_each(|track| track.heard_at += pause);
    }

    /// All blocks that an executor keeps, or was told to copy, committed ones included.
    #[must_use]
    pub fn kept_by(&self, executor: &ContainerId) -> Vec<BlockId> {
        let pending = self.tracks.values().flat_map(|track| &track.pending);
        let all = pending.chain(self.planned.values().flatten());
        let is_there =
            |held: &&Held| held.holders().contains(executor) || held.copy_to() == Some(executor);
        all.filter(is_there).map(|held| held.block.id.clone()).collect()
    }

    /// Assigned shards of which nothing was heard for as long as `limit`, with their readers.
    #[must_use]
    pub fn silent(&self, now: Duration, limit: Duration) -> Vec<(ShardKey, ContainerId)> {
        let silent = self.tracks.iter().filter_map(|(shard, track)| {
            let reader = track.reader.clone()?;
            let due = !track.ended && now.saturating_sub(track.heard_at) >= limit;
            due.then(|| (shard.clone(), reader))
        });
        silent.collect()
    }

    /// True when an idle shard's entry in the head is older than `every` and newer news is here.
    #[must_use]
    pub fn renewal_is_due(&self, now: Duration, every: Duration) -> bool {
        self.tracks.values().any(|track| track.renewal_is_due(now, every))
    }

    /// True when everything that arrived in the shard up to `since_ms` (server time) is accepted.
    #[must_use]
    pub fn is_read_past(&self, shard: &ShardKey, since_ms: i64) -> bool {
        self.tracks.get(shard).is_some_and(|track| track.is_read_past(since_ms))
    }

    /// True when a block that ends the shard is accepted.
    #[must_use]
    pub fn is_ended(&self, shard: &ShardKey) -> bool {
        self.tracks.get(shard).is_some_and(|track| track.ended)
    }

    /// How long a reader on this executor must leave Kinesis alone, because another one may have
    /// called it for the shard until now.
    #[must_use]
    pub fn rest(&self, shard: &ShardKey, reader: &ContainerId, now: Duration) -> Duration {
        self.tracks.get(shard).map_or(Duration::ZERO, |track| track.rest(reader, now))
    }

    /// Lets go of shards that left the head.
    pub fn forget(&mut self, shard: &ShardKey) {
        self.tracks.remove(shard);
    }

    /// Every shard that is kept here.
    pub fn shards(&self) -> impl Iterator<Item = &ShardKey> {
        self.tracks.keys()
    }
}

/// What these blocks cover, shard by shard.
fn advances_of(blocks: &[Held]) -> Vec<Advance> {
    let mut advances = BTreeMap::<&ShardKey, Advance>::new();
    for Held { block, .. } in blocks {
        let advance = advances.entry(&block.shard).or_insert_with(|| Advance {
            shard: block.shard.clone(),
            from: block.after,
            to: block.last,
            ends: false,
        });
        advance.to = block.last;
        advance.ends |= block.ends_shard;
    }
    advances.into_values().collect()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
