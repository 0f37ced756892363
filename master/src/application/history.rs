//! The last batches of an application, as its driver told them. In memory only: the head is the
//! truth, this is for looking at.

use std::collections::VecDeque;

use millrace_proto::v1;

/// Batches kept per application; at a batch every 10 s that is almost three hours.
pub(crate) const BATCHES_MAX: usize = 1_000;
/// Files named per batch in the history; the rest is counted only.
const FILES_MAX: usize = 100;

/// The newest [`BATCHES_MAX`] batches, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    batches: VecDeque<v1::Batch>,
}

impl History {
    /// Takes a batch in, or the news of one that is already there.
    pub(crate) fn record(&mut self, mut batch: v1::Batch) {
        batch.files.truncate(FILES_MAX);
        let known = self.batches.iter_mut().rev().find(|known| known.number == batch.number);
        if let Some(known) = known {
            *known = batch;
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }

    /// The newest `limit` batches, newest first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<v1::Batch> {
        self.batches.iter().rev().take(limit).cloned().collect()
    }
}
