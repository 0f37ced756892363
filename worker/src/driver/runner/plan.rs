//! The input of a run: which blocks, where they are, and what the batch is called.
//!
//! Promises: plain values, made by the driver's batch planner. Never does: look anything up.

use std::sync::Arc;
use std::time::Duration;

use millrace_sql::scan::block::BlockId;

/// One batch, ready to be run.
#[derive(Debug, Clone)]
pub struct BatchPlan {
    /// Number of the batch: `_batch_id` in SQL and part of every object key.
    pub batch: u64,
    /// The driver attempt's epoch, part of every object key.
    pub epoch: u64,
    /// Name of this run, fresh for every run of a batch. Part of every object key.
    pub run: uuid::Uuid,
    /// When the batch was cut: `_batch_time` in SQL and `now()`. Milliseconds since the epoch.
    pub batch_time_ms: i64,
    /// Last resort against a run that hangs.
    pub deadline: Duration,
    /// The executors that compute. Those without blocks may take part in shuffles and sinks.
    pub executors: Vec<ExecutorTarget>,
    /// What each source of the application contributes. A source that is left out is empty.
    pub sources: Vec<SourceInput>,
}

/// An executor that can be given tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorTarget {
    /// Its container, for errors and for people.
    pub container: Arc<str>,
    /// `http://host:port` of its own server.
    pub url: Arc<str>,
    /// Its compute threads.
    pub cores: usize,
}

/// The blocks of one source.
#[derive(Debug, Clone)]
pub struct SourceInput {
    /// Name in the application file and in SQL.
    pub source: Arc<str>,
    /// Every block of the batch, each exactly once. The runner spreads the blocks of an executor
    /// over its compute threads by bytes.
    pub blocks: Vec<BlockInput>,
}

/// One block and the executor that holds it.
#[derive(Debug, Clone)]
pub struct BlockInput {
    /// Index into [`BatchPlan::executors`].
    pub executor: usize,
    /// The block's name.
    pub id: BlockId,
    /// User records in it, which the leaves must report to have read.
    pub records: u64,
    /// Bytes of its records, for balance.
    pub bytes: u64,
}
