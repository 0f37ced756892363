//! An application that reads a range and then ends: which shards have a part of it, and when all of
//! it is read.
//!
//! Promises: the range counts as read only when every shard that may hold records of it is known and
//! was read to the end of its part. The children of a shard whose part ended before the shard did
//! hold nothing of the range, and are not read. Never does: end the application.

use millrace_common::position::ShardKey;

use super::Core;
use crate::driver::ledger::EMPTY_MARGIN_MS;
use crate::driver::receivers::lineage::Loss;

/// How much of a range is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeView {
    /// Shards that have a part of it, as far as they are known.
    pub num_shards: u64,
    /// Those of them whose part is committed.
    pub num_done: u64,
    /// True when all of it is read, and planned or committed.
    pub is_read: bool,
}

impl Core {
    /// True when every record of the range is accepted; never without a range.
    #[must_use]
    pub fn is_range_read(&self) -> bool {
        let Some(until_ms) = self.until_ms else { return false };
        self.sources.iter().all(|(name, source)| {
            let stream = &source.setup.stream;
            let mut reading = source.lineage.reading().map(|id| stream.shard(name, id));
            // A shard that began within the range is in every listing that was made after it.
            source.listed_ms >= until_ms
                && !source.listing_is_stale
                && reading.all(|shard| self.ledger.is_range_read(&shard))
        })
    }

    /// True when all of the range is read and the head does not say so yet.
    pub(super) fn has_range_to_commit(&self) -> bool {
        let reading = || {
            self.sources.iter().flat_map(|(name, source)| {
                let stream = &source.setup.stream;
                source.lineage.reading().map(move |id| stream.shard(name, id))
            })
        };
        self.is_range_read() && reading().any(|shard| !self.ledger.is_range_committed(&shard))
    }

    /// Ends the range where a shard is open and was empty up to its end. One that has children is
    /// not open: its own end tells when they began. True when that was so anywhere.
    pub(super) fn end_empty_ranges(&mut self) -> bool {
        let Some(until_ms) = self.until_ms else { return false };
        let listed_since = until_ms.saturating_add(EMPTY_MARGIN_MS);
        let mut open = Vec::<ShardKey>::new();
        for (name, source) in &self.sources {
            if source.listed_ms < listed_since || source.listing_is_stale {
                continue;
            }
            let reading = source.lineage.reading().filter(|id| !source.lineage.has_child(id));
            open.extend(reading.map(|id| source.setup.stream.shard(name, id)));
        }
        let mut ends = false;
        for shard in open {
            if self.ledger.end_range_if_empty(&shard) {
                self.lags.remove(&shard);
                ends = true;
            }
        }
        ends
    }

    /// True for a shard that is gone, and had nothing of the range that is not accepted.
    pub(super) fn is_read_all_the_same(&self, source: &str, loss: &Loss) -> bool {
        let Some(entry) = self.sources.get(source).filter(|_| self.until_ms.is_some()) else {
            return false;
        };
        let shard = entry.setup.stream.shard(source, loss.shard_id());
        matches!(loss, Loss::Vanished(_)) && self.ledger.is_range_read(&shard)
    }

    /// What is done of the range; none without one.
    pub(super) fn range_view(&self) -> Option<RangeView> {
        self.until_ms?;
        let mut view = RangeView { is_read: self.is_range_read(), ..RangeView::default() };
        for (name, source) in &self.sources {
            for shard_id in source.lineage.entries() {
                let shard = source.setup.stream.shard(name, shard_id);
                view.num_shards += 1;
                view.num_done += u64::from(self.ledger.is_range_committed(&shard));
            }
        }
        Some(view)
    }
}
