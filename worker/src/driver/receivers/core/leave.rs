//! Executors that are to be given up in order: their shards move first, then their blocks go with
//! the next batch, and nothing new comes to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::id::ContainerId;

use super::{Core, Effect};

impl Core {
    /// This executor is to be given up.
    pub fn leave(&mut self, executor: ContainerId, now: Duration) -> Vec<Effect> {
        self.leaving.insert(executor);
        self.place(now)
    }

    /// The executors that shards and blocks may be given to, each with nothing on it: all but the
    /// leaving ones, unless there are no others.
    pub(super) fn staying(&self) -> BTreeMap<ContainerId, u64> {
        let stays = |executor: &&ContainerId| !self.leaving.contains(*executor);
        let mut staying: BTreeMap<ContainerId, u64> =
            self.executors.keys().filter(stays).map(|executor| (executor.clone(), 0)).collect();
        if staying.is_empty() {
            staying = self.executors.keys().map(|executor| (executor.clone(), 0)).collect();
        }
        staying
    }

    /// The leaving executors that nothing needs any more: no shard is read there, and every block
    /// there is committed.
    pub(super) fn vacated(&self) -> BTreeSet<ContainerId> {
        let is_empty = |executor: &&ContainerId| {
            self.assignment.values().all(|seat| seat.container != **executor)
                && self.ledger.held_by(executor).next().is_none()
        };
        self.leaving.iter().filter(is_empty).cloned().collect()
    }

    /// True when blocks that wait to be planned are all that keeps an executor from leaving.
    pub(super) fn is_leaving_held_up(&self) -> bool {
        let pending = self.ledger.pending_bytes();
        self.leaving.iter().any(|executor| pending.contains_key(executor))
    }
}
