//! The life of a task, as a pure function of what happens to it.
//!
//! Promises: a task has ended well only when every partition of its plan came to its end; the first
//! failure is the one that is kept. Never does: wait, send, or look at a clock.

use millrace_sql::scan::BlockRead;

/// What can happen to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskEvent {
    /// A partition came to its end.
    PartitionEnded,
    /// The reader of a partition left before its end.
    PartitionDropped,
    /// A partition failed.
    Failed(String),
    /// A partition stopped because the run was cancelled.
    Cancelled,
    /// A scan of the task is through with a block.
    BlockRead(BlockRead),
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskState {
    /// Some partition is still to end, or was never asked for.
    Running,
    /// Every partition ended.
    Ended,
    /// Every partition ended or was left before its end.
    Dropped,
    /// A partition failed.
    Failed(String),
    /// The run was cancelled.
    Cancelled,
}

/// State of one task.
#[derive(Debug)]
pub(crate) struct TaskCore {
    partitions: usize,
    num_ended: usize,
    num_dropped: usize,
    failure: Option<String>,
    cancelled: bool,
    reads: Vec<BlockRead>,
}

impl TaskCore {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            partitions,
            num_ended: 0,
            num_dropped: 0,
            failure: None,
            cancelled: false,
            reads: Vec::new(),
        }
    }

    pub(crate) fn apply(&mut self, event: TaskEvent) {
        match event {
            TaskEvent::PartitionEnded => self.num_ended += 1,
            TaskEvent::PartitionDropped => self.num_dropped += 1,
            TaskEvent::Failed(detail) => {
                self.failure.get_or_insert(detail);
            }
            TaskEvent::Cancelled => self.cancelled = true,
            TaskEvent::BlockRead(read) => self.reads.push(read),
        }
    }

    pub(crate) fn state(&self) -> TaskState {
        if let Some(detail) = &self.failure {
            TaskState::Failed(detail.clone())
        } else if self.cancelled {
            TaskState::Cancelled
        } else if self.num_ended == self.partitions {
            TaskState::Ended
        } else if self.num_ended + self.num_dropped >= self.partitions {
            TaskState::Dropped
        } else {
            TaskState::Running
        }
    }

    pub(crate) fn reads(&self) -> &[BlockRead] {
        &self.reads
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_event() -> impl Strategy<Value = TaskEvent> {
        prop_oneof![
            Just(TaskEvent::PartitionEnded),
            Just(TaskEvent::PartitionDropped),
            Just(TaskEvent::Cancelled),
            "[a-z]{1,4}".prop_map(TaskEvent::Failed),
        ]
    }

    proptest! {
        #[test]
        fn only_an_end_of_every_partition_is_an_end(
            partitions in 1_usize..5,
            events in proptest::collection::vec(any_event(), 0..8),
        ) {
            let mut core = TaskCore::new(partitions);
            events.iter().cloned().for_each(|event| core.apply(event));
            let ended = events.iter().filter(|event| **event == TaskEvent::PartitionEnded).count();
            let clean = !events
                .iter()
                .any(|event| matches!(event, TaskEvent::Failed(_) | TaskEvent::Cancelled));
            prop_assert_eq!(core.state() == TaskState::Ended, clean && ended == partitions);
        }
    }

    #[test]
    fn the_first_failure_is_kept() {
        let mut core = TaskCore::new(1);
        core.apply(TaskEvent::Failed("one".into()));
        core.apply(TaskEvent::Failed("two".into()));
        core.apply(TaskEvent::PartitionEnded);
        assert_eq!(core.state(), TaskState::Failed("one".into()));
    }
}
