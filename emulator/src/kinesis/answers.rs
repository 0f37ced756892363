//! The answers of the Kinesis API as JSON bytes.
//!
//! Descriptions go through serde; the two answers that carry many records are written straight into
//! a buffer, because they are what a benchmark measures.

use serde::Serialize;

use super::frame::Frame;
use super::sequence::{SequenceNumber, ShardStamp};
use super::stream::{Status, Stream};
use super::topology::{ShardEntry, shard_id};

/// Milliseconds as the seconds with fraction that AWS JSON uses for times.
pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HashKeyRange {
    starting_hash_key: String,
    ending_hash_key: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SequenceNumberRange {
    starting_sequence_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ending_sequence_number: Option<String>,
}

/// A shard in ListShards and DescribeStream.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ShardShape {
    shard_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_shard_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adjacent_parent_shard_id: Option<String>,
    hash_key_range: HashKeyRange,
    sequence_number_range: SequenceNumberRange,
}

impl ShardShape {
    pub(crate) fn new(stream: &Stream, entry: &ShardEntry) -> Self {
        let (start, end) = stream.sequence_range(entry);
        Self {
            shard_id: entry.id(),
            parent_shard_id: entry.parent.map(shard_id),
            adjacent_parent_shard_id: entry.adjacent_parent.map(shard_id),
            hash_key_range: hash_key_range(entry),
            sequence_number_range: SequenceNumberRange {
                starting_sequence_number: start.to_string(),
                ending_sequence_number: end.map(|n| n.to_string()),
            },
        }
    }
}

/// A child in GetRecords.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ChildShape {
    shard_id: String,
    parent_shards: Vec<String>,
    hash_key_range: HashKeyRange,
}

impl ChildShape {
    pub(crate) fn new(entry: &ShardEntry) -> Self {
        Self {
            shard_id: entry.id(),
            parent_shards: entry.parents().map(shard_id).collect(),
            hash_key_range: hash_key_range(entry),
        }
    }
}

fn hash_key_range(entry: &ShardEntry) -> HashKeyRange {
    HashKeyRange {
        starting_hash_key: entry.range.start.to_string(),
        ending_hash_key: entry.range.end.to_string(),
    }
}

/// The status as AWS spells it.
pub(crate) fn status_name(status: Status) -> &'static str {
    match status {
        Status::Creating { .. } => "CREATING",
        Status::Active => "ACTIVE",
        Status::Updating { .. } => "UPDATING",
        Status::Deleting { .. } => "DELETING",
    }
}

/// The capacity mode as AWS spells it.
pub(crate) fn mode_name(on_demand: bool) -> &'static str {
    if on_demand { "ON_DEMAND" } else { "PROVISIONED" }
}

/// Writes the records of a GetRecords answer, one by one.
#[derive(Debug)]
pub(crate) struct RecordsWriter {
    out: Vec<u8>,
    num: u64,
}

/// Room for the first records; the buffer doubles from there.
const FIRST_ROOM: usize = 64 << 10;

impl RecordsWriter {
    pub(crate) fn new() -> Self {
        let mut out = Vec::with_capacity(FIRST_ROOM);
        out.extend_from_slice(b"{\"Records\":[");
        Self { out, num: 0 }
    }

    pub(crate) fn push(&mut self, stamp: ShardStamp, frame: &Frame<'_>) {
        let out = &mut self.out;
        out.extend_from_slice(if self.num == 0 { b"{" } else { b",{" });
        out.extend_from_slice(b"\"ApproximateArrivalTimestamp\":");
        write_seconds(out, frame.arrival_ms);
        out.extend_from_slice(b",\"Data\":\"");
        base64_simd::STANDARD.encode_append(frame.data, out);
        out.extend_from_slice(b"\",\"PartitionKey\":");
        write_json_text(out, frame.key);
        out.extend_from_slice(b",\"SequenceNumber\":\"");
        SequenceNumber::new(stamp, frame.index, frame.arrival_ms / 1000).write_decimal(out);
        out.extend_from_slice(b"\"}");
        self.num += 1;
    }

    /// Ends the answer. `next` is the iterator to go on with, `children` those of an ended shard.
    pub(crate) fn finish(
        self,
        behind_ms: u64,
        next: Option<&str>,
        children: &[ChildShape],
    ) -> Vec<u8> {
        let mut out = self.out;
        out.extend_from_slice(b"],\"MillisBehindLatest\":");
        out.extend_from_slice(behind_ms.to_string().as_bytes());
        if let Some(next) = next {
            out.extend_from_slice(b",\"NextShardIterator\":");
            write_json_text(&mut out, next);
        }
        if !children.is_empty() {
            out.extend_from_slice(b",\"ChildShards\":");
            serde_json::to_writer(&mut out, children).expect("children are text and lists of text");
        }
        out.push(b'}');
        out
    }
}

fn write_seconds(out: &mut Vec<u8>, ms: u64) {
    let mut digits = [b'0'; 24];
    let (mut value, mut at) = (ms, digits.len());
    for place in 0.. {
        if place == 3 {
            at -= 1;
            digits[at] = b'.';
        }
        if place > 3 && value == 0 {
            break;
        }
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a JSON string. Text without anything to escape is copied as it is.
pub(crate) fn write_json_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        serde_json::to_writer(out, text).expect("writing to memory cannot fail");
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    proptest! {
        #[test]
        fn a_written_record_is_the_json_that_aws_sends(
            key in ".{0,30}",
            data in prop::collection::vec(any::<u8>(), 0..100),
            arrival_ms in 0u64..9_000_000_000_000,
        ) {
            let stamp = ShardStamp { shard: 1, created_s: 1_700_000_000 };
            let frame = Frame { index: 9, arrival_ms, key: &key, data: &data };
            let mut writer = RecordsWriter::new();
            writer.push(stamp, &frame);
            writer.push(stamp, &frame);
            let body = writer.finish(17, Some("next"), &[]);
            let value: Value = serde_json::from_slice(&body).expect("JSON");
            prop_assert_eq!(&value["MillisBehindLatest"], 17);
            prop_assert_eq!(&value["NextShardIterator"], "next");
            prop_assert_eq!(value.get("ChildShards"), None);
            let record = &value["Records"][1];
            prop_assert_eq!(record["PartitionKey"].as_str(), Some(key.as_str()));
            let encoded = base64_simd::STANDARD.encode_to_string(&data);
            prop_assert_eq!(record["Data"].as_str(), Some(encoded.as_str()));
            prop_assert_eq!(&record["ApproximateArrivalTimestamp"], seconds(arrival_ms));
            let number = SequenceNumber::new(stamp, 9, arrival_ms / 1000).to_string();
            prop_assert_eq!(record["SequenceNumber"].as_str(), Some(number.as_str()));
        }
    }
}
