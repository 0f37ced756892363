//! The actor that makes batches: it asks the receivers for blocks, has them run, and commits.
//!
//! Promises: performs what the core decides and nothing else; tells once how the life of batches
//! ended. Owned by the driver's main. Never does: decide.

mod marking;
mod wishes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use millrace_common::clock::SharedClock;
use millrace_common::error::Error;
use millrace_common::id::{BlockId, ContainerId};
use millrace_common::random;
use millrace_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::marking::Marking;
pub use self::wishes::{Drain, InputFailed, Stop};
use super::blame::{blame, suspect};
use super::core::{Core, Effect, Ended, Event};
use super::making::{Making, Published as PublishedBatch, Totals};
use super::planner::{self, RunFacts};
use crate::driver::commit::steps::{self, Edge, Step};
use crate::driver::commit::{
    BatchCommit, CommitError, CommitOutcome, Committed, Committer, Published,
};
use crate::driver::executors::actor::{BlockMissing, ExecutorEvent, Suspicion};
use crate::driver::executors::core::ExecutorView;
use crate::driver::receivers::actor::{
    BatchCommitted, BatchPublished, CloseBlocks, Gather, Prepare, Prepared, Receivers, Split,
};
use crate::driver::receivers::core::{PlannedBlock, Snapshot};
use crate::driver::runner::{BatchOutput, BatchRunner, RunError};
use crate::driver::session::MasterHandle;

/// How often pressure and time are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Open blocks are closed at least this often, so that a long interval does not look like silence.
const CLOSE_INTERVAL: Duration = Duration::from_secs(10);

/// How the life of batches ended.
#[derive(Debug)]
pub enum Outcome {
    /// At the edge of a batch, as asked; the proof that everything is published.
    Ended(Ended, Option<Box<Published>>),
    /// A step of the commit did not succeed.
    Commit(CommitError),
    /// The application can not go on.
    Failed(Error),
}

/// What the actor is made of.
pub struct Setup {
    /// Name of the application, for errors.
    pub application: String,
    /// Epoch of the attempt.
    pub epoch: u64,
    /// Time from cut to cut.
    pub interval: Duration,
    /// Last resort against a run that hangs.
    pub deadline: Duration,
    /// Hash of the specification.
    pub spec_hash: String,
    /// What earlier attempts met.
    pub known_failures: Option<v1::BatchFailures>,
    /// Writes the head.
    pub committer: Committer,
    /// Computes.
    pub runner: Arc<dyn BatchRunner>,
    /// Plans and keeps the blocks.
    pub receivers: Addr<Receivers>,
    /// Hears of published batches.
    pub master: MasterHandle,
    /// The executors that are here.
    pub executors: watch::Receiver<Vec<ExecutorView>>,
    /// Hears of executors that a run could not use.
    pub suspicions: mpsc::Sender<Suspicion>,
    /// The input, for pressure.
    pub input: watch::Receiver<Snapshot>,
    /// Shows what was done so far.
    pub totals: watch::Sender<Totals>,
    /// Time.
    pub clock: SharedClock,
    /// Cancelled when the driver ends at once.
    pub cancel: CancellationToken,
    /// Hears how it ended.
    pub outcome: mpsc::Sender<Outcome>,
}

/// The batches of one attempt.
pub struct Batches {
    core: Core,
    setup: Setup,
    totals: Totals,
    /// Everything before is published; taken while a commit or a publication is on its way.
    proof: Option<Published>,
    making: Option<Making>,
    committed: Option<Committed>,
    publishing: Option<PublishedBatch>,
    marking: Marking,
    run_cancel: CancellationToken,
    /// Ends a commit or a publication that is not waited for any more.
    steps_cancel: CancellationToken,
    drained_since_ms: Option<i64>,
    /// Why the input can not go on.
    input_failure: Option<Error>,
}

impl Batches {
    /// The next batch follows on `proof`.
    #[must_use]
    pub fn new(setup: Setup, proof: Published) -> Self {
        let core = Core::new(setup.interval, proof.next_batch(), setup.clock.monotonic())
            .knowing(setup.known_failures);
        let head = proof.head();
        let totals = Totals { overall: head.totals, ..Totals::since(head.batch) };
        setup.totals.send_replace(totals.clone());
        let steps_cancel = setup.cancel.child_token();
        Self {
            core,
            setup,
            totals,
            proof: Some(proof),
            making: None,
            committed: None,
            publishing: None,
            marking: Marking::default(),
            run_cancel: CancellationToken::new(),
            steps_cancel,
            drained_since_ms: None,
            input_failure: None,
        }
    }

