//! Splits and merges of a stream's open shards, each waited for until Kinesis has carried it out.

use aws_sdk_kinesis::types::ScalingType;

use crate::aws::Aws;
use crate::eventually::{PATIENCE, within};

/// An open shard with the range of its hash keys, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenShard {
    /// Its id.
    pub id: String,
    /// First hash key.
    pub start: u128,
    /// Last hash key.
    pub end: u128,
}

/// The open shards, in the order of their ranges. The stream goes by its ARN, where drivers name
/// it: so faults that strike their calls spare these.
///
/// # Panics
/// When they can not be listed.
pub async fn open_shards(aws: &Aws, stream: &str) -> Vec<OpenShard> {
    let kinesis = aws.endpoint.kinesis();
    let described = kinesis.describe_stream_summary().stream_name(stream).send().await;
    let described = described.unwrap_or_else(|error| panic!("describe {stream}: {error:?}"));
    let arn = described.stream_description_summary().map(|summary| summary.stream_arn());
    let listed = kinesis.list_shards().set_stream_arn(arn.map(str::to_owned)).send().await;
    let listed = listed.unwrap_or_else(|error| panic!("list shards of {stream}: {error:?}"));
    let open = listed.shards().iter().filter(|shard| {
        let range = shard.sequence_number_range();
        range.is_some_and(|range| range.ending_sequence_number().is_none())
    });
    let mut shards: Vec<_> = open
        .filter_map(|shard| {
            let range = shard.hash_key_range()?;
            let start = range.starting_hash_key().parse().ok()?;
            let end = range.ending_hash_key().parse().ok()?;
            Some(OpenShard { id: shard.shard_id().to_owned(), start, end })
        })
        .collect();
    shards.sort_by_key(|shard| shard.start);
    shards
}

/// Splits the open shard of this index, counted around, in the middle of its range.
///
/// # Panics
/// When Kinesis refuses.
pub async fn split(aws: &Aws, stream: &str, index: usize) {
    let before = open_shards(aws, stream).await;
    let OpenShard { id, start, end } = before[index % before.len()].clone();
    let middle = start + (end - start) / 2;
    let split = aws.endpoint.kinesis().split_shard().stream_name(stream).shard_to_split(id);
    let split = split.new_starting_hash_key(middle.to_string()).send().await;
    split.unwrap_or_else(|error| panic!("split a shard of {stream}: {error:?}"));
    num_open_shards_is(aws, stream, before.len() + 1).await;
}

/// Merges the open shard of this index with the next one.
///
/// # Panics
/// When Kinesis refuses, or there is no next one.
pub async fn merge(aws: &Aws, stream: &str, index: usize) {
    let before = open_shards(aws, stream).await;
    let merge = aws.endpoint.kinesis().merge_shards().stream_name(stream);
    let merge = merge.shard_to_merge(&before[index].id);
    let merge = merge.adjacent_shard_to_merge(&before[index + 1].id).send().await;
    merge.unwrap_or_else(|error| panic!("merge shards of {stream}: {error:?}"));
    num_open_shards_is(aws, stream, before.len() - 1).await;
}

/// Asks for so many open shards; Kinesis splits and merges until there are.
///
/// # Panics
/// When Kinesis refuses.
pub async fn scale(aws: &Aws, stream: &str, target: i32) {
    let update = aws.endpoint.kinesis().update_shard_count().stream_name(stream);
    let update = update.target_shard_count(target).scaling_type(ScalingType::UniformScaling);
    let update = update.send().await;
    update.unwrap_or_else(|error| panic!("scale {stream} to {target}: {error:?}"));
}

async fn num_open_shards_is(aws: &Aws, stream: &str, num: usize) {
    within(PATIENCE, &format!("{num} open shards"), async || {
        match open_shards(aws, stream).await.len() {
            found if found == num => Ok(()),
            found => Err(format!("{found}")),
        }
    })
    .await;
    aws.stream_is_active(stream).await;
}
