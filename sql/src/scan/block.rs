//! A block as the executor holds it, and the one way a scan gets at it.
//!
//! Promises: the columns of a block have one length, and sequence numbers compare as bytes.
//! Owned by the executor's block store, which implements [`BlockSource`]; the scan only reads.
//! Never does: decode records, or know where a block is stored.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, BinaryArray, FixedSizeBinaryArray, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::Buffer;
use async_trait::async_trait;

pub use millrace_common::id::BlockId;

pub use millrace_common::position::SEQUENCE_NUMBER_BYTES;

/// A sequence number as a 192-bit big-endian integer, so that byte order is numeric order.
pub type PackedSequenceNumber = [u8; SEQUENCE_NUMBER_BYTES];

/// Records of one shard, in the order of their sequence numbers, as they came from Kinesis
/// (KPL aggregates are already taken apart).
#[derive(Debug, Clone)]
pub struct RawBlock {
    /// The block's name on its executor.
    pub id: BlockId,
    /// The source's name in the application file.
    pub source: Arc<str>,
    /// The shard all records came from.
    pub shard: Arc<str>,
    /// The sequence number the shard's previous block ended with; none at the shard's start.
    pub after_seq: Option<PackedSequenceNumber>,
    /// The sequence number of the first raw record.
    pub first_seq: PackedSequenceNumber,
    /// The sequence number of the last raw record.
    pub last_seq: PackedSequenceNumber,
    /// Raw Kinesis records: an aggregate counts once.
    pub raw_records: u64,
    /// CRC-32C over the payloads of the raw records, in order.
    pub crc32c: u32,
    /// One payload per user record. Never null.
    pub data: BinaryArray,
    /// One packed sequence number per user record, of [`SEQUENCE_NUMBER_BYTES`] bytes. Never null.
    pub sequence_numbers: FixedSizeBinaryArray,
    /// The place of each user record within its aggregate; `None` when no record was aggregated,
    /// which reads as 0 for every record.
    pub sub_sequence_numbers: Option<UInt64Array>,
    /// Partition keys; null where Kinesis gave none.
    pub partition_keys: StringArray,
    /// Approximate arrival time, milliseconds since the epoch, without a time zone (UTC is meant).
    pub arrival_ms: TimestampMillisecondArray,
    /// What must live as long as the block's memory does: the room it takes in a store's budget.
    pub lease: Option<Arc<dyn Any + Send + Sync>>,
}

impl RawBlock {
    /// A block of nothing, to be filled in.
    #[must_use]
    pub fn without_records() -> Self {
        let nothing = [0; SEQUENCE_NUMBER_BYTES];
        let width = i32::try_from(SEQUENCE_NUMBER_BYTES).expect("24 is a small number");
        Self {
            id: BlockId::new(""),
            source: "".into(),
            shard: "".into(),
            after_seq: None,
            first_seq: nothing,
            last_seq: nothing,
            raw_records: 0,
            crc32c: 0,
            data: BinaryArray::from(Vec::<&[u8]>::new()),
            sequence_numbers: FixedSizeBinaryArray::new(width, Buffer::default(), None),
            sub_sequence_numbers: None,
            partition_keys: StringArray::from(Vec::<&str>::new()),
            arrival_ms: TimestampMillisecondArray::from(Vec::<i64>::new()),
            lease: None,
        }
    }

    /// User records in the block: what a scan reads and reports.
    #[must_use]
    pub fn num_records(&self) -> usize {
        self.data.len()
    }

    /// Bytes the block occupies in memory, buffers included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.data.get_array_memory_size()
            + self.sequence_numbers.get_array_memory_size()
            + self.partition_keys.get_array_memory_size()
            + self.arrival_ms.get_array_memory_size()
            + self.sub_sequence_numbers.as_ref().map_or(0, Array::get_array_memory_size)
    }

    /// Checks that all columns have one length and that the sequence numbers have their width.
    ///
    /// # Errors
    /// [`BlockError::Malformed`] names the column that does not fit.
    pub fn check(&self) -> Result<(), BlockError> {
        let records = self.num_records();
        let sub_len = self.sub_sequence_numbers.as_ref().map_or(records, Array::len);
        let columns = [
            ("sequence_numbers", self.sequence_numbers.len()),
            ("sub_sequence_numbers", sub_len),
            ("partition_keys", self.partition_keys.len()),
            ("arrival_ms", self.arrival_ms.len()),
        ];
        for (column, len) in columns {
            if len != records {
                let detail = format!("{column} has {len} values for {records} records");
                return Err(BlockError::Malformed { block: self.id.clone(), detail });
            }
        }
        let width = self.sequence_numbers.value_length();
        if usize::try_from(width) != Ok(SEQUENCE_NUMBER_BYTES) {
            let detail = format!("a sequence number has {width} bytes");
            return Err(BlockError::Malformed { block: self.id.clone(), detail });
        }
        Ok(())
    }
}

/// Why a block could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlockError {
    /// The executor does not hold the block: it was lost, released or never here.
    #[error("block {block} is not on this executor; it must be read from Kinesis again")]
    Missing {
        /// The block asked for.
        block: BlockId,
    },
    /// The block was spilled to disk and cannot be read back.
    #[error("block {block} cannot be read back from {path}: {detail}")]
    Unreadable {
        /// The block asked for.
        block: BlockId,
        /// The spill file.
        path: String,
        /// What the file system or the decoder said.
        detail: String,
    },
    /// The block is on disk, and tasks that read others leave no room to read it back.
    #[error("there is no room in memory to read {num_bytes} bytes of block {block} back from disk")]
    NoRoom {
        /// The block asked for.
        block: BlockId,
        /// What it takes.
        num_bytes: u64,
    },
    /// The block's columns contradict each other: a fault of Millrace.
    #[error("block {block} is malformed: {detail}")]
    Malformed {
        /// The block asked for.
        block: BlockId,
        /// Which column, and how.
        detail: String,
    },
}

impl BlockError {
    /// The block the error is about.
    #[must_use]
    pub fn block(&self) -> &BlockId {
        match self {
            Self::Missing { block }
            | Self::Unreadable { block, .. }
            | Self::NoRoom { block, .. }
            | Self::Malformed { block, .. } => block,
        }
    }
}

/// Where a scan finds the blocks of its executor.
///
/// `get` may read a spilled block from disk: the implementation does so away from the compute
/// threads. It is called once per block and run; the returned `Arc` keeps the block's memory
/// until the scan is through with it, even if the block is released meanwhile.
#[async_trait]
pub trait BlockSource: fmt::Debug + Send + Sync + 'static {
    /// The block of this number.
    ///
    /// # Errors
    /// [`BlockError`] when the block is not here, cannot be read back or is malformed.
    async fn get(&self, block: &BlockId) -> Result<Arc<RawBlock>, BlockError>;
}
