//! A block as the driver knows it: everything but its records.
//!
//! Promises: sequence numbers are numbers. Owned by the ledger. Never does: change.

use millrace_common::error::{Code, Error};
use millrace_common::id::BlockId;
use millrace_common::position::{SequenceNumber, ShardKey, optional_sequence_number};
use millrace_proto::v1;

/// A run of records of one shard, `(after, last]`, as announced.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its name, unique within the application.
    pub id: BlockId,
    /// The shard it was read from.
    pub shard: ShardKey,
    /// Generation of the assignment it was read under.
    pub generation: u64,
    /// The chain within the generation.
    pub chain: u64,
    /// The record before its first; none at the shard's start.
    pub after: Option<SequenceNumber>,
    /// Its last record; none when it holds none and only ends the shard.
    pub last: Option<SequenceNumber>,
    /// True when the shard holds nothing after it and never will.
    pub ends_shard: bool,
    /// Records as SQL sees them.
    pub num_records: u64,
    /// Bytes in the executor's store.
    pub num_bytes: u64,
    /// Approximate arrival of its last record, Unix milliseconds of the server.
    pub last_arrival_ms: i64,
    /// The announcement it came with, for reading the block again.
    pub descriptor: v1::BlockDescriptor,
}

impl Eq for Block {}

impl Block {
    /// From its announcement.
    ///
    /// # Errors
    /// [`Code::Protocol`] when it names no shard, or its numbers are not in order.
    pub fn from_proto(descriptor: v1::BlockDescriptor) -> Result<Self, Error> {
        let after = optional_sequence_number(&descriptor.after_seq)?;
        let last = optional_sequence_number(&descriptor.last_seq)?;
        let holds_records = descriptor.num_raw_records > 0;
        let in_order = match last {
            Some(last) if holds_records => after.is_none_or(|after| after < last),
            Some(last) => after == Some(last) && descriptor.ends_shard,
            None => !holds_records && descriptor.ends_shard,
        };
        if descriptor.block_id.is_empty() || !in_order {
            return Err(Error::new(
                Code::Protocol,
                format!(
                    "block {:?} does not run from {:?} to {:?}",
                    descriptor.block_id, descriptor.after_seq, descriptor.last_seq
                ),
                "see that all processes run the same version",
            ));
        }
        Ok(Self {
            id: BlockId::new(descriptor.block_id.clone()),
            shard: ShardKey::from_proto(descriptor.shard.clone())?,
            generation: descriptor.generation,
            chain: descriptor.chain,
            after,
            last: last.or(after),
            ends_shard: descriptor.ends_shard,
            num_records: descriptor.num_records,
            num_bytes: descriptor.num_bytes,
            last_arrival_ms: descriptor.last_arrival_ms,
            descriptor,
        })
    }
}
