//! How long a leader may act: until its last renewal is too old by its own monotonic clock.
//!
//! Whoever acts for the leader asks here first, so that a master that was stopped for a while (by a
//! signal, a debugger, a machine put to sleep) does nothing with what it knew before it has renewed.
//! That keeps a deposed master quiet; that it can change nothing is the store's conditions' doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace_common::clock::SharedClock;

/// One term's right to act. Clones share it.
#[derive(Clone, Debug)]
pub struct Tenure {
    clock: SharedClock,
    limit: Duration,
    /// Monotonic milliseconds just before the last renewal that succeeded was sent.
    renewed_ms: Arc<AtomicU64>,
}

impl Tenure {
    /// A term that was won by a write sent at `since`, and lasts `limit` after each renewal.
    #[must_use]
    pub fn new(clock: SharedClock, since: Duration, limit: Duration) -> Self {
        let renewed_ms = Arc::new(AtomicU64::new(millis(since)));
        Self { clock, limit, renewed_ms }
    }

    /// A renewal that was sent at this monotonic time has succeeded.
    pub fn renew(&self, sent: Duration) {
        self.renewed_ms.store(millis(sent), Ordering::Release);
    }

    /// True while the leader may act.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let renewed = Duration::from_millis(self.renewed_ms.load(Ordering::Acquire));
        self.clock.monotonic().saturating_sub(renewed) < self.limit
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use millrace_common::clock::ManualClock;

    use super::*;

    #[test]
    fn a_term_that_is_not_renewed_ends() {
        let clock = ManualClock::at(0);
        let tenure = Tenure::new(clock.clone(), Duration::ZERO, Duration::from_secs(6));
        let shared = tenure.clone();
        clock.advance(Duration::from_secs(5));
        assert!(tenure.is_valid());
        tenure.renew(Duration::from_secs(4));
        clock.advance(Duration::from_secs(4));
        assert!(shared.is_valid());
        clock.advance(Duration::from_secs(1));
        assert!(!shared.is_valid());
    }
}
