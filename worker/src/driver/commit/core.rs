//! The commit's decisions: what an answer of DynamoDB or S3 means for exactly-once.
//!
//! Promises: the same answer at the same point gives the same decision; nothing that could lose or
//! double a record is decided on a guess. Owned by the shell beside it.
//! Never does: wait, call, read a clock, or abort an upload.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_common::position::{Position, ShardKey};

use super::outcome::RecordCounts;
use crate::driver::head::{HeadItem, PendingPart, Positions, RepairChoice};

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
    /// k1 of a batch that a driver has found to be lost, which it does only when no earlier Complete
    /// can still be at work.
    Repair {
        /// The operator has seen that no object of the batch is there.
        absence_seen: bool,
    },
}

/// What becomes of a lost batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Every upload could be completed after all.
    NothingLost,
    /// The positions go back to where the batch began: its records are read again.
    Rewind,
    /// The batch stays as it is, without its missing rows.
    GiveUp,
    /// Nothing is done.
    Refused(RepairRefusal),
}

/// Why a lost batch is not repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepairRefusal {
    /// Reading all of it again would double what is visible, and which row stands in which file is
    /// not known.
    #[error("{visible} of its {files} files are visible, or may be: their rows would stand twice")]
    PartlyVisible {
        /// Files that are visible, or that we may not look for.
        visible: usize,
        /// Files of the batch.
        files: usize,
    },
    /// The head does not say where the batch began.
    #[error("the head does not say where it began (an older Millrace wrote it)")]
    NotRecorded,
}

/// Decides about a batch of `files` uploads of which `lost` are gone for ever and have no object;
/// the others are visible, or may be. Exactly once holds for every choice but the two that give it
/// up by name: going back is exact only where nothing of the batch is visible, since rows are not
/// bound to files.
#[must_use]
pub fn repair(choice: RepairChoice, files: usize, lost: usize, begin_is_known: bool) -> Repair {
    if lost == 0 {
        return Repair::NothingLost;
    }
    match choice {
        RepairChoice::GiveUp => Repair::GiveUp,
        RepairChoice::Reread if lost < files => {
            Repair::Refused(RepairRefusal::PartlyVisible { visible: files - lost, files })
        }
        RepairChoice::Reread | RepairChoice::Duplicate if begin_is_known => Repair::Rewind,
        RepairChoice::Reread | RepairChoice::Duplicate => {
            Repair::Refused(RepairRefusal::NotRecorded)
        }
    }
}

/// S3's answer to one CompleteMultipartUpload, sorted by what it says about the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteAnswer {
    /// 200 without an error.
    Done,
    /// 5xx, SlowDown, no answer, or a 200 that carries an error: it may have been applied.
    Open,
    /// Throttled, in conflict, or signed by a skewed clock, which the SDK corrects for the next call
    /// by the date of the refusal: it was not applied.
    NotNow,
    /// NoSuchUpload.
    NoSuchUpload,
    /// Denied, wrong credentials, no bucket, another region.
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
            // S3 may answer a repeated Complete with success after its object was removed.
            CompleteAnswer::Done if matches!(self.completer, Completer::Repair { .. }) => {
                Next::Verify
            }
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
            Verification::NoRight if let Completer::Repair { absence_seen } = self.completer => {
                if absence_seen {
                    Next::Lost
                } else {
                    Next::DoneUnverified
                }
            }
            Verification::NoRight if explained && age.is_some_and(|age| age < UPLOAD_GUARD) => {
                Next::DoneUnverified
            }
            Verification::NoRight => Next::Lost,
        }
    }
}

