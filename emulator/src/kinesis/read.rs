//! GetShardIterator and GetRecords.

use std::sync::atomic::Ordering;

use super::answers::{ChildShape, RecordsWriter};
use super::error::{ErrorKind, KinesisError, KinesisResult};
use super::iterator::ShardIterator;
use super::requests::{self, parse};
use super::sequence::SequenceNumber;
use super::stream::{Status, Stream};
use super::topology::{parse_shard_id, shard_id};
use super::{Kinesis, to_json};

/// Records in one answer of GetRecords.
const MAX_RECORDS: u64 = 10_000;

impl Kinesis {
    /// Makes an iterator. One at a record that is trimmed begins at the oldest there is, or, if
    /// `sticks`, gives nothing for ever.
    pub(super) fn get_shard_iterator(&self, body: &[u8], sticks: bool) -> KinesisResult<Vec<u8>> {
        let request: requests::GetShardIterator = parse(body)?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        require_readable(&stream, &self.options.account_id)?;
        let shard = shard_index(&stream, &request.shard_id)?;
        if request.dry_run == Some(true) {
            return Err(KinesisError::dry_run());
        }
        let now_ms = self.now_ms();
        if self.options.limited && !stream.limits(shard)?.admit_iterator(now_ms) {
            return Err(self.rate_exceeded(&stream.meta.name, shard));
        }
        let next_index = start_index(&mut stream, shard, &request, now_ms)?;
        let is_stuck = sticks && is_trimmed(&mut stream, shard, &request, now_ms)?;
        let iterator = ShardIterator {
            stream: stream.meta.name.clone(),
            stream_created_ms: stream.meta.created_ms,
            shard,
            next_index,
            issued_ms: now_ms,
            expiries: self.expiries.load(Ordering::Relaxed),
            is_stuck,
        };
        Ok(to_json(&serde_json::json!({ "ShardIterator": iterator.to_token() })))
    }

    /// Answers with records, or as if none had been found yet.
    pub(super) fn get_records(&self, body: &[u8], with_records: bool) -> KinesisResult<Vec<u8>> {
        let request: requests::GetRecords = parse(body)?;
        let limit = request.limit.unwrap_or(MAX_RECORDS);
        if !(1..=MAX_RECORDS).contains(&limit) {
            let rule = "have value between 1 and 10000";
            return Err(KinesisError::constraint(&limit.to_string(), "limit", rule));
        }
        let now_ms = self.now_ms();
        let mut iterator = ShardIterator::from_token(
            &request.shard_iterator,
            now_ms,
            self.expiries.load(Ordering::Relaxed),
        )?;
        let named = request.stream();
        if named.name()?.is_some_and(|name| name != iterator.stream) {
            return Err(KinesisError::invalid_argument(
                "The ShardIterator belongs to another stream than the one named.",
            ));
        }
        let shared = self.stream_named(&iterator.stream)?;
        let mut stream = self.lock(&shared);
        if stream.meta.created_ms != iterator.stream_created_ms {
            return Err(KinesisError::new(
                ErrorKind::ResourceNotFound,
                format!("The stream {} that the iterator names was deleted.", iterator.stream),
            ));
        }
        if request.dry_run == Some(true) {
            return Err(KinesisError::dry_run());
        }
        if self.options.limited && !stream.limits(iterator.shard)?.admit_read(now_ms) {
            return Err(self.rate_exceeded(&stream.meta.name, iterator.shard));
        }
        let limit = if with_records { limit } else { 0 };
        let mut writer = RecordsWriter::new();
        if iterator.is_stuck {
            iterator.issued_ms = now_ms;
            let behind_ms = now_ms.saturating_sub(stream.meta.horizon_ms(now_ms));
            return Ok(writer.finish(behind_ms, Some(&iterator.to_token()), &[]));
        }
        let read =
            stream.read(iterator.shard, iterator.next_index, limit, now_ms, |stamp, frame| {
                writer.push(stamp, frame);
            })?;
        if self.options.limited {
            stream.limits(iterator.shard)?.count_answer(read.bytes, read.is_full, now_ms);
        }
        if read.at_end {
            let children: Vec<_> =
                stream.meta.topology.children(iterator.shard).map(ChildShape::new).collect();
            return Ok(writer.finish(0, None, &children));
        }
        iterator.next_index = read.next_index;
        iterator.issued_ms = now_ms;
        Ok(writer.finish(read.behind_ms, Some(&iterator.to_token()), &[]))
    }
}

