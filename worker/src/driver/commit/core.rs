//! The commit's decisions: what an answer of DynamoDB or S3 means for exactly-once.
//!
//! Promises: the same answer at the same point gives the same decision; nothing that could lose or
//! double a record is decided on a guess. Owned by the shell beside it.
//! Never does: wait, call, read a clock, or abort an upload.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_common::position::{Position, ShardKey};

use super::outcome::RecordCounts;
use crate::driver::head::{HeadItem, Positions};

/// How long an unfinished upload is safe from the bucket's lifecycle rule, by S3's own dates. The
/// rule that we ask people to set leaves uploads alone for at least a day.
pub const UPLOAD_GUARD: Duration = Duration::from_secs(24 * 3600);

/// How long a Complete whose answer was lost may still be at work inside S3, before a missing
/// object counts as missing.
pub const COMPLETE_SETTLES: Duration = Duration::from_secs(5 * 60);

/// Pause after an answer that only a person can change.
pub const DEGRADED_PAUSE: Duration = Duration::from_secs(60);

/// What a refused k0 means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireRefusal {
    /// An earlier sending of the same write was applied: the head is ours.
    Mine,
    /// Another attempt of this cluster has this epoch or a higher one.
    EpochTooLow {
        /// Epoch in the head.
        seen: u64,
    },
    /// Another cluster owns the name.
    Foreign {
        /// That cluster.
        cluster: String,
        /// Process that acquired the head.
        owner: String,
        /// Epoch in the head.
        epoch: u64,
    },
    /// There is no head although the master knows of one.
    Missing,
    /// The head moved while we asked: ask again.
    Again,
}

/// Reads the item that refused k0.
#[must_use]
pub fn acquire_refused(
    epoch: u64,
    owner: &str,
    cluster: &str,
    found: Option<&HeadItem>,
) -> AcquireRefusal {
    match found {
        None => AcquireRefusal::Missing,
        Some(item) if item.owner == owner && item.epoch == epoch => AcquireRefusal::Mine,
        Some(item) if item.cluster != cluster => AcquireRefusal::Foreign {
            cluster: item.cluster.clone(),
            owner: item.owner.clone(),
            epoch: item.epoch,
        },
        Some(item) if item.epoch >= epoch => AcquireRefusal::EpochTooLow { seen: item.epoch },
        Some(_) => AcquireRefusal::Again,
    }
}

/// What a refused k5 means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitRefusal {
    /// An earlier sending of the same bytes was applied: the batch is committed.
    Mine,
    /// A newer driver owns the head.
    Fenced {
        /// Its epoch.
        found: u64,
    },
    /// The head is gone.
    Missing,
    /// The head moved under our own epoch, which only a defect can do.
    Impossible {
        /// Batch in the head.
        batch: u64,
    },
}

/// Reads the item that refused k5.
#[must_use]
pub fn commit_refused(epoch: u64, commit_id: &str, found: Option<&HeadItem>) -> CommitRefusal {
    match found {
        None => CommitRefusal::Missing,
        Some(item) if item.commit_id == commit_id => CommitRefusal::Mine,
        Some(item) if item.epoch != epoch => CommitRefusal::Fenced { found: item.epoch },
        Some(item) => CommitRefusal::Impossible { batch: item.batch },
    }
}

/// True when a run has become too old to be offered: its uploads might not live to see k6.
#[must_use]
pub fn is_too_old(run_age: Duration) -> bool {
    run_age > UPLOAD_GUARD / 2
}

/// R6: checks that the leaves of the run read what the blocks held.
///
/// # Errors
/// What does not fit.
pub fn check_records(records: RecordCounts) -> Result<(), String> {
    if records.planned == records.read {
        Ok(())
    } else {
        Err(format!("the blocks hold {} records, the run read {}", records.planned, records.read))
    }
}

/// Checks that positions only move forward and that no shard is forgotten.
///
/// # Errors
/// What would go back, with the shard.
pub fn check_progress(
    before: &Positions,
    after: &Positions,
    dropped_sources: &BTreeSet<String>,
) -> Result<(), String> {
    before.iter().try_for_each(|(key, old)| match after.get(key) {
        Some(new) => check_shard(key, old, new),
        None if old.ended || dropped_sources.contains(&key.source) => Ok(()),
        None => Err(format!("shard {key} would lose its position")),
    })
}