/// The parts to name in the next Complete, after S3 refused the ones that the head names; none when
/// S3 does not hold other parts with the same bytes.
///
/// A part whose answer was lost was sent again under its number, because S3 wants numbers without
/// gaps. Should the first sending arrive after the second, it replaces it, with the same bytes; but
/// under SSE-KMS the ETag is no digest and is another one. The checksum tells that the bytes are ours.
#[must_use]
pub fn renamed_parts(named: &[PendingPart], stored: &[PendingPart]) -> Option<Vec<PendingPart>> {
    let of_same_bytes = |part: &PendingPart| {
        let same =
            |other: &&PendingPart| other.number == part.number && other.crc32c == part.crc32c;
        stored.iter().find(same).filter(|_| !part.crc32c.is_empty()).cloned()
    };
    let renamed: Vec<PendingPart> = named.iter().map(of_same_bytes).collect::<Option<_>>()?;
    (renamed != named).then_some(renamed)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::driver::head::StoredBody;

    const ANSWERS: [CompleteAnswer; 6] = [
        CompleteAnswer::Done,
        CompleteAnswer::Open,
        CompleteAnswer::NotNow,
        CompleteAnswer::NoSuchUpload,
        CompleteAnswer::Denied,
        CompleteAnswer::Refused,
    ];
    const VERIFICATIONS: [Verification; 5] = [
        Verification::Present,
        Verification::Foreign,
        Verification::Absent,
        Verification::NoRight,
        Verification::Unknown,
    ];

    fn item(epoch: u64, owner: &str, cluster: &str, commit_id: &str) -> HeadItem {
        HeadItem {
            epoch,
            owner: owner.into(),
            cluster: cluster.into(),
            batch: 4,
            commit_id: commit_id.into(),
            version: 1,
            spec_hash: String::new(),
            body: StoredBody::None,
            starts: Vec::new(),
            reset: None,
            repair: None,
            published: String::new(),
        }
    }

    #[test]
    fn a_refused_k0_is_read_from_the_item() {
        let read = |found: Option<&HeadItem>| acquire_refused(7, "me", "here", found);
        assert_eq!(read(None), AcquireRefusal::Missing);
        assert_eq!(read(Some(&item(7, "me", "here", ""))), AcquireRefusal::Mine);
        for seen in [7, 8] {
            let other = item(seen, "you", "here", "");
            assert_eq!(read(Some(&other)), AcquireRefusal::EpochTooLow { seen });
        }
        // Another cluster's epochs are of no meaning here, whichever they are.
        for epoch in [1, 7, 9] {
            let foreign = read(Some(&item(epoch, "you", "there", "")));
            assert!(matches!(foreign, AcquireRefusal::Foreign { .. }), "{foreign:?}");
        }
    }

    #[test]
    fn a_refused_k5_is_read_from_the_item() {
        let read = |found: Option<&HeadItem>| commit_refused(7, "mine", found);
        assert_eq!(read(None), CommitRefusal::Missing);
        assert_eq!(read(Some(&item(7, "me", "here", "mine"))), CommitRefusal::Mine);
        // Won, and fenced since: the batch is committed all the same.
        assert_eq!(read(Some(&item(8, "you", "here", "mine"))), CommitRefusal::Mine);
        let fenced = CommitRefusal::Fenced { found: 8 };
        assert_eq!(read(Some(&item(8, "you", "here", "yours"))), fenced);
        let impossible = CommitRefusal::Impossible { batch: 4 };
        assert_eq!(read(Some(&item(7, "me", "here", "other"))), impossible);
    }

    #[test]
    fn a_batch_is_read_again_only_where_nothing_of_it_is_visible() {
        use RepairChoice::{Duplicate, GiveUp, Reread};
        for (files, lost) in [(1, 1), (2, 1), (3, 3), (5, 2)] {
            for choice in [Reread, GiveUp, Duplicate] {
                assert_eq!(repair(choice, files, 0, true), Repair::NothingLost);
                let verdict = repair(choice, files, lost, true);
                match choice {
                    GiveUp => assert_eq!(verdict, Repair::GiveUp),
                    Reread => assert_eq!(verdict == Repair::Rewind, files == lost, "{verdict:?}"),
                    Duplicate => assert_eq!(verdict, Repair::Rewind),
                }
            }
            let unknown = repair(Reread, files, files, false);
            assert_eq!(unknown, Repair::Refused(RepairRefusal::NotRecorded));
        }
    }

    #[test]
    fn a_repair_believes_its_own_eyes_then_the_operators() {
        let now = Duration::ZERO;
        for absence_seen in [false, true] {
            let mut progress = UploadProgress::new(Completer::Repair { absence_seen });
            assert_eq!(progress.on_answer(CompleteAnswer::NoSuchUpload, now), Next::Verify);
            // A success may be an old one, of an object that was removed since.
            assert_eq!(progress.on_answer(CompleteAnswer::Done, now), Next::Verify);
            let seen = |seen| progress.on_verification(seen, None, now);
            assert_eq!(seen(Verification::Present), Next::Done);
            assert_eq!(seen(Verification::Absent), Next::Lost);
            let unseen = if absence_seen { Next::Lost } else { Next::DoneUnverified };
            assert_eq!(seen(Verification::NoRight), unseen);
        }
    }

    #[test]
    fn parts_are_named_anew_only_where_their_bytes_are_the_same() {
        let part = |number, etag: &str, crc32c: &str| PendingPart {
            number,
            etag: etag.into(),
            crc32c: crc32c.into(),
        };
        let named = [part(1, "a", "x"), part(2, "b", "y")];
        // The second was replaced by its own first sending.
        let stored = [part(1, "a", "x"), part(2, "c", "y")];
        assert_eq!(renamed_parts(&named, &stored), Some(stored.to_vec()));
        // Nothing was: naming the same parts again is of no use.
        assert_eq!(renamed_parts(&named, &named), None);
        // Other bytes, a part that is missing, bytes that nothing is known of.
        assert_eq!(renamed_parts(&named, &[part(1, "a", "x"), part(2, "c", "z")]), None);
        assert_eq!(renamed_parts(&named, &stored[1..]), None);
        assert_eq!(renamed_parts(&[part(1, "a", "")], &[part(1, "b", "")]), None);
        // What the head does not name stays unnamed.
        let more = [stored[0].clone(), stored[1].clone(), part(3, "d", "z")];
        assert_eq!(renamed_parts(&named, &more), Some(stored.to_vec()));
    }

    #[test]
    fn an_old_run_is_not_offered() {
        assert!(!is_too_old(UPLOAD_GUARD / 2));
        assert!(is_too_old(UPLOAD_GUARD / 2 + Duration::from_secs(1)));
    }

    fn shards() -> impl Strategy<Value = Positions> {
        let position = (0u64..4, any::<bool>()).prop_map(|(number, ended)| Position {
            sequence_number: (number > 0).then(|| number.to_string().parse().unwrap()),
            ended,
            ..Position::default()
        });
        let key = ("[ab]", 0u8..3).prop_map(|(source, shard)| ShardKey {
            source,
            stream_arn: String::new(),
            stream_created_ms: 0,
            shard_id: shard.to_string(),
        });
        proptest::collection::btree_map(key, position, 0..5)
    }

    proptest! {
        #[test]
        fn progress_is_an_order(a in shards(), b in shards(), c in shards()) {
            let none = BTreeSet::new();
            let fits = |x: &Positions, y: &Positions| check_progress(x, y, &none).is_ok();
            prop_assert!(fits(&a, &a));
            prop_assert!(fits(&Positions::new(), &a));
            // Two ways at once only when nothing of either moved; only ended shards may be missing.
            if fits(&a, &b) && fits(&b, &a) {
                for (key, position) in &a {
                    prop_assert!(position.ended || b.contains_key(key));
                    if let Some(other) = b.get(key) {
                        prop_assert_eq!(position.sequence_number, other.sequence_number);
                    }
                }
            }
            // While no shard is forgotten, what holds for two steps holds for both at once.
            let kept = |by: &Positions| a.keys().all(|key| by.contains_key(key));
            if fits(&a, &b) && fits(&b, &c) && kept(&b) && kept(&c) {
                prop_assert!(fits(&a, &c));
            }
        }

        #[test]
        fn a_dropped_source_is_not_missed(a in shards()) {
            let dropped: BTreeSet<_> = a.keys().map(|key| key.source.clone()).collect();
            prop_assert_eq!(check_progress(&a, &Positions::new(), &dropped), Ok(()));
        }

        #[test]
        fn an_upload_is_given_up_or_trusted_only_with_reason(
            recovery: bool,
            steps in vec((select(&ANSWERS[..]), select(&VERIFICATIONS[..]), 0u64..400), 1..8),
            age_hours in proptest::option::of(0u64..48),
        ) {
            let completer = if recovery { Completer::Recovery } else { Completer::Publisher };
            let mut progress = UploadProgress::new(completer);
            let age = age_hours.map(|hours| Duration::from_secs(hours * 3600));
            let (mut now, mut explained) = (Duration::ZERO, recovery);
            let mut missing_since = None;
            for (answer, seen, seconds) in steps {
                now += Duration::from_secs(seconds);
                explained |= answer == CompleteAnswer::Open;
                let first = progress.on_answer(answer, now);
                if first != Next::Verify {
                    prop_assert_ne!(first, Next::DoneUnverified);
                    prop_assert_eq!(first == Next::Done, answer == CompleteAnswer::Done);
                    prop_assert_eq!(first == Next::Lost, answer == CompleteAnswer::Refused);
                    continue;
                }
                prop_assert_eq!(answer, CompleteAnswer::NoSuchUpload);
                let since = *missing_since.get_or_insert(now);
                let settled = !explained || now - since >= COMPLETE_SETTLES;
                let trusted = explained && age.is_some_and(|age| age < UPLOAD_GUARD);
                let expected = match seen {
                    Verification::Present => Next::Done,
                    Verification::Foreign => Next::Lost,
                    Verification::Unknown => Next::Again,
                    Verification::Absent if settled => Next::Lost,
                    Verification::Absent => Next::Again,
                    Verification::NoRight if trusted => Next::DoneUnverified,
                    Verification::NoRight => Next::Lost,
                };
                prop_assert_eq!(progress.on_verification(seen, age, now), expected);
            }
        }
    }
}
