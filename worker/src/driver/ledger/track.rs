//! The chain of one shard: committed, planned, accepted.
//!
//! Promises: committed <= planned <= tail, and every block between planned and tail is in
//! `pending`, in order and without a gap. Owned by the ledger.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_common::id::ContainerId;
use millrace_common::position::{Position, SequenceNumber};

use super::{Block, EMPTY_MARGIN_MS, EmptyRead, Held};

/// Five calls a second are allowed, and each reader leaves more than 200 ms between two of its own:
/// when as much lies between the last call of one and the first of the next, no second holds six
/// (nor more than 2 MiB in answers of at most 1 MiB, each followed by its pause). Whoever takes a
/// shard over waits for that long, and for 400 ms more, within which the word must reach whoever
/// read it before; should it come later, a call may be throttled, which is waited out. Longer would
/// show: a record waits for the rest, for the cut and for the commit, and is to be behind by no more
/// than two batches of a second.
const HANDOVER_REST: Duration = Duration::from_millis(600);

/// How long an idle shard may wait for its first word of emptiness in the head. Attempts may be
/// shorter than the interval of renewals, and each must leave a position that can be resumed.
const FIRST_RENEWAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct Track {
    /// Of the assignment that is valid now; 0 before the first.
    pub(super) generation: u64,
    /// The executor that reads the shard now.
    pub(super) reader: Option<ContainerId>,
    /// Chains below this one were given up when one of their blocks was refused. Their receiver
    /// drops what is refused, so a copy that comes late must be refused too, even if it would chain
    /// by then.
    first_chain: u64,
    /// As the head has it.
    committed: Position,
    /// The last record of the last planned batch.
    pub(super) planned: Option<SequenceNumber>,
    planned_end: bool,
    /// The last accepted record.
    pub(super) tail: Option<SequenceNumber>,
    /// True when the block that ends the shard is accepted.
    pub(super) ended: bool,
    /// True when the shard is gone, and so ends at its tail, whatever that is.
    is_gone: bool,
    /// Accepted and not planned.
    pub(super) pending: VecDeque<Held>,
    /// Who read the shard last, and until when, monotonic.
    left: Option<(ContainerId, Duration)>,
    /// The tail behind which records are lost and passed over by policy.
    gap_after: Option<Option<SequenceNumber>>,
    /// What was known of emptiness when that loss was found.
    gap_empty_ms: i64,
    /// The shard held nothing past the first as of the second, server time less the margin.
    empty: Option<(Option<SequenceNumber>, i64)>,
    /// Where the range that is read ends, by arrival; `i64::MAX` without a range.
    until_ms: i64,
    /// The tail behind which everything arrived when the range had ended.
    range_end: Option<Option<SequenceNumber>>,
    /// Everything that arrived up to then (server time) is accepted.
    read_until_ms: i64,
    /// When the last accepted record arrived; 0 when there is none in this attempt.
    arrived_ms: i64,
    /// When a block or an empty read last came, monotonic.
    pub(super) heard_at: Duration,
    /// When the head's entry last said something new of this shard, monotonic.
    written_at: Duration,
}

impl Track {
    pub(super) fn new(position: Position, until_ms: i64, now: Duration) -> Self {
        let empty = (position.empty_until_ms > 0)
            .then_some((position.sequence_number, position.empty_until_ms));
        Self {
            generation: 0,
            reader: None,
            first_chain: 0,
            committed: position,
            planned: position.sequence_number,
            planned_end: position.ended,
            tail: position.sequence_number,
            ended: position.ended,
            is_gone: false,
            pending: VecDeque::new(),
            left: None,
            gap_after: None,
            gap_empty_ms: 0,
            until_ms,
            // So a head says that the range of a shard is dealt with, see `Self::empty_at`.
            range_end: (position.empty_until_ms >= until_ms).then_some(position.sequence_number),
            empty,
            read_until_ms: 0,
            arrived_ms: 0,
            heard_at: now,
            written_at: now,
        }
    }

    pub(super) fn assign(&mut self, reader: ContainerId, now: Duration) {
        self.unassign(now);
        self.generation += 1;
        self.first_chain = 0;
        self.reader = Some(reader);
        self.heard_at = now;
    }

    pub(super) fn unassign(&mut self, now: Duration) {
        if let Some(reader) = self.reader.take() {
            self.left = Some((reader, now));
        }
    }

    pub(super) fn rest(&self, reader: &ContainerId, now: Duration) -> Duration {
        match &self.left {
            // An executor keeps one pace for everything it reads of a shard.
            Some((before, until)) if before != reader => {
                (*until + HANDOVER_REST).saturating_sub(now)
            }
            _ => Duration::ZERO,
        }
    }

    pub(super) fn skip_gap(&mut self, now: Duration) {
        self.unassign(now);
        self.gap_after = Some(self.tail);
        self.gap_empty_ms = self.empty_at(self.tail);
    }

    /// True until the planned position is past the loss, by a record or by newer emptiness.
    pub(super) fn has_gap_ahead(&self) -> bool {
        self.gap_after == Some(self.planned) && self.empty_at(self.planned) <= self.gap_empty_ms
    }

    pub(super) fn end_with_gap(&mut self, now: Duration) {
        self.unassign(now);
        (self.ended, self.planned_end, self.is_gone) = (true, true, true);
    }

    pub(super) fn skips_gap(&self) -> bool {
        self.gap_after == Some(self.tail)
    }

