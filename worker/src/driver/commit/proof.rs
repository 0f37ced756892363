//! The proofs that hold the order of the steps: each is made by one step and used up by the next.
//!
//! Promises: a [`Published`] exists only when no upload of the head's batch is left to complete.
//! Never does: copy itself, or come to be outside this module's parent.

use crate::driver::head::{
    ChunkName, Head, PendingUpload, Positions, PublishedMark, ResetRequest, SourceStart, Totals,
};

/// k0 is done: the head is this driver's. What the last batch left may be incomplete.
#[derive(Debug)]
pub struct Acquired {
    pub(super) head: Head,
    /// Chunks that the head names.
    pub(super) num_chunks: u32,
}

/// Every upload of the head's batch is complete: the next batch may be committed.
#[derive(Debug)]
pub struct Published {
    pub(super) head: Head,
    /// Chunks that the head names.
    pub(super) num_chunks: u32,
}

/// k5 is won: the batch is true. Its uploads are not yet visible.
#[derive(Debug)]
#[must_use = "a committed batch is to be published"]
pub struct Committed {
    pub(super) head: Head,
    /// Chunks that the head names.
    pub(super) num_chunks: u32,
    /// Chunks that the head before named: this one's won commit lets them go.
    pub(super) obsolete: Vec<ChunkName>,
}

impl Acquired {
    /// The head as acquired.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }
}

impl Published {
    /// The head as it is now.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The number that the next commit will have.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.head.batch + 1
    }

    /// Where the next batch starts.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.head.positions
    }

    /// Where this source began, if that was fixed.
    #[must_use]
    pub fn start_of(&self, source: &str) -> Option<&SourceStart> {
        self.head.starts.get(source)
    }

    /// What [`super::Committer::mark_published`] has to write; none when the head says it already, or
    /// names no uploads.
    #[must_use]
    pub fn mark(&self) -> Option<PublishedMark> {
        let is_due = !self.head.pending.is_empty() && !self.head.is_published;
        is_due.then(|| PublishedMark { commit_id: self.head.commit_id.clone() })
    }

    /// The mark was written.
    pub fn marked(&mut self, mark: &PublishedMark) {
        self.head.is_published |= self.head.commit_id == mark.commit_id;
    }

    /// An operator's wish to begin elsewhere; `Committer::reset` grants it.
    #[must_use]
    pub fn reset_request(&self) -> Option<ResetRequest> {
        self.head.reset
    }
}

impl Committed {
    /// The batch that is committed.
    #[must_use]
    pub fn batch(&self) -> u64 {
        self.head.batch
    }

    /// What all batches up to it amount to.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.head.totals
    }

    /// Where the next batch will start: its tasks may run while this one is published.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.head.positions
    }

    /// The uploads still to complete.
    #[must_use]
    pub fn uploads(&self) -> &[PendingUpload] {
        &self.head.pending
    }
}
