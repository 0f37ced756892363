//! The pace of calls: one per shard of a stream in this process, whoever calls.
//!
//! Promises: never more than five calls of a kind in any second, without bursts. Never does: wait
//! for anything but its turn.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::kinesis::ShardRef;

/// Five calls a second make 200 ms; a little more, because calls do not travel equally fast.
pub const CALL_INTERVAL: Duration = Duration::from_millis(210);

/// Tokio's clock, so that tests can turn it.
#[derive(Clone, Debug)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        tokio::time::Instant::now().into_std()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<std::time::Instant>>;

/// The pace of one shard.
#[derive(Debug)]
pub struct Pace {
    iterators: Limiter,
    reads: Limiter,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        let quota = Quota::with_period(interval.max(Duration::from_millis(1)))
            .expect("an interval is not zero")
            .allow_burst(NonZeroU32::MIN);
        Self {
            iterators: RateLimiter::direct_with_clock(quota, TokioClock),
            reads: RateLimiter::direct_with_clock(quota, TokioClock),
        }
    }

    /// Waits until an iterator may be made.
    pub async fn iterator(&self) {
        turn(&self.iterators).await;
    }

    /// Waits until the shard may be read.
    pub async fn read(&self) {
        turn(&self.reads).await;
    }
}

async fn turn(limiter: &Limiter) {
    while let Err(early) = limiter.check() {
        tokio::time::sleep(early.wait_time_from(TokioClock.now())).await;
    }
}

/// Stream and shard.
type ShardName = (Arc<str>, Arc<str>);

/// The paces of all shards that are read in this process.
#[derive(Debug)]
pub struct Paces {
    interval: Duration,
    shards: Mutex<BTreeMap<ShardName, Weak<Pace>>>,
}

impl Paces {
    /// With this interval between two calls of a kind to a shard.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, shards: Mutex::default() }
    }

    /// The shard's pace, shared by everybody who reads it.
    #[must_use]
    pub fn of(&self, shard: &ShardRef) -> Arc<Pace> {
        let key = (Arc::clone(&shard.stream_arn), Arc::clone(&shard.shard_id));
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = shards.get(&key).and_then(Weak::upgrade) {
            return pace;
        }
        shards.retain(|_, pace| pace.strong_count() > 0);
        let pace = Arc::new(Pace::new(self.interval));
        shards.insert(key, Arc::downgrade(&pace));
        pace
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn shard(id: &str) -> ShardRef {
        ShardRef { stream_name: "s".into(), stream_arn: "arn".into(), shard_id: id.into() }
    }

    const INTERVAL: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn two_readers_of_a_shard_keep_one_pace() {
        let paces = Paces::new(INTERVAL);
        let (one, two) = (paces.of(&shard("a")), paces.of(&shard("a")));
        let begun = Instant::now();
        for _ in 0..10 {
            one.read().await;
            two.read().await;
        }
        // Twenty calls, the first at once.
        assert!(begun.elapsed() >= INTERVAL * 19, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_pause_saves_up_nothing() {
        let pace = Paces::new(INTERVAL).of(&shard("a"));
        pace.read().await;
        tokio::time::sleep(INTERVAL * 20).await;
        let begun = Instant::now();
        for _ in 0..3 {
            pace.read().await;
        }
        assert!(begun.elapsed() >= INTERVAL * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn other_shards_and_other_calls_have_their_own() {
        let paces = Paces::new(Duration::from_secs(60));
        let (one, two) = (paces.of(&shard("a")), paces.of(&shard("b")));
        let calls = async {
            one.read().await;
            one.iterator().await;
            two.read().await;
        };
        tokio::time::timeout(Duration::from_secs(10), calls).await.expect("one held another up");
    }
}
