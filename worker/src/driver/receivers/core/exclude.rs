//! Executors that get no work for a while, because they failed too often: their shards move at once,
//! and what they hold is read again elsewhere, since it could not be relied on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::id::ContainerId;

use super::{Core, Effect};

impl Core {
    /// These executors get no work until they are named no more. Who was named before is free
    /// again.
    pub fn exclude(&mut self, excluded: BTreeSet<ContainerId>, now: Duration) -> Vec<Effect> {
        let newly: Vec<ContainerId> = excluded
            .difference(&self.excluded)
            .filter(|executor| self.executors.contains_key(*executor))
            .cloned()
            .collect();
        self.excluded = excluded;
        let mut effects = Vec::new();
        for executor in &newly {
            effects.extend(self.empty(executor, now));
        }
        effects.extend(self.place(now));
        effects.extend(self.reread(now));
        effects
    }

    /// Takes everything from an executor that is still here: it drops its blocks.
    fn empty(&mut self, executor: &ContainerId, now: Duration) -> Vec<Effect> {
        let held = self.ledger.kept_by(executor);
        let mut effects = self.lose_blocks(executor, now);
        if !held.is_empty() {
            effects.extend(self.drop_blocks(BTreeMap::from([(executor.clone(), held)]), now));
        }
        effects
    }
}
