//! Kinesis as a receiver needs it: two calls, answers in Millrace's own types, errors by kind.
//!
//! Promises: an implementation never retries and never waits between calls: the shard's core
//! decides both. Every call has a deadline. Owned by the receiver. Never does: interpret records.

mod sdk;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_common::Error;
use millrace_common::position::SequenceNumber;

pub use self::sdk::SdkKinesis;

/// Most records that one answer may hold.
pub const RECORDS_PER_ANSWER_MAX: u32 = 10_000;
/// Most payload bytes that one answer holds: 10 MiB.
pub const ANSWER_BYTES_MAX: u64 = 10 << 20;

/// The shard a call is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardRef {
    /// The stream's name.
    pub stream_name: Arc<str>,
    /// The stream's ARN; empty when it is not known.
    pub stream_arn: Arc<str>,
    /// The shard's id.
    pub shard_id: Arc<str>,
}

impl fmt::Display for ShardRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} shard {}", self.stream_name, self.shard_id)
    }
}

/// Where an iterator starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IteratorAt {
    /// At this record: it comes first, if the shard still holds it.
    Record(SequenceNumber),
    /// At the oldest record the shard still holds.
    TrimHorizon,
    /// At the first record that arrived at this time or later; Unix time in milliseconds.
    Timestamp(i64),
}

/// A record as Kinesis holds it; an aggregate is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub sequence_number: SequenceNumber,
    /// Approximate arrival, Unix time in milliseconds; 0 when Kinesis gave none.
    pub arrival_ms: i64,
    /// Its partition key; none on streams without keys.
    pub partition_key: Option<String>,
    /// Its payload.
    pub data: Bytes,
}

/// A shard that took over from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildShard {
    /// Its id.
    pub shard_id: String,
    /// The shards it took over from.
    pub parents: Vec<String>,
}

/// One answer of `GetRecords`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Records in the order of their sequence numbers; may be empty with data behind it.
    pub records: Vec<Record>,
    /// Where to go on; none when the shard has ended and everything of it was given.
    pub next_iterator: Option<String>,
    /// How far the answer is behind the shard's newest record, in milliseconds.
    pub millis_behind_latest: i64,
    /// Given with the end of a shard.
    pub children: Vec<ChildShard>,
    /// HTTP Date of the answer, Unix time in milliseconds.
    pub server_ms: Option<i64>,
}

impl Answer {
    /// Payload bytes of all records.
    #[must_use]
    pub fn num_bytes(&self) -> u64 {
        self.records.iter().map(|record| record.data.len() as u64).sum()
    }
}

/// What kind of failure a call met; the shard's core decides by this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Too many calls or bytes, on the stream or its key.
    Throttled,
    /// The iterator is too old, or no iterator of this shard any more.
    ExpiredIterator,
    /// Kinesis does not take the position asked for.
    InvalidPosition,
    /// The stream or the shard does not exist.
    Missing,
    /// The action, or the stream's key, is not allowed to these credentials, or they are expired.
    Forbidden,
    /// No answer, half an answer, or a failure of the service.
    Unavailable,
}

/// A call that failed: its kind for the core, its error for people.
#[derive(Debug)]
pub struct CallFailure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What to say about it.
    pub error: Error,
}

/// The two calls of a polling consumer.
#[async_trait]
pub trait Kinesis: fmt::Debug + Send + Sync + 'static {
    /// Makes an iterator.
    ///
    /// # Errors
    /// [`CallFailure`] with the kind by the error's name.
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure>;

    /// Reads at most `limit` records.
    ///
    /// # Errors
    /// [`CallFailure`] with the kind by the error's name.
    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator: &str,
        limit: u32,
    ) -> Result<Answer, CallFailure>;
}
