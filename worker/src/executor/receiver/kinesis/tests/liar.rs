//! A Kinesis in all its moods: throttles, expires iterators, answers empty with data behind, gives
//! an answer twice, loses answers, is slow. It never hides a record for good.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;

use super::fake::{Fake, FakeShard, refuse};
use crate::executor::receiver::kinesis::{
    Answer, CallFailure, FailureKind, IteratorAt, Kinesis, ShardRef,
};

/// What one call meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Truth,
    /// At most this many records, fewer than asked for.
    Short(u32),
    Throttle,
    Expire,
    /// The iterator is refused as malformed.
    Refuse,
    /// No records, although there are some behind.
    Empty,
    /// The records before the iterator come once more.
    Double,
    /// The call is served and the answer gets lost.
    Lose,
}

impl Mood {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            3 => Just(Self::Truth),
            3 => (1u32..4).prop_map(Self::Short),
            1 => Just(Self::Throttle),
            1 => Just(Self::Expire),
            1 => Just(Self::Refuse),
            2 => Just(Self::Empty),
            2 => Just(Self::Double),
            1 => Just(Self::Lose),
        ]
    }

    /// The answer of `shard` in this mood.
    pub(crate) fn read(
        self,
        shard: &FakeShard,
        iterator: &str,
        limit: u32,
    ) -> Result<Answer, FailureKind> {
        let from: usize = iterator.parse().unwrap();
        match self {
            Self::Truth => Ok(shard.read(iterator, limit)),
            Self::Short(few) => Ok(shard.read(iterator, limit.min(few))),
            Self::Throttle => Err(FailureKind::Throttled),
            Self::Expire => Err(FailureKind::ExpiredIterator),
            Self::Refuse => Err(FailureKind::InvalidPosition),
            Self::Lose => Err(FailureKind::Unavailable),
            Self::Empty => {
                let truth = shard.read(iterator, limit);
                if truth.records.is_empty() {
                    return Ok(truth);
                }
                Ok(Answer {
                    records: Vec::new(),
                    next_iterator: Some(iterator.to_owned()),
                    millis_behind_latest: 1,
                    children: Vec::new(),
                    ..truth
                })
            }
            Self::Double if from <= shard.records.len() => {
                Ok(shard.read(&from.saturating_sub(2).to_string(), limit))
            }
            Self::Double => Ok(shard.read(iterator, limit)),
        }
    }

    /// The iterator that `shard` gives in this mood.
    pub(crate) fn make_iterator(
        self,
        shard: &FakeShard,
        at: IteratorAt,
    ) -> Result<String, FailureKind> {
        match self {
            Self::Throttle => Err(FailureKind::Throttled),
            Self::Lose => Err(FailureKind::Unavailable),
            _ => Ok(shard.make_iterator(at)),
        }
    }
}

/// A [`Fake`] whose calls meet one mood after the other, and the truth when the moods are used up.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) fake: Fake,
    moods: Mutex<VecDeque<Mood>>,
    delay: Duration,
}

impl Liar {
    pub(crate) fn new(fake: Fake, moods: impl IntoIterator<Item = Mood>, delay: Duration) -> Self {
        Self { fake, moods: Mutex::new(moods.into_iter().collect()), delay }
    }

    fn mood(&self) -> Mood {
        let mut moods = self.moods.lock().unwrap_or_else(PoisonError::into_inner);
        moods.pop_front().unwrap_or(Mood::Truth)
    }

    fn shard(&self, shard: &ShardRef) -> Result<FakeShard, CallFailure> {
        let shards = self.fake.shards();
        shards.get(&*shard.shard_id).cloned().ok_or_else(|| refuse(FailureKind::Missing))
    }
}

#[async_trait]
impl Kinesis for Liar {
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure> {
        tokio::time::sleep(self.delay).await;
        self.mood().make_iterator(&self.shard(shard)?, at).map_err(refuse)
    }

    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator: &str,
        limit: u32,
    ) -> Result<Answer, CallFailure> {
        tokio::time::sleep(self.delay).await;
        self.mood().read(&self.shard(shard)?, iterator, limit).map_err(refuse)
    }
}
