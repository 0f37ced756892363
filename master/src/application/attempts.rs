//! When a failed driver is started again, and when no more.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Timing;
use crate::moment::Moment;

/// Failures that are kept in the record: more than any sensible `attempt_failures_max` asks about.
const KEPT_MAX: usize = 100;

/// The failures of an application's drivers since its last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Monotonic milliseconds, below 0 for those before this master's clock began.
    times: VecDeque<i64>,
    /// Ends that were no failures of the application, since its last commit.
    num_passing: u32,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start the driver again after this delay; it was this failure of the allowed ones.
    RetryAfter(Duration, u32),
    /// It failed this often: no more.
    Exhausted(u32),
    /// Its surroundings failed: start the driver again after this delay, however often that was.
    WaitFor(Duration),
}

impl Failures {
    /// The failures that the record names by Unix time in milliseconds, as a new master takes them
    /// up. One that lies in the future by this host's clock counts as new.
    pub(crate) fn restore(now: Moment, recorded: &[i64]) -> Self {
        let monotonic = millis(now.monotonic);
        let time = |wall: &i64| monotonic - (now.wall_ms - wall).max(0);
        Self { times: recorded.iter().map(time).collect(), num_passing: 0 }
    }

    /// The failures by Unix time in milliseconds, for the record.
    pub(crate) fn recorded(&self, now: Moment) -> Vec<i64> {
        let monotonic = millis(now.monotonic);
        let newest = self.times.iter().skip(self.times.len().saturating_sub(KEPT_MAX));
        newest.map(|time| now.wall_ms - (monotonic - time)).collect()
    }

    /// A driver failed now.
    pub(crate) fn record(&mut self, now: Moment, timing: &Timing) -> Verdict {
        let monotonic = millis(now.monotonic);
        self.times.push_back(monotonic);
        let window = millis(timing.attempt_window);
        while self.times.front().is_some_and(|time| monotonic - time > window) {
            self.times.pop_front();
        }
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        if count >= timing.attempt_failures_max.max(1) {
            return Verdict::Exhausted(count);
        }
        Verdict::RetryAfter(self.backoff(timing), count)
    }

    /// A driver ended in order since AWS did not answer it, or denied what it had granted before.
    /// That is no fault of the application and passes: it is waited for without an end, and counts
    /// for nothing else. Not in the record: a new master begins with the shortest pause.
    pub(crate) fn record_passing(&mut self, timing: &Timing) -> Verdict {
        self.num_passing = self.num_passing.saturating_add(1);
        Verdict::WaitFor(timing.attempt_backoff.delay(self.num_passing, 0.0))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.times.len()).unwrap_or(u32::MAX)
    }

    /// Monotonic time before which the driver is not started again.
    pub(crate) fn retry_at(&self, timing: &Timing) -> Duration {
        let Some(last) = self.times.back() else { return Duration::ZERO };
        let at = last.saturating_add(millis(self.backoff(timing)));
        Duration::from_millis(u64::try_from(at).unwrap_or(0))
    }

    /// No jitter: one application has one driver.
    fn backoff(&self, timing: &Timing) -> Duration {
        timing.attempt_backoff.delay(u32::try_from(self.times.len()).unwrap_or(u32::MAX), 0.0)
    }

    /// A batch was committed: the application makes progress. True when that forgives something.
    pub(crate) fn forgive(&mut self) -> bool {
        let had_any = !self.times.is_empty();
        self.times.clear();
        self.num_passing = 0;
        had_any
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}
