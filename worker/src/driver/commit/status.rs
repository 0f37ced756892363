//! How the commit is doing, for reports and metrics: counters, and why it waits.
//!
//! Promises: cheap to clone and to read; `degraded` is set while something is waited for and empty
//! as soon as nothing is. Never does: influence the commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_common::error::Error;
use millrace_proto::v1;
use tokio::sync::watch;

/// The commit's counters and its present trouble, shared with whoever reports them.
#[derive(Clone, Debug)]
pub struct CommitStatus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    counts: [AtomicU64; Count::ALL.len()],
    /// What waits, and for what. Bounded: one entry for the head, one per pending upload.
    waiting: Mutex<BTreeMap<String, v1::Failure>>,
    degraded: watch::Sender<Option<v1::Failure>>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Won commits.
    Commits,
    /// Commits whose bytes were sent more than once.
    CommitsRepeated,
    /// Commits that were found to be ours after an answer was lost.
    CommitsReadBack,
    /// Uploads completed and seen to be.
    Completed,
    /// Uploads taken for complete without a right to look.
    CompletedUnverified,
    /// Complete calls that had to be sent again.
    CompletesRepeated,
}

impl Count {
    /// Every count, in order.
    pub const ALL: [Self; 6] = [
        Self::Commits,
        Self::CommitsRepeated,
        Self::CommitsReadBack,
        Self::Completed,
        Self::CompletedUnverified,
        Self::CompletesRepeated,
    ];

    /// The metric's name, without prefix and unit.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Commits => "commits",
            Self::CommitsRepeated => "commits_repeated",
            Self::CommitsReadBack => "commits_read_back",
            Self::Completed => "uploads_completed",
            Self::CompletedUnverified => "uploads_completed_unverified",
            Self::CompletesRepeated => "completes_repeated",
        }
    }
}

impl Default for CommitStatus {
    fn default() -> Self {
        let inner = Inner {
            counts: Default::default(),
            waiting: Mutex::default(),
            degraded: watch::Sender::new(None),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl CommitStatus {
    /// The count since the process began.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.inner.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Why commits are late, as it changes; none when they are not.
    #[must_use]
    pub fn degraded(&self) -> watch::Receiver<Option<v1::Failure>> {
        self.inner.degraded.subscribe()
    }

    /// True while a commit or a publication waits for DynamoDB or S3.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.inner.degraded.borrow().is_some()
    }

    pub(super) fn add(&self, count: Count) {
        self.inner.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// `what` waits because of `error`.
    pub(super) fn waits(&self, what: &str, error: &Error) {
        tracing::warn!(what, %error, "the commit waits");
        let message = format!("{what}: {}", error.message());
        let failure = v1::Failure { message, ..error.to_failure() };
        self.change(|waiting| {
            waiting.insert(what.to_owned(), failure);
        });
    }

    /// `what` no longer waits.
    pub(super) fn goes_on(&self, what: &str) {
        self.change(|waiting| {
            waiting.remove(what);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, v1::Failure>)) {
        let mut waiting = self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting);
        let first = waiting.values().next().cloned();
        self.inner.degraded.send_if_modified(|shown| {
            let changed = *shown != first;
            *shown = first;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::error::Code;

    use super::*;

    #[test]
    fn trouble_shows_until_the_last_one_ends() {
        let status = CommitStatus::default();
        let shown = status.degraded();
        let error = Error::new(Code::Forbidden, "no", "allow it");
        status.waits("a", &error);
        status.waits("b", &error);
        let shows = || shown.borrow().as_ref().map(|f| format!("{} {}", f.code, f.message));
        assert_eq!(shows().as_deref(), Some("MR3005 a: no"));
        assert!(status.is_waiting());
        status.goes_on("a");
        assert_eq!(shows().as_deref(), Some("MR3005 b: no"));
        status.goes_on("b");
        assert_eq!(shows(), None);
        assert!(!status.is_waiting());
    }

    #[test]
    fn each_count_has_a_place_of_its_own() {
        let status = CommitStatus::default();
        for count in Count::ALL {
            status.add(count);
            assert_eq!(status.get(count), 1, "{}", count.name());
        }
    }
}
