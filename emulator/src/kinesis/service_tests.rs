//! Tests of the operations as a client sees them, under a turned clock.

use super::*;
use crate::clock::ManualClock;
use serde_json::{Value, json};
use tempfile::TempDir;

const NOW_MS: u64 = 1_700_000_000_000;
const SHARD: &str = "shardId-000000000000";

struct Bench {
    kinesis: Kinesis,
    clock: ManualClock,
    _dir: TempDir,
}

impl Bench {
    /// A service with the stream `s` of one shard.
    fn new(limited: bool) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = ManualClock::at(NOW_MS);
        let options = Options {
            dir: dir.path().to_owned(),
            region: "eu-west-1".into(),
            account_id: "123456789012".into(),
            limited,
            transition_ms: 500,
        };
        let kinesis = Kinesis::open(options, Arc::new(clock.clone())).expect("open");
        let bench = Self { kinesis, clock, _dir: dir };
        bench.ok("CreateStream", json!({ "StreamName": "s", "ShardCount": 1 }));
        bench
    }

    fn active(limited: bool) -> Self {
        let bench = Self::new(limited);
        bench.clock.advance(500);
        bench
    }

    fn call(&self, operation: &str, request: Value) -> (u16, Value) {
        let (status, body) = self.kinesis.call(operation, request.to_string().as_bytes());
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).expect("JSON")
        };
        (status, body)
    }

    fn ok(&self, operation: &str, request: Value) -> Value {
        let (status, body) = self.call(operation, request);
        assert_eq!(status, 200, "{operation}: {:.300}", body.to_string());
        body
    }

    fn refused(&self, operation: &str, request: Value) -> String {
        let (status, body) = self.call(operation, request);
        assert_eq!(status, 400, "{operation}: {:.300}", body.to_string());
        body["__type"].as_str().expect("a type").to_owned()
    }

    fn put(&self, size: usize) -> Value {
        let data = base64_simd::STANDARD.encode_to_string(vec![b'x'; size]);
        self.ok("PutRecord", json!({ "StreamName": "s", "PartitionKey": "k", "Data": data }))
    }

    fn iterator(&self, kind: &str) -> String {
        let answer = self.ok(
            "GetShardIterator",
            json!({ "StreamName": "s", "ShardId": SHARD, "ShardIteratorType": kind }),
        );
        answer["ShardIterator"].as_str().expect("iterator").to_owned()
    }
}

#[test]
fn a_stream_is_creating_then_active_then_updating() {
    let bench = Bench::new(false);
    let status = || {
        let answer = bench.ok("DescribeStreamSummary", json!({ "StreamName": "s" }));
        let summary = &answer["StreamDescriptionSummary"];
        assert_eq!(summary["StreamARN"], "arn:aws:kinesis:eu-west-1:123456789012:stream/s");
        summary["StreamStatus"].as_str().expect("status").to_owned()
    };
    assert_eq!(status(), "CREATING");
    let put = json!({ "StreamName": "s", "PartitionKey": "k", "Data": "" });
    assert_eq!(bench.refused("PutRecord", put.clone()), "ResourceNotFoundException");
    bench.clock.advance(500);
    assert_eq!(status(), "ACTIVE");
    let split = json!({ "StreamName": "s", "ShardToSplit": SHARD, "NewStartingHashKey": "10" });
    bench.ok("SplitShard", split.clone());
    assert_eq!(status(), "UPDATING");
    assert_eq!(bench.refused("SplitShard", split), "ResourceInUseException");
    bench.ok("PutRecord", put);
    bench.clock.advance(500);
    assert_eq!(status(), "ACTIVE");
}

