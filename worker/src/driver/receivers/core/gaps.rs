//! Records that are lost for good, under the policy `continue`: counted by shard and passed over.

use std::collections::BTreeMap;

use millrace_common::error::Error;
use millrace_common::position::ShardKey;

use super::{Core, Effect};
use crate::driver::head::Gaps;

/// What is kept in the head of the words about a loss, so that it stays small: they name shard and
/// range, what follows is the cause.
const WORDS_MAX: usize = 400;

/// The losses of a shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// All of them.
    pub(super) all: Gaps,
    /// Those before the last one, which counts in the head once the position is behind it: a driver
    /// that starts in front of it finds it again.
    before_last: Gaps,
}

impl Core {
    /// Goes on counting where the head stands: its positions are behind its losses.
    #[must_use]
    pub fn after_gaps(mut self, gaps: BTreeMap<ShardKey, Gaps>) -> Self {
        self.committed_gaps.clone_from(&gaps);
        let counted = |all: Gaps| Counted { before_last: all.clone(), all };
        self.gaps = gaps.into_iter().map(|(shard, gaps)| (shard, counted(gaps))).collect();
        self
    }

    /// Counts a loss that the application goes on after.
    pub(super) fn gap(&mut self, shard: &ShardKey, error: Error) -> Effect {
        let counted = self.gaps.entry(shard.clone()).or_default();
        counted.before_last = counted.all.clone();
        counted.all.count += 1;
        counted.all.last = error.message().chars().take(WORDS_MAX).collect();
        Effect::Gap(error)
    }

    /// The losses that are behind the planned positions.
    pub(super) fn planned_gaps(&self) -> BTreeMap<ShardKey, Gaps> {
        let behind = |(shard, counted): (&ShardKey, &Counted)| {
            let is_ahead = self.ledger.has_gap_ahead(shard);
            let gaps = if is_ahead { &counted.before_last } else { &counted.all };
            (gaps.count > 0).then(|| (shard.clone(), gaps.clone()))
        };
        self.gaps.iter().filter_map(behind).collect()
    }

    /// True when the application goes on after a loss in this shard.
    pub(super) fn survives_loss(&self, shard: &ShardKey) -> bool {
        self.sources.get(&shard.source).is_some_and(|source| source.setup.survives_loss)
    }
}
