//! Time as the emulator's cores see it: a number of milliseconds since 1970 that never runs
//! backwards.
//!
//! The shells read a [`Clock`] once per request and hand the number to the cores; a core never asks
//! for the time itself, so a test can turn it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the shells take the time from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC; never less than an earlier answer.
    fn now_ms(&self) -> u64;
}

/// The machine's clock, held still for as long as the machine's clock was set back.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest: AtomicU64,
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.latest.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// A clock that moves only when it is told to: for tests of expiry, retention and limits.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that shows `now_ms` milliseconds since 1970.
    pub fn at(now_ms: u64) -> Self {
        Self { now: Arc::new(AtomicU64::new(now_ms)) }
    }

    /// Moves the clock on by `ms` milliseconds.
    pub fn advance(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
}
