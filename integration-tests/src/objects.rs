//! What stands in S3 under a prefix: every object is listed, read, decompressed by its ending and
//! parsed, so that sums are over what a reader of the bucket would see.

use std::io::Read as _;

use serde_json::Value;

use crate::aws::Endpoint;
use crate::words::Counts;

/// One object of JSON lines.
#[derive(Debug)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its rows.
    pub rows: Vec<Value>,
}

/// Keys of all objects under `prefix`, in order.
///
/// # Panics
/// When the bucket can not be listed.
pub async fn keys(aws: &Endpoint, bucket: &str, prefix: &str) -> Vec<String> {
    let s3 = aws.s3();
    let mut keys = Vec::new();
    let mut token = None;
    loop {
        let page = s3
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_continuation_token(token)
            .send()
            .await
            .unwrap_or_else(|error| panic!("list s3://{bucket}/{prefix}: {error:?}"));
        keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        match page.next_continuation_token() {
            Some(next) => token = Some(next.to_owned()),
            None => return keys,
        }
    }
}

/// The bytes of one object, decompressed when its key ends in `.gz` or `.zst`.
///
/// # Panics
/// When it can not be read.
pub async fn bytes(aws: &Endpoint, bucket: &str, key: &str) -> Vec<u8> {
    let answer = aws.s3().get_object().bucket(bucket).key(key).send().await;
    let answer = answer.unwrap_or_else(|error| panic!("get s3://{bucket}/{key}: {error:?}"));
    let body = answer.body.collect().await;
    let raw = body.unwrap_or_else(|error| panic!("read s3://{bucket}/{key}: {error:?}"));
    let raw = raw.into_bytes();
    if key.ends_with(".gz") {
        let mut plain = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(raw.as_ref()).read_to_end(&mut plain);
        read.unwrap_or_else(|error| panic!("{key} is not gzip: {error}"));
        plain
    } else if key.ends_with(".zst") {
        zstd::decode_all(raw.as_ref()).unwrap_or_else(|error| panic!("{key}: {error}"))
    } else {
        raw.to_vec()
    }
}

/// Every object under `prefix` as JSON lines.
///
/// # Panics
/// When one can not be read, or holds a line that is not JSON.
pub async fn json_lines(aws: &Endpoint, bucket: &str, prefix: &str) -> Vec<Object> {
    let mut objects = Vec::new();
    for key in keys(aws, bucket, prefix).await {
        let bytes = bytes(aws, bucket, &key).await;
        let rows = serde_json::Deserializer::from_slice(&bytes).into_iter();
        let rows = rows.map(|row| row.unwrap_or_else(|error| panic!("{key}: {error}"))).collect();
        objects.push(Object { key, rows });
    }
    objects
}

/// Sums `{"word": W, "n": N}` over all rows of all objects.
///
/// # Panics
/// When a row has another shape.
#[must_use]
pub fn word_counts(objects: &[Object]) -> Counts {
    let mut counts = Counts::new();
    for object in objects {
        for row in &object.rows {
            let (word, n) = (row["word"].as_str(), row["n"].as_i64());
            let (Some(word), Some(n)) = (word, n) else { panic!("{}: {row}", object.key) };
            *counts.entry(word.to_owned()).or_default() += n;
        }
    }
    counts
}

/// Asserts that no two objects were written by different runs of one batch and task: the part of
/// each key before the run's id (`<application>-e<epoch>-b<batch>-t<task>`) stands once, and every
/// batch comes from one epoch.
///
/// # Panics
/// When a batch has visible output twice.
pub fn assert_each_batch_once(objects: &[Object]) {
    let mut epochs = std::collections::BTreeMap::<u64, u64>::new();
    let mut tasks = std::collections::BTreeSet::new();
    for object in objects {
        let name = object.key.rsplit('/').next().expect("a key is not empty");
        let number = |mark: &str| {
            let tail = name.split(mark).skip(1).find(|tail| tail.starts_with(char::is_numeric));
            let digits = tail.map(|tail| tail.split(|c: char| !c.is_numeric()).next());
            let number = digits.flatten().and_then(|digits| digits.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("{} names no {mark}", object.key))
        };
        let (epoch, batch, task) = (number("-e"), number("-b"), number("-t"));
        let first = *epochs.entry(batch).or_insert(epoch);
        assert_eq!(first, epoch, "batch {batch} stands in epochs {first} and {epoch}");
        let partition = object.key.rsplit_once('/').map(|(directory, _)| directory.to_owned());
        let new = tasks.insert((batch, task, partition));
        assert!(new, "batch {batch}, task {task} stands twice: {}", object.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> Object {
        let row = serde_json::json!({"word": "a", "n": 2});
        Object { key: key.to_owned(), rows: vec![row] }
    }

    const RUN: &str = "3f0c4e0e-3b1f-4a55-9d5b-000000000000";

    #[test]
    fn counts_are_summed_over_objects() {
        let counts = word_counts(&[object("x"), object("y")]);
        assert_eq!(counts, Counts::from([("a".to_owned(), 4)]));
    }

    #[test]
    fn batches_that_stand_once_pass() {
        assert_each_batch_once(&[
            object(&format!("out/word-count-e1-b1-t0-{RUN}.json")),
            object(&format!("out/word-count-e1-b1-t1-{RUN}.json")),
            object(&format!("out/word-count-e2-b2-t0-{RUN}.json")),
        ]);
    }

    #[test]
    #[should_panic(expected = "batch 1 stands in epochs 1 and 2")]
    fn a_batch_of_two_epochs_is_found() {
        let keys = [format!("out/w-e1-b1-t0-{RUN}.json"), format!("out/w-e2-b1-t1-{RUN}.json")];
        assert_each_batch_once(&keys.map(|key| object(&key)));
    }

    #[test]
    #[should_panic(expected = "batch 1, task 0 stands twice")]
    fn a_task_that_wrote_twice_is_found() {
        let key = format!("out/w-e1-b1-t0-{RUN}.json");
        assert_each_batch_once(&[object(&key), object(&key)]);
    }
}
