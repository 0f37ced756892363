//! The answers that describe streams and shards, as serde shapes in the order of the API.

use serde::Serialize;

use super::answers::ShardShape;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mode {
    pub(super) stream_mode: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Monitoring {
    pub(super) shard_level_metrics: [&'static str; 0],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Common {
    pub(super) stream_name: String,
    #[serde(rename = "StreamARN")]
    pub(super) stream_arn: String,
    pub(super) stream_status: &'static str,
    pub(super) stream_mode_details: Mode,
    pub(super) retention_period_hours: u64,
    pub(super) stream_creation_timestamp: f64,
    pub(super) enhanced_monitoring: [Monitoring; 1],
    pub(super) encryption_type: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Description {
    #[serde(flatten)]
    pub(super) common: Common,
    pub(super) shards: Vec<ShardShape>,
    pub(super) has_more_shards: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribeStreamAnswer {
    pub(super) stream_description: Description,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Summary {
    #[serde(flatten)]
    pub(super) common: Common,
    pub(super) open_shard_count: usize,
    pub(super) consumer_count: usize,
    #[serde(rename = "MaxRecordSizeInKiB")]
    pub(super) max_record_size_in_kib: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribeStreamSummaryAnswer {
    pub(super) stream_description_summary: Summary,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StreamSummary {
    pub(super) stream_name: String,
    #[serde(rename = "StreamARN")]
    pub(super) stream_arn: String,
    pub(super) stream_status: &'static str,
    pub(super) stream_mode_details: Mode,
    pub(super) stream_creation_timestamp: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListStreamsAnswer {
    pub(super) stream_names: Vec<String>,
    pub(super) has_more_streams: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_token: Option<String>,
    pub(super) stream_summaries: Vec<StreamSummary>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListShardsAnswer {
    pub(super) shards: Vec<ShardShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateShardCountAnswer {
    pub(super) stream_name: String,
    pub(super) current_shard_count: u32,
    pub(super) target_shard_count: u32,
    #[serde(rename = "StreamARN")]
    pub(super) stream_arn: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListTagsAnswer {
    pub(super) tags: Vec<Tag>,
    pub(super) has_more_tags: bool,
}