#[test]
fn a_deleted_stream_is_deleting_then_gone_and_can_be_made_again() {
    let bench = Bench::active(false);
    let named = json!({ "StreamName": "s" });
    bench.put(1);
    let iterator = bench.iterator("TRIM_HORIZON");
    bench.ok("DeleteStream", named.clone());
    let answer = bench.ok("DescribeStreamSummary", named.clone());
    assert_eq!(answer["StreamDescriptionSummary"]["StreamStatus"], "DELETING");
    bench.ok("GetRecords", json!({ "ShardIterator": iterator }));
    assert_eq!(bench.refused("DeleteStream", named.clone()), "ResourceInUseException");
    let again = json!({ "StreamName": "s", "ShardCount": 2 });
    assert_eq!(bench.refused("CreateStream", again.clone()), "ResourceInUseException");
    bench.clock.advance(500);
    assert_eq!(bench.ok("ListStreams", json!({}))["StreamNames"], json!([]));
    assert_eq!(bench.refused("DescribeStreamSummary", named), "ResourceNotFoundException");
    bench.ok("CreateStream", again);
    let iterator = json!({ "ShardIterator": iterator });
    assert_eq!(bench.refused("GetRecords", iterator), "ResourceNotFoundException");
}

#[test]
fn time_and_transitions_move_when_told() {
    let bench = Bench::active(false);
    bench.put(1);
    assert_eq!(bench.kinesis.moved_time_ms(), None);
    bench.kinesis.advance_clock(25 * 3_600_000);
    assert_eq!(bench.kinesis.moved_time_ms(), Some(NOW_MS + 500 + 25 * 3_600_000));
    let iterator = json!({ "ShardIterator": bench.iterator("TRIM_HORIZON") });
    assert_eq!(bench.ok("GetRecords", iterator)["Records"], json!([]), "past the retention");
    bench.kinesis.set_transition(10_000);
    bench.ok("CreateStream", json!({ "StreamName": "slow", "ShardCount": 1 }));
    bench.clock.advance(9_999);
    let slow = bench.ok("DescribeStreamSummary", json!({ "StreamName": "slow" }));
    assert_eq!(slow["StreamDescriptionSummary"]["StreamStatus"], "CREATING");
}

#[test]
fn an_iterator_expires_after_five_minutes_or_when_told() {
    let bench = Bench::active(false);
    let get = |iterator: &str| json!({ "ShardIterator": iterator });
    let iterator = bench.iterator("TRIM_HORIZON");
    bench.clock.advance(300_000);
    bench.ok("GetRecords", get(&iterator));
    bench.clock.advance(1);
    assert_eq!(bench.refused("GetRecords", get(&iterator)), "ExpiredIteratorException");
    let iterator = bench.iterator("TRIM_HORIZON");
    bench.kinesis.expire_iterators();
    assert_eq!(bench.refused("GetRecords", get(&iterator)), "ExpiredIteratorException");
    bench.ok("GetRecords", get(&bench.iterator("TRIM_HORIZON")));
}

