//! PutRecords, several calls at a time, at the asked pace, until every record is put.
//!
//! Promises: at most [`CALLS_MAX`] calls at a time; a refused record is sent again after a growing
//! pause, one that is refused [`TRIES`] times in a row ends the command; a record whose call had no
//! answer is sent again too, so it may be in the stream twice (Kinesis can not tell), and the retry
//! is counted.

use std::num::NonZeroU32;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use indicatif::ProgressBar;
use millrace_common::aws::{explain, kind};
use millrace_common::clock::Clock;
use millrace_common::error::{Code, Error};
use millrace_common::retry::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::batcher::{Batch, RECORDS_MAX, Settled};
use crate::output::Output;

/// Calls at a time: enough to fill many shards, few enough that a throttled stream is not stormed.
const CALLS_MAX: usize = 8;
/// Times that a record is sent before the command gives up; with the pauses about a minute.
const TRIES: u32 = 16;
/// Pauses between the tries of a batch.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(5) };
/// Slow paces are cut into this many batches a second, so that records do not come in gulps.
const BATCHES_PER_SECOND: u32 = 5;

/// How fast records are put. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Records per second; none: as fast as possible.
    pub(super) rate: Option<u32>,
}

impl Pace {
    /// Records of one batch at this pace.
    pub(super) fn batch_records(self) -> usize {
        self.rate.map_or(RECORDS_MAX, |rate| {
            ((rate / BATCHES_PER_SECOND).max(1) as usize).min(RECORDS_MAX)
        })
    }

    /// When the record after `sent` records may be sent, counted from the start.
    pub(super) fn due(self, sent: u64) -> Duration {
        match self.rate.and_then(NonZeroU32::new) {
            None => Duration::ZERO,
            Some(rate) => Duration::from_secs_f64(sent as f64 / f64::from(rate.get())),
        }
    }
}

/// What was put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Records that Kinesis has taken.
    pub(super) records: u64,
    /// Bytes of their data.
    pub(super) bytes: u64,
    /// Records that were sent again, each time counted.
    pub(super) retries: u64,
}

/// Puts batches into one stream.
pub(super) struct Putter<'a> {
    pub(super) kinesis: &'a Client,
    pub(super) stream: &'a str,
    pub(super) pace: Pace,
    pub(super) clock: &'a dyn Clock,
    pub(super) bar: &'a ProgressBar,
    pub(super) output: &'a Output,
}

impl Putter<'_> {
    /// Puts every batch that comes until there are no more, `stopped`, or an error. What is in
    /// flight then is waited for, so that the summary is right.
    pub(super) async fn run(
        &self,
        mut batches: mpsc::Receiver<Batch>,
        stopped: &CancellationToken,
    ) -> (Summary, Option<Error>) {
        let started = self.clock.monotonic();
        let mut summary = Summary::default();
        let mut error = None;
        let mut sent: u64 = 0;
        let mut calls = JoinSet::new();
        while error.is_none() {
            let batch = tokio::select! {
                biased;
                () = stopped.cancelled() => break,
                batch = batches.recv() => match batch { Some(batch) => batch, None => break },
            };
            let early = (started + self.pace.due(sent)).saturating_sub(self.clock.monotonic());
            if !early.is_zero() {
                tokio::select! {
                    () = stopped.cancelled() => break,
                    () = tokio::time::sleep(early) => {}
                }
            }
            while calls.len() >= CALLS_MAX {
                error = self.take(calls.join_next().await, &mut summary).or(error);
            }
            while let Some(done) = calls.try_join_next() {
                error = self.take(Some(done), &mut summary).or(error);
            }
            sent += batch.records.len() as u64;
            calls.spawn(put(self.kinesis.clone(), self.stream.to_owned(), batch, stopped.clone()));
        }
        while let Some(done) = calls.join_next().await {
            error = self.take(Some(done), &mut summary).or(error);
        }
        if stopped.is_cancelled() {
            self.output.say("interrupted");
        }
        (summary, error)
    }

    /// Counts what a call has done.
    fn take(
        &self,
        done: Option<Result<Put, tokio::task::JoinError>>,
        summary: &mut Summary,
    ) -> Option<Error> {
        match done? {
            Ok(put) => {
                summary.records += put.summary.records;
                summary.bytes += put.summary.bytes;
                summary.retries += put.summary.retries;
                self.bar.set_position(summary.records);
                if summary.retries > 0 {
                    self.bar.set_message(format!("{} retries", summary.retries));
                }
                put.error
            }
            Err(error) => Some(Error::internal("a call has panicked").caused_by(error)),
        }
    }
}