    fn event(&mut self, event: Event, ctx: &mut Context<Self>) {
        let now = self.setup.clock.monotonic();
        for effect in self.core.on(event, now, random::unit()) {
            self.perform(effect, ctx);
        }
        let in_flight = self.core.is_in_flight();
        if self.totals.in_flight != in_flight {
            self.totals.in_flight = in_flight;
            self.setup.totals.send_replace(self.totals.clone());
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Prepare(batch) => self.prepare(batch, ctx),
            Effect::Gather(batch) => self.gather(batch, ctx),
            Effect::Divide(batch) => self.divide(batch, ctx),
            Effect::CancelRun => self.run_cancel.cancel(),
            Effect::Commit => self.commit(ctx),
            Effect::Publish => self.publish(ctx),
            Effect::Abandon => self.steps_cancel.cancel(),
            Effect::Notify => self.notify(ctx),
            Effect::Fail => {
                let of_batch = || self.making.as_ref().map(|m| m.failed(&self.setup.application));
                let error = self.input_failure.take().or_else(of_batch);
                let error = error.unwrap_or_else(|| Error::internal("no batch failed"));
                self.end(Outcome::Failed(error));
            }
            Effect::End(ended) => {
                let proof = self.proof.take();
                self.end(Outcome::Ended(ended, proof.map(Box::new)));
            }
        }
    }

    fn end(&self, outcome: Outcome) {
        if self.setup.outcome.try_send(outcome).is_err() {
            tracing::debug!("the driver ends already");
        }
    }

    fn prepare(&mut self, batch: u64, ctx: &mut Context<Self>) {
        let cut_ms = self.setup.clock.now_ms();
        let receivers = self.setup.receivers.clone();
        let ask = Prepare { batch, drained_since_ms: self.drained_since_ms };
        let answer = async move {
            steps::reached(Step::K2, Edge::Before).await;
            let answer = receivers.send(ask).await;
            steps::reached(Step::K2, Edge::After).await;
            answer
        };
        ctx.spawn(answer.into_actor(self).map(move |answer, actor, ctx| match answer {
            Ok(Ok(Prepared { planned, drained })) => {
                actor.making = planned.map(|planned| Making::new(batch, cut_ms, planned));
                let blocks = actor.making.as_ref().map(|making| making.num_shards());
                actor.event(Event::Prepared { blocks, drained }, ctx);
            }
            Ok(Err(_)) | Err(_) => {
                actor.end(Outcome::Failed(Error::internal("the driver's receivers do not answer")))
            }
        }));
    }

    fn divide(&mut self, batch: u64, ctx: &mut Context<Self>) {
        let answer = self.setup.receivers.send(Split(batch));
        ctx.spawn(answer.into_actor(self).map(move |answer, actor, ctx| {
            let Ok(part) = answer else {
                let error = Error::internal("the driver's receivers do not answer");
                return actor.end(Outcome::Failed(error));
            };
            let cut_ms = actor.making.as_ref().map_or(0, Making::cut_ms);
            tracing::warn!(batch, divided = part.is_some(), "the batch fails again and again");
            let is_smaller = part.is_some();
            if let Some(part) = part {
                actor.making = Some(Making::new(batch, cut_ms, part));
            }
            actor.event(Event::Divided(is_smaller), ctx);
        }));
    }

    fn gather(&mut self, batch: u64, ctx: &mut Context<Self>) {
        let answer = self.setup.receivers.send(Gather(batch));
        ctx.spawn(answer.into_actor(self).map(move |answer, actor, ctx| match answer {
            Ok(Ok(blocks)) => actor.run(&blocks, ctx),
            Ok(Err(_)) | Err(_) => {
                actor.end(Outcome::Failed(Error::internal("the driver's receivers do not answer")))
            }
        }));
    }

