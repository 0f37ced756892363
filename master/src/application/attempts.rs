//! When a failed driver is started again, and when no more.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Timing;

/// The failures of an application's drivers since its last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    times: VecDeque<Duration>,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start the driver again after this delay; it was this failure of the allowed ones.
    RetryAfter(Duration, u32),
    /// It failed this often: no more.
    Exhausted(u32),
}

impl Failures {
    /// A driver failed at this monotonic time.
    pub(crate) fn record(&mut self, now: Duration, timing: &Timing) -> Verdict {
        self.times.push_back(now);
        while self
            .times
            .front()
            .is_some_and(|time| now.saturating_sub(*time) > timing.attempt_window)
        {
            self.times.pop_front();
        }
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        if count >= timing.attempt_failures_max.max(1) {
            return Verdict::Exhausted(count);
        }
        // No jitter: one application has one driver.
        Verdict::RetryAfter(timing.attempt_backoff.delay(count, 0.0), count)
    }

    /// A batch was committed: the application makes progress.
    pub(crate) fn forgive(&mut self) {
        self.times.clear();
    }
}
