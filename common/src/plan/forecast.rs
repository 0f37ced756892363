//! What an application writes and calls while its streams bring records: DynamoDB write units, S3
//! requests and files.
//!
//! Promises: the most that a batch of every interval can cost, said as such; a stream without records
//! costs nothing. Never does: guess at what an interval brings: parts above the first of a file are
//! not counted.

use serde::Serialize;

use super::line::{Line, Status, about, grouped};
use super::streams::SourceSum;
use crate::application::ApplicationSpec;

/// What DynamoDB takes for one item in a second, in write units.
const WRITE_UNITS_PER_ITEM: f64 = 1_000.0;
/// A write unit is a KiB begun.
const WRITE_UNIT: u64 = 1 << 10;
/// What S3 takes below one prefix in a second, in requests that write.
const S3_REQUESTS_PER_PREFIX: f64 = 3_500.0;
/// Requests of a file of one part: create, upload, complete.
const REQUESTS_PER_FILE: u64 = 3;

/// Bytes of a head without shards and files: names, epoch, owner, hashes.
const HEAD_BYTES: u64 = 900;
/// Bytes of a head for a shard: its position now and before the batch, packed.
const HEAD_BYTES_PER_SHARD: u64 = 40;
/// Bytes of a head for a file: its upload, mostly the id that S3 gives it.
const HEAD_BYTES_PER_FILE: u64 = 200;
/// What a head may hold in its own item; above it, it is written in chunks of this size.
const CHUNK_BYTES: u64 = 256 << 10;

/// Batches that are further apart are each marked as published, which writes the head once more.
const MARKED_AFTER_MS: u64 = 5_000;

const MS_PER_DAY: u64 = 24 * 3_600 * 1_000;

/// What a batch in every interval costs, at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// Batches an hour.
    pub batches_per_hour: u64,
    /// Tasks that write files.
    pub sink_tasks: u64,
    /// Files of a batch without partitions, or in each partition.
    pub files_per_batch: u64,
    /// Partitions that a task writes at most; 1 without `partition_by`.
    pub partitions_max: u64,
    /// Files of a batch at most.
    pub files_per_batch_max: u64,
    /// Files an hour, in one partition.
    pub files_per_hour: u64,
    /// Files a day, in one partition.
    pub files_per_day: u64,
    /// Files a day, in as many partitions as a task may write.
    pub files_per_day_max: u64,
    /// Requests to S3 of a batch in one partition.
    pub s3_requests_per_batch: u64,
    /// Requests to S3 an hour, in one partition.
    pub s3_requests_per_hour: u64,
    /// Bytes of the head in DynamoDB, in one partition.
    pub head_bytes: u64,
    /// Writes of the head for each batch: its commit, and where batches are seconds apart the mark
    /// that it is published.
    pub writes_per_batch: u64,
    /// DynamoDB write units of a batch.
    pub write_units_per_batch: u64,
    /// DynamoDB write units an hour.
    pub write_units_per_hour: u64,
}

pub(super) fn forecast(spec: &ApplicationSpec, sources: &[SourceSum], executors: u32) -> Forecast {
    let sink = &spec.sink;
    let tasks = match sink.files_per_batch {
        0 => executors,
        files => files.min(executors),
    };
    let files = u64::from(tasks);
    let partitions = if sink.partition_by.is_empty() { 1 } else { sink.max_open_partitions };
    let partitions = u64::from(partitions);
    let rate = Rate::of(spec);
    let shards: u64 = sources.iter().filter_map(|source| source.num_shards).sum();
    let head_bytes = head_bytes(shards, files);
    let writes = 1 + u64::from(rate.interval_ms > MARKED_AFTER_MS);
    let units = write_units(head_bytes, writes);
    let requests = files * REQUESTS_PER_FILE;
    Forecast {
        batches_per_hour: rate.an_hour(1),
        sink_tasks: files,
        files_per_batch: files,
        partitions_max: partitions,
        files_per_batch_max: files * partitions,
        files_per_hour: rate.an_hour(files),
        files_per_day: rate.a_day(files),
        files_per_day_max: rate.a_day(files * partitions),
        s3_requests_per_batch: requests,
        s3_requests_per_hour: rate.an_hour(requests),
        head_bytes,
        writes_per_batch: writes,
        write_units_per_batch: units,
        write_units_per_hour: rate.an_hour(units),
    }
}

