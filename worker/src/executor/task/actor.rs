//! One task of one run: a short-lived actor that hears of everything that happens to it.
//!
//! Promises: a report tells of every event sent before it was asked for. Never does: compute, or
//! keep a task alive; it ends when the last handle is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{Actor, Addr, ArbiterHandle, Context, Handler, Message, MessageResult};
use millrace_sql::scan::BlockRead;
use tokio_util::sync::CancellationToken;

use super::core::{TaskCore, TaskEvent, TaskState};

/// Events that may wait at a task. They come once per partition and once per block and scan; a
/// batch is cut long before a task has this many blocks, and an event that finds no room makes the
/// task's report a failure.
const EVENTS_MAX: usize = 65_536;

/// Holds a task's state.
struct TaskActor {
    core: TaskCore,
}

impl Actor for TaskActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(EVENTS_MAX);
    }
}

impl Message for TaskEvent {
    type Result = ();
}

impl Handler<TaskEvent> for TaskActor {
    type Result = ();

    fn handle(&mut self, event: TaskEvent, _context: &mut Self::Context) {
        self.core.apply(event);
    }
}

/// Asks for what is known.
struct Report;

impl Message for Report {
    type Result = (TaskState, Vec<BlockRead>);
}

impl Handler<Report> for TaskActor {
    type Result = MessageResult<Report>;

    fn handle(&mut self, _report: Report, _context: &mut Self::Context) -> Self::Result {
        MessageResult((self.core.state(), self.core.reads().to_vec()))
    }
}

/// A task, for whoever runs, watches or cancels it.
#[derive(Debug, Clone)]
pub(crate) struct TaskHandle {
    address: Addr<TaskActor>,
    lost_events: Arc<AtomicBool>,
    cancel: CancellationToken,
}

impl TaskHandle {
    /// Starts the actor of a task with so many partitions.
    pub(crate) fn start(
        arbiter: &ArbiterHandle,
        partitions: usize,
        cancel: CancellationToken,
    ) -> Self {
        let address = TaskActor::start_in_arbiter(arbiter, move |_| TaskActor {
            core: TaskCore::new(partitions),
        });
        Self { address, lost_events: Arc::default(), cancel }
    }

    /// Fires when the run is cancelled.
    pub(crate) fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Tells the task. Never blocks: an event that finds no room spoils the task instead.
    pub(crate) fn tell(&self, event: TaskEvent) {
        if self.address.try_send(event).is_err() {
            self.lost_events.store(true, Ordering::SeqCst);
        }
    }

    /// Where the task stands, and the blocks its scans have read.
    pub(crate) async fn report(&self) -> (TaskState, Vec<BlockRead>) {
        let report = self.address.send(Report).await;
        match report {
            Ok(report) if !self.lost_events.load(Ordering::SeqCst) => report,
            Ok((_, reads)) => (TaskState::Failed("events were lost".to_owned()), reads),
            Err(error) => (TaskState::Failed(format!("the task's actor is gone: {error}")), vec![]),
        }
    }
}
