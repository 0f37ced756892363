//! What a replay finds in AWS before it is submitted, with the caller's own credentials.
//!
//! Promises: what may not be asked is said and left to the driver, which asks again; a place that
//! holds anything is refused. Never does: write.

use std::time::Duration;

use aws_sdk_kinesis::Client as Kinesis;
use aws_sdk_s3::Client as S3;
use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use millrace_common::application::{ApplicationSpec, S3Location};
use millrace_common::aws::{Clients, Kind, ServerDate, StreamClients, explain, kind, region_of};
use millrace_common::error::{Code, Error, Result};
use millrace_common::retry::{self, Backoff};

use crate::output::Output;

/// Tries of each call.
const TRIES: u32 = 4;

/// A stream as its range is judged by.
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) retention: Duration,
    pub(super) created_ms: i64,
    /// The date of Kinesis' answer, Unix time in milliseconds; 0 when it had none.
    pub(super) server_ms: i64,
}

/// The streams of the sources. One that can not be described from here is left to the driver.
///
/// # Errors
/// As [`StreamClients::load`].
pub(super) async fn streams(
    of: &ApplicationSpec,
    aws: &Clients,
    output: &Output,
) -> Result<Vec<Stream>> {
    let clients = StreamClients::load(of, aws).await?;
    let mut streams = Vec::new();
    for (name, source) in &of.sources {
        match describe(&source.stream, clients.of(&source.stream)).await {
            Ok(stream) => streams.push(stream),
            Err(error) => output.warn(&format!(
                "what source {name} holds is not known here, and is left to the driver: {}",
                error.message()
            )),
        }
    }
    Ok(streams)
}

async fn describe(stream: &str, kinesis: &Kinesis) -> Result<Stream> {
    let date = ServerDate::new();
    let call = || {
        let call = kinesis.describe_stream_summary();
        let call = if stream.starts_with("arn:") {
            call.stream_arn(stream)
        } else {
            call.stream_name(stream)
        };
        call.customize().interceptor(date.clone()).send()
    };
    let answer = retry::call(Backoff::CALL, TRIES, |error| kind(error).is_transient(), call)
        .await
        .map_err(|error| {
            explain("kinesis", "DescribeStreamSummary", &format!("stream {stream}"), &error)
        })?;
    let summary = answer.stream_description_summary.ok_or_else(|| {
        Error::new(
            Code::AwsOther,
            format!("kinesis:DescribeStreamSummary on stream {stream} answers nothing"),
            "see that the endpoint speaks Kinesis",
        )
    })?;
    let hours = u64::try_from(summary.retention_period_hours).unwrap_or_default();
    Ok(Stream {
        retention: Duration::from_secs(hours * 3_600),
        created_ms: summary.stream_creation_timestamp.to_millis().unwrap_or_default(),
        name: summary.stream_name,
        server_ms: date.get_ms().unwrap_or_default(),
    })
}

/// Sees that nothing is where a replay begins to write.
pub(super) async fn is_empty(
    replay: &ApplicationSpec,
    aws: &Clients,
    output: &Output,
) -> Result<()> {
    let sink = &replay.sink;
    for place in std::iter::once(&sink.path).chain(&sink.dead_letter_path) {
        if let Some(key) = first_key(place, aws, output).await? {
            return Err(Error::new(
                Code::ReplayPath,
                format!("{place} is not empty: it holds {key}"),
                "give the replay a place of its own, or remove what is there",
            ));
        }
    }
    Ok(())
}

async fn first_key(place: &S3Location, aws: &Clients, output: &Output) -> Result<Option<String>> {
    let answer = match list(place, &aws.s3).await {
        // The bucket is elsewhere: it is asked there.
        Err(error) if kind(&error) == Kind::Region && region_of(&error).is_some() => {
            let client = aws.s3_in(region_of(&error).unwrap_or_default());
            list(place, &client).await
        }
        answer => answer,
    };
    match answer {
        Ok(page) => Ok(page.contents.unwrap_or_default().into_iter().find_map(|object| object.key)),
        // The application needs no right to list, and whoever starts its replay may have none.
        Err(error) if kind(&error) == Kind::Forbidden => {
            output.warn(&format!("you may not list {place}: see yourself that nothing is there"));
            Ok(None)
        }
        Err(error) => {
            Err(explain("s3", "ListObjectsV2", &format!("bucket {}", place.bucket), &error))
        }
    }
}

async fn list(
    place: &S3Location,
    s3: &S3,
) -> Result<ListObjectsV2Output, SdkError<ListObjectsV2Error, HttpResponse>> {
    let call =
        || s3.list_objects_v2().bucket(&place.bucket).prefix(&place.prefix).max_keys(1).send();
    retry::call(Backoff::CALL, TRIES, |error| kind(error).is_transient(), call).await
}
