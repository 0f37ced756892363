//! Stand-ins for Kinesis: one that tells the truth, and one in all its moods.

pub(crate) mod fake;
pub(crate) mod liar;
