//! The truth about a stream: every record of every shard, open and closed, read by the SDK from the
//! oldest on, to be held against what an application wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_kinesis::types::ShardIteratorType;
use serde_json::Value;

use crate::aws::Endpoint;
use crate::objects::Object;

/// A record's name in its stream: shard and sequence number.
pub type RecordKey = (String, String);

/// The query whose rows [`written`] reads, for a source called `logs` of format text.
pub const RECORDS: &str =
    "SELECT _shard_id AS shard, _sequence_number AS seq, line AS data FROM logs";

/// Between two reads of one shard: Kinesis allows five a second, and the application reads too.
const BETWEEN_READS: Duration = Duration::from_millis(500);

/// Every record of the stream with its data, once nobody puts any more.
///
/// # Panics
/// When the stream can not be read.
pub async fn records(aws: &Endpoint, stream: &str) -> BTreeMap<RecordKey, String> {
    let kinesis = aws.kinesis();
    let listed = kinesis.list_shards().stream_name(stream).send().await;
    let listed = listed.unwrap_or_else(|error| panic!("list shards of {stream}: {error:?}"));
    let mut found = BTreeMap::new();
    for shard in listed.shards() {
        let shard_id = shard.shard_id();
        let iterator = kinesis
            .get_shard_iterator()
            .stream_name(stream)
            .shard_id(shard_id)
            .shard_iterator_type(ShardIteratorType::TrimHorizon)
            .send()
            .await
            .unwrap_or_else(|error| panic!("iterator of {shard_id}: {error:?}"));
        let mut next = iterator.shard_iterator;
        while let Some(iterator) = next {
            let page = kinesis.get_records().shard_iterator(&iterator).send().await;
            let Ok(page) = page else {
                // Throttled, since the application reads the same shard.
                tokio::time::sleep(BETWEEN_READS).await;
                next = Some(iterator);
                continue;
            };
            for record in page.records() {
                // A number: ministack writes it with leading zeros, which Kinesis does not.
                let number = record.sequence_number().trim_start_matches('0').to_owned();
                let key = (shard_id.to_owned(), number);
                let data = String::from_utf8_lossy(record.data().as_ref()).into_owned();
                found.insert(key, data);
            }
            let at_end = page.records().is_empty() && page.millis_behind_latest() == Some(0);
            next = page.next_shard_iterator.filter(|_| !at_end);
        }
    }
    found
}

/// Asserts that the rows of [`RECORDS`] over all objects are exactly the records of the stream,
/// each once, with its data.
///
/// # Panics
/// Naming the first records that are lost, doubled, invented or changed, with their objects.
pub fn assert_each_record_once(objects: &[Object], truth: &BTreeMap<RecordKey, String>) {
    let mut seen: BTreeMap<RecordKey, &str> = BTreeMap::new();
    let mut wrong = Vec::new();
    for object in objects {
        for row in &object.rows {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let key = (text("shard"), text("seq"));
            match truth.get(&key) {
                None => wrong.push(format!("invented {key:?} in {}", object.key)),
                Some(data) if *data != text("data") => {
                    wrong.push(format!("changed {key:?} in {}: {row}", object.key));
                }
                Some(_) => {}
            }
            if let Some(first) = seen.insert(key.clone(), &object.key) {
                wrong.push(format!("doubled {key:?} in {first} and {}", object.key));
            }
        }
    }
    let lost = truth.keys().filter(|key| !seen.contains_key(*key));
    wrong.extend(lost.map(|key| format!("lost {key:?}: {:?}", truth[key])));
    let num_rows: usize = objects.iter().map(|object| object.rows.len()).sum();
    assert!(
        wrong.is_empty(),
        "{} wrong; {num_rows} rows of {} records: {}",
        wrong.len(),
        truth.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
}

/// How many rows stand in all objects.
#[must_use]
pub fn num_rows(objects: &[Object]) -> usize {
    objects.iter().map(|object| object.rows.len()).sum()
}

/// A row of [`RECORDS`], for tests of the check itself.
#[must_use]
pub fn row(shard: &str, seq: &str, data: &str) -> Value {
    serde_json::json!({"shard": shard, "seq": seq, "data": data})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> BTreeMap<RecordKey, String> {
        let record = |seq: &str, data: &str| (("s".to_owned(), seq.to_owned()), data.to_owned());
        BTreeMap::from([record("1", "a"), record("2", "b")])
    }

    fn check(rows: &[Value]) {
        let object = Object { key: "o".to_owned(), rows: rows.to_vec() };
        assert_each_record_once(&[object], &truth());
    }

    #[test]
    fn what_is_there_once_passes() {
        check(&[row("s", "2", "b"), row("s", "1", "a")]);
    }

    #[test]
    #[should_panic(expected = "lost (\"s\", \"2\")")]
    fn a_lost_record_is_named() {
        check(&[row("s", "1", "a")]);
    }

    #[test]
    #[should_panic(expected = "doubled (\"s\", \"1\") in o and o")]
    fn a_doubled_record_is_named() {
        check(&[row("s", "1", "a"), row("s", "1", "a"), row("s", "2", "b")]);
    }

    #[test]
    #[should_panic(expected = "changed (\"s\", \"2\")")]
    fn a_changed_record_is_named() {
        check(&[row("s", "1", "a"), row("s", "2", "c")]);
    }

    #[test]
    #[should_panic(expected = "invented (\"s\", \"3\")")]
    fn an_invented_record_is_named() {
        check(&[row("s", "1", "a"), row("s", "2", "b"), row("s", "3", "")]);
    }
}
