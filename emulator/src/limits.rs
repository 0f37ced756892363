//! Token buckets and the limits of one Kinesis shard, as pure state and numbers.
//!
//! The caller brings the time; nothing here sleeps, locks or reads a clock. A refusal takes nothing
//! from any bucket.

/// Thousandths of a token, so that a rate per second divides a millisecond exactly.
const MILLI: i128 = 1000;

/// A bucket that fills at a fixed rate up to its capacity. Its level may go below zero by
/// [`TokenBucket::take_into_debt`]; it then refuses until the debt is paid back.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    capacity: u64,
    rate_per_s: u64,
    level_milli: i128,
    filled_at_ms: u64,
}

impl TokenBucket {
    /// A full bucket of `capacity` tokens that gains `rate_per_s` tokens each second.
    pub(crate) fn full(capacity: u64, rate_per_s: u64, now_ms: u64) -> Self {
        let level_milli = i128::from(capacity) * MILLI;
        Self { capacity, rate_per_s, level_milli, filled_at_ms: now_ms }
    }

    /// True if `tokens` can be taken now. A request larger than the whole bucket asks for a full
    /// bucket only, so that one large record can pass at all.
    pub(crate) fn allows(&mut self, tokens: u64, now_ms: u64) -> bool {
        self.fill(now_ms);
        self.level_milli >= i128::from(tokens.min(self.capacity)) * MILLI
    }

    /// True if the level is above zero.
    pub(crate) fn is_positive(&mut self, now_ms: u64) -> bool {
        self.fill(now_ms);
        self.level_milli > 0
    }

    /// Takes `tokens` whatever the level, so that the bucket may owe some.
    pub(crate) fn take_into_debt(&mut self, tokens: u64, now_ms: u64) {
        self.fill(now_ms);
        self.level_milli -= i128::from(tokens) * MILLI;
    }

    fn fill(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.filled_at_ms);
        let gained = i128::from(elapsed_ms) * i128::from(self.rate_per_s);
        self.level_milli = (self.level_milli + gained).min(i128::from(self.capacity) * MILLI);
        self.filled_at_ms = self.filled_at_ms.max(now_ms);
    }
}

/// Records a shard takes per second.
pub(crate) const WRITE_RECORDS_PER_S: u64 = 1000;
/// Bytes (data and partition keys) a shard takes per second.
pub(crate) const WRITE_BYTES_PER_S: u64 = 1 << 20;
/// GetRecords calls a shard answers per second, and GetShardIterator calls likewise.
pub(crate) const READ_CALLS_PER_S: u64 = 5;
/// Bytes a shard hands out per second.
pub(crate) const READ_BYTES_PER_S: u64 = 2 << 20;
/// No answer has more bytes; one that would have is full and blocks the shard for
/// [`FULL_ANSWER_PENALTY_MS`].
pub(crate) const FULL_ANSWER_BYTES: u64 = 10 << 20;
/// How long a shard refuses reads after a full answer.
pub(crate) const FULL_ANSWER_PENALTY_MS: u64 = 5000;
/// How long a shard refuses reads after an answer that took more than the second's bytes.
pub(crate) const OVERDRAWN_PENALTY_MS: u64 = 1000;

/// What one shard takes and hands out per second.
#[derive(Debug, Clone)]
pub(crate) struct ShardLimits {
    write_records: TokenBucket,
    write_bytes: TokenBucket,
    read_calls: TokenBucket,
    iterator_calls: TokenBucket,
    read_bytes: TokenBucket,
    reads_blocked_until_ms: u64,
}

impl ShardLimits {
    /// The limits of a shard that nobody has used yet.
    pub(crate) fn new(now_ms: u64) -> Self {
        let per_second = |rate| TokenBucket::full(rate, rate, now_ms);
        Self {
            write_records: per_second(WRITE_RECORDS_PER_S),
            write_bytes: per_second(WRITE_BYTES_PER_S),
            read_calls: per_second(READ_CALLS_PER_S),
            iterator_calls: per_second(READ_CALLS_PER_S),
            read_bytes: per_second(READ_BYTES_PER_S),
            reads_blocked_until_ms: 0,
        }
    }

    /// True if a record of `bytes` (data and partition key) is let in; it is then counted.
    pub(crate) fn admit_record(&mut self, bytes: u64, now_ms: u64) -> bool {
        if !self.write_records.allows(1, now_ms) || !self.write_bytes.allows(bytes, now_ms) {
            return false;
        }
        self.write_records.take_into_debt(1, now_ms);
        self.write_bytes.take_into_debt(bytes, now_ms);
        true
    }

    /// True if a GetShardIterator call is let in; it is then counted.
    pub(crate) fn admit_iterator(&mut self, now_ms: u64) -> bool {
        if !self.iterator_calls.allows(1, now_ms) {
            return false;
        }
        self.iterator_calls.take_into_debt(1, now_ms);
        true
    }

    /// True if a GetRecords call is let in; the call is then counted, its bytes by
    /// [`ShardLimits::count_answer`].
    pub(crate) fn admit_read(&mut self, now_ms: u64) -> bool {
        if now_ms < self.reads_blocked_until_ms
            || !self.read_calls.allows(1, now_ms)
            || !self.read_bytes.is_positive(now_ms)
        {
            return false;
        }
        self.read_calls.take_into_debt(1, now_ms);
        true
    }

    /// Counts the bytes of an answer and blocks the shard if it was too large for one second, or was
    /// ended by the size of answers.
    pub(crate) fn count_answer(&mut self, bytes: u64, is_full: bool, now_ms: u64) {
        self.read_bytes.take_into_debt(bytes, now_ms);
        let penalty_ms = if is_full {
            FULL_ANSWER_PENALTY_MS
        } else if !self.read_bytes.is_positive(now_ms) {
            OVERDRAWN_PENALTY_MS
        } else {
            return;
        };
        self.reads_blocked_until_ms = self.reads_blocked_until_ms.max(now_ms + penalty_ms);
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
