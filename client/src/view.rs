//! What `--json` prints: the cluster's messages as plain structures with stable snake_case keys.
//!
//! Promises: a key that is here stays and keeps its meaning (documented in `docs/cli.md`); times are
//! Unix milliseconds, sizes are bytes; what is not known is null, never a made-up number.
//! Never does: decide anything, or format for people.

mod history;
mod node;
mod parts;
mod replay;
mod scaling;
mod why;

use millrace_proto::v1;
use serde::{Deserialize, Serialize};

pub use history::{HistoryView, PastAttemptView, RevisionView, TokenView};
pub use node::NodeView;
pub use parts::{BadRecordsView, GapView, NodeExclusionView, ReceiverView};
pub use replay::ReplayView;
pub use scaling::{QueueView, ScalingDecisionView, ScalingView};
pub use why::{CauseView, LinkView, WhyView};

/// A point in time from a message, where 0 means that it has not happened.
fn known(time_ms: i64) -> Option<i64> {
    (time_ms > 0).then_some(time_ms)
}

/// A text from a message, where an empty one means that there is none.
fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The state of an application, as text: `running`, `rejected`, ...
#[must_use]
pub fn state_name(state: v1::ApplicationState) -> &'static str {
    use v1::ApplicationState as S;
    match state {
        S::Unspecified => "unknown",
        S::Queued => "queued",
        S::Starting => "starting",
        S::Running => "running",
        S::Stopping => "stopping",
        S::Stopped => "stopped",
        S::Failed => "failed",
        S::Rejected => "rejected",
        S::Killed => "killed",
        S::Finished => "finished",
    }
}

/// True when an application in this state has no live attempt and gets none by itself.
#[must_use]
pub fn has_ended(state: v1::ApplicationState) -> bool {
    use v1::ApplicationState as S;
    matches!(state, S::Stopped | S::Failed | S::Rejected | S::Killed | S::Finished)
}

/// A failure: code, what happened, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureView {
    /// The stable code, as `MR3002`.
    pub code: String,
    /// What happened, to which thing.
    pub message: String,
    /// What to do next.
    pub next: String,
}

impl FailureView {
    /// From a message.
    #[must_use]
    pub fn new(failure: &v1::Failure) -> Self {
        Self {
            code: failure.code.clone(),
            message: failure.message.clone(),
            next: failure.next_move.clone(),
        }
    }
}

/// One start of an application's driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// Counts from 1.
    pub number: u32,
    /// What the driver fences with.
    pub epoch: u64,
    /// The driver's container.
    pub container_id: String,
    /// Where it was placed; null before.
    pub node_id: Option<String>,
    /// Start of the attempt.
    pub started_ms: Option<i64>,
    /// Its end, null while it lives.
    pub ended_ms: Option<i64>,
    /// Why it ended, null while it lives.
    pub end_reason: Option<String>,
}

/// A container of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// The container's id.
    pub container_id: String,
    /// `driver` or `executor`.
    pub kind: String,
    /// `granted`, `running`, `exited` or `lost`.
    pub state: String,
    /// The attempt it belongs to.
    pub attempt: u32,
    /// Granted cores.
    pub cores: u32,
    /// Granted memory.
    pub memory_bytes: u64,
    /// Process id on its node, null before the start.
    pub pid: Option<u32>,
    /// Start of the process.
    pub started_ms: Option<i64>,
    /// End of the process.
    pub ended_ms: Option<i64>,
    /// Exit code, null while it runs or when a signal ended it.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub exit_signal: Option<i32>,
    /// How it ended, in one sentence.
    pub exit_reason: Option<String>,
}

