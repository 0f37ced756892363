//! The node on top of every stage: the border between the engine and the task.
//!
//! Promises: a panic below becomes an error, and never the end of a stream; a cancelled run stops at
//! the next poll; the task hears how each of its partitions ended.
//! Never does: change rows, schema, partitions or order.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt};
use millrace_sql::fault::Fault;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::actor::TaskHandle;
use super::core::TaskEvent;

/// Wraps the plan of a task.
#[derive(Debug)]
pub(crate) struct TaskRootExec {
    input: Arc<dyn ExecutionPlan>,
    task: TaskHandle,
}

impl TaskRootExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, task: TaskHandle) -> Self {
        Self { input, task }
    }
}

impl DisplayAs for TaskRootExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskRootExec")
    }
}

impl ExecutionPlan for TaskRootExec {
    fn name(&self) -> &'static str {
        "TaskRootExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.task.clone()))),
            _ => internal_err!("the root of a task has one child"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if self.task.cancellation().is_cancelled() {
            self.task.tell(TaskEvent::Cancelled);
            return Err(Fault::Cancelled.into_error());
        }
        let started = catch_unwind(AssertUnwindSafe(|| self.input.execute(partition, context)));
        let input = match started {
            Ok(Ok(input)) => input,
            Ok(Err(error)) => {
                self.task.tell(TaskEvent::Failed(error.to_string()));
                return Err(error);
            }
            Err(panic) => return Err(panicked(&self.task, &*panic)),
        };
        Ok(Box::pin(TaskStream {
            schema: self.input.schema(),
            input: Some(input),
            cancelled: Box::pin(self.task.cancellation().clone().cancelled_owned()),
            task: self.task.clone(),
        }))
    }
}

/// Bytes of a panic's message that are kept.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Tells the task, and makes an error of a panic.
fn panicked(task: &TaskHandle, panic: &(dyn Any + Send)) -> datafusion::error::DataFusionError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    // An error travels in a header, which has little room.
    let message = message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned();
    task.tell(TaskEvent::Failed(format!("panicked: {message}")));
    Fault::Panic { detail: message }.into_error()
}

/// With the feature `failpoints`, the failpoint `task-run`: hit at every poll of a task, on a
/// compute thread, below the place where panics are caught.
fn failpoint() {
    #[cfg(feature = "failpoints")]
    fail::fail_point!("task-run");
}

/// One partition of a task.
struct TaskStream {
    schema: SchemaRef,
    /// None after the end, whatever kind of end it was.
    input: Option<SendableRecordBatchStream>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    task: TaskHandle,
}

impl Stream for TaskStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(input) = &mut this.input else { return Poll::Ready(None) };
        if this.cancelled.as_mut().poll(context).is_ready() {
            this.input = None;
            this.task.tell(TaskEvent::Cancelled);
            return Poll::Ready(Some(Err(Fault::Cancelled.into_error())));
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            failpoint();
            input.poll_next_unpin(context)
        }));
        let item = match polled {
            Ok(polled) => ready!(polled),
            Err(panic) => {
                this.input = None;
                return Poll::Ready(Some(Err(panicked(&this.task, &*panic))));
            }
        };
        match &item {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                this.task.tell(TaskEvent::Failed(error.to_string()));
                this.input = None;
                if let Some(fault) = Fault::of_disk(error) {
                    return Poll::Ready(Some(Err(fault.into_error())));
                }
            }
            None => {
                // Dropped first, so that what a scan reports at its end comes before the end.
                this.input = None;
                this.task.tell(TaskEvent::PartitionEnded);
            }
        }
        Poll::Ready(item)
    }
}

impl RecordBatchStream for TaskStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for TaskStream {
    fn drop(&mut self) {
        if self.input.take().is_some() {
            self.task.tell(TaskEvent::PartitionDropped);
        }
    }
}