    fn run(&mut self, blocks: &[PlannedBlock], ctx: &mut Context<Self>) {
        let executors = self.executors_for(blocks);
        let Some(making) = &mut self.making else { return };
        if blocks.is_empty() {
            // All of its records are lost, by policy: the commit passes over them.
            making.begin(blocks, self.setup.clock.monotonic());
            making.succeed(BatchOutput::default());
            self.event(Event::Gathered(BTreeSet::new()), ctx);
            self.event(Event::RunSucceeded, ctx);
            return;
        }
        let facts = RunFacts {
            batch: making.batch(),
            epoch: self.setup.epoch,
            run: random::uuid(),
            cut_ms: making.cut_ms(),
            deadline: self.setup.deadline,
        };
        let Some(plan) = planner::plan(facts, &executors, blocks) else {
            self.event(Event::RunImpossible, ctx);
            return;
        };
        making.begin(blocks, self.setup.clock.monotonic());
        let on: BTreeSet<ContainerId> =
            executors.into_iter().map(|view| view.registration.container).collect();
        tracing::debug!(batch = plan.batch, run = %plan.run, blocks = blocks.len(), executors = on.len(), "run begins");
        self.run_cancel = self.setup.cancel.child_token();
        let (runner, cancel) = (self.setup.runner.clone(), self.run_cancel.clone());
        self.running_on(on.clone());
        self.event(Event::Gathered(on), ctx);
        let run = tokio::spawn(async move {
            steps::reached(Step::K3, Edge::Before).await;
            let result = runner.run(plan, cancel).await;
            steps::reached(Step::K3, Edge::After).await;
            result
        });
        ctx.spawn(run.into_actor(self).map(|result, actor, ctx| {
            let result = result.unwrap_or_else(|error| {
                Err(RunError::Plan { detail: format!("the driver's own task failed: {error}") })
            });
            actor.ran(result, ctx);
        }));
    }

    /// The executors of a run: those that are to be given up or are excluded only for the blocks
    /// that they hold.
    fn executors_for(&self, blocks: &[PlannedBlock]) -> Vec<ExecutorView> {
        let all = self.setup.executors.borrow().clone();
        let input = self.setup.input.borrow();
        let serves = |view: &ExecutorView| {
            let container = &view.registration.container;
            (view.exclusion.is_none() && !input.leaving.contains(container))
                || blocks.iter().any(|block| block.executor == *container)
        };
        let serving: Vec<ExecutorView> = all.iter().filter(|view| serves(view)).cloned().collect();
        if serving.is_empty() { all } else { serving }
    }

    fn running_on(&mut self, executors: BTreeSet<ContainerId>) {
        self.totals.running_on = executors;
        self.setup.totals.send_replace(self.totals.clone());
    }

    fn ran(&mut self, result: Result<BatchOutput, RunError>, ctx: &mut Context<Self>) {
        self.running_on(BTreeSet::new());
        let Some(making) = &mut self.making else { return };
        match result {
            // k4: runs follow one another, so the first that succeeds is the batch's.
            Ok(output) => {
                self.totals.failing = None;
                making.succeed(output);
                self.event(Event::RunSucceeded, ctx);
            }
            Err(error) => {
                let batch = making.batch();
                tracing::warn!(batch, %error, "a run of the batch has no result");
                let blame = blame(&error);
                if let Some(suspicion) = suspect(&error)
                    && let Err(error) = self.setup.suspicions.try_send(suspicion)
                {
                    tracing::warn!(%error, "a suspicion is not counted");
                }
                let missing = match &error {
                    RunError::BlockLost { block, .. } => Some(BlockId::new(block.as_str())),
                    _ => None,
                };
                making.fail(error);
                let trouble = making.trouble(&self.setup.application);
                self.totals.failing = trouble.map(|error| (batch, error.to_failure()));
                self.setup.totals.send_replace(self.totals.clone());
                if let Some(block) = missing {
                    let told = self.setup.receivers.send(BlockMissing(block));
                    ctx.spawn(told.into_actor(self).map(|_, _, _| ()));
                }
                self.event(Event::RunFailed(blame), ctx);
                let count = self.core.own_failures();
                if count > 0 {
                    self.setup.master.failures(v1::BatchFailures { batch, count });
                }
            }
        }
    }