impl ContainerView {
    /// From a message.
    #[must_use]
    pub fn new(status: &v1::ContainerStatus) -> Self {
        let resources = status.resources.unwrap_or_default();
        let exit = status.exit.as_ref();
        Self {
            container_id: status.container_id.clone(),
            kind: match status.kind() {
                v1::ContainerKind::Driver => "driver",
                v1::ContainerKind::Executor => "executor",
                v1::ContainerKind::Unspecified => "unknown",
            }
            .to_owned(),
            state: match status.state() {
                v1::ContainerState::Granted => "granted",
                v1::ContainerState::Running => "running",
                v1::ContainerState::Exited => "exited",
                v1::ContainerState::Lost => "lost",
                v1::ContainerState::Unspecified => "unknown",
            }
            .to_owned(),
            attempt: status.attempt,
            cores: resources.cores,
            memory_bytes: resources.memory_bytes,
            pid: (status.pid != 0).then_some(status.pid),
            started_ms: known(status.started_ms),
            ended_ms: known(status.ended_ms),
            exit_code: exit.and_then(|exit| exit.code),
            exit_signal: exit.and_then(|exit| exit.signal),
            exit_reason: exit.map(|exit| exit.reason.clone()),
        }
    }
}

/// An executor as its driver sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorView {
    /// The executor's container.
    pub container_id: String,
    /// The node it runs on.
    pub node_id: String,
    /// Where it serves tasks.
    pub address: String,
    /// Compute threads.
    pub cores: u32,
    /// Compute threads that run a task.
    pub cores_busy: u32,
    /// Bytes of blocks held in memory.
    pub block_bytes: u64,
    /// Bytes of blocks that may be held in memory.
    pub block_bytes_budget: u64,
    /// Receivers on it.
    pub num_receivers: u32,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Why blocks can not be spilled to its disk; null when they can.
    #[serde(default)]
    pub spill_refused: Option<String>,
    /// Spills that failed since it started; each of those blocks stayed in memory.
    #[serde(default)]
    pub num_spills_refused: u64,
    /// Why it gets no work for a while, null when it does.
    #[serde(default)]
    pub excluded_reason: Option<String>,
    /// Until when, null when it gets work.
    #[serde(default)]
    pub excluded_until_ms: Option<i64>,
}

/// An application as `millrace status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationView {
    /// The application's name.
    pub name: String,
    /// Its state, see [`state_name`].
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// What is wrong, null when nothing is.
    pub failure: Option<FailureView>,
    /// Number of the newest attempt, null before the first.
    pub attempt: Option<u32>,
    /// Every attempt the master remembers, oldest first.
    pub attempts: Vec<AttemptView>,
    /// When it was submitted.
    pub submitted_ms: Option<i64>,
    /// When its state last changed.
    pub changed_ms: Option<i64>,
    /// The driver's container of the newest attempt.
    pub driver: Option<ContainerView>,
    /// Executors as the driver reports them.
    pub executors: Vec<ExecutorView>,
    /// Nodes on which its executors failed too often: others are placed elsewhere.
    #[serde(default)]
    pub excluded_nodes: Vec<NodeExclusionView>,
    /// Executors the master has granted.
    pub num_executors: u32,
    /// The queue it was submitted to.
    #[serde(default)]
    pub queue: String,
    /// How many executors were asked for by hand; null when its file decides.
    #[serde(default)]
    pub scaled_to: Option<u32>,
    /// How many executors its driver asks for and why; null before its first report.
    #[serde(default)]
    pub scaling: Option<ScalingView>,
    /// Receivers with their shards.
    pub receivers: Vec<ReceiverView>,
    /// Shards that are read.
    pub num_shards: u64,
    /// Distance of the furthest shard behind its newest record.
    pub millis_behind_latest: Option<u64>,
    /// Number of the newest committed batch, null before the driver's first report.
    pub batch: Option<u64>,
    /// When it was committed.
    pub last_commit_ms: Option<i64>,
    /// Batches begun whose outcome is open.
    pub num_batches_in_flight: u32,
    /// Compute threads over all executors.
    pub task_cores_total: u32,
    /// Compute threads that run a task.
    pub task_cores_busy: u32,
    /// Compute threads that are free for tasks.
    pub task_cores_free: u32,
    /// Records in committed batches since it began, or was reset.
    pub records_total: u64,
    /// Rows written by them, dead letters included.
    pub rows_total: u64,
    /// Bad records in committed batches of this attempt.
    pub bad_records_total: u64,
    /// The same by shard; those without are left out.
    #[serde(default)]
    pub bad_records: Vec<BadRecordsView>,
    /// KPL user records outside their shard's range in committed batches of this attempt.
    pub out_of_range_total: u64,
    /// Losses that were passed over by `on_data_loss = "continue"`, those of earlier attempts
    /// included.
    pub gaps: Vec<GapView>,
    /// Bytes received and not yet committed.
    pub buffered_bytes: u64,
    /// Why commits are late, null when they are not.
    pub degraded: Option<String>,
    /// What its driver does before it reads, null when it is at work.
    #[serde(default)]
    pub doing: Option<String>,
    /// What it computes again and how far it is; null when it is no replay.
    #[serde(default)]
    pub replay: Option<ReplayView>,
    /// Every container the master remembers.
    pub containers: Vec<ContainerView>,
}

