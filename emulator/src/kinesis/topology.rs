//! The shards of one stream and their hash key ranges, as pure decisions.
//!
//! Promise: the open shards partition the whole key space without gap or overlap, whatever splits,
//! merges and count updates came before; a shard has at most two parents; a closed shard is never
//! opened again. No record and no file is touched here.

use serde::{Deserialize, Serialize};

use super::error::{ErrorKind, KinesisError, KinesisResult};

/// A hash key: the MD5 of a partition key as a number, or an explicit hash key.
pub(crate) type HashKey = u128;

/// Both ends belong to the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashRange {
    #[serde(with = "decimal")]
    pub(crate) start: HashKey,
    #[serde(with = "decimal")]
    pub(crate) end: HashKey,
}

impl HashRange {
    pub(crate) fn contains(self, key: HashKey) -> bool {
        self.start <= key && key <= self.end
    }

    /// `count` ranges of the same size, give or take one key; `count` is at least one.
    pub(crate) fn uniform(count: u32) -> Vec<Self> {
        let starts: Vec<HashKey> = (0..count).map(|i| uniform_start(i, count)).collect();
        starts
            .iter()
            .enumerate()
            .map(|(i, start)| Self {
                start: *start,
                end: starts.get(i + 1).map_or(HashKey::MAX, |next| next - 1),
            })
            .collect()
    }
}

/// `floor(2^128 * i / count)` without 256-bit numbers.
fn uniform_start(i: u32, count: u32) -> HashKey {
    let (i, count) = (u128::from(i), u128::from(count));
    let (whole, rest) = (HashKey::MAX / count, HashKey::MAX % count + 1);
    let (whole, rest) = if rest == count { (whole.wrapping_add(1), 0) } else { (whole, rest) };
    whole.wrapping_mul(i) + rest * i / count
}

/// A shard and its place in the history of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardEntry {
    pub(crate) index: u32,
    pub(crate) range: HashRange,
    pub(crate) parent: Option<u32>,
    pub(crate) adjacent_parent: Option<u32>,
    pub(crate) created_ms: u64,
    /// When it was closed by a split or merge.
    pub(crate) closed_ms: Option<u64>,
}

impl ShardEntry {
    pub(crate) fn is_open(&self) -> bool {
        self.closed_ms.is_none()
    }

    pub(crate) fn id(&self) -> String {
        shard_id(self.index)
    }

    pub(crate) fn parents(&self) -> impl Iterator<Item = u32> {
        self.parent.into_iter().chain(self.adjacent_parent)
    }
}

/// `shardId-000000000012` for 12.
pub(crate) fn shard_id(index: u32) -> String {
    format!("shardId-{index:012}")
}

/// The number in a shard id.
pub(crate) fn parse_shard_id(id: &str) -> Option<u32> {
    let digits = id.strip_prefix("shardId-")?;
    (digits.len() == 12).then(|| digits.parse().ok()).flatten()
}

/// All shards that are still listed, in order of creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topology {
    next_index: u32,
    shards: Vec<ShardEntry>,
}

impl Topology {
    /// `count` open shards of the same size.
    pub(crate) fn uniform(count: u32, now_ms: u64) -> Self {
        let mut topology = Self { next_index: 0, shards: Vec::new() };
        for range in HashRange::uniform(count) {
            topology.open(range, None, None, now_ms);
        }
        topology
    }

    pub(crate) fn shards(&self) -> &[ShardEntry] {
        &self.shards
    }

    pub(crate) fn get(&self, index: u32) -> Option<&ShardEntry> {
        self.shards.iter().find(|s| s.index == index)
    }

    pub(crate) fn open_shards(&self) -> impl Iterator<Item = &ShardEntry> {
        self.shards.iter().filter(|s| s.is_open())
    }

    /// The open shard that takes `key`.
    pub(crate) fn route(&self, key: HashKey) -> u32 {
        self.open_shards()
            .find(|s| s.range.contains(key))
            .map(|s| s.index)
            .expect("the open shards partition the key space")
    }

    /// The listed shards that were made of `index`.
    pub(crate) fn children(&self, index: u32) -> impl Iterator<Item = &ShardEntry> {
        self.shards.iter().filter(move |s| s.parents().any(|p| p == index))
    }

