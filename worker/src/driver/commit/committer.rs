//! The committer: performs the steps of the commit and nothing else.
//!
//! Promises: see the folder's; each step is cancellable at any await, and whatever a cancelled
//! step had begun the next driver ends. Owned by the driver; cloning is cheap.
//! Never does: decide what an answer means (`core`), or how long a batch may take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_common::clock::SharedClock;
use millrace_common::error::Error;
use tokio_util::sync::CancellationToken;

use super::core::{self, AcquireRefusal, CommitRefusal, Completer, Repair, RepairRefusal};
use super::errors;
use super::heads::Heads;
use super::outcome::{BatchCommit, CommitError, CommitOutcome, LaunchFacts};
use super::pace::{Pace, unless_cancelled};
use super::proof::{Acquired, Committed, Published};
use super::publisher::Publisher;
use super::status::{CommitStatus, Count};
use super::steps::{self, Edge, Step};
use super::uploads::UploadStore;
use crate::driver::head::{
    self, AcquireWrite, Before, Body, ChunkName, CommitWrite, Head, HeadItem, HeadStore,
    PublishedMark, RepairRequest, Sizes, SourceStart, StoreFailure, StoredBody, Totals,
    WriteFailure,
};

/// Performs k0, k1, k5 and k6 for one driver.
#[derive(Clone)]
pub struct Committer {
    heads: Arc<Heads>,
    publisher: Arc<Publisher>,
    launch: LaunchFacts,
}

impl Committer {
    /// A committer that has done nothing yet.
    #[must_use]
    pub fn new(
        store: Arc<dyn HeadStore>,
        uploads: Arc<dyn UploadStore>,
        launch: LaunchFacts,
        clock: SharedClock,
    ) -> Self {
        Self::with_pace(store, uploads, launch, Pace::of_the_machine(clock), Sizes::TABLE)
    }

    /// The same at another pace, with heads that go to chunks from another size on.
    pub(super) fn with_pace(
        store: Arc<dyn HeadStore>,
        uploads: Arc<dyn UploadStore>,
        launch: LaunchFacts,
        pace: Pace,
        sizes: Sizes,
    ) -> Self {
        let status = CommitStatus::default();
        let publisher = Publisher::new(uploads, status.clone(), pace.clone());
        let application = launch.application.clone();
        let heads = Heads { store, application, status, pace, sizes };
        Self { heads: Arc::new(heads), publisher: Arc::new(publisher), launch }
    }

    /// The same committer with the epoch that the master granted after
    /// [`CommitError::EpochTooLow`].
    #[must_use]
    pub fn with_epoch(&self, epoch: u64) -> Self {
        let mut other = self.clone();
        other.launch.epoch = epoch;
        other
    }

    /// Counters, and why commits are late.
    #[must_use]
    pub fn status(&self) -> &CommitStatus {
        &self.heads.status
    }

    /// The head as it is now, without taking it; none before the first start.
    ///
    /// # Errors
    /// MR4006 when it can not be read; else what DynamoDB says.
    pub async fn peek(&self, cancel: &CancellationToken) -> Result<Option<Head>, CommitError> {
        let head = unless_cancelled(cancel, self.heads.read()).await??;
        Ok(head.map(|(head, _)| head))
    }

    /// k0: takes the head, or makes it with `starts` while the master knows of none. A head that
    /// exists keeps its own starts; see [`Self::fix_starts`] for sources that it does not know.
    ///
    /// # Errors
    /// [`CommitError::EpochTooLow`]; MR4002 when the head is gone, MR4003 when it is another
    /// cluster's, MR4006 when a newer Millrace wrote it; else what DynamoDB says.
    pub async fn acquire(
        &self,
        starts: BTreeMap<String, SourceStart>,
        cancel: &CancellationToken,
    ) -> Result<Acquired, CommitError> {
        steps::reached(Step::K0, Edge::Before).await;
        let item = unless_cancelled(cancel, self.acquire_item(starts)).await??;
        let (head, num_chunks) = unless_cancelled(cancel, self.heads.unpack(&item)).await??;
        tracing::info!(epoch = head.epoch, batch = head.batch, "acquired the head");
        steps::reached(Step::K0, Edge::After).await;
        Ok(Acquired { head, num_chunks })
    }