    fn commit(&mut self, ctx: &mut Context<Self>) {
        let (Some(making), Some(proof)) = (&self.making, self.proof.take()) else {
            self.end(Outcome::Failed(Error::internal("a batch was to be committed twice")));
            return;
        };
        let now = self.setup.clock.monotonic();
        let commit: BatchCommit = making.commit(&self.setup.spec_hash, now);
        let (committer, cancel) = (self.setup.committer.clone(), self.steps_cancel.clone());
        let committing = tokio::spawn(async move {
            steps::reached(Step::K4, Edge::Before).await;
            steps::reached(Step::K4, Edge::After).await;
            committer.commit(proof, commit, &cancel).await
        });
        ctx.spawn(committing.into_actor(self).map(|result, actor, ctx| match result {
            Ok(Ok(CommitOutcome::Committed(committed))) => actor.on_committed(committed, ctx),
            Ok(Ok(CommitOutcome::RunTooOld(proof))) => {
                actor.proof = Some(proof);
                actor.event(Event::RunTooOld, ctx);
            }
            Ok(Err(error)) => actor.end(Outcome::Commit(error)),
            Err(error) => actor.end(Outcome::Failed(task_failed(error))),
        }));
    }

    fn on_committed(&mut self, committed: Committed, ctx: &mut Context<Self>) {
        let batch = committed.batch();
        self.totals.overall = committed.totals();
        self.committed = Some(committed);
        let told = self.setup.receivers.send(BatchCommitted(batch));
        ctx.spawn(told.into_actor(self).map(|_, _, _| ()));
        if let Some(making) = self.making.take() {
            let now_ms = self.setup.clock.now_ms();
            self.totals.add(&making, now_ms);
            self.setup.totals.send_replace(self.totals.clone());
            self.publishing =
                Some(making.published(self.setup.epoch, self.core.num_runs(), now_ms));
        }
        self.event(Event::Committed, ctx);
    }

    fn publish(&mut self, ctx: &mut Context<Self>) {
        let Some(committed) = self.committed.take() else {
            self.end(Outcome::Failed(Error::internal("a batch was to be published twice")));
            return;
        };
        let (committer, cancel) = (self.setup.committer.clone(), self.steps_cancel.clone());
        let publishing = tokio::spawn(async move {
            let published = committer.publish(committed, &cancel).await;
            steps::reached(Step::K8, Edge::Before).await;
            steps::reached(Step::K8, Edge::After).await;
            published
        });
        ctx.spawn(publishing.into_actor(self).map(|result, actor, ctx| match result {
            Ok(Ok(proof)) => {
                actor.proof = Some(proof);
                actor.event(Event::Published, ctx);
            }
            Ok(Err(error)) => actor.end(Outcome::Commit(error)),
            Err(error) => actor.end(Outcome::Failed(task_failed(error))),
        }));
    }

    fn notify(&mut self, ctx: &mut Context<Self>) {
        let Some(published) = self.publishing.take() else { return };
        let batch = published.to_proto(self.setup.clock.now_ms());
        tracing::info!(
            batch = batch.number,
            records = batch.num_records,
            rows = batch.num_rows,
            files = batch.num_files,
            "batch published"
        );
        let receivers = self.setup.receivers.clone();
        let number = batch.number;
        self.setup.master.batch(batch);
        let told = async move {
            steps::reached(Step::K7, Edge::Before).await;
            let told = receivers.send(BatchPublished(number)).await;
            steps::reached(Step::K7, Edge::After).await;
            told
        };
        ctx.spawn(told.into_actor(self).map(|_, _, _| ()));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = self.setup.clock.monotonic();
        if self.core.wakes_at().is_some_and(|at| at <= now) {
            self.event(Event::Tick, ctx);
        }
        if self.setup.input.borrow().under_pressure {
            self.event(Event::Pressure, ctx);
        }
        if self.setup.committer.status().is_waiting() {
            self.event(Event::CommitWaits, ctx);
        }
        self.mark_when_quiet(now, ctx);
    }
}

fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::internal("a task of the driver failed").caused_by(error)
}

impl Actor for Batches {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, Self::tick);
        if self.setup.interval > CLOSE_INTERVAL {
            ctx.run_interval(CLOSE_INTERVAL, |actor, ctx| {
                let told = actor.setup.receivers.send(CloseBlocks);
                ctx.spawn(told.into_actor(actor).map(|_, _, _| ()));
            });
        }
    }
}

impl Handler<ExecutorEvent> for Batches {
    type Result = ();

    fn handle(&mut self, event: ExecutorEvent, ctx: &mut Self::Context) {
        let gone = match event {
            ExecutorEvent::Lost(container) => BTreeSet::from([container]),
            // Their blocks are taken from them: a run that uses them would not find those.
            ExecutorEvent::Excluded(containers) => containers,
            _ => return,
        };
        for container in gone {
            self.event(Event::ExecutorLost(container), ctx);
        }
    }
}
