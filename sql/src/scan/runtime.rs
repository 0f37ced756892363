//! What a scan needs from the executor it runs on: blocks to read, and somebody to tell.
//!
//! Promises: the scan finds both in its session and nowhere else. Never does: implement either.

use std::fmt;
use std::sync::Arc;

use super::block::{BlockId, BlockSource, RawBlock};

/// One block as one scan read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRead {
    /// Number of the scan within the plan.
    pub scan: u32,
    /// The block.
    pub block: BlockId,
    /// Records decoded, bad ones included.
    pub num_read: u64,
    /// Of those, the ones that did not fit.
    pub num_bad: u64,
}

/// A record that did not fit under a policy other than `fail`.
#[derive(Debug, Clone)]
pub struct RejectedRecord {
    /// Number of the scan within the plan.
    pub scan: u32,
    /// Source in the application file.
    pub source: Arc<str>,
    /// The block that holds the record.
    pub block: Arc<RawBlock>,
    /// The record's place in the block.
    pub at: usize,
    /// Why it does not fit.
    pub reason: String,
}

/// Hears of a scan's progress. Called on compute threads: it must not block.
pub trait ScanObserver: fmt::Debug + Send + Sync + 'static {
    /// A block has been read to its end, or its reader was dropped on the way.
    fn block_read(&self, read: BlockRead);

    /// A record was left out under the policy `dead_letter`.
    fn record_rejected(&self, record: RejectedRecord);
}

/// The executor's side of a scan, put into the session that executes a task.
#[derive(Debug, Clone)]
pub struct ScanRuntime {
    /// The executor's blocks.
    pub blocks: Arc<dyn BlockSource>,
    /// Whoever counts.
    pub observer: Arc<dyn ScanObserver>,
}
