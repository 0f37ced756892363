//! Whether the stream may have let go of records between the last one read and the next one seen.
//!
//! Promises: a loss is never passed over; what is not shown to be gapless counts as one. Owned by
//! the shard's core. Never does: read, or know an iterator.

use millrace_common::position::SequenceNumber;

use super::kinesis::Record;

/// Taken off the server's date of an empty answer: its clocks need not agree to the second.
const EMPTY_MARGIN_MS: i64 = 60_000;

/// The shortest retention a stream can be given.
const RETENTION_MIN_MS: i64 = 24 * 3_600_000;
/// Records that arrived so far apart may have had others between them.
const JUMP_MS: i64 = 10_000;
/// How near to the retention an answer counts as being at the oldest records.
const HORIZON_MARGIN_MS: i64 = 60_000;

/// What is known of one shard's oldest records, by times of the server alone.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    /// How long the stream keeps records; 0: not known.
    retention_ms: i64,
    /// Up to when the shard is known to hold nothing past the tail; 0: not known.
    empty_until_ms: i64,
    /// When the tail, the last record read, arrived; 0: not known.
    tail_arrival_ms: i64,
    /// The first record that was seen behind the tail, when that had to be doubted.
    doubted_next: Option<SequenceNumber>,
    /// The record behind the tail: the tail was still held after that one had been seen.
    proven_next: Option<SequenceNumber>,
}

impl Horizon {
    /// Nothing past the start arrived before `empty_until_ms`, and the stream keeps records for
    /// `retention_ms`; 0 where either is not known.
    pub(super) fn new(empty_until_ms: i64, retention_ms: i64) -> Self {
        Self {
            retention_ms,
            empty_until_ms,
            tail_arrival_ms: 0,
            doubted_next: None,
            proven_next: None,
        }
    }

    /// Up to when the shard is known to hold nothing past the tail; 0: not known.
    pub(super) fn empty_until_ms(&self) -> i64 {
        self.empty_until_ms
    }

    /// The tail was met again.
    pub(super) fn saw_tail(&mut self, arrival_ms: i64) {
        self.tail_arrival_ms = arrival_ms;
    }

    /// A record that arrived then is the tail from now on.
    pub(super) fn moved(&mut self, arrival_ms: i64) {
        *self = Self { tail_arrival_ms: arrival_ms, ..Self::new(0, self.retention_ms) };
    }

    /// Nothing was behind the tail in an answer of this date.
    pub(super) fn was_empty(&mut self, server_ms: i64) {
        self.empty_until_ms = self.empty_until_ms.max(server_ms - EMPTY_MARGIN_MS);
    }

    /// An answer held the tail, so that nothing behind it is gone, and no other record.
    pub(super) fn tail_stood_alone(&mut self, server_ms: Option<i64>, millis_behind_latest: i64) {
        self.proven_next = self.doubted_next.take();
        if let Some(server_ms) = server_ms.filter(|_| millis_behind_latest == 0) {
            self.was_empty(server_ms);
        }
    }

    /// True when the stream may have let go of the tail, and so of records between it and the next
    /// one, which is `first`: an iterator passes over them without a word. Whether the tail is
    /// still there is to be seen then.
    pub(super) fn is_doubtful(&mut self, first: Option<&Record>, server_ms: i64) -> bool {
        let number = first.map(|record| record.sequence_number);
        let is_old = |kept_ms: i64| {
            let horizon_ms = server_ms - kept_ms;
            (1..horizon_ms).contains(&self.tail_arrival_ms) && self.empty_until_ms < horizon_ms
        };
        // The retention may have been shortened a moment ago: a jump may be over what went then.
        let jumps = first.is_none_or(|first| first.arrival_ms - self.tail_arrival_ms >= JUMP_MS);
        let is_doubtful = self.retention_ms > 0
            && (is_old(self.retention_ms) || jumps && is_old(RETENTION_MIN_MS))
            && (number.is_none() || number != self.proven_next);
        if is_doubtful {
            self.doubted_next = number;
        }
        is_doubtful
    }

    /// True when an answer that is so far behind lies where the stream lets go of its records.
    pub(super) fn is_reached(&self, millis_behind_latest: i64) -> bool {
        self.retention_ms > 0 && millis_behind_latest >= self.retention_ms - HORIZON_MARGIN_MS
    }

    /// True when everything that arrived after the tail must still be held: it arrived after
    /// `empty_until`, and the stream keeps records since before then.
    pub(super) fn is_known_gapless(&self, server_ms: Option<i64>) -> bool {
        server_ms.is_some_and(|server_ms| {
            self.can_judge() && self.empty_until_ms >= server_ms - self.retention_ms
        })
    }

    /// True when the stream's retention and a time of emptiness are known.
    pub(super) fn can_judge(&self) -> bool {
        self.retention_ms > 0 && self.empty_until_ms > 0
    }
}
