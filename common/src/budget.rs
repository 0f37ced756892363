//! How the memory of a container is divided: what the process itself needs, and for an executor
//! what blocks and queries may hold.
//!
//! Promises: these numbers stand here and nowhere else: the executor's stores keep to them, and
//! `millrace plan` counts with them. Never does: watch what is really held (the node does).

use crate::resources::ByteSize;

/// What a driver or an executor holds resident before it has read a record, with some room. Release
/// builds hold less; a container that is granted less than this ends before it is of any use.
pub const PROCESS: ByteSize = ByteSize::mib(96);

/// Share of an executor's memory that holds blocks, in percent. Answers in flight come on top, as
/// JSON and decoded, at most for a moment; tasks and their pool have the larger half.
pub const BLOCKS_PERCENT: u64 = 30;
/// A smaller budget could not hold one answer and one aggregate taken apart.
pub const BLOCKS_MIN: ByteSize = ByteSize::mib(48);
/// Disk for spilled blocks, as a multiple of the memory for blocks.
pub const DISK_MULTIPLE: u64 = 8;

/// Share of an executor's memory that queries may hold before they spill, in percent.
pub const QUERIES_PERCENT: u64 = 40;

/// A batch is cut ahead of its interval when blocks fill this part, one half, of what an executor has
/// for them in memory and on disk.
pub const CUT_AT_DIVISOR: u64 = 2;
