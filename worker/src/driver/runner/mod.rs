//! Running one batch: the driver's only way to compute.
//!
//! Promises: a [`BatchOutput`] means that every record of every block in the plan was read, that
//! every task ended normally, and that nothing is visible yet. Anything less is a [`RunError`].
//! Owned by the driver's batch actor, which decides what to do with either.
//! Never does: commit, complete or abort uploads, choose positions, or run a batch twice.

mod core;
mod distributed;
mod options;
mod plan;
mod result;

pub use distributed::DistributedRunner;
pub use options::{RunnerOptions, SinkSettings};
pub use plan::{BatchPlan, BlockInput, ExecutorTarget, SourceInput};
pub use result::{BatchOutput, RecordPlace, RunError, SourceCounts};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

/// Runs batches over SQL. One call is one run; runs of one runner do not overlap.
#[async_trait]
pub trait BatchRunner: Send + Sync + 'static {
    /// Runs the batch to its end, to its deadline, or until `cancel` fires.
    ///
    /// When it returns an error, the producers of the run have been told to stop; what they
    /// uploaded stays invisible for ever.
    ///
    /// # Errors
    /// [`RunError`] says who or what is to blame, so that the caller can route around an executor,
    /// re-read a block, bisect the batch or give up.
    async fn run(
        &self,
        plan: BatchPlan,
        cancel: CancellationToken,
    ) -> Result<BatchOutput, RunError>;
}
