//! Reading a lost block from Kinesis again, by its range, and checking it against its description.
//!
//! Promises: a block that is put back holds exactly the raw records it was announced with; anything
//! else is `DataLost`, named with shard and range. Throttles and broken answers are waited out until
//! the deadline. Never does: announce anything.

use std::sync::Arc;
use std::time::Duration;

use millrace_common::position::{SequenceNumber, ShardKey};
use millrace_common::retry::Backoff;
use millrace_common::{Code, Error, Result};
use millrace_proto::v1;
use millrace_sql::scan::block::BlockId;
use tokio::time::Instant;

use super::assignment::{range_of, shard_ref};
use super::block_builder::{BlockBuilder, BlockContext, Built, prepare};
use super::kinesis::{
    Answer, CallFailure, FailureKind, IteratorAt, RECORDS_PER_ANSWER_MAX, ShardRef,
};
use super::shared::Shared;
use crate::executor::block_store::Keep;
use crate::executor::block_store::core::Purpose;
use crate::kpl::RECORD_OVERHEAD_BYTES;

/// How long one block may take; the driver gives up the run of its batch about then.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long iterators at the block's first record may give answers without records before the shard
/// is read from its oldest record on: Kinesis has been seen to do so for ever where it is trimmed.
const FIRST_PATIENCE: Duration = Duration::from_secs(15);
/// Guess of a partition key's bytes, for the first reservation.
const KEY_BYTES: u64 = 32;

/// The range of a block, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    after: Option<SequenceNumber>,
    first: SequenceNumber,
    last: SequenceNumber,
}

/// What a step of the re-reading came to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Go on with this iterator.
    More(String),
    /// The last record was read, or there is nothing more to read.
    Done,
}

/// Reads the block again and puts it into the store. A block that is there is left alone.
///
/// # Errors
/// [`Code::DataLost`] when the range does not hold what it held, else what prevented the reading.
pub async fn reread(shared: &Arc<Shared>, command: v1::RereadBlock) -> Result<()> {
    let block = command.block.clone().ok_or_else(|| protocol("a re-read names no block"))?;
    let id = BlockId::new(block.block_id.as_str());
    if shared.store.contains(&id) {
        return Ok(());
    }
    let shard = ShardKey::from_proto(block.shard.clone())?;
    let read = read(shared, &command, &block, &shard);
    match tokio::time::timeout(DEADLINE, read).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            Code::BlockLost,
            format!("block {id} of {shard} could not be read again in {DEADLINE:?}"),
            "see the limits of the stream and the network to Kinesis",
        )),
    }
}

async fn read(
    shared: &Arc<Shared>,
    command: &v1::RereadBlock,
    block: &v1::BlockDescriptor,
    shard: &ShardKey,
) -> Result<()> {
    let rules = shared.rules(&shard.source);
    let context = BlockContext {
        source: shard.source.as_str().into(),
        shard: shard.shard_id.as_str().into(),
        range: range_of(&command.starting_hash_key, &command.ending_hash_key)?,
        drops_out_of_range: BlockContext::drops(rules.out_of_range, command.keyed),
    };
    let keep = Keep { may_spill: rules.may_spill, is_evictable: false };
    let id = BlockId::new(block.block_id.as_str());
    let mut builder = BlockBuilder::new(context);
    if block.num_raw_records == 0 {
        let after = millrace_common::position::optional_sequence_number(&block.after_seq)?;
        shared.store.insert_empty(builder.close(id, after).block, keep);
        return Ok(());
    }
    let range = Range {
        after: millrace_common::position::optional_sequence_number(&block.after_seq)?,
        first: block.first_seq.parse()?,
        last: block.last_seq.parse()?,
    };
    let guess = block.num_bytes + block.num_records * (RECORD_OVERHEAD_BYTES as u64 + KEY_BYTES);
    let mut room = shared.store.reserve(guess, Purpose::Reread).await?;
    let shard_ref = shard_ref(shard, &command.stream_name);
    let mut reading =
        Reading { range, builder, added: None, nothing_since: None, from_oldest: false };
    reading.run(shared, &shard_ref, block.num_raw_records).await?;
    let size = reading.builder.size() as u64;
    if size > room.bytes() {
        let more = shared.store.reserve(size - room.bytes(), Purpose::Reread).await?;
        room.merge(more);
    }
    let built = reading.builder.close(id, range.after);
    check(block, shard, &built, range)?;
    shared.store.insert(built.block, room, keep);
    Ok(())
}

