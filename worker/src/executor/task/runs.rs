//! The runs an executor takes part in.
//!
//! Promises: a cancelled run stays cancelled, also for tasks that arrive later; a run whose end
//! nobody asks for is forgotten in time. Never does: wait while it holds its lock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use actix::ArbiterHandle;
use millrace_sql::scan::RejectedRecord;
use tokio_util::sync::CancellationToken;

use super::actor::TaskHandle;

/// Runs remembered at most, cancelled and abandoned ones included. A driver has one or two at work;
/// the oldest are forgotten first.
const RUNS_MAX: usize = 64;
/// Bytes of dead letters that a run may hold on one executor until its end.
const REJECTED_BYTES_MAX: usize = 256 << 20;

/// A task of a run and what people call it.
#[derive(Debug, Clone)]
pub(crate) struct NamedTask {
    pub(crate) stage: String,
    pub(crate) task: usize,
    pub(crate) handle: TaskHandle,
}

/// What is known of one run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: Vec<NamedTask>,
    /// Panics counted on the compute threads before the run came.
    pub(crate) panics_before: u64,
    pub(crate) rejected: Vec<RejectedRecord>,
    rejected_bytes: usize,
}

/// All runs of the executor. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    runs: HashMap<String, Run>,
    order: VecDeque<String>,
}

impl Runs {
    /// The token of a run; the run is remembered from now on.
    pub(crate) fn token(&self, run: &str, panics: u64) -> CancellationToken {
        self.with(|state| state.run(run, panics).cancel.clone())
    }

    /// Starts a task's actor and remembers it.
    pub(crate) fn begin(
        &self,
        run: &str,
        arbiter: &ArbiterHandle,
        stage: String,
        task: usize,
        partitions: usize,
        panics: u64,
    ) -> TaskHandle {
        self.with(|state| {
            let run = state.run(run, panics);
            let handle = TaskHandle::start(arbiter, partitions, run.cancel.clone());
            run.tasks.push(NamedTask { stage, task, handle: handle.clone() });
            handle
        })
    }

    /// Keeps a bad record for the end of the run; false when there is no room left.
    pub(crate) fn keep_rejected(&self, run: &str, record: RejectedRecord) -> bool {
        self.with(|state| {
            let Some(run) = state.runs.get_mut(run) else { return false };
            let bytes = record.block.data.value(record.at).len() + record.reason.len();
            if run.rejected_bytes + bytes > REJECTED_BYTES_MAX {
                return false;
            }
            run.rejected_bytes += bytes;
            run.rejected.push(record);
            true
        })
    }

    /// Cancels a run, known or not; gives the number of its tasks.
    pub(crate) fn cancel(&self, run: &str, panics: u64) -> usize {
        self.with(|state| {
            let run = state.run(run, panics);
            run.cancel.cancel();
            run.tasks.len()
        })
    }

    /// Cancels every run, as when the driver is gone.
    pub(crate) fn cancel_all(&self) {
        self.with(|state| state.runs.values().for_each(|run| run.cancel.cancel()));
    }

    /// Takes a run out.
    pub(crate) fn take(&self, run: &str) -> Option<Run> {
        self.with(|state| {
            state.order.retain(|known| known != run);
            state.runs.remove(run)
        })
    }

    /// Runs and tasks that are remembered.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.with(|state| (state.runs.len(), state.runs.values().map(|run| run.tasks.len()).sum()))
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        // Every use leaves the state whole; a panic in one cannot spoil it for the others.
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn run(&mut self, name: &str, panics: u64) -> &mut Run {
        if !self.runs.contains_key(name) {
            if self.order.len() >= RUNS_MAX
                && let Some(oldest) = self.order.pop_front()
                && let Some(run) = self.runs.remove(&oldest)
            {
                run.cancel.cancel();
            }
            self.order.push_back(name.to_owned());
        }
        self.runs.entry(name.to_owned()).or_insert_with(|| Run {
            cancel: CancellationToken::new(),
            tasks: Vec::new(),
            panics_before: panics,
            rejected: Vec::new(),
            rejected_bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_cancelled_before_it_came_is_cancelled() {
        let runs = Runs::default();
        assert_eq!(runs.cancel("r1", 0), 0);
        assert!(runs.token("r1", 0).is_cancelled());
        assert!(!runs.token("r2", 0).is_cancelled());
        assert!(runs.take("r1").is_some());
        assert_eq!(runs.counts(), (1, 0));
    }

    #[test]
    fn the_oldest_runs_are_forgotten_and_stopped() {
        let runs = Runs::default();
        let first = runs.token("first", 0);
        for number in 0..RUNS_MAX {
            runs.token(&number.to_string(), 0);
        }
        assert!(first.is_cancelled());
        assert_eq!(runs.counts(), (RUNS_MAX, 0));
    }
}
