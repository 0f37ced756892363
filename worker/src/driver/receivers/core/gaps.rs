//! Records that are lost for good, under the policy `continue`: counted by shard and passed over.

use millrace_common::error::Error;
use millrace_common::position::ShardKey;

use super::{Core, Effect};

/// The losses of a shard in this attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    pub(super) count: u64,
    /// What was said of the last one.
    pub(super) last: String,
}

impl Core {
    /// Counts a loss that the application goes on after.
    pub(super) fn gap(&mut self, shard: &ShardKey, error: Error) -> Effect {
        let gaps = self.gaps.entry(shard.clone()).or_default();
        gaps.count += 1;
        gaps.last = error.message().to_owned();
        Effect::Gap(error)
    }

    /// True when the application goes on after a loss in this shard.
    pub(super) fn survives_loss(&self, shard: &ShardKey) -> bool {
        self.sources.get(&shard.source).is_some_and(|source| source.setup.survives_loss)
    }
}
