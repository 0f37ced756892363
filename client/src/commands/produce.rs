//! `millrace produce`: puts records into a Kinesis stream.
//!
//! Promises: every record is put once or counted as failed; of a PutRecords that fails in part only
//! the failed records are sent again; Ctrl-C ends it with a summary of what was put.

mod batcher;
mod generate;
mod keys;
mod put;
mod records;
mod stream;

use std::time::Duration;

use indicatif::HumanBytes;
use millrace_common::aws::{AwsSettings, Clients};
use millrace_common::clock::SystemClock;
use millrace_common::error::{Code, Error};
use millrace_common::shutdown;
use serde_json::json;
use tokio::sync::mpsc;

use self::batcher::{Batch, Batcher};
use self::keys::KeyChoice;
use self::put::{Pace, Summary};
use self::records::Records;
use super::aws;
use crate::arguments::Produce;
use crate::ended::Outcome;
use crate::output::{Output, counted};

/// Batches read ahead of the calls: enough that a call never waits for a file.
const BATCHES_AHEAD: usize = 4;

pub(super) async fn run(output: &Output, command: Produce) -> Outcome {
    let records = Records::open(&command)?;
    let settings = AwsSettings::default();
    // The stream is looked for as a person waits; records may be on their way for longer.
    let looking = aws(output, &settings).await?;
    let clients = Clients::load(&settings).await?;
    let stopped = shutdown::on_signal()
        .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;
    tokio::select! {
        ready = stream::ready(output, &looking.kinesis, &command.stream, command.create_shards) =>
            ready?,
        () = stopped.cancelled() => {
            return report(output, &command.stream, &Summary::default(), 0, 0.0);
        }
    }

    let clock = SystemClock::shared();
    let started = clock.monotonic();
    let pace = Pace { rate: command.rate };
    let total = command.count;
    let stream_name = command.stream.clone();
    let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
    let batcher = Batcher::new(pace.batch_records());
    let reader = tokio::task::spawn_blocking(move || read(&command, records, batcher, &sender));
    let bar = output.progress(total);
    let putter = put::Putter {
        kinesis: &clients.kinesis,
        stream: &stream_name,
        pace,
        clock: clock.as_ref(),
        bar: &bar,
        output,
    };
    let outcome = putter.run(batches, &stopped).await;
    bar.finish_and_clear();
    let (summary, mut error) = outcome;
    let mut skipped = 0;
    if !stopped.is_cancelled() && error.is_none() {
        // Else the reader may wait for standard input, and nobody waits for it.
        match reader.await {
            Ok(Ok(num_skipped)) => skipped = num_skipped,
            Ok(Err(unreadable)) => error = Some(unreadable),
            Err(panic) => {
                error = Some(Error::internal("the reader of records ended").caused_by(panic));
            }
        }
    }
    let seconds = (clock.monotonic() - started).as_secs_f64();
    report(output, &stream_name, &summary, skipped, seconds)?;
    match error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn report(output: &Output, stream: &str, summary: &Summary, skipped: u64, seconds: f64) -> Outcome {
    let value = json!({
        "stream": stream,
        "records": summary.records,
        "bytes": summary.bytes,
        "retries": summary.retries,
        "skipped_empty": skipped,
        "seconds": seconds,
    });
    output.result(&value, || {
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!(", {} left out", counted(skipped, "empty line")),
        };
        format!(
            "{}, {}, {} {}, {seconds:.1} s{skipped}",
            counted(summary.records, "record"),
            HumanBytes(summary.bytes),
            summary.retries,
            if summary.retries == 1 { "retry" } else { "retries" }
        )
    })
}

/// Reads or makes records and hands them over in batches; gives the number of empty lines left
/// out. Runs on a thread of its own, because files and standard input block.
fn read(
    command: &Produce,
    mut records: Records,
    mut batcher: Batcher,
    batches: &mpsc::Sender<Batch>,
) -> Result<u64, Error> {
    let keys = KeyChoice::parse(&command.key);
    let limit = command.count.unwrap_or(u64::MAX);
    let mut sent = 0;
    while sent < limit {
        let Some(data) = records.next_record()? else { break };
        let key = keys.key_of(&data).map_err(|error| records.at(&error))?;
        let full = batcher.push(key, data).map_err(|error| records.at(&error))?;
        sent += 1;
        if let Some(batch) = full
            && batches.blocking_send(batch).is_err()
        {
            return Ok(records.num_skipped());
        }
    }
    if let Some(batch) = batcher.finish() {
        // Nobody takes it when the command was interrupted.
        batches.blocking_send(batch).ok();
    }
    Ok(records.num_skipped())
}

/// The error for a record that can not be put.
fn refuse(message: impl Into<String>, next: &str) -> Error {
    Error::new(Code::InvalidValue, message, next)
}

/// How long a stream may take to become active.
const ACTIVE_DEADLINE: Duration = Duration::from_secs(120);
