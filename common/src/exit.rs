//! Exit codes of containers that other processes act upon.

/// A driver that ended at the edge of a batch because it was asked to move: not a failure.
pub const HANDED_OVER: u8 = 6;
