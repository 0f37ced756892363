//! The pace of calls: one per shard of a stream in this process, whoever calls.
//!
//! Promises: never more than five calls of a kind in any second, without bursts, whoever reads the
//! shard and however often its reader changes; who asked first is first, so that a reader that goes on
//! for ever does not keep a block from being read again; a shard that another executor may have called
//! for until now is left alone as long as the driver says. Never does: wait for anything but its turn.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::kinesis::ShardRef;

/// Five calls a second make 200 ms; a little more, because calls do not travel equally fast.
pub const CALL_INTERVAL: Duration = Duration::from_millis(210);

/// Tokio's clock, so that tests can turn it.
#[derive(Clone, Debug)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<std::time::Instant>>;

/// The turns of one kind of call.
#[derive(Debug)]
struct Turns {
    limiter: Limiter,
    /// Held by the one who is next; the others wait in the order in which they came.
    next: tokio::sync::Mutex<()>,
}

impl Turns {
    fn new(quota: Quota) -> Self {
        let limiter = RateLimiter::direct_with_clock(quota, TokioClock);
        Self { limiter, next: tokio::sync::Mutex::default() }
    }
}

/// The pace of one shard.
#[derive(Debug)]
pub struct Pace {
    iterators: Turns,
    reads: Turns,
    /// No call before this time.
    not_before: Mutex<Instant>,
}

/// A pace that nobody uses is forgotten after this long: Kinesis has forgotten the calls too.
const FORGET_AFTER: Duration = Duration::from_secs(2);

impl Pace {
    fn new(interval: Duration) -> Self {
        let quota = Quota::with_period(interval.max(Duration::from_millis(1)))
            .expect("an interval is not zero")
            .allow_burst(NonZeroU32::MIN);
        Self {
            iterators: Turns::new(quota),
            reads: Turns::new(quota),
            not_before: Mutex::new(Instant::now()),
        }
    }

    /// Waits until an iterator may be made.
    pub async fn iterator(&self) {
        self.turn(&self.iterators).await;
    }

    /// Waits until the shard may be read.
    pub async fn read(&self) {
        self.turn(&self.reads).await;
    }

    /// No call from now on for this long.
    fn rest(&self, rest: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(Instant::now() + rest);
    }

    fn not_before(&self) -> Instant {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, turns: &Turns) {
        let _next = turns.next.lock().await;
        loop {
            tokio::time::sleep_until(self.not_before()).await;
            match turns.limiter.check() {
                Ok(()) => return,
                Err(early) => {
                    tokio::time::sleep(early.wait_time_from(TokioClock.now())).await;
                }
            }
        }
    }
}

/// The part of a shard's pace of one of its readers. The others may be in other processes, whose
/// turns are not seen here: with n of them each takes every nth turn.
#[derive(Clone, Debug)]
pub struct Share {
    pace: Arc<Pace>,
    num_readers: u32,
}

impl Share {
    /// Waits until this reader may make an iterator.
    pub async fn iterator(&self) {
        for _ in 0..self.num_readers {
            self.pace.iterator().await;
        }
    }

    /// Waits until this reader may read the shard.
    pub async fn read(&self) {
        for _ in 0..self.num_readers {
            self.pace.read().await;
        }
    }
}

/// Stream and shard.
type ShardName = (Arc<str>, Arc<str>);

/// The paces of all shards that are read in this process.
#[derive(Debug)]
pub struct Paces {
    interval: Duration,
    shards: Mutex<BTreeMap<ShardName, Known>>,
}

/// A pace and when it was last asked for.
#[derive(Debug)]
struct Known {
    pace: Arc<Pace>,
    asked_for: Instant,
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
        let now = Instant::now();
        if let Some(known) = shards.get_mut(&key) {
            known.asked_for = now;
            return Arc::clone(&known.pace);
        }
        // Kept a while after its last reader: the next may come at once, and must not begin anew.
        for known in shards.values_mut() {
            if Arc::strong_count(&known.pace) > 1 {
                known.asked_for = now;
            }
        }
        shards.retain(|_, known| now - known.asked_for <= FORGET_AFTER);
        let pace = Arc::new(Pace::new(self.interval));
        shards.insert(key, Known { pace: Arc::clone(&pace), asked_for: now });
        pace
    }

    /// The part of the shard's pace that one of `num_readers` readers has.
    #[must_use]
    pub fn share(&self, shard: &ShardRef, num_readers: u32) -> Share {
        Share { pace: self.of(shard), num_readers }
    }

    /// Leaves the shard alone for this long.
    pub fn rest(&self, shard: &ShardRef, rest: Duration) {
        if !rest.is_zero() {
            self.of(shard).rest(rest);
        }
    }
}

#[cfg(test)]
mod tests {
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
    async fn readers_in_two_processes_keep_one_pace_together() {
        let (here, there) = (Paces::new(INTERVAL * 4), Paces::new(INTERVAL * 4));
        let (one, two) = (here.share(&shard("a"), 2), there.share(&shard("a"), 2));
        let begun = Instant::now();
        for _ in 0..5 {
            tokio::join!(one.read(), two.read());
        }
        // Ten calls, the first turn of each at once.
        assert!(begun.elapsed() >= INTERVAL * 4 * 9, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_reader_goes_on_with_the_pace_of_the_last() {
        let paces = Paces::new(INTERVAL);
        let begun = Instant::now();
        paces.of(&shard("a")).read().await;
        // Others come and go meanwhile.
        for other in ["b", "c", "d"] {
            paces.of(&shard(other)).read().await;
        }
        paces.of(&shard("a")).read().await;
        paces.of(&shard("a")).read().await;
        // Three calls, the first at once; with a pace that begins anew they would take one interval.
        assert!(begun.elapsed() >= INTERVAL * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_shard_that_was_another_executors_is_left_alone_for_a_while() {
        let paces = Paces::new(INTERVAL);
        let begun = Instant::now();
        paces.rest(&shard("a"), Duration::from_millis(60));
        let pace = paces.of(&shard("a"));
        tokio::join!(pace.read(), pace.iterator());
        assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
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

    #[tokio::test(start_paused = true)]
    async fn who_reads_without_end_keeps_nobody_waiting() {
        // Whatever a call takes, for that decides who looks first when the next turn comes.
        for took in (0..=210).step_by(5).map(Duration::from_millis) {
            let pace = Paces::new(CALL_INTERVAL).of(&shard("a"));
            let reader = async {
                for _ in 0..100 {
                    pace.read().await;
                    tokio::time::sleep(took).await;
                }
            };
            let another = async {
                for asks_after in [0, 1, 50, 209, 210, 211].map(Duration::from_millis) {
                    tokio::time::sleep(asks_after).await;
                    let begun = Instant::now();
                    pace.read().await;
                    let waited = begun.elapsed();
                    assert!(waited <= CALL_INTERVAL * 2 + INTERVAL, "{waited:?} beside {took:?}");
                }
            };
            tokio::select! {
                biased;
                () = reader => panic!("the other never had a turn beside {took:?}"),
                () = another => {}
            }
        }
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
