//! Bytes per second of each shard, smoothed, for the assignment.
//!
//! Promises: a shard that falls silent fades. Owned by the receivers' core. Never does: read a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::position::ShardKey;

/// Half of an old rate has faded after this long.
const HALF_LIFE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Bytes seen, each weighed by its age.
    weighed_bytes: f64,
    at: Duration,
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
        let before = self.shards.get(shard).map_or(0.0, |rate| rate.faded(now));
        let rate = Rate { weighed_bytes: before + bytes as f64, at: now };
        self.shards.insert(shard.clone(), rate);
    }

    /// Bytes per second, now.
    #[must_use]
    pub fn bytes_per_second(&self, shard: &ShardKey, now: Duration) -> u64 {
        // A steady rate r piles up r * half-life / ln 2.
        let factor = std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64();
        self.shards.get(shard).map_or(0, |rate| (rate.faded(now) * factor) as u64)
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

    #[test]
    fn a_steady_rate_is_found_and_a_silent_shard_fades() {
        let shard = ShardKey {
            source: "logs".into(),
            stream_arn: "arn".into(),
            stream_created_ms: 1,
            shard_id: "shardId-0".into(),
        };
        let mut rates = Rates::default();
        for second in 0..600 {
            rates.observe(&shard, 1_000, Duration::from_secs(second));
        }
        let steady = rates.bytes_per_second(&shard, Duration::from_secs(600));
        assert!((900..1_100).contains(&steady), "{steady}");
        let later = rates.bytes_per_second(&shard, Duration::from_secs(630));
        assert!((450..550).contains(&later), "{later}");
    }
}
