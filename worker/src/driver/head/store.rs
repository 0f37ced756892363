//! Where heads are kept: one trait, one function per call.
//!
//! Promises: a write that answers `Ok` was applied, one that answers [`WriteFailure::Refused`] was
//! not applied by this call, and everything else leaves that open: the same write may be sent again
//! and means the same. Owned by the driver's commit.
//! Never does: retry, decide, or touch another application's items.

use async_trait::async_trait;
use millrace_common::error::Error;
use millrace_common::head::{ChunkName, HEAD_VERSION, HeadItem, StoredBody};

/// k0: take the head over, or make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireWrite {
    /// The epoch granted by the master.
    pub epoch: u64,
    /// The process that takes it.
    pub owner: String,
    /// The cluster that it belongs to.
    pub cluster: String,
    /// True while the master has no record of a head.
    pub may_create: bool,
    /// Packed starts, stored only where the head has none; empty when there is nothing to fix.
    pub starts: Vec<u8>,
}

impl AcquireWrite {
    /// The item as it is once this write is applied to `found`; none when its condition refuses
    /// that. What a store without conditions of its own has to do.
    #[must_use]
    pub fn applied_to(&self, found: Option<&HeadItem>) -> Option<HeadItem> {
        match found {
            None if self.may_create => Some(HeadItem {
                epoch: self.epoch,
                owner: self.owner.clone(),
                cluster: self.cluster.clone(),
                batch: 0,
                commit_id: String::new(),
                version: 0,
                spec_hash: String::new(),
                body: StoredBody::None,
                starts: self.starts.clone(),
                reset: None,
                repair: None,
                published: String::new(),
            }),
            Some(old) if old.cluster == self.cluster && old.epoch < self.epoch => {
                let starts = if old.starts.is_empty() { &self.starts } else { &old.starts };
                Some(HeadItem {
                    epoch: self.epoch,
                    owner: self.owner.clone(),
                    starts: starts.clone(),
                    ..old.clone()
                })
            }
            _ => None,
        }
    }
}

/// k5: the one conditional write that makes a batch true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitWrite {
    /// Condition: the head is of this epoch.
    pub epoch: u64,
    /// The new batch. Condition: the head holds the one before.
    pub batch: u64,
    /// Id of this commit, the same in every repetition of this write.
    pub commit_id: String,
    /// Hash of the specification that computed the batch.
    pub spec_hash: String,
    /// The new body.
    pub body: StoredBody,
    /// New packed starts, when they change.
    pub starts: Option<Vec<u8>>,
    /// True when this commit grants the wish to begin elsewhere.
    pub clears_reset: bool,
    /// True when this commit deals with an operator's word about the batch before, or makes it void.
    pub clears_repair: bool,
}

impl CommitWrite {
    /// The item as it is once this write is applied to `before`.
    #[must_use]
    pub fn applied_to(&self, before: &HeadItem) -> HeadItem {
        HeadItem {
            epoch: before.epoch,
            owner: before.owner.clone(),
            cluster: before.cluster.clone(),
            batch: self.batch,
            commit_id: self.commit_id.clone(),
            version: HEAD_VERSION,
            spec_hash: self.spec_hash.clone(),
            body: self.body.clone(),
            starts: self.starts.clone().unwrap_or_else(|| before.starts.clone()),
            reset: if self.clears_reset { None } else { before.reset.clone() },
            repair: if self.clears_repair { None } else { before.repair.clone() },
            published: before.published.clone(),
        }
    }
}

/// After k6: says that every upload of the head's batch is complete. It may come late, twice or
/// never: it is true of its commit for ever, and of no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedMark {
    /// Condition: the head holds the batch of this commit.
    pub commit_id: String,
}

impl PublishedMark {
    /// The item as it is once this write is applied to `found`; none when its condition refuses
    /// that.
    #[must_use]
    pub fn applied_to(&self, found: Option<&HeadItem>) -> Option<HeadItem> {
        let item = found.filter(|item| item.commit_id == self.commit_id)?;
        Some(HeadItem { published: self.commit_id.clone(), ..item.clone() })
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreFailure {
    /// No answer, throttled, a fault of the service, or a skewed clock: ask again. A write may have
    /// been applied.
    #[error(transparent)]
    Again(Error),
    /// Denied, or the table is gone: somebody has to do something first.
    #[error(transparent)]
    Denied(Error),
    /// The call is wrong or its answer makes no sense: asking again is of no use.
    #[error(transparent)]
    Broken(Error),
}

impl StoreFailure {
    /// The error for people.
    #[must_use]
    pub fn into_error(self) -> Error {
        match self {
            Self::Again(error) | Self::Denied(error) | Self::Broken(error) => error,
        }
    }
}

/// Why a conditional write was not seen to be applied.
#[derive(Debug, thiserror::Error)]
pub enum WriteFailure {
    /// Its condition does not hold; the item as it is, none when there is no item.
    #[error("the condition of the write does not hold")]
    Refused(Option<Box<HeadItem>>),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

/// The head of one application and its chunks.
#[async_trait]
pub trait HeadStore: Send + Sync + 'static {
    /// The head as of now (a consistent read); none when there is no item.
    async fn read(&self) -> Result<Option<HeadItem>, StoreFailure>;

    /// k0. The head after the write.
    async fn acquire(&self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure>;

    /// k5.
    async fn commit(&self, write: &CommitWrite) -> Result<(), WriteFailure>;

    /// Marks the head's batch as published.
    async fn mark_published(&self, mark: &PublishedMark) -> Result<(), WriteFailure>;

    /// Stores a chunk. Its name is unique to one commit, so writing it twice changes nothing.
    async fn put_chunk(&self, name: &ChunkName, bytes: &[u8]) -> Result<(), StoreFailure>;

    /// A chunk (a consistent read); none when it is not there.
    async fn read_chunk(&self, name: &ChunkName) -> Result<Option<Vec<u8>>, StoreFailure>;

    /// Deletes a chunk; one that is not there counts as deleted.
    async fn delete_chunk(&self, name: &ChunkName) -> Result<(), StoreFailure>;

    /// Every chunk of this application.
    async fn list_chunks(&self) -> Result<Vec<ChunkName>, StoreFailure>;
}