#[test]
fn millis_behind_latest_is_the_age_of_what_is_unread() {
    let bench = Bench::active(false);
    bench.put(1);
    bench.clock.advance(2000);
    bench.put(1);
    bench.clock.advance(500);
    let get = |iterator: &str| json!({ "ShardIterator": iterator, "Limit": 1 });
    let first = bench.ok("GetRecords", get(&bench.iterator("TRIM_HORIZON")));
    assert_eq!(first["MillisBehindLatest"], 500);
    let next = first["NextShardIterator"].as_str().expect("open");
    let second = bench.ok("GetRecords", get(next));
    assert_eq!(second["MillisBehindLatest"], 0);
    assert_eq!(second["Records"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_stuck_iterator_gives_nothing_where_the_record_is_trimmed_and_only_there() {
    let bench = Bench::active(false);
    bench.put(1);
    let first = bench.ok("GetRecords", json!({ "ShardIterator": bench.iterator("TRIM_HORIZON") }));
    let at = json!({
        "StreamName": "s",
        "ShardId": SHARD,
        "ShardIteratorType": "AT_SEQUENCE_NUMBER",
        "StartingSequenceNumber": first["Records"][0]["SequenceNumber"],
    });
    let read = || {
        let (status, body) = bench.kinesis.stuck_iterator(at.to_string().as_bytes());
        assert_eq!(status, 200);
        let iterator: Value = serde_json::from_slice(&body).expect("JSON");
        bench.ok("GetRecords", iterator)
    };
    assert_eq!(read()["Records"].as_array().map(Vec::len), Some(1), "it is still there");
    bench.kinesis.advance_clock(25 * 3_600_000);
    bench.put(1);
    let mut answer = read();
    for _ in 0..3 {
        assert_eq!(answer["Records"], json!([]));
        assert_eq!(answer["MillisBehindLatest"], 24 * 3_600_000);
        answer = bench.ok("GetRecords", json!({ "ShardIterator": answer["NextShardIterator"] }));
    }
    let oldest = bench.ok("GetRecords", json!({ "ShardIterator": bench.iterator("TRIM_HORIZON") }));
    assert_eq!(oldest["Records"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_empty_page_loses_no_record() {
    let bench = Bench::active(false);
    bench.put(1);
    let get = json!({ "ShardIterator": bench.iterator("TRIM_HORIZON") });
    let (status, body) = bench.kinesis.empty_page(get.to_string().as_bytes());
    assert_eq!(status, 200);
    let empty: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(empty["Records"], json!([]));
    assert_ne!(empty["MillisBehindLatest"], 0);
    let rest = bench.ok("GetRecords", json!({ "ShardIterator": empty["NextShardIterator"] }));
    assert_eq!(rest["Records"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_full_answer_blocks_the_shard() {
    let bench = Bench::active(true);
    for _ in 0..11 {
        bench.put(1_000_000);
        bench.clock.advance(1000);
    }
    let get = json!({ "ShardIterator": bench.iterator("TRIM_HORIZON") });
    bench.ok("GetRecords", get.clone());
    bench.clock.advance(3900);
    let refused = bench.refused("GetRecords", get.clone());
    assert_eq!(refused, "ProvisionedThroughputExceededException");
    bench.clock.advance(1100);
    bench.ok("GetRecords", get);
}

#[test]
fn retention_is_lengthened_and_shortened_within_bounds() {
    let bench = Bench::active(false);
    let hours = |hours: u64| json!({ "StreamName": "s", "RetentionPeriodHours": hours });
    bench.ok("IncreaseStreamRetentionPeriod", hours(48));
    let refused = bench.refused("IncreaseStreamRetentionPeriod", hours(24));
    assert_eq!(refused, "InvalidArgumentException");
    bench.ok("DecreaseStreamRetentionPeriod", hours(24));
    assert_eq!(bench.refused("DecreaseStreamRetentionPeriod", hours(23)), "ValidationException");
}

#[test]
fn a_trimmed_position_starts_at_the_oldest_record_that_is_left() {
    let bench = Bench::active(false);
    let first = bench.put(1)["SequenceNumber"].as_str().expect("number").to_owned();
    let second = bench.put(1)["SequenceNumber"].as_str().expect("number").to_owned();
    bench.kinesis.trim("s", SHARD, &second).expect("trim");
    let iterator = bench.ok(
        "GetShardIterator",
        json!({ "StreamName": "s", "ShardId": SHARD, "ShardIteratorType": "AT_SEQUENCE_NUMBER",
                "StartingSequenceNumber": first }),
    );
    let read = bench.ok("GetRecords", json!({ "ShardIterator": iterator["ShardIterator"] }));
    assert_eq!(read["Records"][0]["SequenceNumber"], second.as_str());
}

#[test]
fn larger_records_pass_where_the_stream_takes_them() {
    let bench = Bench::active(false);
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/s";
    bench.ok("UpdateMaxRecordSize", json!({ "StreamARN": arn, "MaxRecordSizeInKiB": 10_240 }));
    bench.put(10_000_000);
    let too_large = json!({ "StreamARN": arn, "MaxRecordSizeInKiB": 10_241 });
    assert_eq!(bench.refused("UpdateMaxRecordSize", too_large), "ValidationException");
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let bench = Bench::active(false);
    assert_eq!(bench.refused("SubscribeToShard", json!({})), "UnknownOperationException");
    assert_eq!(bench.refused("PutRecord", json!({ "Data": 5 })), "SerializationException");
    let put = json!({ "StreamName": "s", "PartitionKey": "k", "Data": "not base64!" });
    assert_eq!(bench.refused("PutRecord", put), "SerializationException");
}
