//! What has been put into the stream, what of it is visible, and how far the one is behind the
//! other. Pure: instants come from outside.
//!
//! Promises: a record counts as open from the answer to its put until an object with it is listed,
//! in whichever order the two are noticed. Never does: judge what is right; that is the checker's.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use crate::truth::RecordKey;

/// A lag above this is a disturbance: two batches of the test profile.
pub const TWO_BATCHES: Duration = Duration::from_secs(2);

/// Records on their way, and the history of the lag.
#[derive(Debug, Default)]
pub struct Flow {
    visible: HashSet<RecordKey>,
    open: BTreeMap<RecordKey, Instant>,
    num_put: usize,
    samples: Vec<(Instant, Duration)>,
}

impl Flow {
    /// A put was answered.
    pub fn put(&mut self, key: RecordKey, at: Instant) {
        self.num_put += 1;
        if !self.visible.contains(&key) {
            self.open.insert(key, at);
        }
    }

    /// An object with the record was listed.
    pub fn seen(&mut self, key: RecordKey) {
        self.open.remove(&key);
        self.visible.insert(key);
    }

    /// Looks at the lag: the age of the oldest record that is not visible.
    pub fn sample(&mut self, now: Instant) {
        let oldest = self.open.values().min();
        let lag = oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(*at));
        self.samples.push((now, lag));
    }

    /// Number of records whose put was answered.
    #[must_use]
    pub fn num_put(&self) -> usize {
        self.num_put
    }

    /// Number of records that are visible.
    #[must_use]
    pub fn num_visible(&self) -> usize {
        self.visible.len()
    }

    /// Number of records whose put was answered and that are not visible.
    #[must_use]
    pub fn num_open(&self) -> usize {
        self.open.len()
    }

    /// When the oldest record was put that is not visible; none when all are.
    #[must_use]
    pub fn oldest_open(&self) -> Option<Instant> {
        self.open.values().min().copied()
    }

    /// The lag as last sampled.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.samples.last().map_or(Duration::ZERO, |(_, lag)| *lag)
    }

    /// The largest lag sampled since `from`.
    #[must_use]
    pub fn worst_since(&self, from: Instant) -> Duration {
        let since = self.samples.iter().rev().take_while(|(at, _)| *at >= from);
        since.map(|(_, lag)| *lag).max().unwrap_or_default()
    }

    /// True when every sample of the last `span` before `now` was below two batches, and there were
    /// some.
    #[must_use]
    pub fn is_steady(&self, now: Instant, span: Duration) -> bool {
        let mut recent = self.samples.iter().rev();
        let covers = self.samples.first().is_some_and(|(at, _)| *at + span <= now);
        covers && recent.by_ref().take_while(|(at, _)| *at + span >= now).all(|s| is_calm(s.1))
    }

    /// How long after `from` the lag was last above two batches; zero when it never was.
    #[must_use]
    pub fn recovery_since(&self, from: Instant) -> Duration {
        let mut since = self.samples.iter().rev().take_while(|(at, _)| *at >= from);
        let last = since.find(|(_, lag)| !is_calm(*lag));
        last.map_or(Duration::ZERO, |(at, _)| at.saturating_duration_since(from))
    }
}

fn is_calm(lag: Duration) -> bool {
    lag < TWO_BATCHES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: &str) -> RecordKey {
        ("shard".to_owned(), seq.to_owned())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_lag_is_the_age_of_the_oldest_open_record() {
        let began = Instant::now();
        let mut flow = Flow::default();
        flow.put(key("1"), began);
        flow.put(key("2"), began + SECOND);
        flow.sample(began + SECOND * 2);
        assert_eq!(flow.lag(), SECOND * 2);
        flow.seen(key("1"));
        flow.sample(began + SECOND * 2);
        assert_eq!(flow.lag(), SECOND);
        flow.seen(key("2"));
        flow.sample(began + SECOND * 9);
        assert_eq!((flow.lag(), flow.num_open(), flow.num_visible()), (Duration::ZERO, 0, 2));
    }

    #[test]
    fn a_record_that_is_seen_before_its_answer_is_not_open() {
        let mut flow = Flow::default();
        flow.seen(key("1"));
        flow.put(key("1"), Instant::now());
        assert_eq!((flow.num_open(), flow.num_put()), (0, 1));
    }

    #[test]
    fn recovery_ends_with_the_last_sample_above_two_batches() {
        let began = Instant::now();
        let mut flow = Flow::default();
        for (second, lag) in [0, 1, 2, 3, 4, 1, 1, 1].into_iter().enumerate() {
            flow.samples.push((began + SECOND * second as u32, SECOND * lag));
        }
        assert_eq!(flow.recovery_since(began), SECOND * 4);
        assert_eq!(flow.recovery_since(began + SECOND), SECOND * 3);
        assert_eq!(flow.recovery_since(began + SECOND * 5), Duration::ZERO);
        assert_eq!(flow.worst_since(began), SECOND * 4);
        assert!(flow.is_steady(began + SECOND * 7, SECOND * 2));
        assert!(!flow.is_steady(began + SECOND * 7, SECOND * 3));
    }

    #[test]
    fn without_samples_nothing_is_steady() {
        assert!(!Flow::default().is_steady(Instant::now(), SECOND));
    }
}
