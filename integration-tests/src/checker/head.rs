//! The head as it was seen at one moment, in a form that can be kept in a file.
//!
//! Never does: write a head, or look at one but by a consistent read.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::head::{self, Head, StartFrom};
use millrace_common::position::SequenceNumber;
use serde::{Deserialize, Serialize};

use super::CheckError;

/// A sequence number that is written as its decimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Number(pub SequenceNumber);

impl TryFrom<String> for Number {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: millrace_common::Error| error.to_string())
    }
}

impl From<Number> for String {
    fn from(number: Number) -> Self {
        number.0.to_string()
    }
}

/// A shard of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeenShard {
    /// Name of the source.
    pub source: String,
    /// ARN of its stream.
    pub stream: String,
    /// When the stream was created, Unix time in milliseconds.
    pub created_ms: i64,
    /// Shard id.
    pub shard: String,
}

/// How far a shard is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPosition {
    /// The last record committed.
    pub number: Option<Number>,
    /// Up to when the shard is known to hold nothing more, Unix time in milliseconds.
    pub empty_until_ms: i64,
    /// True when all of a closed shard is committed.
    pub ended: bool,
}

/// An object of the head's batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenUpload {
    /// Bucket of the object.
    pub bucket: String,
    /// Key of the object.
    pub key: String,
    /// Rows in the object.
    pub rows: u64,
}

/// Where a source began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenStart {
    /// Records that arrived before this Unix time in milliseconds are not expected; none: all are.
    pub from_ms: Option<i64>,
    /// Shards that were open then; their ancestors are not read.
    pub open_shards: BTreeSet<String>,
}

/// A head at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenHead {
    /// Epoch of the driver that owns it.
    pub epoch: u64,
    /// The last committed batch.
    pub batch: u64,
    /// Id of the commit that wrote it.
    pub commit_id: String,
    /// Positions of all shards, in order.
    pub positions: Vec<(SeenShard, SeenPosition)>,
    /// Objects of the batch, dead letters included.
    pub files: Vec<SeenUpload>,
    /// Where each source began.
    pub starts: BTreeMap<String, SeenStart>,
}

impl SeenPosition {
    /// True when the record of this number is committed.
    #[must_use]
    pub fn holds(self, number: SequenceNumber) -> bool {
        self.ended || self.number.is_some_and(|last| number <= last.0)
    }
}

impl SeenHead {
    /// The position of a shard in the newest stream of its source; none when it has no entry.
    #[must_use]
    pub fn position(&self, source: &str, shard: &str) -> Option<SeenPosition> {
        let of_shard =
            |(key, _): &&(SeenShard, SeenPosition)| key.source == source && key.shard == shard;
        let newest = self.positions.iter().filter(of_shard).max_by_key(|(key, _)| key.created_ms);
        newest.map(|(_, position)| *position)
    }
}

impl From<Head> for SeenHead {
    fn from(head: Head) -> Self {
        let positions = head.positions.into_iter().map(|(key, position)| {
            let shard = SeenShard {
                source: key.source,
                stream: key.stream_arn,
                created_ms: key.stream_created_ms,
                shard: key.shard_id,
            };
            let number = position.sequence_number.map(Number);
            let (empty_until_ms, ended) = (position.empty_until_ms, position.ended);
            (shard, SeenPosition { number, empty_until_ms, ended })
        });
        let files = head.pending.into_iter().map(|upload| {
            let (bucket, key, rows) = (upload.bucket, upload.key, upload.rows);
            SeenUpload { bucket, key, rows }
        });
        let starts = head.starts.into_iter().map(|(source, start)| {
            let seen = match start.from {
                StartFrom::Earliest => SeenStart::default(),
                StartFrom::Latest { open_shards } => {
                    SeenStart { from_ms: Some(start.fixed_ms), open_shards }
                }
                StartFrom::Timestamp { at_ms, open_shards } => {
                    SeenStart { from_ms: Some(at_ms), open_shards }
                }
                StartFrom::TakenOver { .. } => SeenStart::default(),
            };
            (source, seen)
        });
        Self {
            epoch: head.epoch,
            batch: head.batch,
            commit_id: head.commit_id,
            positions: positions.collect(),
            files: files.collect(),
            starts: starts.collect(),
        }
    }
}

/// Reads the head of an application; none when there is no item.
///
/// # Errors
/// When DynamoDB does not answer, or the item is not a head.
pub async fn read(
    client: &aws_sdk_dynamodb::Client,
    table: &str,
    application: &str,
) -> Result<Option<SeenHead>, CheckError> {
    let unreadable = |error: millrace_common::Error| {
        CheckError(format!("the head of {application} in table {table}: {error}"))
    };
    let name = application.parse().map_err(unreadable)?;
    let found = head::read(client, table, &name).await.map_err(unreadable)?;
    Ok(found.map(SeenHead::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_file() {
        let number = "49590338271490256608559692538361571095921575989136588898".parse().unwrap();
        let shard = SeenShard {
            source: "logs".into(),
            stream: "arn".into(),
            created_ms: 5,
            shard: "shardId-000000000000".into(),
        };
        let position =
            SeenPosition { number: Some(Number(number)), empty_until_ms: 1, ended: true };
        let head = SeenHead { epoch: 2, positions: vec![(shard, position)], ..SeenHead::default() };
        let text = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<SeenHead>(&text).unwrap(), head);
        assert_eq!(head.position("logs", "shardId-000000000000"), Some(position));
        assert_eq!(head.position("other", "shardId-000000000000"), None);
        assert!(serde_json::from_str::<Number>("\"ten\"").is_err());
    }
}
