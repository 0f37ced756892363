//! Bytes per second of each shard, smoothed, for the assignment.
//!
//! Promises: a shard that falls silent fades. Owned by the receivers' core. Never does: read a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::position::ShardKey;

/// Half of an old rate has faded after this long.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// What was read in less time than this is no rate: a burst is as fast as the wire.
const OBSERVED_FROM: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Bytes seen, each weighed by its age.
    weighed_bytes: f64,
    at: Duration,
    /// When the first of them were seen.
    since: Duration,
}

impl Rate {
    fn faded(self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.weighed_bytes * (-age / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// The rates of all shards of an application.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    shards: BTreeMap<ShardKey, Rate>,
    total: u64,
}

impl Rates {
    /// This many bytes were read now.
    pub fn observe(&mut self, shard: &ShardKey, bytes: u64, now: Duration) {
        self.total = self.total.saturating_add(bytes);
        let known = self.shards.get(shard);
        let before = known.map_or(0.0, |rate| rate.faded(now));
        let since = known.map_or(now, |rate| rate.since);
        let rate = Rate { weighed_bytes: before + bytes as f64, at: now, since };
        self.shards.insert(shard.clone(), rate);
    }

    /// Bytes per second, now.
    #[must_use]
    pub fn bytes_per_second(&self, shard: &ShardKey, now: Duration) -> u64 {
        // A steady rate r piles up r * half-life / ln 2.
        let factor = std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64();
        self.shards.get(shard).map_or(0, |rate| (rate.faded(now) * factor) as u64)
    }

    /// The same for people: what has been read for a shorter time than rates fade in is not taken for
    /// little. Of a shard that was first read a moment ago nothing is known.
    #[must_use]
    pub fn observed_per_second(&self, shard: &ShardKey, now: Duration) -> u64 {
        let Some(rate) = self.shards.get(shard) else { return 0 };
        let age = now.saturating_sub(rate.since);
        if age < OBSERVED_FROM {
            return 0;
        }
        let full = 1.0 - (-age.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        (self.bytes_per_second(shard, now) as f64 / full) as u64
    }

    /// All bytes that were read, of every shard.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The shard is read no more.
    pub fn forget(&mut self, shard: &ShardKey) {
        self.shards.remove(shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard() -> ShardKey {
        ShardKey {
            source: "logs".into(),
            stream_arn: "arn".into(),
            stream_created_ms: 1,
            shard_id: "shardId-0".into(),
        }
    }

    #[test]
    fn a_steady_rate_is_found_and_a_silent_shard_fades() {
        let shard = shard();
        let mut rates = Rates::default();
        for second in 0..600 {
            rates.observe(&shard, 1_000, Duration::from_secs(second));
        }
        let steady = rates.bytes_per_second(&shard, Duration::from_secs(600));
        assert!((900..1_100).contains(&steady), "{steady}");
        let later = rates.bytes_per_second(&shard, Duration::from_secs(630));
        assert!((450..550).contains(&later), "{later}");
    }

    #[test]
    fn what_was_read_for_seconds_only_is_not_little() {
        let shard = shard();
        let mut rates = Rates::default();
        for second in 0..=5 {
            rates.observe(&shard, 1_000_000, Duration::from_secs(second));
        }
        let now = Duration::from_secs(5);
        assert!(rates.bytes_per_second(&shard, now) < 200_000);
        let observed = rates.observed_per_second(&shard, now);
        assert!((950_000..1_300_000).contains(&observed), "{observed}");
        assert_eq!(rates.observed_per_second(&shard, Duration::from_secs(2)), 0, "too early");
    }
}
