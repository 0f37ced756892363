//! Whose fault a failed run is.
//!
//! Promises: what the query does with the data is never laid on an executor. Owned by the batch
//! actor. Never does: count.

use millrace_common::id::ContainerId;

use super::core::Blame;
use crate::driver::executors::actor::Suspicion;
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
        RunError::BadRecord { .. }
        | RunError::Query { .. }
        | RunError::Incomplete { .. }
        | RunError::Deadline { .. } => Blame::Batch,
        // Fewer records have fewer partitions.
        RunError::Sink { code, .. } if code == "too-many-partitions" => Blame::Batch,
        RunError::Sink { .. } | RunError::Plan { .. } => Blame::Application,
    }
}

/// The executor that this points at, if it points at one. What a query does with its data, a
/// deadline, and an S3 that refuses would have been the same on another.
#[must_use]
pub fn suspect(error: &RunError) -> Option<Suspicion> {
    match error {
        RunError::ExecutorSuspected { executor, detail } => Some(Suspicion {
            container: ContainerId::new(&**executor),
            why: format!("a run could not use it: {detail}"),
        }),
        RunError::BlockLost { executor, block, detail } => Some(Suspicion {
            container: ContainerId::new(&**executor),
            why: format!("it had lost block {block}: {detail}"),
        }),
        // Its node says so itself.
        RunError::Disk { .. }
        | RunError::BadRecord { .. }
        | RunError::Query { .. }
        | RunError::Sink { .. }
        | RunError::Incomplete { .. }
        | RunError::Deadline { .. }
        | RunError::Cancelled
        | RunError::Plan { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_points_at_an_executor_is_laid_on_it() {
        let text = || "e1: a failure of executor e1".to_owned();
        let not_its_fault = [
            RunError::Query { detail: text() },
            RunError::Sink {
                retryable: true,
                code: "timeout".into(),
                detail: text(),
                next_move: text(),
            },
            RunError::Disk { detail: text() },
            RunError::Sink {
                retryable: false,
                code: "AccessDenied".into(),
                detail: text(),
                next_move: text(),
            },
            RunError::Incomplete { detail: text() },
            RunError::Deadline { limit: Duration::from_secs(1) },
            RunError::Cancelled,
            RunError::Plan { detail: text() },
        ];
        for error in not_its_fault {
            assert_eq!(suspect(&error), None, "{error}");
        }
        let gone = RunError::ExecutorSuspected { executor: "e1".into(), detail: text() };
        assert_eq!(suspect(&gone).unwrap().container, ContainerId::new("e1"));
        assert_eq!(blame(&gone), Blame::Surroundings);
    }
}