fn check_shard(key: &ShardKey, old: &Position, new: &Position) -> Result<(), String> {
    if new.sequence_number < old.sequence_number {
        return Err(format!("the sequence number of shard {key} would go back"));
    }
    if old.ended && (!new.ended || new.sequence_number != old.sequence_number) {
        return Err(format!("shard {key} has ended and would go on"));
    }
    Ok(())
}

/// Who completes an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completer {
    /// k6: the driver that committed it.
    Publisher,
    /// k1: the next driver; the one before may have completed it.
    Recovery,
}

/// S3's answer to one CompleteMultipartUpload, sorted by what it says about the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteAnswer {
    /// 200 without an error.
    Done,
    /// 5xx, SlowDown, no answer, or a 200 that carries an error: it may have been applied.
    Open,
    /// Throttled or in conflict: it was not applied.
    NotNow,
    /// NoSuchUpload.
    NoSuchUpload,
    /// Denied, wrong credentials, no bucket, another region, skewed clock.
    Denied,
    /// The parts are not what S3 holds: no repetition will be answered otherwise.
    Refused,
}

/// What looking at the object's key showed after a NoSuchUpload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The object is there and carries our token.
    Present,
    /// An object is there and it is not ours.
    Foreign,
    /// There is no object.
    Absent,
    /// We may not look.
    NoRight,
    /// No answer this time.
    Unknown,
}

/// What to do next about one upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The object is visible.
    Done,
    /// The object must be visible, and we have no right to look.
    DoneUnverified,
    /// Send Complete again after a back-off.
    Again,
    /// Look at the object's key.
    Verify,
    /// Send Complete again after [`DEGRADED_PAUSE`], and say that we wait for a person.
    Degraded,
    /// The upload is gone and its object never came to be.
    Lost,
}

/// What is known of one upload while it is being completed.
#[derive(Clone, Copy, Debug)]
pub struct UploadProgress {
    completer: Completer,
    /// An earlier Complete of ours may have been applied.
    open: bool,
    /// When S3 first said that it does not know the upload.
    missing_since: Option<Duration>,
    /// Calls so far that did not end it.
    failures: u32,
}

impl UploadProgress {
    /// Nothing was tried yet.
    #[must_use]
    pub fn new(completer: Completer) -> Self {
        Self { completer, open: false, missing_since: None, failures: 0 }
    }

    /// Calls so far that did not end it.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes an answer to Complete; `now` is monotonic.
    pub fn on_answer(&mut self, answer: CompleteAnswer, now: Duration) -> Next {
        let next = match answer {
            CompleteAnswer::Done => return Next::Done,
            CompleteAnswer::Open => {
                self.open = true;
                Next::Again
            }
            CompleteAnswer::NotNow => Next::Again,
            CompleteAnswer::NoSuchUpload => {
                self.missing_since.get_or_insert(now);
                Next::Verify
            }
            CompleteAnswer::Denied => Next::Degraded,
            CompleteAnswer::Refused => Next::Lost,
        };
        self.failures += 1;
        next
    }

    /// Takes what the look at the key showed. `age` is that of the upload by S3's dates, none when
    /// S3 gave none; `now` is monotonic.
    #[must_use]
    pub fn on_verification(
        &self,
        seen: Verification,
        age: Option<Duration>,
        now: Duration,
    ) -> Next {
        // Without this, only our own Complete could have made the upload go, and none was sent.
        let explained = self.open || self.completer == Completer::Recovery;
        let waited = now.saturating_sub(self.missing_since.unwrap_or(now));
        match seen {
            Verification::Present => Next::Done,
            Verification::Unknown => Next::Again,
            Verification::Foreign => Next::Lost,
            Verification::Absent if explained && waited < COMPLETE_SETTLES => Next::Again,
            Verification::Absent => Next::Lost,
            Verification::NoRight if explained && age.is_some_and(|age| age < UPLOAD_GUARD) => {
                Next::DoneUnverified
            }
            Verification::NoRight => Next::Lost,
        }
    }
}