    /// Splits `index` so that the second child starts at `new_start`.
    pub(crate) fn split(
        &mut self,
        index: u32,
        new_start: HashKey,
        now_ms: u64,
    ) -> KinesisResult<()> {
        let range = self.open_entry(index)?.range;
        if new_start <= range.start || new_start > range.end {
            return Err(KinesisError::invalid_argument(format!(
                "NewStartingHashKey {new_start} used in SplitShard() on shard {} is not both \
                 greater than one plus the shard's StartingHashKey {} and less than the shard's \
                 EndingHashKey {}.",
                shard_id(index),
                range.start,
                range.end
            )));
        }
        self.close(index, now_ms);
        self.open(HashRange { end: new_start - 1, ..range }, Some(index), None, now_ms);
        self.open(HashRange { start: new_start, ..range }, Some(index), None, now_ms);
        Ok(())
    }

    /// Merges two open neighbours.
    pub(crate) fn merge(&mut self, first: u32, second: u32, now_ms: u64) -> KinesisResult<()> {
        let (a, b) = (self.open_entry(first)?.range, self.open_entry(second)?.range);
        let (low, high) = if a.start <= b.start { (a, b) } else { (b, a) };
        if first == second || low.end.checked_add(1) != Some(high.start) {
            return Err(KinesisError::invalid_argument(format!(
                "Shards {} and {} are not an adjacent pair of shards eligible for merging",
                shard_id(first),
                shard_id(second)
            )));
        }
        self.close(first, now_ms);
        self.close(second, now_ms);
        let range = HashRange { start: low.start, end: high.end };
        self.open(range, Some(first), Some(second), now_ms);
        Ok(())
    }

    /// Splits and merges until `count` open shards of the same size are left. A shard that already
    /// has its final range stays as it is.
    pub(crate) fn scale_to(&mut self, count: u32, now_ms: u64) -> KinesisResult<()> {
        let targets = HashRange::uniform(count);
        for target in &targets {
            let at = self.route(target.start);
            if self.open_entry(at)?.range.start != target.start {
                self.split(at, target.start, now_ms)?;
            }
        }
        for target in &targets {
            let mut at = self.route(target.start);
            while self.open_entry(at)?.range.end != target.end {
                let neighbour = self.route(self.open_entry(at)?.range.end + 1);
                self.merge(at, neighbour, now_ms)?;
                at = self.route(target.start);
            }
        }
        Ok(())
    }

    /// Drops the closed shards whose last record has passed the retention, and returns them.
    pub(crate) fn drop_expired(&mut self, horizon_ms: u64) -> Vec<u32> {
        let expired = |s: &ShardEntry| s.closed_ms.is_some_and(|at| at < horizon_ms);
        let dropped = self.shards.iter().filter(|s| expired(s)).map(|s| s.index).collect();
        self.shards.retain(|s| !expired(s));
        dropped
    }

    fn open_entry(&self, index: u32) -> KinesisResult<&ShardEntry> {
        match self.get(index) {
            Some(entry) if entry.is_open() => Ok(entry),
            Some(_) => Err(KinesisError::invalid_argument(format!(
                "Shard {} is not an open shard and cannot be split or merged",
                shard_id(index)
            ))),
            None => Err(KinesisError::new(
                ErrorKind::ResourceNotFound,
                format!("Could not find shard {}", shard_id(index)),
            )),
        }
    }

    fn close(&mut self, index: u32, now_ms: u64) {
        if let Some(entry) = self.shards.iter_mut().find(|s| s.index == index) {
            entry.closed_ms = Some(now_ms);
        }
    }

    fn open(&mut self, range: HashRange, parent: Option<u32>, adjacent: Option<u32>, now_ms: u64) {
        let index = self.next_index;
        self.next_index += 1;
        self.shards.push(ShardEntry {
            index,
            range,
            parent,
            adjacent_parent: adjacent,
            created_ms: now_ms,
            closed_ms: None,
        });
    }
}

/// Hash keys as decimal text: JSON numbers end at 53 bits.
mod decimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
