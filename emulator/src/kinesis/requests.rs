//! The requests of the Kinesis API as they come over the wire, borrowed from the body.
//!
//! Only shapes: no rule of the API is checked here, except that a stream is named in exactly one
//! way. Members that the emulator does not know are ignored, as AWS ignores them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::{ErrorKind, KinesisError, KinesisResult};

/// Reads a request body.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> KinesisResult<T> {
    let body = if body.is_empty() { b"{}" } else { body };
    sonic_rs::from_slice(body)
        .map_err(|error| KinesisError::new(ErrorKind::Serialization, error.to_string()))
}

/// The two ways to name a stream.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamRef {
    #[serde(rename = "StreamName")]
    pub(crate) name: Option<String>,
    #[serde(rename = "StreamARN")]
    pub(crate) arn: Option<String>,
}

impl StreamRef {
    /// The name of the stream, or nothing if the request names none.
    pub(crate) fn name(&self) -> KinesisResult<Option<&str>> {
        let from_arn = match self.arn.as_deref() {
            None => None,
            Some(arn) => {
                let is_stream = arn.starts_with("arn:") && arn.contains(":kinesis:");
                let name = arn.rsplit_once(":stream/").map(|(_, name)| name);
                Some(name.filter(|n| is_stream && !n.is_empty()).ok_or_else(|| {
                    KinesisError::constraint(
                        arn,
                        "streamARN",
                        "satisfy regular expression pattern: arn:aws.*:kinesis:.*:\\d{12}:stream/\\S+",
                    )
                })?)
            }
        };
        match (self.name.as_deref(), from_arn) {
            (Some(name), Some(of_arn)) if name != of_arn => Err(KinesisError::invalid_argument(
                "StreamName and StreamARN name different streams.",
            )),
            (name, of_arn) => Ok(name.or(of_arn)),
        }
    }

    /// The name of the stream.
    pub(crate) fn required(&self) -> KinesisResult<&str> {
        self.name()?.ok_or_else(|| {
            KinesisError::invalid_argument("Either StreamName or StreamARN must be provided.")
        })
    }
}

/// Declares a request: the stream's names flat in it, and its own members.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub(crate) struct $name {
            #[serde(rename = "StreamName")]
            stream_name: Option<String>,
            #[serde(rename = "StreamARN")]
            stream_arn: Option<String>,
            $($(#[$attr])* pub(crate) $field: $type,)*
        }

        impl $name {
            /// The stream that is meant.
            pub(crate) fn stream(&self) -> StreamRef {
                StreamRef { name: self.stream_name.clone(), arn: self.stream_arn.clone() }
            }
        }
    };
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StreamModeDetails {
    pub(crate) stream_mode: String,
}

request!(CreateStream {
    shard_count: Option<u32>,
    stream_mode_details: Option<StreamModeDetails>,
    #[serde(rename = "MaxRecordSizeInKiB")]
    max_record_size_in_kib: Option<u64>,
    tags: Option<BTreeMap<String, String>>,
});
request!(
    /// A request that names a stream and nothing else.
    OnlyStream {}
);
request!(DescribeStream { limit: Option<usize>, exclusive_start_shard_id: Option<String> });
request!(ListShards {
    next_token: Option<String>,
    exclusive_start_shard_id: Option<String>,
    max_results: Option<usize>,
    stream_creation_timestamp: Option<f64>,
    shard_filter: Option<ShardFilterShape>,
});
request!(GetShardIterator {
    shard_id: String,
    shard_iterator_type: String,
    starting_sequence_number: Option<String>,
    timestamp: Option<f64>,
    dry_run: Option<bool>,
});
request!(GetRecords { shard_iterator: String, limit: Option<u64>, dry_run: Option<bool> });
request!(SplitShard { shard_to_split: String, new_starting_hash_key: String });
request!(MergeShards { shard_to_merge: String, adjacent_shard_to_merge: String });
request!(UpdateShardCount { target_shard_count: u32, scaling_type: Option<String> });
request!(RetentionPeriod { retention_period_hours: u64 });
request!(UpdateMaxRecordSize {
    #[serde(rename = "MaxRecordSizeInKiB")]
    max_record_size_in_kib: u64,
});
request!(AddTags { tags: BTreeMap<String, String> });
request!(RemoveTags { tag_keys: Vec<String> });

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ShardFilterShape {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    pub(crate) shard_id: Option<String>,
    pub(crate) timestamp: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListStreams {
    pub(crate) limit: Option<usize>,
    pub(crate) exclusive_start_stream_name: Option<String>,
    pub(crate) next_token: Option<String>,
}

/// A record of PutRecord and PutRecords; data is base64 text, empty members are absent ones.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutEntry<'a> {
    #[serde(borrow)]
    pub(crate) data: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) partition_key: Cow<'a, str>,
    pub(crate) explicit_hash_key: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PutRecords<'a> {
    #[serde(rename = "StreamName")]
    pub(crate) stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    pub(crate) stream_arn: Option<String>,
    #[serde(rename = "Records", borrow)]
    pub(crate) records: Vec<PutEntry<'a>>,
}

/// PutRecord: the record lies flat in the request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutRecord<'a> {
    pub(crate) stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    pub(crate) stream_arn: Option<String>,
    #[serde(borrow)]
    pub(crate) data: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) partition_key: Cow<'a, str>,
    pub(crate) explicit_hash_key: Option<String>,
    pub(crate) sequence_number_for_ordering: Option<String>,
}
