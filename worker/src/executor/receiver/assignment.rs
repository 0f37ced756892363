//! A shard's assignment as the driver sends it, checked and in Millrace's types.

use std::sync::Arc;
use std::time::Duration;

use millrace_common::position::{HashKeyRange, Position, SequenceNumber, ShardKey};
use millrace_common::{Code, Error, Result};
use millrace_proto::v1;

use super::core::Start;
use super::kinesis::ShardRef;

/// A shard that a receiver reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Which shard, for the driver.
    pub shard: ShardKey,
    /// Which shard, for Kinesis.
    pub shard_ref: ShardRef,
    /// Number of the assignment; a later one is higher.
    pub generation: u64,
    /// Where the reading starts.
    pub start: Start,
    /// The shard's hash keys; none when the driver gave none.
    pub range: Option<HashKeyRange>,
    /// True when keys choose the shard.
    pub keyed: bool,
    /// How long the stream keeps records, in milliseconds; 0 when not known.
    pub retention_ms: i64,
    /// The position behind which records are known to be lost, and are passed over.
    pub gap_after: Option<Option<SequenceNumber>>,
    /// How long Kinesis is to be left alone: another executor may have read the shard until now.
    pub rest: Duration,
    /// Readers that share what the shard gives; at least one.
    pub num_readers: u32,
    /// Where the range that is asked for ends, Unix time in milliseconds; none: nowhere.
    pub until_ms: Option<i64>,
}

impl Assignment {
    /// From a message.
    ///
    /// # Errors
    /// [`Code::Protocol`] when a part is absent or makes no sense.
    pub fn from_proto(message: v1::ShardAssignment) -> Result<Self> {
        let shard = ShardKey::from_proto(message.shard)?;
        let shard_ref = shard_ref(&shard, &message.stream_name);
        let start = start_of(message.from.as_ref())?;
        Ok(Self {
            shard_ref,
            generation: message.generation,
            start,
            gap_after: message.skips_gap.then(|| start.tail()),
            rest: Duration::from_millis(message.rest_ms),
            num_readers: message.num_readers.max(1),
            until_ms: (message.until_ms > 0).then_some(message.until_ms),
            range: range_of(&message.starting_hash_key, &message.ending_hash_key)?,
            keyed: message.keyed,
            retention_ms: i64::try_from(message.retention_ms).unwrap_or(i64::MAX),
            shard,
        })
    }
}

/// The shard as Kinesis knows it.
#[must_use]
pub fn shard_ref(shard: &ShardKey, stream_name: &str) -> ShardRef {
    ShardRef {
        stream_name: Arc::from(stream_name),
        stream_arn: Arc::from(shard.stream_arn.as_str()),
        shard_id: Arc::from(shard.shard_id.as_str()),
    }
}

/// A range of hash keys; none when both ends are absent.
///
/// # Errors
/// When it is not a range.
pub fn range_of(starting: &str, ending: &str) -> Result<Option<HashKeyRange>> {
    if starting.is_empty() && ending.is_empty() {
        return Ok(None);
    }
    HashKeyRange::parse(starting, ending).map(Some)
}

/// Where a reading starts.
///
/// # Errors
/// [`Code::Protocol`] when the message says nothing.
pub fn start_of(message: Option<&v1::ReadFrom>) -> Result<Start> {
    match message.and_then(|message| message.at.as_ref()) {
        Some(v1::read_from::At::Position(position)) => {
            let position = Position::from_proto(position)?;
            let is_unread = position == Position::default();
            Ok(if is_unread { Start::TrimHorizon } else { Start::Position(position) })
        }
        Some(v1::read_from::At::TrimHorizon(_)) => Ok(Start::TrimHorizon),
        Some(v1::read_from::At::TimestampMs(ms)) => Ok(Start::Timestamp(*ms)),
        None => Err(Error::new(
            Code::Protocol,
            "a shard's reading has no start",
            "see that all processes run the same version",
        )),
    }
}
