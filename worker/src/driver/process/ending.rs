//! How a driver ends: what became of its batches is made into its end, and the head is left clean.
//!
//! Promises: what was committed is left for the next driver to complete. Never does: decide about
//! batches.

use std::time::Duration;

use millrace_common::error::Error;

use super::{Driver, Wish, Work};
use crate::driver::batch::actor::Outcome;
use crate::driver::batch::core::Ended as EndedHow;
use crate::driver::commit::{CommitError, Committer, Published};
use crate::driver::end::{End, drain_overdue, is_passing};
use crate::driver::executors::actor::Retired;
use crate::driver::head::Totals;
use crate::driver::receivers::discovery::Filter;

impl Driver {
    /// Server time at which a drain was asked for: the end of the second that the Date names.
    pub(super) async fn asked_at(&self) -> i64 {
        let stream = self.spec.sources.values().next().map(|source| source.stream.clone());
        if let Some(stream) = stream
            && let Ok(description) = self.world.streams.describe(&stream).await
            && let Ok(listing) = self.world.streams.list(&description.stream, Filter::All).await
            && listing.server_ms > 0
        {
            return listing.server_ms + 999;
        }
        tracing::warn!("Kinesis gives no date: the drain goes by this host's clock");
        self.world.clock.now_ms()
    }

    pub(super) async fn ended(&self, outcome: Outcome, work: &Work) -> End {
        self.report(work);
        match outcome {
            Outcome::Failed(error) => End::Failed(error, false),
            Outcome::Commit(error) => self.commit_ended(error),
            Outcome::Ended(how, proof) => {
                let proof = proof.map(|proof| *proof);
                let is_published = proof.is_some();
                self.leave_clean(&work.committer, proof).await;
                match how {
                    EndedHow::Stopped if self.wish == Wish::Move => return End::HandedOver,
                    EndedHow::Drained if self.spec.replay.is_some() => return self.finished(work),
                    EndedHow::Stopped | EndedHow::Drained => return End::Stopped,
                    EndedHow::DrainDeadline => {}
                }
                End::DrainDeadline(self.drain_overdue(work, is_published))
            }
        }
    }

    /// Why the drain did not end in time, and what is left for the next start.
    fn drain_overdue(&self, work: &Work, is_published: bool) -> Error {
        let lag = match work.input.borrow().millis_behind_latest {
            Some(lag_ms) => format!("it is {lag_ms} ms behind"),
            None => "how far it is behind is not known".to_owned(),
        };
        let late = work.late.borrow().clone();
        let failing = work.totals.borrow().failing.clone().map(|(_, failure)| failure);
        let cause = late.or(failing);
        drain_overdue(&self.spec.name, &lag, cause, is_published)
    }

    /// All of a replay's range is read and published.
    fn finished(&self, work: &Work) -> End {
        let Totals { records, rows, files } = work.totals.borrow().overall;
        let range = self.spec.replay.as_ref().map(|replay| replay.range.to_string());
        End::Finished(format!(
            "read {records} records {}, wrote {rows} rows in {files} files",
            range.unwrap_or_default()
        ))
    }

    /// Leaves a head with nothing pending, so that no later start has to ask S3 about it.
    async fn leave_clean(&self, committer: &Committer, proof: Option<Published>) {
        let Some(proof) = proof.filter(|proof| !proof.head().pending.is_empty()) else { return };
        let clean = committer.fix_starts(proof, std::collections::BTreeMap::new(), &self.cancel);
        match tokio::time::timeout(LEAVE_WITHIN, clean).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the head keeps its published uploads"),
            Err(_) => tracing::warn!("the head keeps its published uploads: no answer"),
        }
    }

    pub(super) fn commit_ended(&self, error: CommitError) -> End {
        if matches!(error, CommitError::Cancelled) {
            return End::Killed;
        }
        let retryable = match &error {
            CommitError::Failed(error) => is_passing(error, self.launch.head_expected),
            fenced => fenced.is_retryable(),
        };
        End::Failed(error.explain(&self.spec.name), retryable)
    }
}

/// Gives the executors back that were to be given up, once nothing needs them: no shard, no block,
/// and no run.
pub(super) async fn give_up_vacated(work: &Work) {
    // In this order: a run that begins after the snapshot leaves these executors out.
    let vacated = work.input.borrow().vacated.clone();
    let busy = work.totals.borrow().running_on.clone();
    for container in vacated.into_iter().filter(|container| !busy.contains(container)) {
        if work.executors.send(Retired(container)).await.is_err() {
            tracing::debug!("the executors have ended already");
        }
    }
}

/// How long the last, dispensable write of a driver may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