/// Bytes of a head with so many shards and files.
fn head_bytes(shards: u64, files: u64) -> u64 {
    HEAD_BYTES + shards * HEAD_BYTES_PER_SHARD + files * HEAD_BYTES_PER_FILE
}

/// What so many writes of such a head take. Of a large one the chunks are written before the commit
/// and deleted after the next, and both are writes; what names them is small.
fn write_units(head_bytes: u64, writes: u64) -> u64 {
    let units = head_bytes.div_ceil(WRITE_UNIT);
    if head_bytes <= CHUNK_BYTES { units * writes } else { 2 * units + writes }
}

/// Batches in time.
#[derive(Clone, Copy)]
struct Rate {
    interval_ms: u64,
}

impl Rate {
    fn of(spec: &ApplicationSpec) -> Self {
        // At most a day, as the file's check says.
        let ms = u64::try_from(spec.batch.interval.as_millis()).unwrap_or(MS_PER_DAY);
        Self { interval_ms: ms.max(1) }
    }

    fn a_second(self, each: u64) -> f64 {
        each as f64 * 1_000.0 / self.interval_ms as f64
    }

    fn an_hour(self, each: u64) -> u64 {
        each.saturating_mul(MS_PER_DAY / 24).div_ceil(self.interval_ms)
    }

    fn a_day(self, each: u64) -> u64 {
        each.saturating_mul(MS_PER_DAY).div_ceil(self.interval_ms)
    }
}

pub(super) fn lines(spec: &ApplicationSpec, forecast: &Forecast) -> [Line; 3] {
    let rate = Rate::of(spec);
    [writes(spec, rate, forecast), requests(spec, rate, forecast), files(forecast)]
}

/// The batch interval at which `each` a batch stays below `limit` a second.
fn longer_interval(each: u64, limit: f64) -> String {
    let ms = (each as f64 / limit * 1_000.0).ceil() as u64;
    format!("batch.interval={}ms", ms.next_multiple_of(50))
}

fn a_second(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{}/s", grouped(rate.ceil() as u64)) }
}

fn writes(spec: &ApplicationSpec, rate: Rate, forecast: &Forecast) -> Line {
    let units = forecast.write_units_per_batch;
    let writes = super::line::counted(forecast.writes_per_batch, "write");
    let per_second = rate.a_second(units);
    let interval = humantime::format_duration(spec.batch.interval);
    let needs = format!(
        "{units} units for {writes} of a {} head every {interval} = {}",
        about(forecast.head_bytes),
        a_second(per_second),
    );
    let has = format!(
        "{} units/s for one item; {}/h",
        grouped(WRITE_UNITS_PER_ITEM as u64),
        grouped(forecast.write_units_per_hour)
    );
    let line = |status| Line::new("DynamoDB", needs.clone(), has.clone(), status);
    if per_second <= WRITE_UNITS_PER_ITEM {
        return line(Status::Ok);
    }
    let why = format!(
        "DynamoDB takes {} write units a second for one item and the commits need {}: they are \
         throttled and batches come later than every {interval}",
        grouped(WRITE_UNITS_PER_ITEM as u64),
        a_second(per_second)
    );
    line(Status::Tight).because(why).mended_by(Some(longer_interval(units, WRITE_UNITS_PER_ITEM)))
}

fn requests(spec: &ApplicationSpec, rate: Rate, forecast: &Forecast) -> Line {
    let most = forecast.files_per_batch_max * REQUESTS_PER_FILE;
    let per_second = rate.a_second(most);
    let interval = humantime::format_duration(spec.batch.interval);
    let partitions = match forecast.partitions_max {
        1 => String::new(),
        many => format!(" x {many} partitions"),
    };
    let needs = format!(
        "{} x {REQUESTS_PER_FILE}{partitions} every {interval} = {}",
        files_in_words(forecast.files_per_batch),
        a_second(per_second)
    );
    let limit = grouped(S3_REQUESTS_PER_PREFIX as u64);
    let has = format!("{limit}/s below one prefix; {}/h", grouped(rate.an_hour(most)));
    let line = |status| Line::new("S3 requests", needs.clone(), has.clone(), status);
    if per_second <= S3_REQUESTS_PER_PREFIX {
        return line(Status::Ok);
    }
    let why = format!(
        "S3 takes about {limit} requests a second below one prefix and batches that fill all their \
         partitions make {}: it answers SlowDown and batches come later",
        a_second(per_second)
    );
    line(Status::Tight).because(why).mended_by(Some(longer_interval(most, S3_REQUESTS_PER_PREFIX)))
}

