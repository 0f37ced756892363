//! How busy the compute threads are.
//!
//! Promises: over time every nanosecond that a thread works is counted once. The runtime tells the
//! time of a worker only when it looks up from its work, and a task may compute for many seconds
//! without letting it: a worker that has not parked since the last question has worked all the while,
//! and what the runtime tells of that later is not counted again. Owned by the executor's engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::compute::ComputePool;

/// What the runtime says of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    /// Time that it has worked, as far as that is told.
    worked: Duration,
    /// Counts up by one with each park and each unpark; odd while it is parked.
    parks: u64,
}

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    last: Sample,
    /// Work that was counted and is still to be told.
    ahead: Duration,
}

impl Worker {
    /// How long it worked in the time that has passed.
    fn observe(&mut self, now: Sample, passed: Duration) -> Duration {
        let told = now.worked.saturating_sub(self.last.worked);
        let has_not_parked = now.parks == self.last.parks && now.parks.is_multiple_of(2);
        self.last = now;
        let new = told.saturating_sub(self.ahead);
        self.ahead = self.ahead.saturating_sub(told);
        if has_not_parked {
            self.ahead += passed.saturating_sub(new);
            return passed;
        }
        new.min(passed)
    }
}

/// A meter of a pool's threads.
#[derive(Debug)]
pub struct BusyMeter {
    pool: Arc<ComputePool>,
    state: Mutex<(Instant, Vec<Worker>)>,
}

impl BusyMeter {
    /// Begins now.
    #[must_use]
    pub fn new(pool: Arc<ComputePool>) -> Self {
        let workers = vec![Worker::default(); pool.threads()];
        Self { pool, state: Mutex::new((Instant::now(), workers)) }
    }

    /// The threads that worked since the last question, on average, in thousandths.
    pub fn millicores(&self) -> u32 {
        let metrics = self.pool.handle().metrics();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, workers) = &mut *state;
        let now = Instant::now();
        let passed = now.saturating_duration_since(std::mem::replace(asked, now));
        let worked: Duration = workers
            .iter_mut()
            .enumerate()
            .map(|(index, worker)| {
                let sample = Sample {
                    worked: metrics.worker_total_busy_duration(index),
                    parks: metrics.worker_park_unpark_count(index),
                };
                worker.observe(sample, passed)
            })
            .sum();
        let share = worked.as_secs_f64() / passed.as_secs_f64().max(1e-9);
        (share * 1_000.0).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(worked_ms: u64, parks: u64) -> Sample {
        Sample { worked: Duration::from_millis(worked_ms), parks }
    }

    #[test]
    fn a_worker_that_never_looks_up_is_busy_and_counted_once() {
        let mut worker = Worker::default();
        assert_eq!(worker.observe(sample(0, 1), SECOND), Duration::ZERO, "parked");
        // It begins a task of 3.5 s in the middle of this second.
        assert_eq!(worker.observe(sample(0, 2), SECOND), Duration::ZERO);
        assert_eq!(worker.observe(sample(0, 2), SECOND), SECOND);
        assert_eq!(worker.observe(sample(0, 2), SECOND), SECOND);
        assert_eq!(worker.observe(sample(0, 2), SECOND), SECOND);
        // All of it is told at once; half a second of it is new.
        assert_eq!(worker.observe(sample(3_500, 3), SECOND), SECOND / 2);
        assert_eq!(worker.observe(sample(3_500, 3), SECOND), Duration::ZERO);
    }

    #[test]
    fn short_tasks_are_counted_as_they_are_told() {
        let mut worker = Worker::default();
        assert_eq!(worker.observe(sample(300, 11), SECOND), SECOND * 3 / 10);
        assert_eq!(worker.observe(sample(1_200, 31), SECOND), SECOND * 9 / 10);
        assert_eq!(worker.observe(sample(9_000, 33), SECOND), SECOND, "never more than there is");
        assert_eq!(worker.observe(sample(9_000, 33), SECOND), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_spinning_thread_is_seen_while_it_spins() {
        let pool = Arc::new(ComputePool::start(2).unwrap());
        let meter = BusyMeter::new(Arc::clone(&pool));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let spinning = pool.spawn(async move {
            while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                std::hint::spin_loop();
            }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let is_seen = |millicores: u32| (900..=1_100).contains(&millicores);
        while !is_seen(meter.millicores()) {
            assert!(Instant::now() < deadline, "a busy thread is not seen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(stop);
        spinning.await.unwrap();
        while meter.millicores() > 100 {
            assert!(Instant::now() < deadline, "an idle pool is not seen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
