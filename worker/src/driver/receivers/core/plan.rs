//! From accepted blocks to a batch, and back when it is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::id::{BlockId, ContainerId};
use millrace_common::position::{Position, SequenceNumber, ShardKey};

use super::{Core, Effect, RENEWAL_INTERVAL};
use crate::driver::head::Gaps;
use crate::driver::ledger::Advance;
use crate::driver::receivers::lineage::Origin;

/// A batch as the receivers' core planned it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// What it covers, by shard; empty for a renewal.
    pub advances: Vec<Advance>,
    /// The positions its commit writes: all of them.
    pub positions: BTreeMap<ShardKey, Position>,
    /// The losses its commit writes: all that its positions are behind.
    pub gaps: BTreeMap<ShardKey, Gaps>,
}

/// A planned batch and what it takes to divide it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    planned: Planned,
    /// The positions that its commit would write if it ended no shard, and so opened no child.
    unended: BTreeMap<ShardKey, Position>,
}

/// A block of a batch and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBlock {
    /// The block.
    pub id: BlockId,
    /// The source it belongs to.
    pub source: String,
    /// The shard that its records came from.
    pub shard_id: String,
    /// The executor that holds it.
    pub executor: ContainerId,
    /// Records as SQL sees them.
    pub num_records: u64,
    /// Bytes in the store.
    pub num_bytes: u64,
    /// KPL user records outside their shard's range, dropped or not.
    pub num_out_of_range: u64,
}

impl Core {
    /// True when a batch is worth its commit: new blocks, an idle position that grew old, or the end
    /// of the range that is read.
    #[must_use]
    pub fn has_news(&self, now: Duration) -> bool {
        self.ledger.has_pending()
            || self.ledger.renewal_is_due(now, RENEWAL_INTERVAL)
            || self.has_range_to_commit()
    }

    /// Makes everything accepted into batch `batch`. Children of the shards that it ends become
    /// readable, and so belong to a later batch.
    pub fn plan(&mut self, batch: u64, now: Duration) -> (Planned, Vec<Effect>) {
        let advances = self.ledger.plan(batch);
        let ends = advances.iter().any(|advance| advance.ends);
        let unended = if ends { self.positions() } else { BTreeMap::new() };
        for ended in advances.iter().filter(|advance| advance.ends) {
            if let Some(source) = self.sources.get_mut(&ended.shard.source) {
                source.lineage.plan_end(&ended.shard.shard_id);
            }
        }
        for (name, source) in &mut self.sources {
            for gone in source.lineage.forget() {
                let shard = source.setup.stream.shard(name, &gone);
                self.ledger.forget(&shard);
                self.rates.forget(&shard);
            }
        }
        let effects = self.place(now);
        let (positions, gaps) = (self.positions(), self.planned_gaps());
        let planned = Planned { advances, positions, gaps };
        let unended = if ends { unended } else { planned.positions.clone() };
        self.planned.insert(batch, Kept { planned: planned.clone(), unended });
        (planned, effects)
    }

    /// The batch, when it is planned already: the later part of one that was divided.
    #[must_use]
    pub fn planned(&self, batch: u64) -> Option<Planned> {
        self.planned.get(&batch).map(|kept| kept.planned.clone())
    }

    /// Divides a planned batch at about half of its blocks. Gives its first part, which keeps the
    /// number; the other part is the batch after it, planned already. None when the batch is one
    /// block, or only ends shards.
    pub fn split(&mut self, batch: u64) -> Option<Planned> {
        let (first, rest) = self.ledger.split(batch)?;
        let Kept { planned: whole, unended } = self.planned.remove(&batch)?;
        let later = self.planned.split_off(&(batch + 1));
        self.planned.extend(later.into_iter().map(|(number, kept)| (number + 1, kept)));
        let (mut positions, mut gaps) = (unended.clone(), whole.gaps.clone());
        for Advance { shard, from, .. } in &rest {
            positions.insert(shard.clone(), self.position_before(shard, *from));
            // A loss that is not behind the position yet counts with the other part.
            match self.committed_gaps.get(shard) {
                Some(before) => gaps.insert(shard.clone(), before.clone()),
                None => gaps.remove(shard),
            };
        }
        let first = Planned { advances: first, positions, gaps };
        let unended_first = first.positions.clone();
        self.planned.insert(batch, Kept { planned: first.clone(), unended: unended_first });
        let rest = Planned { advances: rest, ..whole };
        self.planned.insert(batch + 1, Kept { planned: rest, unended });
        Some(first)
    }

    /// Where a shard stands before an advance of it from here.
    fn position_before(&self, shard: &ShardKey, from: Option<SequenceNumber>) -> Position {
        let committed = self.ledger.committed_position(shard).unwrap_or_default();
        if committed.sequence_number == from {
            return self.since_the_start(shard, committed);
        }
        Position { sequence_number: from, ..Position::default() }
    }

    /// What the application began after is none of its records.
    fn since_the_start(&self, shard: &ShardKey, mut position: Position) -> Position {
        let origin = self.sources.get(&shard.source).map(|s| s.lineage.origin(&shard.shard_id));
        if position.sequence_number.is_none()
            && let Some(Origin::Timestamp(began_ms)) = origin
        {
            position.empty_until_ms = position.empty_until_ms.max(began_ms);
        }
        position
    }

    /// The positions of all shards once everything that is planned is committed.
    fn positions(&self) -> BTreeMap<ShardKey, Position> {
        let mut positions = BTreeMap::new();
        for (name, source) in &self.sources {
            for shard_id in source.lineage.entries() {
                let shard = source.setup.stream.shard(name, shard_id);
                let position = self.ledger.planned_position(&shard).unwrap_or_default();
                let position = self.since_the_start(&shard, position);
                positions.insert(shard, position);
            }
        }
        positions
    }

    /// The blocks of a planned batch, once every one of them is held by a living executor.
    #[must_use]
    pub fn blocks(&self, batch: u64) -> Option<Vec<PlannedBlock>> {
        let held = self.ledger.blocks(batch).iter();
        held.map(|held| {
            let mut holders = held.holders().iter();
            let executor = holders.find(|holder| self.executors.contains_key(*holder))?.clone();
            Some(PlannedBlock {
                id: held.block.id.clone(),
                source: held.block.shard.source.clone(),
                shard_id: held.block.shard.shard_id.clone(),
                executor,
                num_records: held.block.num_records,
                num_bytes: held.block.num_bytes,
                num_out_of_range: held.block.descriptor.num_out_of_range,
            })
        })
        .collect()
    }

    /// The commit of a batch was applied: what it held need not be read again.
    pub fn committed(&mut self, batch: u64, now: Duration) {
        let Some(Kept { planned, .. }) = self.planned.remove(&batch) else { return };
        let Planned { positions, gaps, .. } = planned;
        self.ledger.commit(batch, &positions, now);
        self.committed_gaps = gaps;
        for (shard, _) in positions.iter().filter(|(_, position)| position.ended) {
            if let Some(source) = self.sources.get_mut(&shard.source) {
                source.lineage.commit_end(&shard.shard_id);
            }
        }
        let ledger = &self.ledger;
        self.rereads.retain(|id, _| ledger.needs(id));
    }

    /// A committed batch is published: its blocks are dropped.
    pub fn release(&mut self, batch: u64, now: Duration) -> Vec<Effect> {
        let blocks = self.ledger.release(batch);
        self.drop_blocks(blocks, now)
    }
}
