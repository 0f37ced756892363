//! From raw records to blocks: aggregates taken apart, columns built, one block at a time.
//!
//! Promises: a block never ends inside a raw record; its checksum covers exactly the payloads of
//! its raw records; the same records give the same columns, so that a block that was lost can be
//! built again. Never does: hold more than one open block, or know where blocks go.

use std::sync::Arc;

use arrow::array::{
    Array as _, BinaryBuilder, FixedSizeBinaryBuilder, StringBuilder, TimestampMillisecondBuilder,
    UInt64Builder,
};
use millrace_common::position::{HashKeyRange, SEQUENCE_NUMBER_BYTES, SequenceNumber};
use millrace_proto::v1::OutOfRangePolicy;
use millrace_sql::scan::block::{BlockId, RawBlock};

use super::kinesis::Record;
use crate::kpl::{self, RECORD_OVERHEAD_BYTES, UserRecord};

/// An open block of this size is closed; a single raw record may be larger.
pub const BLOCK_BYTES: usize = 8 << 20;

/// What all blocks of a shard have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockContext {
    /// Name of the source.
    pub source: Arc<str>,
    /// Id of the shard.
    pub shard: Arc<str>,
    /// The shard's hash keys; none when they are not known.
    pub range: Option<HashKeyRange>,
    /// True when user records outside the range are dropped.
    pub drops_out_of_range: bool,
}

impl BlockContext {
    /// Whether a stream's user records outside their shard's range are dropped: they are records
    /// that the producer sends again, but only where keys choose the shard.
    #[must_use]
    pub fn drops(policy: OutOfRangePolicy, keyed: bool) -> bool {
        match policy {
            OutOfRangePolicy::Drop => true,
            OutOfRangePolicy::Deliver => false,
            OutOfRangePolicy::Auto | OutOfRangePolicy::Unspecified => keyed,
        }
    }
}

/// A raw record made ready: its user records, and what they will take.
#[derive(Debug)]
pub struct Prepared<'a> {
    record: &'a Record,
    /// None for a plain record.
    users: Option<Vec<UserRecord<'a>>>,
    num_out_of_range: u64,
    num_bytes: usize,
}

impl Prepared<'_> {
    /// Bytes the record takes in a block.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }
}

/// Takes a raw record apart, if it is an aggregate.
#[must_use]
pub fn prepare<'a>(context: &BlockContext, record: &'a Record) -> Prepared<'a> {
    let Some(aggregate) = kpl::split(&record.data, context.range) else {
        let key_bytes = record.partition_key.as_ref().map_or(0, String::len);
        let num_bytes = record.data.len() + key_bytes + RECORD_OVERHEAD_BYTES;
        return Prepared { record, users: None, num_out_of_range: 0, num_bytes };
    };
    let mut users = aggregate.records;
    let num_out_of_range = users.iter().filter(|user| !user.is_in_range).count() as u64;
    if context.drops_out_of_range {
        users.retain(|user| user.is_in_range);
    }
    let num_bytes = users
        .iter()
        .map(|user| user.data.len() + user.partition_key.len() + RECORD_OVERHEAD_BYTES)
        .sum();
    Prepared { record, users: Some(users), num_out_of_range, num_bytes }
}

/// A closed block and what its announcement says beside it.
#[derive(Debug)]
pub struct Built {
    /// The block.
    pub block: RawBlock,
    /// Payload bytes of the raw records.
    pub num_bytes: u64,
    /// User records outside the shard's range, dropped or not.
    pub num_out_of_range: u64,
    /// Arrival of the first raw record, Unix time in milliseconds; 0 without records.
    pub first_arrival_ms: i64,
    /// Arrival of the last raw record.
    pub last_arrival_ms: i64,
}

/// The open block of one shard.
#[derive(Debug)]
pub struct BlockBuilder {
    context: BlockContext,
    open: Open,
}

impl BlockBuilder {
    /// Nothing open yet.
    #[must_use]
    pub fn new(context: BlockContext) -> Self {
        Self { context, open: Open::default() }
    }

    /// What all blocks of the shard have in common.
    #[must_use]
    pub fn context(&self) -> &BlockContext {
        &self.context
    }

    /// True when no record has been added since the last block was closed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.first_seq.is_none()
    }

    /// True when the open block is to be closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open.size >= BLOCK_BYTES
    }

    /// Bytes of the open block.
    #[must_use]
    pub fn size(&self) -> usize {
        self.open.size
    }

    /// Adds a raw record that follows `after_seq`.
    pub fn push(&mut self, after_seq: Option<SequenceNumber>, prepared: &Prepared<'_>) {
        self.open.push(after_seq, prepared);
    }

    /// Closes the open block under this name. Without records it is the empty block that ends a
    /// shard after `after_seq`.
    #[must_use]
    pub fn close(&mut self, id: BlockId, after_seq: Option<SequenceNumber>) -> Built {
        let open = std::mem::take(&mut self.open);
        open.close(id, &self.context, after_seq)
    }

    /// Forgets the open block.
    pub fn discard(&mut self) {
        self.open = Open::default();
    }
}

