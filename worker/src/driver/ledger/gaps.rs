//! Losses in the ledger: a shard whose next reader passes over what is gone.
//!
//! Promises: a loss is passed over once, behind the tail that it was found at. Never does: decide
//! whether an application may go on after one.

use std::time::Duration;

use millrace_common::position::ShardKey;

use super::Ledger;
use super::track::Track;

impl Ledger {
    /// What follows the tail is lost, and the policy is `continue`: the next reader goes on with
    /// the oldest record there is behind it.
    pub fn skip_gap(&mut self, shard: &ShardKey, now: Duration) {
        if let Some(track) = self.tracks.get_mut(shard) {
            track.skip_gap(now);
        }
    }

    /// True when the loss of what follows the tail is known.
    #[must_use]
    pub fn skips_gap(&self, shard: &ShardKey) -> bool {
        self.tracks.get(shard).is_some_and(Track::skips_gap)
    }

    /// True when records behind the planned position are lost, and no commit has passed them over
    /// yet.
    #[must_use]
    pub fn has_gap_ahead(&self, shard: &ShardKey) -> bool {
        self.tracks.get(shard).is_some_and(Track::has_gap_ahead)
    }

    /// Marks a shard as ended without having read its end, by the policy `continue`.
    pub fn end_with_gap(&mut self, shard: &ShardKey, now: Duration) {
        if let Some(track) = self.tracks.get_mut(shard) {
            track.end_with_gap(now);
        }
    }
}
