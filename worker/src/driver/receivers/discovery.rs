//! What Kinesis says of a stream: its description and its shards.
//!
//! Promises: a listing is complete or an error; every call has a deadline; throttled and broken
//! calls are repeated a few times. Owned by the driver. Never does: read records.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::types::{
    RecordDistributionStrategy, Shard, ShardFilter, ShardFilterType, StreamStatus,
};
use aws_smithy_types::DateTime;
use millrace_common::aws::{self, ServerDate, StreamClients};
use millrace_common::error::{Code, Error};
use millrace_common::position::HashKeyRange;
use millrace_common::retry::{self, Backoff};

use super::core::Stream;
use super::lineage::ListedShard;

/// Calls per page until the listing is given up: the next one comes in seconds anyway.
const TRIES: u32 = 6;
/// Between the calls of one listing; ListShards takes 1,000 calls a second, DescribeStreamSummary
/// 20 per account.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// A stream's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The stream.
    pub stream: Stream,
    /// True when it can be read (ACTIVE or UPDATING).
    pub active: bool,
    /// Its status as Kinesis names it.
    pub status: String,
    /// How long it keeps records.
    pub retention: Duration,
}

/// Which shards to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Every shard whose records are kept.
    All,
    /// Those that were open at this server time, Unix milliseconds.
    OpenAt(i64),
}

/// A complete listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shards {
    /// The shards.
    pub shards: Vec<ListedShard>,
    /// HTTP Date of the first page's answer, Unix milliseconds; 0 when it had none.
    pub server_ms: i64,
}

/// Streams as the driver needs them.
#[async_trait]
pub trait Streams: Send + Sync + 'static {
    /// Describes a stream, given its name or ARN.
    async fn describe(&self, stream: &str) -> Result<Description, Error>;

    /// Lists its shards, all pages.
    async fn list(&self, stream: &Stream, filter: Filter) -> Result<Shards, Error>;
}

/// Kinesis itself.
#[derive(Clone, Debug)]
pub struct KinesisStreams {
    clients: StreamClients,
}

impl KinesisStreams {
    /// Through these clients.
    #[must_use]
    pub fn new(clients: StreamClients) -> Self {
        Self { clients }
    }

    async fn describe_once(&self, stream: &str) -> Result<Description, (bool, Error)> {
        let call = self.clients.of(stream).describe_stream_summary();
        let call = if stream.starts_with("arn:") {
            call.stream_arn(stream)
        } else {
            call.stream_name(stream)
        };
        let answer = call.send().await.map_err(|error| {
            let resource = format!("stream {stream}");
            let again = aws::kind(&error).is_transient();
            (again, aws::explain("kinesis", "DescribeStreamSummary", &resource, &error))
        })?;
        let Some(summary) = answer.stream_description_summary else {
            let error = Error::new(
                Code::AwsOther,
                format!("kinesis:DescribeStreamSummary on stream {stream} answers nothing"),
                "see that the endpoint speaks Kinesis",
            );
            return Err((false, error));
        };
        let created_ms = summary.stream_creation_timestamp.to_millis().unwrap_or_default();
        let auto = summary
            .record_distribution_strategy
            .is_some_and(|strategy| strategy == RecordDistributionStrategy::Auto);
        let hours = u64::try_from(summary.retention_period_hours).unwrap_or_default();
        Ok(Description {
            active: matches!(summary.stream_status, StreamStatus::Active | StreamStatus::Updating),
            status: summary.stream_status.as_str().to_owned(),
            retention: Duration::from_secs(hours * 3600),
            stream: Stream {
                arn: summary.stream_arn,
                name: summary.stream_name,
                created_ms,
                keyed: !auto,
            },
        })
    }

    async fn page(
        &self,
        stream: &Stream,
        filter: Filter,
        token: Option<&str>,
    ) -> Result<(Vec<Shard>, Option<String>, i64), (bool, Error)> {
        let date = ServerDate::new();
        let call = self.clients.of(&stream.arn).list_shards();
        // A call with a token must not name the stream again.
        let call = match token {
            Some(token) => call.next_token(token),
            // The ARN is right across accounts too.
            None => call.stream_arn(&stream.arn).set_shard_filter(shard_filter(filter)),
        };
        let answer = call.customize().interceptor(date.clone()).send().await.map_err(|error| {
            let again = aws::kind(&error).is_transient();
            let resource = format!("stream {}", stream.name);
            (again, aws::explain("kinesis", "ListShards", &resource, &error))
        })?;
        let server_ms = date.get_ms().unwrap_or_default();
        Ok((answer.shards.unwrap_or_default(), answer.next_token, server_ms))
    }
}

#[async_trait]
impl Streams for KinesisStreams {
    async fn describe(&self, stream: &str) -> Result<Description, Error> {
        retry::call(BACKOFF, TRIES, |(again, _)| *again, || self.describe_once(stream))
            .await
            .map_err(|(_, error)| error)
    }

    async fn list(&self, stream: &Stream, filter: Filter) -> Result<Shards, Error> {
        let mut listing = Shards::default();
        let mut token: Option<String> = None;
        loop {
            let page = || self.page(stream, filter, token.as_deref());
            let (shards, next, server_ms) =
                retry::call(BACKOFF, TRIES, |(again, _): &(bool, Error)| *again, page)
                    .await
                    .map_err(|(_, error)| error)?;
            if token.is_none() {
                listing.server_ms = server_ms;
            }
            for shard in shards {
                listing.shards.push(listed(shard)?);
            }
            match next {
                Some(next) => token = Some(next),
                None => return Ok(listing),
            }
        }
    }
}

fn shard_filter(filter: Filter) -> Option<ShardFilter> {
    let Filter::OpenAt(timestamp_ms) = filter else { return None };
    ShardFilter::builder()
        .r#type(ShardFilterType::AtTimestamp)
        .timestamp(DateTime::from_millis(timestamp_ms))
        .build()
        .ok()
}

fn listed(shard: Shard) -> Result<ListedShard, Error> {
    let (starting, ending) = shard
        .hash_key_range
        .map(|range| (range.starting_hash_key, range.ending_hash_key))
        .unwrap_or_default();
    let open =
        shard.sequence_number_range.is_none_or(|range| range.ending_sequence_number.is_none());
    Ok(ListedShard {
        range: HashKeyRange::parse(&starting, &ending)?,
        parents: shard.parent_shard_id.into_iter().chain(shard.adjacent_parent_shard_id).collect(),
        shard_id: shard.shard_id,
        open,
    })
}