impl ApplicationView {
    /// True when it has no live attempt and gets none by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use v1::ApplicationState as S;
        let ended = [S::Stopped, S::Failed, S::Rejected, S::Killed, S::Finished];
        ended.iter().any(|state| state_name(*state) == self.state)
    }

    /// From messages.
    #[must_use]
    pub fn new(application: &v1::Application, containers: &[v1::ContainerStatus]) -> Self {
        let reported = application.report.is_some();
        let report = application.report.clone().unwrap_or_default();
        let containers: Vec<_> = containers.iter().map(ContainerView::new).collect();
        let driver_id = application.attempts.iter().max_by_key(|attempt| attempt.number);
        let driver = driver_id.and_then(|attempt| {
            containers.iter().find(|c| c.container_id == attempt.container_id).cloned()
        });
        Self {
            name: application.name.clone(),
            state: state_name(application.state()).to_owned(),
            reason: application.reason.clone(),
            failure: application.failure.as_ref().map(FailureView::new),
            attempt: driver_id.map(|attempt| attempt.number),
            attempts: application.attempts.iter().map(attempt_view).collect(),
            submitted_ms: known(application.submitted_ms),
            changed_ms: known(application.changed_ms),
            driver,
            executors: report.executors.iter().map(executor_view).collect(),
            excluded_nodes: application.excluded_nodes.iter().map(NodeExclusionView::new).collect(),
            num_executors: application.num_executors,
            queue: scaling::queue(application),
            scaled_to: (application.scaled_to > 0).then_some(application.scaled_to),
            scaling: report.scaling.as_ref().map(ScalingView::new),
            receivers: report.receivers.iter().map(ReceiverView::new).collect(),
            num_shards: report.num_shards,
            millis_behind_latest: reported
                .then_some(report.millis_behind_latest)
                .and_then(|lag| u64::try_from(lag).ok()),
            batch: reported.then_some(report.batch),
            last_commit_ms: known(report.last_commit_ms),
            num_batches_in_flight: report.num_batches_in_flight,
            task_cores_total: report.task_cores_total,
            task_cores_busy: report.task_cores_busy,
            task_cores_free: report.task_cores_total.saturating_sub(report.task_cores_busy),
            records_total: report.records_total,
            rows_total: report.rows_total,
            bad_records_total: report.bad_records_total,
            bad_records: report.bad_records.iter().map(BadRecordsView::new).collect(),
            out_of_range_total: report.out_of_range_total,
            gaps: report.gaps.iter().map(GapView::new).collect(),
            buffered_bytes: report.buffered_bytes,
            degraded: (!report.degraded.is_empty()).then_some(report.degraded),
            doing: text(&report.doing),
            replay: ReplayView::new(application),
            containers,
        }
    }
}

fn attempt_view(attempt: &v1::Attempt) -> AttemptView {
    AttemptView {
        number: attempt.number,
        epoch: attempt.epoch,
        container_id: attempt.container_id.clone(),
        node_id: text(&attempt.node_id),
        started_ms: known(attempt.started_ms),
        ended_ms: known(attempt.ended_ms),
        end_reason: text(&attempt.end_reason),
    }
}