struct Reading {
    range: Range,
    builder: BlockBuilder,
    added: Option<SequenceNumber>,
    /// Since when nothing at all came.
    nothing_since: Option<Instant>,
    /// True when the block's first record did not come from an iterator of its own.
    from_oldest: bool,
}

impl Reading {
    async fn run(
        &mut self,
        shared: &Arc<Shared>,
        shard: &ShardRef,
        num_raw_records: u64,
    ) -> Result<()> {
        let pace = shared.paces.of(shard);
        let limit = u32::try_from(num_raw_records + 1).unwrap_or(RECORDS_PER_ANSWER_MAX);
        let limit = limit.min(RECORDS_PER_ANSWER_MAX);
        let mut iterator: Option<String> = None;
        let mut num_failures = 0;
        loop {
            let outcome = match iterator.take() {
                None => {
                    pace.iterator().await;
                    let at = match self.added {
                        None if self.from_oldest => IteratorAt::TrimHorizon,
                        added => IteratorAt::Record(added.unwrap_or(self.range.first)),
                    };
                    shared.kinesis.get_shard_iterator(shard, at).await.map(Progress::More)
                }
                Some(at) => {
                    pace.read().await;
                    let answer = shared.kinesis.get_records(shard, &at, limit).await;
                    answer.map(|answer| self.take(answer))
                }
            };
            match outcome {
                Ok(Progress::Done) => return Ok(()),
                Ok(Progress::More(next)) => iterator = (!self.turns_back()).then_some(next),
                Err(CallFailure { kind: FailureKind::ExpiredIterator, .. }) => {}
                Err(CallFailure { kind, error }) if is_final(kind) => return Err(error),
                Err(failure) => {
                    num_failures += 1;
                    let delay = Backoff::CALL.random_delay(num_failures);
                    tracing::debug!(error = %failure.error, ?delay, "a re-read waits");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// True once, when the first record is waited for in vain.
    fn turns_back(&mut self) -> bool {
        let waited = self.nothing_since.is_some_and(|since| since.elapsed() >= FIRST_PATIENCE);
        let is_due = waited && self.added.is_none() && !self.from_oldest;
        self.from_oldest |= is_due;
        is_due
    }

    /// Adds what an answer brought of the range.
    fn take(&mut self, answer: Answer) -> Progress {
        if answer.records.is_empty() {
            self.nothing_since.get_or_insert_with(Instant::now);
        } else {
            self.nothing_since = None;
        }
        let is_at_tip = answer.records.is_empty() && answer.millis_behind_latest == 0;
        for record in &answer.records {
            if record.sequence_number > self.range.last {
                return Progress::Done;
            }
            let is_new = self.added.is_none_or(|added| record.sequence_number > added);
            if is_new && record.sequence_number >= self.range.first {
                let prepared = prepare(self.builder.context(), record);
                self.builder.push(self.range.after, &prepared);
                self.added = Some(record.sequence_number);
            }
        }
        match answer.next_iterator {
            Some(next) if self.added != Some(self.range.last) && !is_at_tip => Progress::More(next),
            _ => Progress::Done,
        }
    }
}

/// True for what no waiting heals.
fn is_final(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Missing | FailureKind::Forbidden | FailureKind::InvalidPosition => true,
        FailureKind::Throttled | FailureKind::ExpiredIterator | FailureKind::Unavailable => false,
    }
}

/// Compares what was read with what was announced.
fn check(block: &v1::BlockDescriptor, shard: &ShardKey, built: &Built, range: Range) -> Result<()> {
    let raw = &built.block;
    let is_same = raw.raw_records == block.num_raw_records
        && raw.crc32c == block.crc32c
        && raw.first_seq == *range.first.as_bytes()
        && raw.last_seq == *range.last.as_bytes();
    if is_same {
        return Ok(());
    }
    Err(Error::new(
        Code::DataLost,
        format!(
            "{shard} from {} to {} held {} records (checksum {:08x}) and now gives {} ({:08x})",
            range.first,
            range.last,
            block.num_raw_records,
            block.crc32c,
            raw.raw_records,
            raw.crc32c
        ),
        "the stream no longer holds the range: lengthen its retention, or set on_data_loss",
    ))
}

fn protocol(what: &str) -> Error {
    Error::new(Code::Protocol, what, "see that all processes run the same version")
}
