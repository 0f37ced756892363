//! Heads in and out of the store: unpacking, chunks, deadlines and patience around single calls.
//!
//! Promises: a head is handed on only when all of it was read and fits its hash. A chunk is deleted
//! only when no head can name it any more. Owned by the committer.
//! Never does: write a head's own item.

use std::sync::Arc;
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;

use super::core::DEGRADED_PAUSE;
use super::pace::Pace;
use super::status::{CommitStatus, Count};
use crate::driver::head::{
    self, ChunkName, CodecError, HEAD_VERSION, Head, HeadItem, HeadStore, Sizes, StoreFailure,
    StoredBody,
};

/// Longest wait for one answer of the head's table before the call is sent again.
pub(super) const HEAD_CALL_DEADLINE: Duration = Duration::from_secs(3);

/// How long a starting driver asks a table that does not answer. After that it exits and says
/// why: the master's back-off takes over.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Times that a head is read again when it moved while its chunks were being read.
const MOVING_HEAD_TRIES: u32 = 5;

/// The store of one application's head, with patience.
pub(super) struct Heads {
    pub(super) store: Arc<dyn HeadStore>,
    pub(super) application: ApplicationName,
    pub(super) status: CommitStatus,
    pub(super) pace: Pace,
    /// From which size on a head goes to chunks.
    pub(super) sizes: Sizes,
}

impl Heads {
    /// What the store's trouble is called in the status.
    pub(super) const WHAT: &str = "head";

    /// Calls until there is an answer, for as long as a start may take.
    pub(super) async fn patiently<T, F, Fut>(&self, mut call: F) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreFailure>>,
    {
        let began = self.pace.now();
        let mut failures = 0;
        loop {
            let error = match self.in_time(call()).await {
                Ok(value) => {
                    self.status.goes_on(Self::WHAT);
                    return Ok(value);
                }
                Err(StoreFailure::Again(error)) => error,
                Err(StoreFailure::Denied(error) | StoreFailure::Broken(error)) => {
                    return Err(error);
                }
            };
            if self.pace.now().saturating_sub(began) > START_PATIENCE {
                return Err(error);
            }
            failures += 1;
            self.status.waits(Self::WHAT, &error);
            self.pace.sleep(self.pace.head_back_off(failures)).await;
        }
    }

    /// Sends the same bytes until there is an answer, however long that takes.
    pub(super) async fn until_stored<T, F, Fut>(&self, mut call: F) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreFailure>>,
    {
        let mut failures = 0;
        loop {
            let (pause, error): (Duration, Error) = match self.in_time(call()).await {
                Ok(value) => {
                    self.status.goes_on(Self::WHAT);
                    return Ok(value);
                }
                Err(StoreFailure::Again(error)) => (self.pace.head_back_off(failures + 1), error),
                Err(StoreFailure::Denied(error)) => (DEGRADED_PAUSE, error),
                Err(StoreFailure::Broken(error)) => return Err(error),
            };
            failures += 1;
            if failures == 1 {
                self.status.add(Count::CommitsRepeated);
            }
            self.status.waits(Self::WHAT, &error);
            self.pace.sleep(pause).await;
        }
    }

    /// The head as it is now; none when there is no item.
    pub(super) async fn read(&self) -> Result<Option<(Head, u32)>, Error> {
        let mut last = None;
        for _ in 0..MOVING_HEAD_TRIES {
            let Some(item) = self.patiently(|| self.store.read()).await? else { return Ok(None) };
            let moved = last.as_ref() != Some(&item);
            match self.unpack(&item).await {
                // Its chunks may have gone with the commit that replaced it.
                Err(error) if error.code() == Code::HeadUnreadable && moved => last = Some(item),
                unpacked => return unpacked.map(Some),
            }
        }
        Err(self.unreadable(&CodecError::Damaged("it moves faster than it can be read".into())))
    }

