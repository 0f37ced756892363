//! The metadata columns of a block, built only for queries that name them.
//!
//! Promises: one value per kept record. Never does: look at payloads.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use millrace_common::position::{SEQUENCE_NUMBER_BYTES, SequenceNumber};

use super::block::RawBlock;
use crate::schema::MetadataColumn;

/// What is the same for every record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BatchConstants {
    /// `_batch_id`.
    pub batch: u64,
    /// `_batch_time`, Unix time in milliseconds.
    pub batch_time_ms: i64,
}

/// The column's values for the given records of the block.
pub(super) fn build(
    column: MetadataColumn,
    block: &RawBlock,
    kept: &UInt64Array,
    batch: BatchConstants,
) -> Result<ArrayRef, ArrowError> {
    let rows = kept.len();
    let utc =
        |times: TimestampMillisecondArray| Arc::new(times.with_timezone("+00:00")) as ArrayRef;
    Ok(match column {
        MetadataColumn::ShardId => {
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&*block.shard, rows)))
        }
        MetadataColumn::SequenceNumber => Arc::new(StringArray::from_iter_values(
            kept.values().iter().map(|at| sequence_number(block, *at)),
        )),
        MetadataColumn::SubSequenceNumber => match &block.sub_sequence_numbers {
            None => Arc::new(Int64Array::from_value(0, rows)),
            Some(numbers) => {
                Arc::new(Int64Array::from_iter_values(kept.values().iter().map(|at| {
                    let number = numbers.value(index(*at));
                    i64::try_from(number).unwrap_or(i64::MAX)
                })))
            }
        },
        MetadataColumn::PartitionKey => take(&block.partition_keys, kept, None)?,
        MetadataColumn::ArrivalTime => utc(TimestampMillisecondArray::from_iter_values(
            kept.values().iter().map(|at| block.arrival_ms.value(index(*at))),
        )),
        MetadataColumn::BatchId => {
            let batch = i64::try_from(batch.batch).unwrap_or(i64::MAX);
            Arc::new(Int64Array::from_value(batch, rows))
        }
        MetadataColumn::BatchTime => {
            utc(TimestampMillisecondArray::from_value(batch.batch_time_ms, rows))
        }
    })
}

/// The decimal sequence number of a record.
pub(super) fn sequence_number(block: &RawBlock, at: u64) -> String {
    let mut packed = [0; SEQUENCE_NUMBER_BYTES];
    packed.copy_from_slice(block.sequence_numbers.value(index(at)));
    SequenceNumber::from_bytes(packed).to_string()
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a place within a block, which is in memory")
}