    async fn acquire_item(
        &self,
        starts: BTreeMap<String, SourceStart>,
    ) -> Result<HeadItem, CommitError> {
        // An unreadable head is left to the driver that can read it, instead of being fenced.
        if let Some(item) = self.heads.patiently(|| self.heads.store.read()).await? {
            self.heads.check_version(&item)?;
        }
        let starts = if starts.is_empty() { Vec::new() } else { head::encode_starts(&starts) };
        let write = AcquireWrite {
            epoch: self.launch.epoch,
            owner: self.launch.owner.clone(),
            cluster: self.launch.cluster.clone(),
            may_create: !self.launch.head_expected,
            starts,
        };
        loop {
            let sent = self.heads.patiently(|| async {
                match self.heads.store.acquire(&write).await {
                    Ok(item) => Ok(Ok(item)),
                    Err(WriteFailure::Refused(found)) => Ok(Err(found)),
                    Err(WriteFailure::Store(failure)) => Err(failure),
                }
            });
            let found = match sent.await? {
                Ok(item) => return Ok(item),
                Err(found) => found,
            };
            let LaunchFacts { epoch, owner, cluster, .. } = &self.launch;
            match core::acquire_refused(*epoch, owner, cluster, found.as_deref()) {
                AcquireRefusal::Mine => {
                    return found
                        .map(|item| *item)
                        .ok_or_else(|| errors::head_missing(&self.launch.application).into());
                }
                AcquireRefusal::EpochTooLow { seen } => {
                    return Err(CommitError::EpochTooLow { seen });
                }
                AcquireRefusal::Foreign { cluster, owner, epoch } => {
                    return Err(errors::head_foreign(
                        &self.launch.application,
                        &cluster,
                        &owner,
                        epoch,
                    )
                    .into());
                }
                AcquireRefusal::Missing => {
                    return Err(errors::head_missing(&self.launch.application).into());
                }
                AcquireRefusal::Again => {
                    self.heads.pace.sleep(self.heads.pace.head_back_off(1)).await
                }
            }
        }
    }

    /// k1: completes what the driver before committed and did not publish. Rolls forward only. What
    /// is marked as published is not asked for: whoever reads the files may have removed them.
    ///
    /// # Errors
    /// MR4005 when an upload is lost; the others are complete then.
    pub async fn recover(
        &self,
        acquired: Acquired,
        cancel: &CancellationToken,
    ) -> Result<Published, CommitError> {
        steps::reached(Step::K1, Edge::Before).await;
        let Acquired { head, num_chunks } = acquired;
        let published = unless_cancelled(cancel, async {
            let published = match self.repair(&head, num_chunks).await? {
                Some(published) => published,
                None => {
                    if !head.is_published {
                        self.complete_pending(&head, Completer::Recovery).await?;
                    }
                    Published { head, num_chunks }
                }
            };
            self.heads.delete_orphaned_chunks(&published.head).await;
            Ok::<_, CommitError>(published)
        })
        .await??;
        steps::reached(Step::K1, Edge::After).await;
        Ok(published)
    }

    /// Does what an operator said about the head's batch, should its uploads be lost; none when
    /// nothing was said about this batch. What can be completed is completed first.
    async fn repair(&self, head: &Head, num_chunks: u32) -> Result<Option<Published>, CommitError> {
        let of_this = |request: &&RepairRequest| {
            request.batch == head.batch && request.commit_id == head.commit_id && !head.is_published
        };
        let Some(request) = head.repair.as_ref().filter(of_this) else { return Ok(None) };
        let completer = Completer::Repair { absence_seen: request.absence_seen };
        let mut lost = self.publisher.complete_all(&head.pending, completer).await;
        if !lost.is_empty() && self.heads.is_marked(head).await? {
            lost.clear();
        }
        let (application, before) = (&self.launch.application, head.before.as_ref());
        let verdict =
            core::repair(request.choice, head.pending.len(), lost.len(), before.is_some());
        tracing::warn!(batch = head.batch, lost = lost.len(), ?request, ?verdict, "repair");
        // Each upload of the batch is complete or gone for ever: none is left to complete.
        let published = Published { head: head.clone(), num_chunks };
        let mut next = self.next_head(head);
        match (verdict, before) {
            (Repair::NothingLost, _) => return Ok(Some(published)),
            (Repair::GiveUp, _) => {}
            (Repair::Rewind, Some(before)) => {
                next.positions = before.restored_from(&head.positions);
                next.state_ptr = before.state_ptr.clone();
                next.totals = before.totals;
            }
            (Repair::Refused(why), _) => {
                return Err(errors::not_repaired(application, head.batch, why).into());
            }
            (Repair::Rewind, None) => {
                return Err(errors::not_repaired(
                    application,
                    head.batch,
                    RepairRefusal::NotRecorded,
                )
                .into());
            }
        }
        let Committed { head, num_chunks, obsolete } = self.write(published, next).await?;
        self.heads.delete_chunks(&obsolete).await;
        Ok(Some(Published { head, num_chunks }))
    }