/// True when an iterator is asked for at a record that the stream has let go of.
fn is_trimmed(
    stream: &mut Stream,
    shard: u32,
    request: &requests::GetShardIterator,
    now_ms: u64,
) -> KinesisResult<bool> {
    let (first, end) = stream.bounds(shard, now_ms)?;
    match &request.starting_sequence_number {
        Some(number) if request.shard_iterator_type == "AT_SEQUENCE_NUMBER" => {
            Ok(index_of(stream, shard, parse_sequence(number)?, end)? < first)
        }
        _ => Ok(false),
    }
}

/// The index of the first record that an iterator of the asked type reads.
fn start_index(
    stream: &mut Stream,
    shard: u32,
    request: &requests::GetShardIterator,
    now_ms: u64,
) -> KinesisResult<u64> {
    let (first, end) = stream.bounds(shard, now_ms)?;
    let number = || {
        let text = request.starting_sequence_number.as_deref().ok_or_else(|| {
            KinesisError::invalid_argument(format!(
                "Must either specify timestamp or sequenceNumber for {}.",
                request.shard_iterator_type
            ))
        })?;
        parse_sequence(text)
    };
    match request.shard_iterator_type.as_str() {
        "TRIM_HORIZON" => Ok(first),
        "LATEST" => Ok(end),
        "AT_SEQUENCE_NUMBER" => Ok(index_of(stream, shard, number()?, end)?.max(first)),
        "AFTER_SEQUENCE_NUMBER" => {
            let index = index_of(stream, shard, number()?, end)?;
            Ok(index.saturating_add(1).clamp(first, end))
        }
        "AT_TIMESTAMP" => {
            let time = request.timestamp.ok_or_else(|| {
                KinesisError::invalid_argument("Timestamp must be provided with AT_TIMESTAMP.")
            })?;
            if millis(time) > now_ms + 1000 {
                return Err(KinesisError::invalid_argument(format!(
                    "The timestampInMillis parameter cannot be greater than the \
                     currentTimestampInMillis. timestampInMillis: {}, currentTimestampInMillis: \
                     {now_ms}",
                    millis(time)
                )));
            }
            Ok(stream.index_since(shard, millis(time))?.max(first))
        }
        other => Err(KinesisError::constraint(
            other,
            "shardIteratorType",
            "satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, AT_TIMESTAMP, \
             AT_SEQUENCE_NUMBER, TRIM_HORIZON]",
        )),
    }
}

/// The index that a sequence number means in a shard: only numbers of that shard mean one.
fn index_of(stream: &Stream, shard: u32, number: SequenceNumber, end: u64) -> KinesisResult<u64> {
    let entry = stream.meta.topology.get(shard).expect("the shard was looked up");
    let (start, ending) = stream.sequence_range(entry);
    let known = ending == Some(number) || number.index() < end;
    if number.stamp() == start.stamp() && known {
        return Ok(number.index().min(end));
    }
    Err(KinesisError::invalid_argument(format!(
        "StartingSequenceNumber {number} used in GetShardIterator on shard {} in stream {} is \
         invalid because it did not come from this stream.",
        shard_id(shard),
        stream.meta.name
    )))
}

/// A sequence number in decimal text.
pub(super) fn parse_sequence(text: &str) -> KinesisResult<SequenceNumber> {
    text.parse().map_err(|_| {
        KinesisError::constraint(
            text,
            "startingSequenceNumber",
            "satisfy regular expression pattern: 0|([1-9]\\d{0,128})",
        )
    })
}

/// The listed shard of that id.
pub(super) fn shard_index(stream: &Stream, id: &str) -> KinesisResult<u32> {
    parse_shard_id(id).filter(|index| stream.meta.topology.get(*index).is_some()).ok_or_else(|| {
        KinesisError::new(
            ErrorKind::ResourceNotFound,
            format!("Could not find shard {id} in stream {}.", stream.meta.name),
        )
    })
}

fn require_readable(stream: &Stream, account: &str) -> KinesisResult<()> {
    if matches!(stream.meta.status, Status::Creating { .. }) {
        return Err(KinesisError::new(
            ErrorKind::ResourceNotFound,
            format!("Stream {} under account {account} not found.", stream.meta.name),
        ));
    }
    Ok(())
}

/// Seconds with a fraction, as requests carry times, in milliseconds.
pub(super) fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round().max(0.0) as u64
}
