//! The ledger of an application that reads its shards only up to the end of a range.
//!
//! Promises: a shard counts as read only when what ends its part of the range is known of its last
//! accepted record: its own end, or a record that arrived later, or that it is open and was empty;
//! what is rolled back takes that with it. Never does: decide which shards belong to the range.

use millrace_common::position::ShardKey;

use super::Ledger;
use super::track::Track;

impl Ledger {
    /// A ledger without shards, of an application that reads what arrived before `until_ms`, Unix
    /// time in milliseconds; without one, all there is.
    #[must_use]
    pub fn until(until_ms: Option<i64>) -> Self {
        Self { until_ms, ..Self::default() }
    }

    /// True when the shard's part of the range is accepted.
    #[must_use]
    pub fn is_range_read(&self, shard: &ShardKey) -> bool {
        self.tracks.get(shard).is_some_and(Track::is_range_read)
    }

    /// True when the head says that the shard's part of the range is dealt with.
    #[must_use]
    pub fn is_range_committed(&self, shard: &ShardKey) -> bool {
        self.tracks.get(shard).is_some_and(Track::is_range_committed)
    }

    /// The shard takes records still: if it was empty up to the end of the range, its part of that
    /// is read. True when it is so from now on.
    pub fn end_range_if_empty(&mut self, shard: &ShardKey) -> bool {
        self.tracks.get_mut(shard).is_some_and(Track::end_range_if_empty)
    }
}
