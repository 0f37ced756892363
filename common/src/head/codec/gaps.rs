//! Packing the losses that an application went on after. There are few, if any.

use std::collections::BTreeMap;

use prost::Message;

use super::{CodecError, damaged};
use crate::head::state::Gaps;
use crate::position::ShardKey;

/// The losses of one shard.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PackedGaps {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, tag = "2")]
    arn: String,
    #[prost(sint64, tag = "3")]
    created_ms: i64,
    #[prost(string, tag = "4")]
    shard_id: String,
    #[prost(uint64, tag = "5")]
    count: u64,
    #[prost(string, tag = "6")]
    last: String,
}

pub(super) fn pack(gaps: &BTreeMap<ShardKey, Gaps>) -> Vec<PackedGaps> {
    let pack = |(shard, gaps): (&ShardKey, &Gaps)| PackedGaps {
        source: shard.source.clone(),
        arn: shard.stream_arn.clone(),
        created_ms: shard.stream_created_ms,
        shard_id: shard.shard_id.clone(),
        count: gaps.count,
        last: gaps.last.clone(),
    };
    gaps.iter().map(pack).collect()
}

pub(super) fn unpack(packed: Vec<PackedGaps>) -> Result<BTreeMap<ShardKey, Gaps>, CodecError> {
    let mut gaps = BTreeMap::new();
    for one in packed {
        let shard = ShardKey {
            source: one.source,
            stream_arn: one.arn,
            stream_created_ms: one.created_ms,
            shard_id: one.shard_id,
        };
        if gaps.insert(shard, Gaps { count: one.count, last: one.last }).is_some() {
            return Err(damaged("the losses of a shard stand twice"));
        }
    }
    Ok(gaps)
}
