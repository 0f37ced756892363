//! The life of an application: submitted, queued, started, running, stopped, and started again
//! when its driver fails.
//!
//! An end is reached only when every container of the application has ended: stopped means stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::exit::HANDED_OVER;
use millrace_common::id::{ApplicationName, ContainerId, NodeId};
use millrace_common::resources::Resources;
use millrace_common::retry::Backoff;
use millrace_proto::v1::{self, ApplicationState, driver_command};

use super::attempts::{Failures, Verdict};
use super::driver::Driver;
use super::history::History;
use super::record::ApplicationRecord;
use super::revisions::Admitted;
use super::settled::settled;
use super::state::{is_terminal, may_become, name as state_name};
use crate::cluster::Ended;
use crate::config::Timing;
use crate::control::SessionId;
use crate::moment::Moment;
use crate::scheduler::Wait;

/// An executor that lived this long did not fail at its start.
const EXECUTOR_SETTLED_MS: i64 = 30_000;
/// Pause after executors that fail at their start.
const EXECUTOR_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };

/// What the control actor does for an application.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Write the record to the store.
    Save,
    /// Write the record, and tell the driver once it is written.
    SaveThenTell(driver_command::Body),
    /// End a container: at once, or after the grace time.
    Kill {
        /// Which one.
        container: ContainerId,
        /// True to let it end by itself first.
        is_graceful: bool,
        /// Why, in one sentence.
        reason: String,
    },
    /// Tell the driver.
    Tell(driver_command::Body),
    /// Close a stream of a driver.
    Close(SessionId),
}

/// What a driver asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Executors in all.
    pub count: u32,
    /// Cost of each.
    pub executor: Resources,
    /// Where they failed too often.
    pub excluded_nodes: Vec<v1::NodeExclusion>,
}

/// One application and all its attempts.
#[derive(Debug)]
pub(crate) struct Application {
    /// What it is called.
    pub name: ApplicationName,
    pub(super) timing: Timing,
    pub(super) record: ApplicationRecord,
    /// The driver of the current attempt.
    pub driver: Option<Driver>,
    /// Live executors of the current attempt and their nodes.
    pub executors: BTreeMap<ContainerId, NodeId>,
    pub(super) last_executor: u32,
    pub(super) target: Option<Target>,
    /// How many executors its last driver asked for at last; 0 before the first.
    pub(super) last_target: u32,
    /// The executor that its driver gives up, because its node is drained or unhealthy.
    pub retiring: Option<ContainerId>,
    failures: Failures,
    pub(super) retry_at: Duration,
    executor_failures: u32,
    pub(super) executor_retry_at: Duration,
    /// Last report of the driver.
    pub report: Option<v1::DriverReport>,
    /// The last batches.
    pub history: History,
    /// What the driver was last told about missing executors.
    pub told_unmet: Option<(u32, String)>,
    /// What it waits for by the scheduler's last round, if for anything.
    pub waits: Option<Wait>,
    /// True while a new master waits for its nodes: containers may run that it has not heard of.
    is_adopting: bool,
}

impl Application {
    /// An application that was just submitted under a name that was never used.
    pub(crate) fn submit(
        now: Moment,
        timing: Timing,
        name: ApplicationName,
        submission: Admitted,
        sequence: u64,
    ) -> Self {
        let application = v1::Application { name: name.to_string(), ..Default::default() };
        let record = ApplicationRecord { application, ..Default::default() };
        let mut made = Self::restore(now, timing, name, record);
        made.is_adopting = false;
        made.accept(now, submission, sequence);
        made
    }

