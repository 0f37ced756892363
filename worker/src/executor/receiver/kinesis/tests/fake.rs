//! A Kinesis of a few shards in memory, that answers truthfully.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_common::position::SequenceNumber;
use millrace_common::{Code, Error};

use crate::executor::receiver::kinesis::{
    ANSWER_BYTES_MAX, Answer, CallFailure, ChildShard, FailureKind, IteratorAt, Kinesis, Record,
    ShardRef,
};

/// The server's date of every answer.
pub(crate) const SERVER_MS: i64 = 1_800_000_000_000;

/// The moment that the arrivals of records count from: an hour before the answers.
pub(crate) const ARRIVED_MS: i64 = SERVER_MS - 3_600_000;

/// A sequence number by its value.
pub(crate) fn seq(value: u64) -> SequenceNumber {
    value.to_string().parse().unwrap()
}

/// The record with this number; it arrived `value` milliseconds after [`ARRIVED_MS`].
pub(crate) fn record(value: u64) -> Record {
    Record {
        sequence_number: seq(value),
        arrival_ms: ARRIVED_MS + i64::try_from(value).unwrap(),
        partition_key: Some(format!("key-{}", value % 7)),
        data: Bytes::from(format!("record {value}")),
    }
}

/// The iterator at a trimmed record that gives nothing.
const SILENT: &str = "18446744073709551615";

/// One shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeShard {
    /// All records that were ever put, in order.
    pub(crate) records: Vec<Record>,
    /// How many of them are trimmed.
    pub(crate) num_trimmed: usize,
    /// Set when iterators at a trimmed record give nothing, for ever, and say this many
    /// milliseconds behind.
    pub(crate) is_silent_at_trimmed: Option<i64>,
    /// Set when the shard is closed.
    pub(crate) children: Option<Vec<ChildShard>>,
}

impl FakeShard {
    pub(crate) fn of(values: impl IntoIterator<Item = u64>) -> Self {
        Self { records: values.into_iter().map(record).collect(), ..Self::default() }
    }

    pub(crate) fn make_iterator(&self, at: IteratorAt) -> String {
        let index = match at {
            IteratorAt::TrimHorizon => 0,
            IteratorAt::Record(number) => {
                self.records.partition_point(|record| record.sequence_number < number)
            }
            IteratorAt::Timestamp(ms) => {
                let first = self.records.iter().position(|record| record.arrival_ms >= ms);
                first.unwrap_or(self.records.len())
            }
        };
        let is_trimmed = matches!(at, IteratorAt::Record(_)) && index < self.num_trimmed;
        if is_trimmed && self.is_silent_at_trimmed.is_some() {
            return SILENT.to_owned();
        }
        index.max(self.num_trimmed).to_string()
    }

    pub(crate) fn read(&self, iterator: &str, limit: u32) -> Answer {
        if let Some(millis_behind_latest) = self.is_silent_at_trimmed.filter(|_| iterator == SILENT)
        {
            return Answer {
                records: Vec::new(),
                next_iterator: Some(iterator.to_owned()),
                millis_behind_latest,
                children: Vec::new(),
                server_ms: Some(SERVER_MS),
            };
        }
        let from = iterator.parse::<usize>().unwrap().max(self.num_trimmed);
        let limited = (from + limit as usize).min(self.records.len()).max(from);
        let mut num_bytes = 0;
        let fitting = self.records[from.min(limited)..limited].iter().take_while(|record| {
            num_bytes += record.data.len() as u64;
            num_bytes <= ANSWER_BYTES_MAX
        });
        let to = from + fitting.count();
        let is_end = to == self.records.len() && self.children.is_some();
        Answer {
            records: self.records[from.min(to)..to].to_vec(),
            next_iterator: (!is_end).then(|| to.to_string()),
            millis_behind_latest: (self.records.len() - to) as i64,
            children: if is_end { self.children.clone().unwrap_or_default() } else { Vec::new() },
            server_ms: Some(SERVER_MS),
        }
    }
}

/// A Kinesis of many shards.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    shards: Mutex<BTreeMap<String, FakeShard>>,
}

impl Fake {
    pub(crate) fn with(shards: impl IntoIterator<Item = (&'static str, FakeShard)>) -> Self {
        let shards = shards.into_iter().map(|(id, shard)| (id.to_owned(), shard)).collect();
        Self { shards: Mutex::new(shards) }
    }

    pub(crate) fn shards(&self) -> MutexGuard<'_, BTreeMap<String, FakeShard>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn refuse(kind: FailureKind) -> CallFailure {
    CallFailure { kind, error: Error::new(Code::AwsOther, format!("{kind:?}"), "none") }
}

#[async_trait]
impl Kinesis for Fake {
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure> {
        let shards = self.shards();
        let shard = shards.get(&*shard.shard_id).ok_or_else(|| refuse(FailureKind::Missing))?;
        Ok(shard.make_iterator(at))
    }

    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator: &str,
        limit: u32,
    ) -> Result<Answer, CallFailure> {
        let shards = self.shards();
        let shard = shards.get(&*shard.shard_id).ok_or_else(|| refuse(FailureKind::Missing))?;
        Ok(shard.read(iterator, limit))
    }
}