    /// True when the head says by now that this one's batch is published: the mark of the driver that
    /// published it may come after the next one has taken the head.
    pub(super) async fn is_marked(&self, head: &Head) -> Result<bool, Error> {
        let item = self.patiently(|| self.store.read()).await?;
        Ok(item.is_some_and(|item| item.is_published() && item.commit_id == head.commit_id))
    }

    /// Unpacks an item, reading its chunks if it has any. Gives the head and its chunks' number.
    pub(super) async fn unpack(&self, item: &HeadItem) -> Result<(Head, u32), Error> {
        self.check_version(item)?;
        let num_chunks = match &item.body {
            StoredBody::Chunked { count, .. } => *count,
            StoredBody::None | StoredBody::Inline(_) => 0,
        };
        let chunks = self.read_chunks(item, num_chunks).await?;
        let head = head::unpack(item, &chunks).map_err(|error| self.unreadable(&error))?;
        Ok((head, num_chunks))
    }

    /// Refuses a head that a newer Millrace wrote.
    pub(super) fn check_version(&self, item: &HeadItem) -> Result<(), Error> {
        if item.version > HEAD_VERSION {
            return Err(self.unreadable(&CodecError::Newer { found: item.version }));
        }
        Ok(())
    }

    async fn read_chunks(&self, item: &HeadItem, count: u32) -> Result<Vec<u8>, Error> {
        let mut packed = Vec::new();
        for index in 0..count {
            let name = ChunkName { batch: item.batch, commit_id: item.commit_id.clone(), index };
            match self.patiently(|| self.store.read_chunk(&name)).await? {
                Some(bytes) => packed.extend_from_slice(&bytes),
                None => {
                    let what = format!("its chunk {index} of {count} is missing");
                    return Err(self.unreadable(&CodecError::Damaged(what)));
                }
            }
        }
        Ok(packed)
    }

    /// Stores a packed body that does not fit the head's own item.
    pub(super) fn chunks_of<'a>(
        &self,
        batch: u64,
        commit_id: &str,
        packed: &'a [u8],
    ) -> impl Iterator<Item = (ChunkName, &'a [u8])> {
        let commit_id = commit_id.to_owned();
        (0u32..).zip(packed.chunks(self.sizes.chunk)).map(move |(index, bytes)| {
            (ChunkName { batch, commit_id: commit_id.clone(), index }, bytes)
        })
    }

    /// Deletes chunks, once each: one that stays is found by the next start.
    pub(super) async fn delete_chunks(&self, names: &[ChunkName]) {
        for name in names {
            if let Err(failure) = self.in_time(self.store.delete_chunk(name)).await {
                tracing::warn!(?name, error = %failure, "a chunk of an old head stays for now");
            }
        }
    }

    /// Deletes what commits that did not win, or drivers that died, left behind. A chunk of a
    /// batch that is not above the head's and that the head does not name can never be named.
    pub(super) async fn delete_orphaned_chunks(&self, head: &Head) {
        match self.in_time(self.store.list_chunks()).await {
            Ok(mut names) => {
                names.retain(|name| name.batch <= head.batch && name.commit_id != head.commit_id);
                self.delete_chunks(&names).await;
            }
            Err(failure) => {
                tracing::warn!(error = %failure, "chunks of old heads can not be listed");
            }
        }
    }

    /// Gives a call of the store up after [`HEAD_CALL_DEADLINE`]; what it was to do may yet happen.
    pub(super) async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StoreFailure>>,
    ) -> Result<T, StoreFailure> {
        let answer = self.pace.in_time(HEAD_CALL_DEADLINE, call).await;
        answer.unwrap_or_else(|| {
            Err(StoreFailure::Again(Error::new(
                Code::AwsUnreachable,
                format!("DynamoDB does not answer within {} s", HEAD_CALL_DEADLINE.as_secs()),
                "see the endpoint (AWS_ENDPOINT_URL), the network and the region",
            )))
        })
    }

    fn unreadable(&self, error: &CodecError) -> Error {
        head::unreadable(&self.application, error)
    }
}
