//! [`Kinesis`] over aws-sdk-kinesis: a deadline per call, every error matched by its name, the Date
//! of every answer.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types::ShardIteratorType;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use bytes::Bytes;
use millrace_common::aws::{self, Kind, ServerDate, StreamClients};
use millrace_common::{Code, Error};

use super::{Answer, CallFailure, ChildShard, FailureKind, IteratorAt, Kinesis, Record, ShardRef};

/// How long one call may take: an answer is at most 10 MiB, and 1 MiB/s is a very bad network.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Kinesis by the AWS SDK.
#[derive(Clone, Debug)]
pub struct SdkKinesis {
    clients: StreamClients,
}

impl SdkKinesis {
    /// Over these clients, whose own retries are off.
    #[must_use]
    pub fn new(clients: StreamClients) -> Self {
        Self { clients }
    }
}

#[async_trait]
impl Kinesis for SdkKinesis {
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure> {
        let client = self.clients.of(stream_of(shard));
        let call = client.get_shard_iterator().shard_id(&*shard.shard_id);
        let call = match at {
            IteratorAt::Record(number) => call
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(number.to_string()),
            IteratorAt::TrimHorizon => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
            IteratorAt::Timestamp(ms) => call
                .shard_iterator_type(ShardIteratorType::AtTimestamp)
                .timestamp(DateTime::from_millis(ms)),
        };
        // The ARN where it is known: it is right across accounts too.
        let call = if shard.stream_arn.is_empty() {
            call.stream_name(&*shard.stream_name)
        } else {
            call.stream_arn(&*shard.stream_arn)
        };
        let answer = within_deadline("GetShardIterator", shard, call.send()).await?;
        answer.shard_iterator.ok_or_else(|| malformed(shard, "an iterator that is not there"))
    }

    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator: &str,
        limit: u32,
    ) -> Result<Answer, CallFailure> {
        let date = ServerDate::new();
        let mut call = self
            .clients
            .of(stream_of(shard))
            .get_records()
            .shard_iterator(iterator)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        if !shard.stream_arn.is_empty() {
            call = call.stream_arn(&*shard.stream_arn);
        }
        let call = call.customize().interceptor(date.clone());
        let answer = within_deadline("GetRecords", shard, call.send()).await?;
        convert(shard, answer, date.get_ms())
    }
}

/// The stream as exactly as it is known.
fn stream_of(shard: &ShardRef) -> &str {
    if shard.stream_arn.is_empty() { &shard.stream_name } else { &shard.stream_arn }
}

/// Waits for a call, at most [`CALL_DEADLINE`] long.
async fn within_deadline<T, E>(
    action: &str,
    shard: &ShardRef,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, CallFailure>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| failure(action, shard, &error)),
        Err(_) => Err(CallFailure {
            kind: FailureKind::Unavailable,
            error: Error::new(
                Code::AwsUnreachable,
                format!("kinesis:{action} on {shard} gave no answer in {CALL_DEADLINE:?}"),
                "see the endpoint (AWS_ENDPOINT_URL), the network and the region",
            ),
        }),
    }
}

fn convert(
    shard: &ShardRef,
    answer: GetRecordsOutput,
    server_ms: Option<i64>,
) -> Result<Answer, CallFailure> {
    let mut records = Vec::with_capacity(answer.records.len());
    for record in answer.records {
        let sequence_number = record
            .sequence_number
            .parse()
            .map_err(|error: Error| malformed(shard, error.message()))?;
        let arrival_ms =
            record.approximate_arrival_timestamp.and_then(|at| at.to_millis().ok()).unwrap_or(0);
        records.push(Record {
            sequence_number,
            arrival_ms,
            partition_key: record.partition_key,
            data: Bytes::from(record.data.into_inner()),
        });
    }
    let children = answer
        .child_shards
        .unwrap_or_default()
        .into_iter()
        .map(|child| ChildShard { shard_id: child.shard_id, parents: child.parent_shards })
        .collect();
    Ok(Answer {
        records,
        next_iterator: answer.next_shard_iterator.filter(|iterator| !iterator.is_empty()),
        millis_behind_latest: answer.millis_behind_latest.unwrap_or(0),
        children,
        server_ms,
    })
}

/// An answer that can not be understood: asked for again, as if it had been lost.
fn malformed(shard: &ShardRef, what: &str) -> CallFailure {
    CallFailure {
        kind: FailureKind::Unavailable,
        error: Error::new(
            Code::AwsOther,
            format!("kinesis answered for {shard} with {what}"),
            "see that the endpoint is Kinesis",
        ),
    }
}

fn failure<E>(action: &str, shard: &ShardRef, error: &SdkError<E, HttpResponse>) -> CallFailure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let name = aws::error_code(error).unwrap_or_default();
    let kind = kind_of(name, aws::kind(error));
    CallFailure { kind, error: aws::explain("kinesis", action, &shard.to_string(), error) }
}

/// By the error's name; what has no name here goes by its general kind.
fn kind_of(name: &str, kind: Kind) -> FailureKind {
    match name {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "KMSThrottlingException" => FailureKind::Throttled,
        "ExpiredIteratorException" => FailureKind::ExpiredIterator,
        // GetShardIterator: a number the shard does not take. GetRecords: a broken iterator. Both
        // are answered with a new iterator, made from the last read number.
        "InvalidArgumentException" => FailureKind::InvalidPosition,
        "ResourceNotFoundException" => FailureKind::Missing,
        "AccessDeniedException"
        | "KMSAccessDeniedException"
        | "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSOptInRequired" => FailureKind::Forbidden,
        "InternalFailureException" | "DryRunOperationException" => FailureKind::Unavailable,
        _ => match kind {
            Kind::Throttled => FailureKind::Throttled,
            Kind::ExpiredIterator => FailureKind::ExpiredIterator,
            Kind::Missing => FailureKind::Missing,
            Kind::Forbidden | Kind::Credentials | Kind::Region => FailureKind::Forbidden,
            // The SDK signs the next call by the date of the refusal.
            Kind::ClockSkew
            | Kind::Conditional
            | Kind::Timeout
            | Kind::Unreachable
            | Kind::ServerFault
            | Kind::Other => FailureKind::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_go_by_name() {
        for (name, kind) in [
            ("ProvisionedThroughputExceededException", FailureKind::Throttled),
            ("KMSThrottlingException", FailureKind::Throttled),
            ("ExpiredIteratorException", FailureKind::ExpiredIterator),
            ("InvalidArgumentException", FailureKind::InvalidPosition),
            ("ResourceNotFoundException", FailureKind::Missing),
            ("KMSDisabledException", FailureKind::Forbidden),
            ("InternalFailureException", FailureKind::Unavailable),
        ] {
            assert_eq!(kind_of(name, Kind::Other), kind, "{name}");
        }
    }

    #[test]
    fn a_lost_answer_is_asked_for_again() {
        assert_eq!(kind_of("", Kind::Timeout), FailureKind::Unavailable);
        assert_eq!(kind_of("", Kind::Unreachable), FailureKind::Unavailable);
        assert_eq!(kind_of("ExpiredTokenException", Kind::Credentials), FailureKind::Forbidden);
    }
}