#[derive(Debug)]
struct Open {
    after_seq: Option<SequenceNumber>,
    first_seq: Option<SequenceNumber>,
    last_seq: Option<SequenceNumber>,
    raw_records: u64,
    num_bytes: u64,
    num_out_of_range: u64,
    crc32c: u32,
    first_arrival_ms: i64,
    last_arrival_ms: i64,
    /// Bytes the columns take.
    size: usize,
    has_aggregates: bool,
    data: BinaryBuilder,
    sequence_numbers: FixedSizeBinaryBuilder,
    sub_sequence_numbers: UInt64Builder,
    partition_keys: StringBuilder,
    arrival_ms: TimestampMillisecondBuilder,
}

impl Default for Open {
    fn default() -> Self {
        // No capacity ahead: an idle shard must cost nothing.
        Self {
            after_seq: None,
            first_seq: None,
            last_seq: None,
            raw_records: 0,
            num_bytes: 0,
            num_out_of_range: 0,
            crc32c: 0,
            first_arrival_ms: 0,
            last_arrival_ms: 0,
            size: 0,
            has_aggregates: false,
            data: BinaryBuilder::with_capacity(0, 0),
            sequence_numbers: FixedSizeBinaryBuilder::with_capacity(
                0,
                SEQUENCE_NUMBER_BYTES as i32,
            ),
            sub_sequence_numbers: UInt64Builder::with_capacity(0),
            partition_keys: StringBuilder::with_capacity(0, 0),
            arrival_ms: TimestampMillisecondBuilder::with_capacity(0),
        }
    }
}

