//! What the driver tells others about its input.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::budget::CUT_AT_DIVISOR;
use millrace_common::id::{ContainerId, ReceiverId};
use millrace_common::position::{HashKeyRange, ShardKey};
use millrace_proto::v1;

use super::{Core, RangeView};

/// A receiver and its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverView {
    /// The receiver.
    pub receiver: ReceiverId,
    /// The executor it is on.
    pub container: ContainerId,
    /// Its source.
    pub source: String,
    /// Ids of the shards it reads.
    pub shards: Vec<String>,
}

/// Losses of a shard that the application went on after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapView {
    /// The source.
    pub source: String,
    /// The shard.
    pub shard_id: String,
    /// Ranges that were lost.
    pub count: u64,
    /// What was said of the last one.
    pub last: String,
}

/// A shard that is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateView {
    /// The source.
    pub source: String,
    /// The shard.
    pub shard_id: String,
    /// How far behind its newest record, in milliseconds.
    pub millis_behind_latest: i64,
    /// What is read of it, smoothed.
    pub bytes_per_second: u64,
    /// Its stream's name.
    pub stream: String,
    /// The middle of its keys, where it could be split.
    pub split_at: Option<u128>,
}

/// Shards in trouble that a snapshot names: one is enough to know the cause, the others are like it.
const TROUBLES_SHOWN: usize = 4;
/// Late shards that a snapshot names.
const LATE_SHOWN: usize = 3;
/// A shard that is behind by less is not late: it is read once a second.
const LATE_FROM_MS: i64 = 1_000;

/// The input at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every receiver that reads a shard.
    pub receivers: Vec<ReceiverView>,
    /// Shards that are read or wait for a reader.
    pub num_shards: u64,
    /// The largest lag of any shard; none when no shard has said yet.
    pub millis_behind_latest: Option<i64>,
    /// Bytes of accepted blocks that are not released.
    pub buffered_bytes: u64,
    /// Bytes of all blocks that were ever accepted.
    pub read_bytes_total: u64,
    /// Shards that can not be read for now, and why; at most [`TROUBLES_SHOWN`].
    pub troubles: Vec<(ShardKey, v1::Failure)>,
    /// The shards that are furthest behind, furthest first; at most [`LATE_SHOWN`].
    pub late: Vec<LateView>,
    /// Losses that were passed over by policy, those of earlier attempts included.
    pub gaps: Vec<GapView>,
    /// True when half of an executor's budget is filled by blocks that wait to be planned, or such
    /// blocks keep an executor from leaving.
    pub under_pressure: bool,
    /// Executors that are to be given up in order.
    pub leaving: BTreeSet<ContainerId>,
    /// Those of them that no shard and no block needs any more.
    pub vacated: BTreeSet<ContainerId>,
    /// How much of the range that is read is done; none without a range.
    pub range: Option<RangeView>,
}

impl Core {
    /// The input now.
    #[must_use]
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let mut receivers = BTreeMap::<(ReceiverId, ContainerId), ReceiverView>::new();
        for (shard, seat) in &self.assignment {
            let view = receivers
                .entry((seat.receiver.clone(), seat.container.clone()))
                .or_insert_with(|| ReceiverView {
                    receiver: seat.receiver.clone(),
                    container: seat.container.clone(),
                    source: shard.source.clone(),
                    shards: Vec::new(),
                });
            view.shards.push(shard.shard_id.clone());
        }
        let pending = self.ledger.pending_bytes();
        let planned = self.ledger.planned_bytes();
        let readable: BTreeSet<_> = self
            .sources
            .iter()
            .flat_map(|(name, source)| source.lineage.readable().map(move |(id, _)| (name, id)))
            .collect();
        Snapshot {
            receivers: receivers.into_values().collect(),
            num_shards: readable.len() as u64,
            millis_behind_latest: self.lags.values().max().copied(),
            buffered_bytes: pending.values().chain(planned.values()).sum(),
            read_bytes_total: self.rates.total(),
            troubles: self
                .troubles
                .iter()
                .take(TROUBLES_SHOWN)
                .map(|(shard, failure)| (shard.clone(), failure.clone()))
                .collect(),
            late: self.late(now),
            gaps: self
                .gaps
                .iter()
                .map(|(shard, gaps)| GapView {
                    source: shard.source.clone(),
                    shard_id: shard.shard_id.clone(),
                    count: gaps.all.count,
                    last: gaps.all.last.clone(),
                })
                .collect(),
            under_pressure: self.is_under_pressure() || self.is_leaving_held_up(),
            leaving: self.leaving.clone(),
            vacated: self.vacated(),
            range: self.range_view(),
        }
    }

    /// The shards that are furthest behind.
    fn late(&self, now: Duration) -> Vec<LateView> {
        let mut late: Vec<(&ShardKey, i64)> = self
            .lags
            .iter()
            .filter(|(_, millis)| **millis >= LATE_FROM_MS)
            .map(|(shard, millis)| (shard, *millis))
            .collect();
        late.sort_by_key(|(_, millis)| Reverse(*millis));
        let view = |(shard, millis_behind_latest): (&ShardKey, i64)| {
            let source = self.sources.get(&shard.source);
            let range = source.and_then(|source| source.lineage.range(&shard.shard_id));
            LateView {
                source: shard.source.clone(),
                shard_id: shard.shard_id.clone(),
                millis_behind_latest,
                bytes_per_second: self.rates.observed_per_second(shard, now),
                stream: source.map(|source| source.setup.stream.name.clone()).unwrap_or_default(),
                split_at: range.map(HashKeyRange::middle),
            }
        };
        late.into_iter().take(LATE_SHOWN).map(view).collect()
    }

    /// True when half of an executor's budget is filled by blocks that wait to be planned.
    #[must_use]
    pub fn is_under_pressure(&self) -> bool {
        let pending = self.ledger.pending_bytes();
        let planned = self.ledger.planned_bytes();
        self.executors.iter().any(|(id, executor)| {
            let accepted = pending.get(id).copied().unwrap_or(0);
            let fixed = planned.get(id).copied().unwrap_or(0);
            let waiting = accepted.max(executor.block_bytes.saturating_sub(fixed));
            executor.home.budget_bytes > 0 && waiting >= executor.home.budget_bytes / CUT_AT_DIVISOR
        })
    }
}
