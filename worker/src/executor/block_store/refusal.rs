//! The disk's refusals to take blocks: why, how many, and when to ask again.
//!
//! Promises: one refusal of a row is news, the others are only counted; the disk is asked again after
//! a rest, by one block. Owned by the store. Never does: write.

use std::time::Duration;

use millrace_common::Error;
use tokio::time::Instant;

/// How long the disk is left alone after a refusal: much less than the time in which a full memory
/// hurts, and long enough to cost nothing.
pub(super) const REST: Duration = Duration::from_secs(5);
/// How long a refusal is told when nobody asks the disk any more: it may be well, nobody knows.
const TOLD: Duration = Duration::from_secs(30);

/// The refusals so far.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    total: u64,
    current: Option<Refusal>,
}

/// A row of refusals without a success between them.
#[derive(Debug)]
struct Refusal {
    reason: String,
    count: u64,
    last: Instant,
    /// None while the disk is being asked again.
    again_at: Option<Instant>,
}

impl Refusals {
    /// The disk refused a block; true for the first of a row.
    pub(super) fn refused(&mut self, error: &Error, now: Instant) -> bool {
        self.total += 1;
        let failure = error.to_failure();
        let before = self.current.take();
        let count = before.as_ref().map_or(0, |before| before.count) + 1;
        let reason = format!("{}: {}", failure.code, failure.message);
        self.current = Some(Refusal { reason, count, last: now, again_at: Some(now + REST) });
        before.is_none()
    }

    /// The disk took a block; the number of refusals of the row that this ends.
    pub(super) fn spilled(&mut self) -> Option<u64> {
        self.current.take().map(|refusal| refusal.count)
    }

    /// True when the rest is over: the disk is to be asked again, once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let Some(refusal) = &mut self.current else { return false };
        refusal.again_at.take_if(|at| *at <= now).is_some()
    }

    /// When the disk is to be asked again; none when it can be asked now.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.current.as_ref()?.again_at
    }

    /// Why blocks are refused; none when they are not, or were not for long.
    pub(super) fn reason(&self, now: Instant) -> Option<String> {
        let current = self.current.as_ref();
        current.filter(|refusal| now < refusal.last + TOLD).map(|refusal| refusal.reason.clone())
    }

    /// All refusals so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

/// Waits for a change, at most until the disk may be asked again.
pub(super) async fn before(again_at: Option<Instant>, changed: impl Future<Output = ()>) {
    match again_at {
        // Either way the store is asked anew.
        Some(at) => drop(tokio::time::timeout_at(at, changed).await),
        None => changed.await,
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::Code;

    use super::*;

    #[test]
    fn the_first_of_a_row_is_news_and_all_are_counted() {
        let now = Instant::now();
        let error = Error::new(Code::DirectoryUnusable, "the disk is full", "make room");
        let mut refusals = Refusals::default();
        assert!(refusals.refused(&error, now));
        assert!(!refusals.is_due(now) && refusals.again_at() == Some(now + REST));
        assert!(refusals.is_due(now + REST));
        assert!(!refusals.is_due(now + REST), "one block tries");
        assert!(!refusals.refused(&error, now + REST), "no news");
        assert_eq!(refusals.reason(now + REST).as_deref(), Some("MR6002: the disk is full"));
        assert_eq!(refusals.reason(now + REST + TOLD), None, "nobody knows any more");
        assert_eq!(refusals.spilled(), Some(2));
        assert_eq!((refusals.spilled(), refusals.total()), (None, 2));
        assert!(refusals.refused(&error, now), "a new row");
    }
}