    /// An application as the store holds it, after a restart of the master. A driver that was
    /// placed is taken for alive until its node says otherwise.
    pub(crate) fn restore(
        now: Moment,
        timing: Timing,
        name: ApplicationName,
        record: ApplicationRecord,
    ) -> Self {
        let is_over = is_terminal(record.application.state());
        let placed = record.application.attempts.last().filter(|last| last.ended_ms == 0);
        let driver = placed.filter(|_| !is_over).map(|attempt| {
            let container = ContainerId::new(attempt.container_id.clone());
            Driver::new(now, container, NodeId::new(attempt.node_id.clone()))
        });
        let failures = Failures::restore(now, &record.failures_ms);
        Self {
            name,
            timing,
            driver,
            executors: BTreeMap::new(),
            last_executor: 0,
            target: None,
            last_target: 0,
            retiring: None,
            retry_at: failures.retry_at(&timing),
            failures,
            executor_failures: 0,
            executor_retry_at: Duration::ZERO,
            report: None,
            history: History::restore(&record.batches),
            record,
            told_unmet: None,
            waits: None,
            is_adopting: true,
        }
    }

    /// Every node has reported, or had its time to: nothing unheard of runs any more.
    pub(crate) fn end_adoption(&mut self) {
        self.is_adopting = false;
    }

    /// Its state.
    pub(crate) fn state(&self) -> ApplicationState {
        self.record.application.state()
    }

    /// The number of its current or last attempt; 0 before the first.
    pub(crate) fn attempt(&self) -> u32 {
        self.record.last_attempt
    }

    /// Failures of its drivers since its last commit, and how many of them end it.
    pub(crate) fn num_failures(&self) -> (u32, u32) {
        (self.failures.count(), self.timing.attempt_failures_max)
    }

    /// Place in the order of submission.
    pub(crate) fn sequence(&self) -> u64 {
        self.record.sequence
    }

    /// True while it may start or hold containers.
    pub(crate) fn is_live(&self) -> bool {
        !is_terminal(self.state())
    }

    /// What the store keeps.
    pub(crate) fn record(&self) -> ApplicationRecord {
        ApplicationRecord { batches: self.history.recorded(), ..self.record.clone() }
    }

    /// The application as clients see it.
    pub(crate) fn to_proto(&self) -> v1::Application {
        let mut shown = self.record.application.clone();
        shown.report = match self.is_live() {
            true => self.report.clone(),
            false => self.report.as_ref().map(settled),
        };
        if let Some((_, unmet)) = &self.told_unmet {
            shown.reason = format!("{}; {unmet}", shown.reason);
        }
        if let Some(target) = &self.target {
            shown.excluded_nodes.clone_from(&target.excluded_nodes);
        }
        shown.num_executors = u32::try_from(self.executors.len()).unwrap_or(u32::MAX);
        shown
    }

    /// Submitted again under the same name, with whatever specification.
    ///
    /// # Errors
    /// [`Code::NameInUse`] while it is live.
    pub(crate) fn resubmit(
        &mut self,
        now: Moment,
        submission: Admitted,
        sequence: u64,
    ) -> Result<(), Error> {
        if self.is_live() {
            return Err(self.name_in_use());
        }
        self.accept(now, submission, sequence);
        Ok(())
    }

    fn accept(&mut self, now: Moment, submission: Admitted, sequence: u64) {
        self.begin_revision(now, submission);
        self.record.application.submitted_ms = now.wall_ms;
        self.record.application.failure = None;
        self.record.sequence = sequence;
        self.record.stop = None;
        self.forget_failures();
        self.target = None;
        self.last_target = 0;
        self.record.application.scaled_to = 0;
        self.report = None;
        self.record.outcome = None;
        self.record.batch_failures = None;
        self.enter(now, ApplicationState::Queued, "waits for a place for its driver".to_owned());
    }

    /// What failed before says nothing of what runs from now on.
    pub(super) fn forget_failures(&mut self) {
        self.failures = Failures::default();
        self.record.failures_ms.clear();
        self.retry_at = Duration::ZERO;
        self.executor_failures = 0;
        self.executor_retry_at = Duration::ZERO;
    }

    /// Changes state; a transition that is not legal is a defect and leaves everything as it is.
    pub(super) fn enter(&mut self, now: Moment, state: ApplicationState, reason: String) {
        let from = self.state();
        if from != state && !may_become(from, state) {
            let (from, to) = (state_name(from), state_name(state));
            tracing::error!(application = %self.name, "defect: {from} may not become {to}");
            debug_assert!(false, "{} is {from} and may not become {to}", self.name);
            return;
        }
        let application = &mut self.record.application;
        application.set_state(state);
        application.reason = reason;
        application.changed_ms = now.wall_ms;
    }