fn files(forecast: &Forecast) -> Line {
    let partitions = match forecast.partitions_max {
        1 => String::new(),
        many => format!(
            "in each partition; {}/day if a task fills {many}",
            grouped(forecast.files_per_day_max)
        ),
    };
    let has = format!(
        "at most {}/h, {}/day {partitions}",
        grouped(forecast.files_per_hour),
        grouped(forecast.files_per_day),
    );
    let needs = format!("{} a batch", files_in_words(forecast.files_per_batch));
    Line::new("files", needs, has.trim_end().to_owned(), Status::Info)
}

fn files_in_words(number: u64) -> String {
    super::line::counted(number, "file")
}

#[cfg(feature = "head")]
#[cfg(test)]
mod tests {
    use rand::{RngCore, SeedableRng};

    use super::*;
    use crate::head::{Before, Body, PendingPart, PendingUpload, Positions, encode_body};
    use crate::position::{Position, SequenceNumber, ShardKey};

    fn random_text(rng: &mut rand::rngs::StdRng, length: usize) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
        (0..length).map(|_| char::from(DIGITS[(rng.next_u32() % 64) as usize])).collect()
    }

    fn hex(rng: &mut rand::rngs::StdRng, bytes: usize) -> String {
        (0..bytes).map(|_| format!("{:02x}", rng.next_u32() as u8)).collect()
    }

    /// A head as a long run of a busy stream leaves it.
    fn packed(shards: u64, files: u64) -> usize {
        let mut rng = rand::rngs::StdRng::seed_from_u64(shards * 1_000 + files);
        let key = |n: u64| ShardKey {
            source: "logs".into(),
            stream_arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/app-logs".into(),
            stream_created_ms: 1_790_000_000_000,
            shard_id: format!("shardId-{n:012}"),
        };
        // Kinesis counts up in the low digits; the high ones are of the shard.
        let number = |shard: u64, low: u64| -> SequenceNumber {
            format!("4966{:04}{:020}{low:020}{:08}", shard % 10_000, shard * 7, 2).parse().unwrap()
        };
        let mut at = |n| Position {
            sequence_number: Some(number(n, 10_000_000 + u64::from(rng.next_u32()))),
            ..Position::default()
        };
        let positions: Positions = (0..shards).map(|n| (key(n), at(n))).collect();
        let moved = (0..shards).map(|n| (key(n), Some(at(n)))).collect();
        let run = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let pending = (0..files).map(|task| PendingUpload {
            bucket: "results".into(),
            region: "eu-west-1".into(),
            key: format!("word-count/word-count-e7-b1234-t{task}-{run}.json"),
            upload_id: random_text(&mut rng, 128),
            parts: vec![PendingPart {
                number: 1,
                etag: format!("\"{}\"", hex(&mut rng, 16)),
                crc32c: "yZRlqg==".into(),
            }],
            rows: 1_000 + task,
            bytes: 123_456 + task * 77,
            token: format!("word-count/7/1234/{run}"),
            created_ms: 1_790_000_000_000 + task as i64,
        });
        let before = Before { positions: moved, ..Before::default() };
        let body =
            Body { pending: pending.collect(), positions, before: Some(before), ..Body::default() };
        encode_body(&body).unwrap().len()
    }

    #[test]
    fn a_head_is_about_as_large_as_forecast() {
        for (shards, files) in [(1, 1), (36, 16), (500, 1), (500, 64), (4, 400)] {
            let (real, said) = (packed(shards, files) as u64, head_bytes(shards, files));
            println!("{shards} shards, {files} files: {real} bytes, {said} forecast");
            assert!(real <= said, "{shards} shards, {files} files: {real} of {said}");
            assert!(
                said <= real * 3 + HEAD_BYTES,
                "{shards} shards, {files} files: {real} of {said}"
            );
        }
    }

    #[test]
    fn a_head_in_chunks_is_written_and_deleted() {
        assert_eq!((write_units(1_024, 1), write_units(1_025, 2)), (1, 4));
        assert_eq!(write_units(CHUNK_BYTES + 1, 2), 2 * 257 + 2);
    }
}