impl Open {
    fn push(&mut self, after_seq: Option<SequenceNumber>, prepared: &Prepared<'_>) {
        let record = prepared.record;
        if self.first_seq.is_none() {
            self.after_seq = after_seq;
            self.first_seq = Some(record.sequence_number);
            self.first_arrival_ms = record.arrival_ms;
        }
        self.last_seq = Some(record.sequence_number);
        self.last_arrival_ms = record.arrival_ms;
        self.raw_records += 1;
        self.num_bytes += record.data.len() as u64;
        self.num_out_of_range += prepared.num_out_of_range;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &record.data);
        self.size += prepared.num_bytes;
        match &prepared.users {
            None => self.add(record, record.partition_key.as_deref(), &record.data, 0),
            Some(users) => {
                self.has_aggregates = true;
                for user in users {
                    let place = user.sub_sequence_number;
                    self.add(record, Some(user.partition_key), user.data, place);
                }
            }
        }
    }

    fn add(&mut self, record: &Record, key: Option<&str>, data: &[u8], sub_sequence_number: u64) {
        self.data.append_value(data);
        self.sequence_numbers
            .append_value(record.sequence_number.as_bytes())
            .expect("a packed sequence number has the column's width");
        self.sub_sequence_numbers.append_value(sub_sequence_number);
        self.partition_keys.append_option(key);
        self.arrival_ms.append_value(record.arrival_ms);
    }

    fn close(
        mut self,
        id: BlockId,
        context: &BlockContext,
        after_seq: Option<SequenceNumber>,
    ) -> Built {
        let packed = |number: Option<SequenceNumber>| number.map(|number| *number.as_bytes());
        let nothing = [0; SEQUENCE_NUMBER_BYTES];
        let is_empty = self.first_seq.is_none();
        let mut data = self.data.finish();
        let mut sequence_numbers = self.sequence_numbers.finish();
        let mut partition_keys = self.partition_keys.finish();
        let mut arrival_ms = self.arrival_ms.finish();
        let mut sub_sequence_numbers = self.sub_sequence_numbers.finish();
        data.shrink_to_fit();
        sequence_numbers.shrink_to_fit();
        partition_keys.shrink_to_fit();
        arrival_ms.shrink_to_fit();
        sub_sequence_numbers.shrink_to_fit();
        let block = RawBlock {
            id,
            source: Arc::clone(&context.source),
            shard: Arc::clone(&context.shard),
            after_seq: packed(if is_empty { after_seq } else { self.after_seq }),
            first_seq: packed(self.first_seq).unwrap_or(nothing),
            last_seq: packed(self.last_seq).unwrap_or(nothing),
            raw_records: self.raw_records,
            crc32c: self.crc32c,
            data,
            sequence_numbers,
            sub_sequence_numbers: self.has_aggregates.then_some(sub_sequence_numbers),
            partition_keys,
            arrival_ms,
            lease: None,
        };
        Built {
            block,
            num_bytes: self.num_bytes,
            num_out_of_range: self.num_out_of_range,
            first_arrival_ms: self.first_arrival_ms,
            last_arrival_ms: self.last_arrival_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinesis::tests::fake::{ARRIVED_MS, record, seq};
    use super::*;
    use crate::kpl::tests::aggregate;

    pub(crate) fn context() -> BlockContext {
        BlockContext {
            source: "logs".into(),
            shard: "shard-0".into(),
            range: None,
            drops_out_of_range: true,
        }
    }

    fn build(context: BlockContext, records: &[Record]) -> Built {
        let mut builder = BlockBuilder::new(context);
        let mut after_seq = Some(seq(1));
        for record in records {
            let prepared = prepare(builder.context(), record);
            builder.push(after_seq, &prepared);
            after_seq = Some(record.sequence_number);
        }
        builder.close(BlockId::new("b"), after_seq)
    }

    #[test]
    fn a_block_names_its_interval_and_sums_its_raw_records() {
        let records = [record(10), record(11), record(12)];
        let built = build(context(), &records);
        let block = &built.block;
        block.check().unwrap();
        assert_eq!(block.after_seq, Some(*seq(1).as_bytes()));
        assert_eq!((block.first_seq, block.last_seq), (*seq(10).as_bytes(), *seq(12).as_bytes()));
        assert_eq!((block.raw_records, block.num_records()), (3, 3));
        assert_eq!(block.crc32c, crc32c::crc32c(b"record 10record 11record 12"));
        let arrived = (built.first_arrival_ms - ARRIVED_MS, built.last_arrival_ms - ARRIVED_MS);
        assert_eq!(arrived, (10, 12));
        assert!(block.sub_sequence_numbers.is_none());
        assert_eq!(block.partition_keys.value(0), "key-3");
    }

    #[test]
    fn an_aggregate_counts_once_raw_and_each_user_record_once() {
        let mut packed = record(10);
        packed.data = aggregate(&[("a", "one"), ("b", "two")]).into();
        let built = build(context(), &[packed, record(11)]);
        let block = &built.block;
        block.check().unwrap();
        assert_eq!((block.raw_records, block.num_records()), (2, 3));
        let places = block.sub_sequence_numbers.as_ref().unwrap();
        assert_eq!(places.values(), &[0, 1, 0]);
        assert_eq!(block.data.value(1), b"two");
        assert_eq!(block.partition_keys.value(1), "b");
        assert_eq!(block.sequence_numbers.value(0), block.sequence_numbers.value(1));
    }

    #[test]
    fn records_out_of_range_are_dropped_or_kept_and_counted_either_way() {
        let mut packed = record(10);
        packed.data = aggregate(&[("a", "one"), ("b", "two")]).into();
        let key = kpl::hash_key("b");
        let range = Some(HashKeyRange { starting: key, ending: key });
        for drops_out_of_range in [true, false] {
            let context = BlockContext { range, drops_out_of_range, ..context() };
            let built = build(context, std::slice::from_ref(&packed));
            assert_eq!(built.num_out_of_range, 1);
            assert_eq!(built.block.num_records(), if drops_out_of_range { 1 } else { 2 });
            let places = built.block.sub_sequence_numbers.unwrap();
            assert_eq!(places.value(places.len() - 1), 1, "the place is that in the aggregate");
        }
    }

    #[test]
    fn only_keyed_streams_drop_by_themselves() {
        assert!(BlockContext::drops(OutOfRangePolicy::Auto, true));
        assert!(!BlockContext::drops(OutOfRangePolicy::Auto, false));
        assert!(BlockContext::drops(OutOfRangePolicy::Drop, false));
        assert!(!BlockContext::drops(OutOfRangePolicy::Deliver, true));
    }

    #[test]
    fn an_empty_block_ends_a_shard() {
        let built = build(context(), &[]);
        built.block.check().unwrap();
        assert_eq!(built.block.num_records(), 0);
        assert_eq!(built.block.after_seq, Some(*seq(1).as_bytes()));
    }

    #[test]
    fn a_record_without_key_and_payload_is_a_record() {
        let mut bare = record(10);
        (bare.partition_key, bare.data) = (None, bytes::Bytes::new());
        let block = build(context(), &[bare]).block;
        assert_eq!((block.num_records(), block.partition_keys.is_null(0)), (1, true));
    }

    #[test]
    fn a_block_takes_no_more_memory_than_was_counted() {
        let records: Vec<Record> = (1..5_000).map(record).collect();
        let mut builder = BlockBuilder::new(context());
        for record in &records {
            let prepared = prepare(builder.context(), record);
            builder.push(None, &prepared);
        }
        let counted = builder.size();
        let block = builder.close(BlockId::new("b"), None).block;
        assert!(block.memory_bytes() <= counted + 4096, "{} of {counted}", block.memory_bytes());
    }
}
