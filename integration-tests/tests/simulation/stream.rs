//! The stream as receivers and the driver see it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_common::application::S3Location;
use millrace_common::clock::Clock as _;
use millrace_common::error::Error;
use millrace_common::position::{HashKeyRange, SequenceNumber};
use millrace_worker::driver::kcl::LeaseTables;
use millrace_worker::driver::kcl::core::{Found, Lease};
use millrace_worker::driver::receivers::core::Stream;
use millrace_worker::driver::receivers::discovery::{Description, Filter, Shards, Streams};
use millrace_worker::driver::receivers::lineage::ListedShard;
use millrace_worker::driver::start::check::Buckets;
use millrace_worker::executor::receiver::kinesis::{
    Answer, CallFailure, ChildShard, FailureKind, IteratorAt, Kinesis, Record, ShardRef,
};

use crate::network::{EPOCH_MS, SimulatedClock};
use crate::world::{STREAM, Shard, World, no_answer};

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

fn stream() -> Stream {
    Stream {
        arn: format!("arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}"),
        name: STREAM.to_owned(),
        created_ms: EPOCH_MS - 3_600_000,
        keyed: true,
    }
}

/// A Date has whole seconds.
fn server_ms() -> i64 {
    SimulatedClock.now_ms() / 1_000 * 1_000
}

#[async_trait]
impl Streams for World {
    async fn describe(&self, _: &str) -> Result<Description, Error> {
        self.reach().await?;
        let retention = Duration::from_secs(86_400);
        Ok(Description { stream: stream(), active: true, status: "ACTIVE".into(), retention })
    }

    async fn list(&self, _: &Stream, _: Filter) -> Result<Shards, Error> {
        self.reach().await?;
        let listed = |(id, shard): (&String, &Shard)| ListedShard {
            shard_id: id.clone(),
            parents: shard.parents.clone(),
            range: HashKeyRange { starting: 0, ending: u128::MAX },
            open: !shard.is_closed,
        };
        let shards = self.lock().shards.iter().map(listed).collect();
        Ok(Shards { shards, server_ms: server_ms() })
    }
}

/// No source is taken over here.
#[async_trait]
impl LeaseTables for World {
    async fn leases(&self, table: &str) -> Result<Vec<Lease>, Error> {
        Err(Error::internal(format!("there is no table {table}")))
    }

    async fn look(&self, _: &Stream, shard_id: &str, _: SequenceNumber) -> Result<Found, Error> {
        Err(Error::internal(format!("nobody looks into {shard_id}")))
    }
}

#[async_trait]
impl Buckets for World {
    async fn check(&self, _: &S3Location) -> Result<(), Error> {
        self.reach().await
    }
}

fn failure(kind: FailureKind) -> CallFailure {
    CallFailure { kind, error: no_answer() }
}

/// An iterator is the index of the next record and when it was made.
fn iterator(index: usize) -> String {
    format!("{index}@{}", SimulatedClock.now_ms())
}

#[async_trait]
impl Kinesis for World {
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure> {
        self.reach().await.map_err(|_| failure(FailureKind::Unavailable))?;
        let state = self.lock();
        let found = state.shards.get(&*shard.shard_id).ok_or(failure(FailureKind::Missing))?;
        let index = match at {
            IteratorAt::TrimHorizon => 0,
            IteratorAt::Record(number) => {
                let number: usize = number.to_string().parse().expect("small in a simulation");
                number - 1
            }
            IteratorAt::Timestamp(ms) => found.arrivals.partition_point(|arrival| *arrival < ms),
        };
        Ok(iterator(index))
    }

    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator_text: &str,
        limit: u32,
    ) -> Result<Answer, CallFailure> {
        self.reach().await.map_err(|_| failure(FailureKind::Unavailable))?;
        let (throttled, expired, empty, most) = {
            let mut state = self.lock();
            let percent = state.trouble_percent / 3;
            (
                state.strikes(percent),
                state.strikes(percent / 2),
                state.strikes(percent),
                1 + state.pick(200),
            )
        };
        if throttled {
            return Err(failure(FailureKind::Throttled));
        }
        if expired {
            return Err(failure(FailureKind::ExpiredIterator));
        }
        let (index, _) = iterator_text.split_once('@').expect("made above");
        let from: usize = index.parse().expect("made above");
        let state = self.lock();
        let found = state.shards.get(&*shard.shard_id).ok_or(failure(FailureKind::Missing))?;
        let total = found.arrivals.len();
        let count = if empty { 0 } else { most.min(limit as usize).min(total - from) };
        let to = from + count;
        let record = |place: usize| Record {
            sequence_number: number(place + 1),
            arrival_ms: found.arrivals[place],
            partition_key: Some("key".to_owned()),
            data: Bytes::from(format!("{} {}", shard.shard_id, place + 1)),
        };
        let is_end = to == total && found.is_closed && !empty;
        let child = |id: &String| ChildShard {
            shard_id: id.clone(),
            parents: state.shards[id].parents.clone(),
        };
        Ok(Answer {
            records: (from..to).map(record).collect(),
            next_iterator: (!is_end).then(|| iterator(to)),
            millis_behind_latest: if to == total { 0 } else { 1_000 },
            children: if is_end { found.children.iter().map(child).collect() } else { Vec::new() },
            server_ms: Some(server_ms()),
        })
    }
}

fn number(value: usize) -> SequenceNumber {
    value.to_string().parse().expect("digits are a sequence number")
}
