//! Whose fault a failed run is.
//!
//! Promises: what the query does with the data is never laid on an executor. Owned by the batch
//! actor. Never does: count.

use super::core::Blame;
use crate::driver::runner::RunError;

/// Who may be to blame for this.
#[must_use]
pub fn blame(error: &RunError) -> Blame {
    match error {
        RunError::Cancelled => Blame::Cancelled,
        RunError::ExecutorSuspected { .. }
        | RunError::BlockLost { .. }
        | RunError::Disk { .. }
        | RunError::Sink { retryable: true, .. } => Blame::Surroundings,
        RunError::Query { .. } | RunError::Incomplete { .. } | RunError::Deadline { .. } => {
            Blame::Batch
        }
        // Fewer records have fewer partitions.
        RunError::Sink { code, .. } if code == "too-many-partitions" => Blame::Batch,
        RunError::Sink { .. } | RunError::Plan { .. } => Blame::Application,
    }
}
