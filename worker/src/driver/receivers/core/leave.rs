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
    /// leaving and the excluded ones, unless there are no others; then rather an excluded one than
    /// one that leaves.
    pub(super) fn staying(&self) -> BTreeMap<ContainerId, u64> {
        let stays = |executor: &ContainerId| !self.leaving.contains(executor);
        let is_good = |executor: &ContainerId| stays(executor) && !self.excluded.contains(executor);
        let all = || self.executors.keys().cloned().map(|executor| (executor, 0));
        let mut staying: BTreeMap<ContainerId, u64> = all().filter(|(e, _)| is_good(e)).collect();
        if staying.is_empty() {
            staying = all().filter(|(executor, _)| stays(executor)).collect();
        }
        if staying.is_empty() {
            staying = all().collect();
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
