//! From accepted blocks to a batch, and back when it is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::id::{BlockId, ContainerId};
use millrace_common::position::{Position, ShardKey};

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

/// A block of a batch and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBlock {
    /// The block.
    pub id: BlockId,
    /// The source it belongs to.
    pub source: String,
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
    /// True when a batch is worth its commit: new blocks, or an idle position that grew old.
    #[must_use]
    pub fn has_news(&self, now: Duration) -> bool {
        self.ledger.has_pending() || self.ledger.renewal_is_due(now, RENEWAL_INTERVAL)
    }

    /// Makes everything accepted into batch `batch`. Children of the shards that it ends become
    /// readable, and so belong to a later batch.
    pub fn plan(&mut self, batch: u64, now: Duration) -> (Planned, Vec<Effect>) {
        let advances = self.ledger.plan(batch);
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
        self.planned.insert(batch, planned.clone());
        (planned, effects)
    }

    /// The positions of all shards once everything that is planned is committed.
    fn positions(&self) -> BTreeMap<ShardKey, Position> {
        let mut positions = BTreeMap::new();
        for (name, source) in &self.sources {
            for shard_id in source.lineage.entries() {
                let shard = source.setup.stream.shard(name, shard_id);
                let mut position = self.ledger.planned_position(&shard).unwrap_or_default();
                // What the application began after is none of its records.
                if position.sequence_number.is_none()
                    && let Origin::Timestamp(began_ms) = source.lineage.origin(shard_id)
                {
                    position.empty_until_ms = position.empty_until_ms.max(began_ms);
                }
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
        let Some(planned) = self.planned.remove(&batch) else { return };
        self.ledger.commit(batch, &planned.positions, now);
        for (shard, _) in planned.positions.iter().filter(|(_, position)| position.ended) {
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
