//! What one answer of Kinesis means for a shard: records, emptiness, its end, a loss.
//!
//! Promises: numbers name what was read, so that whoever keeps them can see that nothing is missing
//! between two of them. Owned by the shard's core. Never does: decide.

use millrace_common::position::SequenceNumber;

use super::kinesis::{ChildShard, Record};

/// What an answer brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// New records, if any.
    pub run: Option<Run>,
    /// Set when the answer shows that the shard holds nothing past `after_seq`.
    pub empty: Option<EmptyAnswer>,
    /// Set when the shard has ended with this answer.
    pub end: Option<End>,
    /// Set when records are gone.
    pub lost: Option<Lost>,
    /// How far behind the answer is; none when it says nothing about the shard's tip.
    pub millis_behind_latest: Option<i64>,
}

/// Records that follow `after_seq` without a gap.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The number the first of them follows; none at the start of the shard's reading.
    pub after_seq: Option<SequenceNumber>,
    /// At least one, in order.
    pub records: Vec<Record>,
}

/// An answer without records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyAnswer {
    /// The last number read.
    pub after_seq: Option<SequenceNumber>,
    /// The server's date, Unix time in milliseconds.
    pub server_ms: i64,
    /// 0 when nothing was behind it.
    pub millis_behind_latest: i64,
    /// At the end of the range that is asked for: records are behind it, and the first of them
    /// arrived at this time or later. 0 anywhere else.
    pub nothing_before_ms: i64,
}

/// The end of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The last number read.
    pub after_seq: Option<SequenceNumber>,
    /// Who goes on.
    pub children: Vec<ChildShard>,
}

/// Records between two numbers that can not be read any more, or may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The last number that was read.
    pub after_seq: Option<SequenceNumber>,
    /// The oldest the shard still holds; none when it holds nothing.
    pub before_seq: Option<SequenceNumber>,
}
