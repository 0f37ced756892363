//! Reads whole streams: every shard, open and closed, from its oldest record to its end.
//!
//! Promises: a call that fails is repeated until [`PATIENCE`] is over; an iterator that expires is
//! replaced behind the last record; nothing is skipped. Never does: take part in the application's
//! limits beyond one call per shard and pause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{DisplayErrorContext, ProvideErrorMetadata as _};
use aws_sdk_kinesis::types::ShardIteratorType;
use millrace_common::position::{HashKeyRange, SequenceNumber};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::CheckError;
use super::truth::{OutOfRange, Shard, Stream};

/// How long one shard may fail to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two calls to a shard that refused one: Kinesis allows five a second.
const PAUSE: Duration = Duration::from_millis(300);
/// Shards read at once: enough to hide their pauses, few enough for one emulator.
const SHARDS_AT_ONCE: usize = 8;

/// Reads a stream to the end of each shard, once nobody puts any more.
///
/// # Errors
/// What Kinesis answers.
pub async fn read_stream(
    client: &Client,
    name: &str,
    out_of_range: OutOfRange,
) -> Result<Stream, CheckError> {
    let mut stream = describe(client, name).await?;
    let turns = Arc::new(Semaphore::new(SHARDS_AT_ONCE));
    let mut readers = JoinSet::new();
    for (id, shard) in std::mem::take(&mut stream.shards) {
        let (client, name, turns) = (client.clone(), name.to_owned(), Arc::clone(&turns));
        readers.spawn(async move {
            let _turn = turns.acquire().await;
            let shard = read_shard(&client, &name, &id, shard, out_of_range).await?;
            Ok::<_, CheckError>((id, shard))
        });
    }
    while let Some(read) = readers.join_next().await {
        let read = read.map_err(|error| CheckError(format!("a reader of {name}: {error}")))?;
        let (id, shard) = read?;
        stream.shards.insert(id, shard);
    }
    Ok(stream)
}

/// The stream with its shards, all of them without records.
async fn describe(client: &Client, name: &str) -> Result<Stream, CheckError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        CheckError(format!("{what} of stream {name}: {error}"))
    };
    let answer = client.describe_stream_summary().stream_name(name).send().await;
    let answer = answer.map_err(|e| failed("DescribeStreamSummary", &DisplayErrorContext(e)))?;
    let summary = answer.stream_description_summary();
    let arn = summary.map(|summary| summary.stream_arn().to_owned()).unwrap_or_default();
    let mut stream = Stream { arn, ..Stream::default() };
    let mut token: Option<String> = None;
    loop {
        let call = match token {
            Some(token) => client.list_shards().next_token(token),
            None => client.list_shards().stream_name(name),
        };
        let page = call.send().await.map_err(|e| failed("ListShards", &DisplayErrorContext(e)))?;
        for shard in page.shards() {
            let numbers = shard.sequence_number_range();
            let range = shard.hash_key_range().and_then(|range| {
                HashKeyRange::parse(range.starting_hash_key(), range.ending_hash_key()).ok()
            });
            let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
            let seen = Shard {
                parents: parents.into_iter().flatten().map(str::to_owned).collect(),
                range,
                is_open: numbers.is_none_or(|range| range.ending_sequence_number().is_none()),
                ..Shard::default()
            };
            stream.shards.insert(shard.shard_id().to_owned(), seen);
        }
        token = page.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(stream);
        }
    }
}

async fn read_shard(
    client: &Client,
    stream: &str,
    id: &str,
    mut shard: Shard,
    out_of_range: OutOfRange,
) -> Result<Shard, CheckError> {
    let mut last: Option<SequenceNumber> = None;
    let mut failing_since = None;
    let mut next = None;
    loop {
        let iterator = match next.take() {
            Some(iterator) => iterator,
            None => match iterator_after(client, stream, id, last).await {
                Ok(iterator) => iterator,
                Err(error) => {
                    wait(&mut failing_since, &error).await?;
                    continue;
                }
            },
        };
        let page = match client.get_records().shard_iterator(&iterator).send().await {
            Ok(page) => page,
            Err(error) => {
                if error.code() != Some("ExpiredIteratorException") {
                    next = Some(iterator);
                }
                let error = format!("GetRecords of {id}: {}", DisplayErrorContext(error));
                wait(&mut failing_since, &CheckError(error)).await?;
                continue;
            }
        };
        failing_since = None;
        for record in page.records() {
            let number: SequenceNumber = record.sequence_number().parse().map_err(|error| {
                CheckError(format!(
                    "{id} has the sequence number {}: {error}",
                    record.sequence_number()
                ))
            })?;
            let arrival = record.approximate_arrival_timestamp();
            let arrival_ms = arrival.and_then(|time| time.to_millis().ok()).unwrap_or_default();
            shard.push(number, arrival_ms, record.data().as_ref(), out_of_range);
            last = Some(number);
        }
        let is_read = page.records().is_empty() && page.millis_behind_latest() == Some(0);
        match page.next_shard_iterator {
            Some(iterator) if !is_read => next = Some(iterator),
            _ => return Ok(shard),
        }
    }
}

/// Pauses after a failure, and gives up when it has gone on for too long.
async fn wait(since: &mut Option<Instant>, error: &CheckError) -> Result<(), CheckError> {
    let since = since.get_or_insert_with(Instant::now);
    if since.elapsed() > PATIENCE {
        return Err(CheckError(format!("for {} s: {error}", PATIENCE.as_secs())));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

async fn iterator_after(
    client: &Client,
    stream: &str,
    shard: &str,
    last: Option<SequenceNumber>,
) -> Result<String, CheckError> {
    let call = client.get_shard_iterator().stream_name(stream).shard_id(shard);
    let call = match last {
        None => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
        Some(number) => call
            .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
            .starting_sequence_number(number.to_string()),
    };
    let failed = |what: String| CheckError(format!("GetShardIterator of {shard}: {what}"));
    let answer = call.send().await.map_err(|e| failed(DisplayErrorContext(e).to_string()))?;
    answer.shard_iterator.ok_or_else(|| failed("no iterator".to_owned()))
}