    /// Says why it waits, without a change of state.
    pub(crate) fn set_reason(&mut self, reason: &str) {
        self.record.application.reason = reason.to_owned();
    }

    /// Why it is in this state.
    pub(crate) fn reason(&self) -> &str {
        &self.record.application.reason
    }

    /// One of its containers has ended.
    pub(crate) fn container_ended(&mut self, now: Moment, ended: &Ended) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.driver.as_ref().is_some_and(|driver| driver.container == ended.container) {
            self.driver_ended(now, ended, &mut actions);
        } else if self.executors.remove(&ended.container).is_some() {
            self.executor_ended(now, ended, &mut actions);
        }
        self.settle(now, &mut actions);
        actions
    }

    fn executor_ended(&mut self, now: Moment, ended: &Ended, actions: &mut Vec<Action>) {
        if let Some(driver) = &mut self.driver {
            driver.known_executors.remove(&ended.container);
        }
        let lived_ms = now.wall_ms - ended.started_ms;
        if self.retiring.as_ref() == Some(&ended.container) {
            self.retiring = None;
        } else if ended.was_started && !ended.exit.requested && lived_ms < EXECUTOR_SETTLED_MS {
            self.executor_failures += 1;
            self.executor_retry_at =
                now.monotonic + EXECUTOR_BACKOFF.delay(self.executor_failures, 0.0);
        } else {
            self.executor_failures = 0;
        }
        actions.push(Action::Tell(driver_command::Body::Ended(v1::ContainerEnded {
            container_id: ended.container.to_string(),
            node_id: ended.node.to_string(),
            exit: Some(ended.exit.clone()),
        })));
    }

    fn driver_ended(&mut self, now: Moment, ended: &Ended, actions: &mut Vec<Action>) {
        let Some(driver) = self.driver.take() else { return };
        actions.extend(driver.session.map(Action::Close));
        self.target = None;
        let has_moved = driver.is_leaving || ended.exit.code == Some(HANDED_OVER.into());
        let why = match &driver.failure {
            Some(failure) => format!("{}: {}", failure.code, failure.message),
            None if has_moved => match self.next_revision() {
                Some(next) => format!("revision {next} was to follow"),
                None => format!("{} was to be emptied: the next attempt goes on", driver.node),
            },
            None => describe(&ended.exit),
        };
        self.close_attempt(now, &why, driver.failure.clone());
        for executor in self.executors.keys() {
            actions.push(Action::Kill {
                container: executor.clone(),
                is_graceful: false,
                reason: "the driver has ended".to_owned(),
            });
        }
        actions.push(Action::Save);
        if self.is_concluded() {
            return;
        }
        if self.state() == ApplicationState::Stopping && ended.exit.code == Some(0) {
            self.conclude(ApplicationState::Stopped, "stopped on request".to_owned(), None);
            return;
        }
        if self.take_next(now) {
            let revision = self.record.application.revision;
            return self.requeue(now, format!("revision {revision} waits for a place"));
        }
        if !ended.was_started || ended.was_evicted || has_moved {
            // Not the driver's failure: it goes elsewhere; at a pace, where the cause stays.
            if !ended.was_started {
                self.retry_at = now.monotonic + self.timing.attempt_backoff.delay(0, 0.0);
            }
            return self.requeue(now, format!("waits for another place: {why}"));
        }
        self.driver_failed(now, driver.failure.is_some(), &why, &ended.exit);
    }

    /// Counts a failure of the driver and decides what follows. `is_told` when the driver itself said
    /// what stopped it.
    fn driver_failed(&mut self, now: Moment, is_told: bool, why: &str, exit: &v1::ContainerExit) {
        // What is denied to a revision that was never at work may well be its own doing: it is not
        // waited for without end, and the one before goes on.
        let is_passing = is_told && self.record.is_head_expected && self.record.before.is_none();
        let verdict = match is_passing {
            true => self.failures.record_passing(&self.timing),
            false => self.failures.record(now, &self.timing),
        };
        self.record.failures_ms = self.failures.recorded(now);
        match verdict {
            Verdict::WaitFor(delay) => {
                self.retry_at = now.monotonic + delay;
                self.requeue(now, format!("{why}; tried again in {delay:?}, until it passes"));
            }
            Verdict::RetryAfter(delay, count) => {
                self.retry_at = now.monotonic + delay;
                let limit = self.timing.attempt_failures_max;
                self.requeue(
                    now,
                    format!(
                        "the driver failed ({why}); failure {count} of {limit} without a commit, \
                         next attempt in {delay:?}"
                    ),
                );
            }
            Verdict::Exhausted(count) => {
                let failure = Error::new(
                    Code::AttemptsExhausted,
                    format!(
                        "the driver of {} failed {count} times without a commit, the last time: \
                         {why}{}",
                        self.name,
                        tail(exit),
                    ),
                    format!("see `millrace logs {}`, mend the cause and submit again", self.name),
                )
                .to_failure();
                let reason = format!("{}: {}", failure.code, failure.message);
                if self.take_back(now, Some(failure.clone())) {
                    return self.requeue(now, format!("the revision before goes on: {reason}"));
                }
                self.conclude(ApplicationState::Failed, reason, Some(failure));
            }
        }
    }

    fn requeue(&mut self, now: Moment, reason: String) {
        if self.state() == ApplicationState::Stopping {
            self.set_reason(&reason);
        } else {
            self.enter(now, ApplicationState::Queued, reason);
        }
    }

    fn close_attempt(&mut self, now: Moment, why: &str, failure: Option<v1::Failure>) {
        // The newest failure is enough to go by.
        self.record.application.attempts.iter_mut().for_each(|attempt| attempt.failure = None);
        if let Some(attempt) = self.record.application.attempts.last_mut()
            && attempt.ended_ms == 0
        {
            attempt.ended_ms = now.wall_ms;
            why.clone_into(&mut attempt.end_reason);
            attempt.failure = failure;
        }
    }

    /// Sets how it ends. The end itself comes when nothing of it runs any more.
    pub(super) fn conclude(
        &mut self,
        state: ApplicationState,
        reason: String,
        failure: Option<v1::Failure>,
    ) {
        let mut outcome = v1::DriverFinished { reason, failure, ..Default::default() };
        outcome.set_state(state);
        self.record.outcome = Some(outcome);
    }

    /// Enters the end that was concluded, when nothing of it runs any more, known or unheard of.
    pub(super) fn settle(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.is_adopting || self.driver.is_some() || !self.executors.is_empty() {
            return;
        }
        if let Some(outcome) = self.record.outcome.take() {
            let state = outcome.state();
            self.record.application.failure = outcome.failure;
            self.record.stop = None;
            self.end_revisions(now, state, &outcome.reason);
            self.enter(now, state, outcome.reason);
            actions.push(Action::Save);
        }
    }

    /// True when it is decided how it ends.
    pub(super) fn is_concluded(&self) -> bool {
        self.record.outcome.is_some()
    }

    /// A batch was committed. True when that forgives failures, which the record has to know.
    pub(super) fn committed(&mut self, batch: v1::Batch) -> bool {
        // A driver tells of its own batches, so none is older than the last failure, and of the one
        // that it recovered, without its time: that is no progress of its own.
        let forgives = batch.committed_ms > 0 && self.failures.forgive();
        if forgives {
            self.record.failures_ms.clear();
        }
        self.history.record(batch);
        forgives
    }
}

/// How a container ended, in a few words.
pub(super) fn describe(exit: &v1::ContainerExit) -> String {
    if !exit.reason.is_empty() {
        return exit.reason.clone();
    }
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended for a reason that nobody saw".to_owned(),
    }
}

/// The last line of standard error, for the reason of a failure.
fn tail(exit: &v1::ContainerExit) -> String {
    match exit.stderr_tail.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("; its last line was: {}", line.trim()),
        None => String::new(),
    }
}
