//! What comes out of a run: uploads to commit, or the reason there are none.
//!
//! Promises: an error names the executor, block, shard or AWS code it knows of. Never does: retry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_sql::plan::upload::Upload;
use millrace_sql::scan::block::BlockId;

/// A run that ended well.
#[derive(Debug, Clone, Default)]
pub struct BatchOutput {
    /// Uploads to name in the head and then to complete; empty when the result has no rows.
    pub uploads: Vec<Upload>,
    /// Rows over all result objects.
    pub rows: u64,
    /// Bytes over all result objects.
    pub bytes: u64,
    /// What was read, by source.
    pub sources: BTreeMap<Arc<str>, SourceCounts>,
    /// Tasks that ran, over all stages.
    pub num_tasks: usize,
    /// From the start of planning to the last answer.
    pub elapsed: Duration,
    /// The part of `elapsed` spent on planning.
    pub planning: Duration,
    /// The longest time that one file was with the object store.
    pub with_store: Duration,
}

/// What the scans of one source saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// User records read, each counted once even if several scans read the source.
    pub records: u64,
    /// Records that could not be decoded and were skipped or dead-lettered.
    pub bad_records: u64,
    /// The blocks that those are in, with their number.
    pub bad_blocks: Vec<(BlockId, u64)>,
}

/// Why a run has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// An executor did not answer, answered late or broke a connection. A suspicion only: its
    /// heartbeat decides. Run the batch again without it, or with it once it is back.
    #[error("executor {executor} is suspected: {detail}")]
    ExecutorSuspected {
        /// Container of the executor.
        executor: Arc<str>,
        /// What was seen, and by whom.
        detail: String,
    },
    /// The disk of an executor refused what the query wanted to spill. The node says so itself and is
    /// left, if there is another one: run again.
    #[error("the disk of an executor refuses what the query spills: {detail}")]
    Disk {
        /// What was seen.
        detail: String,
    },
    /// A block is not where the plan said. Read it again from Kinesis, then run again.
    #[error("block {block} is lost on executor {executor}: {detail}")]
    BlockLost {
        /// The block.
        block: BlockId,
        /// Container of the executor asked for it.
        executor: Arc<str>,
        /// What the block store said.
        detail: String,
    },
    /// A record does not fit the schema, and the policy is `fail`. Never the fault of an executor.
    #[error("a record does not fit: {detail}")]
    BadRecord {
        /// Which.
        place: RecordPlace,
        /// Why it does not fit.
        detail: String,
    },
    /// The query failed on its data: a cast, an overflow, a panic in a function. Never the fault of
    /// an executor.
    #[error("the query failed: {detail}")]
    Query {
        /// What the engine said.
        detail: String,
    },
    /// The sink could not be written.
    #[error("the sink failed ({code}): {detail}")]
    Sink {
        /// True when running again may help.
        retryable: bool,
        /// AWS error code, or `timeout`, `connect`, `too-many-partitions`.
        code: String,
        /// What S3 said, with the key.
        detail: String,
        /// What the user can do about it; empty when that is not known.
        next_move: String,
    },
    /// The counts of the leaves do not match the blocks, or a task did not report its end: rows
    /// may be missing. The result was thrown away.
    #[error("the run is incomplete: {detail}")]
    Incomplete {
        /// Which count, of which task.
        detail: String,
    },
    /// The deadline of the batch passed.
    #[error("the batch did not end within {limit:?}")]
    Deadline {
        /// The limit that passed.
        limit: Duration,
    },
    /// The caller cancelled the run.
    #[error("the run was cancelled")]
    Cancelled,
    /// The plan cannot be made: a fault of Millrace, since the query was validated.
    #[error("the batch cannot be planned: {detail}")]
    Plan {
        /// What the planner said.
        detail: String,
    },
}

/// One record, as precisely as a scan can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlace {
    /// Source in the application file.
    pub source: Arc<str>,
    /// Shard of the stream.
    pub shard: Arc<str>,
    /// Sequence number in decimal.
    pub sequence_number: String,
}