/// What became of one batch.
#[derive(Debug, Default)]
struct Put {
    summary: Summary,
    error: Option<Error>,
}

/// Puts one batch, sending again what was refused.
async fn put(kinesis: Client, stream: String, mut batch: Batch, stopped: CancellationToken) -> Put {
    let mut put = Put::default();
    let mut failures = 0;
    loop {
        let (refused, why) = match call(&kinesis, &stream, &batch).await {
            Ok(refused) => refused,
            Err(error) => {
                put.error = Some(error);
                return put;
            }
        };
        let num_records = batch.records.len();
        let Settled { records, bytes, again } = batch.settle(|index| refused[index]);
        put.summary.records += records;
        put.summary.bytes += bytes;
        if again.records.is_empty() {
            return put;
        }
        // Progress of any kind starts the count anew: a throttled stream is slow, not broken.
        failures = if again.records.len() < num_records { 1 } else { failures + 1 };
        if failures >= TRIES {
            put.error = Some(gave_up(&stream, again.records.len(), &why));
            return put;
        }
        tokio::select! {
            () = stopped.cancelled() => return put,
            () = tokio::time::sleep(BACKOFF.random_delay(failures)) => {}
        }
        put.summary.retries += again.records.len() as u64;
        batch = again;
    }
}

/// One PutRecords: which records were refused, and the reason of one of them. A call that failed
/// in passing has refused all.
async fn call(kinesis: &Client, stream: &str, batch: &Batch) -> Result<(Vec<bool>, String), Error> {
    let entries = batch.records.iter().map(|record| {
        PutRecordsRequestEntry::builder()
            .partition_key(&record.key)
            .data(Blob::new(record.data.clone()))
            .build()
    });
    let entries = entries
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::internal("a record lacks a part").caused_by(error))?;
    match kinesis.put_records().stream_name(stream).set_records(Some(entries)).send().await {
        Ok(answer) => verdicts(&answer, batch.records.len()),
        Err(error) if kind(&error).is_transient() => {
            Ok((vec![true; batch.records.len()], format!("{:?}", kind(&error))))
        }
        Err(error) => Err(explain("kinesis", "PutRecords", &format!("stream {stream}"), &error)),
    }
}

/// Takes an answer apart.
fn verdicts(answer: &PutRecordsOutput, num_records: usize) -> Result<(Vec<bool>, String), Error> {
    let results = answer.records();
    if results.len() != num_records {
        return Err(Error::new(
            Code::AwsOther,
            format!("PutRecords answers {} results for {num_records} records", results.len()),
            "see what listens at the endpoint",
        ));
    }
    let refused = results.iter().map(|result| result.error_code().is_some()).collect();
    let why = results.iter().find_map(|result| result.error_code()).unwrap_or_default();
    Ok((refused, why.to_owned()))
}

fn gave_up(stream: &str, num_records: usize, why: &str) -> Error {
    Error::new(
        Code::Throttled,
        format!("stream {stream} has refused {num_records} records {TRIES} times: {why}"),
        "give the stream more shards, or a lower --rate",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_pace_is_kept_on_average(rate in 1u32..100_000, seconds in 1u64..1_000) {
            let pace = Pace { rate: Some(rate) };
            let due = pace.due(u64::from(rate) * seconds);
            let wanted = Duration::from_secs(seconds);
            prop_assert!(due.abs_diff(wanted) < Duration::from_millis(1));
            prop_assert!((1..=RECORDS_MAX).contains(&pace.batch_records()));
        }
    }

    #[test]
    fn slow_paces_come_in_small_batches() {
        assert_eq!(Pace { rate: Some(1) }.batch_records(), 1);
        assert_eq!(Pace { rate: Some(100) }.batch_records(), 20);
        assert_eq!(Pace { rate: Some(1_000_000) }.batch_records(), RECORDS_MAX);
        assert_eq!(Pace { rate: None }.batch_records(), RECORDS_MAX);
        assert_eq!(Pace { rate: None }.due(1_000), Duration::ZERO);
    }
}