    pub(super) fn tail_position(&self) -> Position {
        Position {
            sequence_number: self.tail,
            empty_until_ms: self.empty_at(self.tail),
            ended: self.ended,
        }
    }

    pub(super) fn planned_position(&self) -> Position {
        Position {
            sequence_number: self.planned,
            empty_until_ms: self.empty_at(self.planned),
            ended: self.planned_end,
        }
    }

    pub(super) fn committed_position(&self) -> Position {
        self.committed
    }

    pub(super) fn chains(&self, from: &ContainerId, block: &Block) -> bool {
        self.is_live(from, block) && self.tail == block.after && !self.ended
    }

    /// True when the tail has passed the block, which is of a chain that never had a refusal: it
    /// was accepted.
    pub(super) fn is_past(&self, from: &ContainerId, block: &Block) -> bool {
        self.is_live(from, block)
            && self.tail >= block.last
            && (!block.ends_shard || self.ended || self.tail > block.last)
    }

    /// A block of the chain was refused: its receiver reads from the tail again.
    pub(super) fn give_up_chain(&mut self, from: &ContainerId, block: &Block) {
        if self.is_live(from, block) {
            self.first_chain = block.chain + 1;
        }
    }

    fn is_live(&self, from: &ContainerId, block: &Block) -> bool {
        self.reader.as_ref() == Some(from)
            && self.generation == block.generation
            && self.first_chain <= block.chain
    }

    pub(super) fn push(&mut self, holder: ContainerId, block: Block, now: Duration) {
        self.tail = block.last;
        self.ended = block.ends_shard;
        self.heard_at = now;
        self.arrived_ms = self.arrived_ms.max(block.last_arrival_ms);
        // What arrived a minute before this record is in front of it, however clocks differ.
        self.read_until_ms = self.read_until_ms.max(block.last_arrival_ms - EMPTY_MARGIN_MS);
        self.pending.push_back(Held::by(holder, block));
    }

    pub(super) fn empty_read(
        &mut self,
        from: &ContainerId,
        read: EmptyRead,
        now: Duration,
    ) -> bool {
        if self.reader.as_ref() != Some(from) || self.generation != read.generation {
            return false;
        }
        if read.after != self.tail {
            return false;
        }
        self.heard_at = now;
        if read.nothing_before_ms > 0 {
            if read.nothing_before_ms >= self.until_ms {
                self.range_end = Some(self.tail);
            }
        } else if read.millis_behind_latest == 0 && read.server_ms > 0 {
            self.empty = Some((self.tail, read.server_ms - EMPTY_MARGIN_MS));
            self.read_until_ms = self.read_until_ms.max(read.server_ms);
        }
        true
    }

    /// Everything pending becomes planned; true when that ends the shard.
    pub(super) fn take_pending(&mut self) -> (VecDeque<Held>, bool) {
        self.planned = self.tail;
        self.planned_end = self.ended;
        (std::mem::take(&mut self.pending), self.ended)
    }

    /// Goes back to before the pending block with this index; gives that one and those behind it.
    pub(super) fn roll_back(&mut self, first: usize, now: Duration) -> VecDeque<Held> {
        let gone = self.pending.split_off(first);
        if let Some(held) = gone.front() {
            self.tail = held.block.after;
            self.ended = self.is_gone;
            self.read_until_ms = 0;
            self.unassign(now);
        }
        gone
    }

    pub(super) fn commit(&mut self, position: Position, now: Duration) {
        if self.committed != position {
            self.committed = position;
            self.written_at = now;
        }
    }

    pub(super) fn renewal_is_due(&self, now: Duration, every: Duration) -> bool {
        let known = self.empty_at(self.planned);
        let written = self.committed.empty_until_ms;
        let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        // What the head says is as old as the emptiness or the record that it speaks of.
        let as_of = if written > 0 { written } else { self.arrived_ms };
        let aged = as_of > 0 && known.saturating_sub(as_of) >= every_ms;
        let every = if written > 0 { every } else { every.min(FIRST_RENEWAL) };
        known > written && (aged || now.saturating_sub(self.written_at) >= every)
    }

    pub(super) fn is_read_past(&self, since_ms: i64) -> bool {
        self.ended || self.read_until_ms > since_ms
    }

    /// True when all of the range that is read is accepted.
    pub(super) fn is_range_read(&self) -> bool {
        self.ended || self.range_end == Some(self.tail)
    }

    /// True when the head says so.
    pub(super) fn is_range_committed(&self) -> bool {
        self.committed.ended || self.committed.empty_until_ms >= self.until_ms
    }

    /// The shard is open and was empty up to the end of the range: no more of the range comes.
    pub(super) fn end_range_if_empty(&mut self) -> bool {
        let was_empty = |(at, empty_ms): (_, i64)| at == self.tail && empty_ms >= self.until_ms;
        let ends = !self.is_range_read() && self.empty.is_some_and(was_empty);
        if ends {
            self.range_end = Some(self.tail);
        }
        ends
    }

    /// Until when the shard is known to hold nothing past this record; 0 when not known. It reaches
    /// to the end of the range that is read only when that is known to be dealt with: an empty shard
    /// may have ended, and have children with records of the range.
    fn empty_at(&self, number: Option<SequenceNumber>) -> i64 {
        let known = match self.empty {
            Some((at, until_ms)) if at == number => until_ms,
            _ => 0,
        };
        if self.range_end == Some(number) {
            known.max(self.until_ms)
        } else {
            known.min(self.until_ms - 1)
        }
    }
}
