//! The stream that records are put into: made when asked, waited for until it is active.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::StreamStatus;
use millrace_common::aws::{Kind, error_code, explain, kind};
use millrace_common::error::{Code, Error, Result};
use millrace_common::retry::{self, Backoff};

use super::ACTIVE_DEADLINE;
use crate::output::Output;

/// Tries of a call that may be repeated.
const TRIES: u32 = 8;
/// How often a stream that is being made is asked for its state.
const POLL: Duration = Duration::from_millis(200);

/// Waits until the stream is active; makes it with `shards` when it is missing and that is given.
pub(super) async fn ready(
    output: &Output,
    kinesis: &Client,
    stream: &str,
    shards: Option<u32>,
) -> Result<()> {
    let spinner = output.spinner(&format!("waiting for stream {stream}"));
    let outcome = tokio::time::timeout(ACTIVE_DEADLINE, until_active(kinesis, stream, shards));
    let outcome = outcome.await.unwrap_or_else(|_| {
        Err(Error::new(
            Code::StreamNotActive,
            format!("stream {stream} is not active after {} s", ACTIVE_DEADLINE.as_secs()),
            "look at the stream in Kinesis and run the command again",
        ))
    });
    spinner.finish_and_clear();
    outcome
}

async fn until_active(kinesis: &Client, stream: &str, mut shards: Option<u32>) -> Result<()> {
    let resource = format!("stream {stream}");
    loop {
        let answer = retry::call(
            Backoff::CALL,
            TRIES,
            |error| kind(error).is_transient(),
            || kinesis.describe_stream_summary().stream_name(stream).send(),
        )
        .await;
        match answer {
            Ok(answer) => {
                let status = answer.stream_description_summary().map(|s| s.stream_status().clone());
                match status {
                    Some(StreamStatus::Active | StreamStatus::Updating) => return Ok(()),
                    Some(StreamStatus::Deleting) => {
                        return Err(Error::new(
                            Code::StreamNotActive,
                            format!("stream {stream} is being deleted"),
                            "wait until it is gone, then run the command again",
                        ));
                    }
                    _ => {}
                }
            }
            Err(error) if kind(&error) == Kind::Missing => match shards.take() {
                Some(shards) => create(kinesis, stream, shards).await?,
                None => {
                    return Err(Error::new(
                        Code::StreamMissing,
                        format!("stream {stream} does not exist"),
                        "make it with --create-shards N, or correct --stream, the region or the \
                         endpoint",
                    ));
                }
            },
            Err(error) => {
                return Err(explain("kinesis", "DescribeStreamSummary", &resource, &error));
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes the stream. One that somebody else has made meanwhile is as good.
async fn create(kinesis: &Client, stream: &str, shards: u32) -> Result<()> {
    let shard_count = i32::try_from(shards).unwrap_or(i32::MAX);
    let call = || kinesis.create_stream().stream_name(stream).shard_count(shard_count).send();
    match retry::call(Backoff::CALL, TRIES, |error| kind(error).is_transient(), call).await {
        Ok(_) => Ok(()),
        Err(error) if error_code(&error) == Some("ResourceInUseException") => Ok(()),
        Err(error) => Err(explain("kinesis", "CreateStream", &format!("stream {stream}"), &error)),
    }
}