    /// Grants the operator's wish to begin elsewhere: gives up the positions and the state and
    /// begins at `starts`, as a batch of its own.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn reset(
        &self,
        published: Published,
        starts: BTreeMap<String, SourceStart>,
        cancel: &CancellationToken,
    ) -> Result<Published, CommitError> {
        let mut head = self.next_head(&published.head);
        head.positions.clear();
        head.gaps.clear();
        head.totals = Totals::default();
        head.state_ptr = None;
        head.starts = starts;
        head.reset = None;
        self.commit_without_uploads(published, head, cancel).await
    }

    /// Adds starts of sources that the head does not know (an upgrade added them), as a batch of
    /// its own. With no starts it leaves a head with nothing pending: a driver that stops does
    /// that, so that no later start has to ask S3 about uploads of long ago.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn fix_starts(
        &self,
        published: Published,
        starts: BTreeMap<String, SourceStart>,
        cancel: &CancellationToken,
    ) -> Result<Published, CommitError> {
        let mut head = self.next_head(&published.head);
        head.starts.extend(starts);
        self.commit_without_uploads(published, head, cancel).await
    }

    /// Gives up all that the head knows of these sources, as a batch of its own; the others stay as
    /// they are.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn drop_sources(
        &self,
        published: Published,
        sources: &BTreeSet<String>,
        cancel: &CancellationToken,
    ) -> Result<Published, CommitError> {
        let mut head = self.next_head(&published.head);
        head.positions.retain(|shard, _| !sources.contains(&shard.source));
        head.gaps.retain(|shard, _| !sources.contains(&shard.source));
        head.starts.retain(|source, _| !sources.contains(source));
        self.commit_without_uploads(published, head, cancel).await
    }

    async fn commit_without_uploads(
        &self,
        before: Published,
        head: Head,
        cancel: &CancellationToken,
    ) -> Result<Published, CommitError> {
        let Committed { head, num_chunks, obsolete } =
            unless_cancelled(cancel, self.write(before, head)).await??;
        self.heads.delete_chunks(&obsolete).await;
        Ok(Published { head, num_chunks })
    }

    /// k5: makes the batch true by one conditional write. Sends the same bytes until it is known
    /// whether they were applied.
    ///
    /// # Errors
    /// [`CommitError::Fenced`]; MR4002 when the head is gone; MR9001 when the batch would move a
    /// position back or did not read all its records, in which case nothing was written.
    pub async fn commit(
        &self,
        published: Published,
        batch: BatchCommit,
        cancel: &CancellationToken,
    ) -> Result<CommitOutcome, CommitError> {
        if core::is_too_old(batch.run_age) {
            return Ok(CommitOutcome::RunTooOld(published));
        }
        core::check_records(batch.records)
            .and_then(|()| {
                let before = &published.head.positions;
                core::check_progress(before, &batch.positions, &batch.dropped_sources)
            })
            .map_err(|what| {
                Error::internal(format!(
                    "batch {} of {} is not fit to be committed: {what}",
                    published.next_batch(),
                    self.launch.application
                ))
            })?;
        steps::reached(Step::K5, Edge::Before).await;
        let mut head = self.next_head(&published.head);
        head.starts.retain(|source, _| !batch.dropped_sources.contains(source));
        head.positions = batch.positions;
        head.gaps = batch.gaps;
        head.before = (!batch.uploads.is_empty()).then(|| {
            let (before, after) = (&published.head.positions, &head.positions);
            let state_ptr = published.head.state_ptr.clone();
            let totals = published.head.totals;
            Before::of(before, after, &batch.dropped_sources, state_ptr, totals)
        });
        head.totals = head.totals.and(batch.records.read, &batch.uploads);
        head.pending = batch.uploads;
        head.state_ptr = batch.state_ptr;
        head.spec_hash = batch.spec_hash;
        let committed = unless_cancelled(cancel, self.write(published, head)).await??;
        steps::reached(Step::K5, Edge::After).await;
        Ok(CommitOutcome::Committed(committed))
    }

    /// k6: completes every upload of the batch, for as long as it takes.
    ///
    /// # Errors
    /// MR4005 when an upload is lost; the others are complete then.
    pub async fn publish(
        &self,
        committed: Committed,
        cancel: &CancellationToken,
    ) -> Result<Published, CommitError> {
        steps::reached(Step::K6, Edge::Before).await;
        let Committed { head, num_chunks, obsolete } = committed;
        unless_cancelled(cancel, async {
            let pending = self.complete_pending(&head, Completer::Publisher);
            let (completed, ()) = tokio::join!(pending, self.heads.delete_chunks(&obsolete));
            completed
        })
        .await??;
        steps::reached(Step::K6, Edge::After).await;
        Ok(Published { head, num_chunks })
    }

    /// Says in the head that every upload of its batch is complete, for a start that comes when
    /// readers have removed the files. True when the head says so now, false when it holds another
    /// batch. Sent once: nothing waits for it, and without it a start looks at the files.
    ///
    /// # Errors
    /// What DynamoDB says; the mark may have been written all the same.
    pub async fn mark_published(&self, mark: &PublishedMark) -> Result<bool, Error> {
        let sent = self.heads.in_time(async {
            match self.heads.store.mark_published(mark).await {
                Ok(()) => Ok(true),
                Err(WriteFailure::Refused(_)) => Ok(false),
                Err(WriteFailure::Store(failure)) => Err(failure),
            }
        });
        sent.await.map_err(StoreFailure::into_error)
    }

    /// Writes `head` as the batch after `before`'s.
    async fn write(&self, before: Published, head: Head) -> Result<Committed, CommitError> {
        let packed = head::encode_body(&Body::of(&head)).map_err(|large| {
            let num_uploads = head.pending.len();
            errors::head_too_large(&self.launch.application, head.batch, num_uploads, large)
        })?;
        let body = self.heads.sizes.place(&packed);
        let num_chunks = match &body {
            StoredBody::Chunked { count, .. } => *count,
            StoredBody::None | StoredBody::Inline(_) => 0,
        };
        if num_chunks > 0 {
            for (name, bytes) in self.heads.chunks_of(head.batch, &head.commit_id, &packed) {
                self.heads.until_stored(|| self.heads.store.put_chunk(&name, bytes)).await?;
            }
        }
        let write = CommitWrite {
            epoch: head.epoch,
            batch: head.batch,
            commit_id: head.commit_id.clone(),
            spec_hash: head.spec_hash.clone(),
            body,
            starts: (head.starts != before.head.starts).then(|| head::encode_starts(&head.starts)),
            clears_reset: before.head.reset.is_some() && head.reset.is_none(),
            clears_repair: before.head.repair.is_some() && head.repair.is_none(),
        };
        self.until_decided(&write).await?;
        self.status().add(Count::Commits);
        let obsolete = (0..before.num_chunks)
            .map(|index| ChunkName {
                batch: before.head.batch,
                commit_id: before.head.commit_id.clone(),
                index,
            })
            .collect();
        Ok(Committed { head, num_chunks, obsolete })
    }

    /// Sends k5 until it is known to be applied, or never to be.
    async fn until_decided(&self, write: &CommitWrite) -> Result<(), CommitError> {
        let sent = self.heads.until_stored(|| async {
            match self.heads.store.commit(write).await {
                Ok(()) => Ok(None),
                Err(WriteFailure::Refused(found)) => Ok(Some(found)),
                Err(WriteFailure::Store(failure)) => Err(failure),
            }
        });
        let Some(found) = sent.await? else { return Ok(()) };
        match core::commit_refused(write.epoch, &write.commit_id, found.as_deref()) {
            CommitRefusal::Mine => {
                tracing::info!(batch = write.batch, "the answer was lost, the commit was not");
                self.status().add(Count::CommitsReadBack);
                Ok(())
            }
            CommitRefusal::Fenced { found } => {
                Err(CommitError::Fenced { mine: write.epoch, found })
            }
            CommitRefusal::Missing => Err(errors::head_missing(&self.launch.application).into()),
            CommitRefusal::Impossible { batch } => Err(Error::internal(format!(
                "the head of {} is at batch {batch} where batch {} was to be written, and its \
                 epoch is still {}",
                self.launch.application, write.batch, write.epoch
            ))
            .into()),
        }
    }

    async fn complete_pending(&self, head: &Head, completer: Completer) -> Result<(), CommitError> {
        let lost = self.publisher.complete_all(&head.pending, completer).await;
        let Some(first) = lost.first() else { return Ok(()) };
        // A newer driver may have completed them: then nothing is lost, but we are fenced.
        match self.heads.read().await? {
            Some((now, _)) if now.epoch != head.epoch => {
                Err(CommitError::Fenced { mine: head.epoch, found: now.epoch })
            }
            // The mark of the driver before came while we looked.
            Some((now, _)) if now.is_published && now.commit_id == head.commit_id => Ok(()),
            Some(_) => {
                Err(errors::upload_lost(&self.launch.application, head.batch, first, lost.len())
                    .into())
            }
            None => Err(errors::head_missing(&self.launch.application).into()),
        }
    }

    /// The head that comes after `before`, with nothing pending and an id of its own.
    fn next_head(&self, before: &Head) -> Head {
        Head {
            batch: before.batch + 1,
            commit_id: self.heads.pace.uuid().to_string(),
            pending: Vec::new(),
            is_published: false,
            before: None,
            repair: None,
            ..before.clone()
        }
    }
}