fn executor_view(executor: &v1::ExecutorReport) -> ExecutorView {
    ExecutorView {
        container_id: executor.container_id.clone(),
        node_id: executor.node_id.clone(),
        address: executor.address.clone(),
        cores: executor.cores,
        cores_busy: executor.cores_busy,
        block_bytes: executor.block_bytes,
        block_bytes_budget: executor.block_bytes_budget,
        num_receivers: executor.num_receivers,
        rss_bytes: executor.rss_bytes,
        spill_refused: text(&executor.spill_refused),
        num_spills_refused: executor.num_spills_refused,
        excluded_reason: text(&executor.excluded_reason),
        excluded_until_ms: known(executor.excluded_until_ms),
    }
}

/// A committed batch as `millrace batches` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchView {
    /// The batch's number.
    pub number: u64,
    /// Epoch of the driver that committed it.
    pub epoch: u64,
    /// When its blocks were cut.
    pub cut_ms: Option<i64>,
    /// When it was committed.
    pub committed_ms: Option<i64>,
    /// When every file of it was visible, null before.
    pub published_ms: Option<i64>,
    /// Records read.
    pub num_records: u64,
    /// Bytes read.
    pub num_bytes: u64,
    /// Rows written.
    pub num_rows: u64,
    /// Files written.
    pub num_files: u32,
    /// Blocks read.
    pub num_blocks: u32,
    /// Tasks run.
    pub num_tasks: u32,
    /// Runs needed; 1 when nothing went wrong.
    pub num_runs: u32,
    /// Records that did not fit the schema.
    pub num_bad_records: u64,
    /// True when a later driver completed it: what its own alone knew is null or 0.
    #[serde(default)]
    pub recovered: bool,
    /// The files.
    pub files: Vec<String>,
}

impl BatchView {
    /// From a message.
    #[must_use]
    pub fn new(batch: &v1::Batch) -> Self {
        Self {
            number: batch.number,
            epoch: batch.epoch,
            cut_ms: known(batch.cut_ms),
            committed_ms: known(batch.committed_ms),
            published_ms: known(batch.published_ms),
            num_records: batch.num_records,
            num_bytes: batch.num_bytes,
            num_rows: batch.num_rows,
            num_files: batch.num_files,
            num_blocks: batch.num_blocks,
            num_tasks: batch.num_tasks,
            num_runs: batch.num_runs,
            num_bad_records: batch.num_bad_records,
            recovered: batch.recovered,
            files: batch.files.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_cores_are_what_no_task_runs_on() {
        let report = v1::DriverReport {
            task_cores_total: 32,
            task_cores_busy: 5,
            millis_behind_latest: -1,
            batch: 7,
            ..Default::default()
        };
        let application = v1::Application { report: Some(report), ..Default::default() };
        let view = ApplicationView::new(&application, &[]);
        assert_eq!((view.task_cores_total, view.task_cores_free), (32, 27));
        assert_eq!(view.millis_behind_latest, None, "-1 means not known");
        assert_eq!(view.batch, Some(7));
    }

    #[test]
    fn without_a_report_nothing_is_made_up() {
        let view = ApplicationView::new(&v1::Application::default(), &[]);
        assert_eq!(view.batch, None);
        assert_eq!(view.millis_behind_latest, None);
        assert_eq!(view.last_commit_ms, None);
        assert_eq!(view.attempt, None);
    }

    #[test]
    fn the_driver_is_the_container_of_the_newest_attempt() {
        let attempt = |number: u32| v1::Attempt {
            number,
            container_id: format!("wc-a{number}-driver"),
            ..Default::default()
        };
        let container = |id: &str| v1::ContainerStatus {
            container_id: id.to_owned(),
            kind: v1::ContainerKind::Driver.into(),
            state: v1::ContainerState::Running.into(),
            pid: 12,
            ..Default::default()
        };
        let application =
            v1::Application { attempts: vec![attempt(2), attempt(1)], ..Default::default() };
        let containers = [container("wc-a1-driver"), container("wc-a2-driver")];
        let view = ApplicationView::new(&application, &containers);
        assert_eq!(view.driver.map(|driver| driver.container_id).as_deref(), Some("wc-a2-driver"));
        assert_eq!(view.attempt, Some(2));
    }
}
