//! Parts of an application's view: receivers, losses, bad records, and nodes that are avoided.
//!
//! Promises and keys as in the parent.

use millrace_proto::v1;
use serde::{Deserialize, Serialize};

use super::known;

/// A receiver and the shards it reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverView {
    /// The receiver's id.
    pub receiver_id: String,
    /// The executor's container it lives in.
    pub container_id: String,
    /// The source it reads.
    pub source: String,
    /// Number of shards it reads.
    pub num_shards: usize,
    /// The shards it reads.
    pub shards: Vec<String>,
}

impl ReceiverView {
    pub(super) fn new(receiver: &v1::ReceiverReport) -> Self {
        Self {
            receiver_id: receiver.receiver_id.clone(),
            container_id: receiver.container_id.clone(),
            source: receiver.source.clone(),
            num_shards: receiver.shards.len(),
            shards: receiver.shards.clone(),
        }
    }
}

/// Records of a shard that were skipped or dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecordsView {
    /// The source.
    pub source: String,
    /// The shard.
    pub shard_id: String,
    /// How many in this attempt.
    pub num_records: u64,
}

impl BadRecordsView {
    pub(super) fn new(bad: &v1::BadRecordsReport) -> Self {
        Self {
            source: bad.source.clone(),
            shard_id: bad.shard_id.clone(),
            num_records: bad.num_records,
        }
    }
}

/// Losses of a shard that the application went on after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapView {
    /// The source.
    pub source: String,
    /// The shard.
    pub shard_id: String,
    /// Ranges that were lost.
    pub num_gaps: u64,
    /// What was said of the last one.
    pub last: String,
}

impl GapView {
    pub(super) fn new(gap: &v1::GapReport) -> Self {
        Self {
            source: gap.source.clone(),
            shard_id: gap.shard_id.clone(),
            num_gaps: gap.num_gaps,
            last: gap.last.clone(),
        }
    }
}

/// A node that gets no work of an application for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExclusionView {
    /// The node.
    pub node_id: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until_ms: Option<i64>,
}

impl NodeExclusionView {
    pub(super) fn new(exclusion: &v1::NodeExclusion) -> Self {
        Self {
            node_id: exclusion.node_id.clone(),
            reason: exclusion.reason.clone(),
            until_ms: known(exclusion.until_ms),
        }
    }
}
