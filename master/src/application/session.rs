//! What drivers and clients ask of an application.

use std::collections::BTreeSet;

use millrace_common::error::{Code, Error};
use millrace_common::id::{ContainerId, NodeId};
use millrace_common::resources::Resources;
use millrace_proto::v1::{self, ApplicationState, driver_command, driver_message};

use super::core::{Action, Application, Target};
use super::state::name as state_name;
use crate::control::SessionId;
use crate::moment::Moment;

impl Application {
    /// The driver opened a stream.
    ///
    /// # Errors
    /// [`Code::Fenced`] for a driver that is not the current one: it has to exit.
    pub(crate) fn driver_registered(
        &mut self,
        now: Moment,
        session: SessionId,
        message: v1::DriverRegister,
    ) -> Result<Vec<Action>, Error> {
        let current = self.record.last_attempt;
        let fenced = || {
            Error::new(
                Code::Fenced,
                format!(
                    "attempt {} of {} in container {} is over; the current attempt is {current}",
                    message.attempt, self.name, message.container_id
                ),
                "let this driver exit",
            )
        };
        if self.is_concluded() || !self.is_live() {
            return Err(fenced());
        }
        let driver = self
            .driver
            .as_mut()
            .filter(|driver| {
                message.attempt == current && driver.container.as_str() == message.container_id
            })
            .ok_or_else(fenced)?;
        self.last_executor = self.last_executor.max(message.last_executor);
        driver.known_executors = message.executors.into_iter().map(ContainerId::new).collect();
        let replaced = driver.connect(now, session, message.address);
        let mut actions: Vec<Action> = replaced.map(Action::Close).into_iter().collect();
        if let Some(stop) = self.record.stop {
            actions.push(Action::Tell(driver_command::Body::Stop(stop)));
        }
        actions.push(Action::Tell(self.tell_bounds()));
        self.ask_to_upgrade(&mut actions);
        self.ask_again_to_move(&mut actions);
        Ok(actions)
    }

    /// Tells a driver that came back what ended and what is there, once all nodes have reported.
    pub(crate) fn reconcile_driver(&mut self) -> Vec<Action> {
        let Some(driver) = &mut self.driver else { return Vec::new() };
        let live: BTreeSet<ContainerId> = self.executors.keys().cloned().collect();
        let mut actions = Vec::new();
        for gone in driver.known_executors.difference(&live) {
            let exit = v1::ContainerExit {
                reason: "ended while the master was away".to_owned(),
                ..Default::default()
            };
            actions.push(Action::Tell(driver_command::Body::Ended(v1::ContainerEnded {
                container_id: gone.to_string(),
                exit: Some(exit),
                ..Default::default()
            })));
        }
        driver.known_executors.retain(|id| live.contains(id));
        actions
    }

    /// The stream to the driver has ended.
    pub(crate) fn driver_disconnected(&mut self, now: Moment, session: SessionId) {
        if let Some(driver) = self.driver_at(session) {
            driver.disconnect(now);
        }
    }

    fn driver_at(&mut self, session: SessionId) -> Option<&mut super::Driver> {
        self.driver.as_mut().filter(|driver| driver.session == Some(session))
    }

    /// A message of the driver.
    pub(crate) fn driver_said(
        &mut self,
        now: Moment,
        session: SessionId,
        body: driver_message::Body,
    ) -> Vec<Action> {
        let Some(driver) = self.driver_at(session) else { return Vec::new() };
        driver.hear(now);
        match body {
            driver_message::Body::Register(_) | driver_message::Body::Heartbeat(_) => Vec::new(),
            driver_message::Body::Target(target) => {
                let executor =
                    target.resources.as_ref().map(Resources::from_proto).unwrap_or_default();
                let (count, excluded_nodes) = (target.count, target.excluded_nodes);
                self.last_target = count;
                self.target = Some(Target { count, executor, excluded_nodes });
                self.told_unmet = None;
                Vec::new()
            }
            driver_message::Body::Release(release) => {
                let container = ContainerId::new(release.container_id);
                if !self.executors.contains_key(&container) {
                    return Vec::new();
                }
                let reason = format!("given back by the driver: {}", release.reason);
                vec![Action::Kill { container, is_graceful: true, reason }]
            }
            driver_message::Body::Head(head) => self.head_acquired(now, head),
            driver_message::Body::Batch(batch) => {
                let forgives = self.committed(batch);
                if forgives { vec![Action::Save] } else { Vec::new() }
            }
            driver_message::Body::Report(report) => {
                let has_executors = !report.executors.is_empty();
                self.report = Some(report);
                if has_executors { self.revision_works(now) } else { Vec::new() }
            }
            driver_message::Body::Failures(failures) => {
                self.record.batch_failures = Some(failures);
                vec![Action::Save]
            }
            driver_message::Body::SpecChecked(checked) => self.spec_checked(now, checked),
            driver_message::Body::Epoch(request) => self.grant_epoch(request.seen_epoch),
            driver_message::Body::Finished(finished) => self.driver_finished(now, finished),
        }
    }

    fn head_acquired(&mut self, now: Moment, head: v1::HeadAcquired) -> Vec<Action> {
        self.record.is_head_expected = true;
        self.record.max_epoch = self.record.max_epoch.max(head.epoch);
        if self.state() == ApplicationState::Starting {
            let reason = format!("attempt {} is at work", self.record.last_attempt);
            self.enter(now, ApplicationState::Running, reason);
        }
        vec![Action::Save]
    }

    fn grant_epoch(&mut self, seen: u64) -> Vec<Action> {
        self.record.max_epoch = self.record.max_epoch.max(seen) + 1;
        let epoch = self.record.max_epoch;
        if let Some(attempt) = self.record.application.attempts.last_mut() {
            attempt.epoch = epoch;
        }
        vec![Action::SaveThenTell(driver_command::Body::Epoch(v1::EpochGranted { epoch }))]
    }

    fn driver_finished(&mut self, now: Moment, finished: v1::DriverFinished) -> Vec<Action> {
        let state = finished.state();
        let Some(driver) = &mut self.driver else { return Vec::new() };
        driver.finish(now);
        if finished.handed_over {
            driver.is_leaving = true;
            return Vec::new();
        }
        if finished.retryable {
            driver.failure = Some(finished.failure.unwrap_or_else(|| v1::Failure {
                code: Code::Internal.as_str().to_owned(),
                message: finished.reason,
                ..Default::default()
            }));
            return Vec::new();
        }
        let end = match state {
            ApplicationState::Stopped | ApplicationState::Rejected | ApplicationState::Finished => {
                state
            }
            _ => ApplicationState::Failed,
        };
        let reason = match (&finished.failure, finished.reason.is_empty()) {
            (Some(failure), true) => format!("{}: {}", failure.code, failure.message),
            _ => finished.reason,
        };
        driver.failure.clone_from(&finished.failure);
        if end != ApplicationState::Stopped && self.record.before.is_some() {
            driver.is_leaving = true;
            if self.take_back(now, finished.failure.clone()) {
                return vec![Action::Save];
            }
        }
        self.conclude(end, reason, finished.failure);
        vec![Action::Save]
    }

    /// Asked to stop at the next batch edge, or to drain. Changes nothing when it is decided
    /// already how it ends.
    ///
    /// # Errors
    /// [`Code::WrongState`] when it has ended.
    pub(crate) fn stop(
        &mut self,
        now: Moment,
        drain: bool,
        deadline_ms: u64,
    ) -> Result<Vec<Action>, Error> {
        if !self.is_live() {
            return Err(self.has_ended("stopped"));
        }
        let mut actions = vec![Action::Save];
        if self.is_concluded() {
            return Ok(actions);
        }
        if self.driver.is_none() {
            let reason = "stopped on request while no driver ran".to_owned();
            self.conclude(ApplicationState::Stopped, reason, None);
            let waits = "asked to stop; waits for the nodes to report".to_owned();
            self.enter(now, ApplicationState::Stopping, waits);
            self.settle(now, &mut actions);
            return Ok(actions);
        }
        self.give_up_next(now, "the application was asked to stop first");
        let stop = v1::StopDriver { drain, deadline_ms };
        self.record.stop = Some(stop);
        let reason = if drain { "asked to drain" } else { "asked to stop at the next batch edge" };
        self.enter(now, ApplicationState::Stopping, reason.to_owned());
        actions.push(Action::Tell(driver_command::Body::Stop(stop)));
        Ok(actions)
    }

    /// Asked to end at once. How it ends stays as it is when that is decided already.
    ///
    /// # Errors
    /// [`Code::WrongState`] when it has ended.
    pub(crate) fn kill(&mut self, now: Moment) -> Result<Vec<Action>, Error> {
        if !self.is_live() {
            return Err(self.has_ended("killed"));
        }
        let reason = "killed on request".to_owned();
        if !self.is_concluded() {
            self.conclude(ApplicationState::Killed, reason.clone(), None);
        }
        let driver = self.driver.iter().map(|driver| &driver.container);
        let mut actions: Vec<Action> = driver
            .chain(self.executors.keys())
            .map(|container| Action::Kill {
                container: container.clone(),
                is_graceful: false,
                reason: reason.clone(),
            })
            .collect();
        self.enter(now, ApplicationState::Stopping, "being killed on request".to_owned());
        actions.push(Action::Save);
        self.settle(now, &mut actions);
        Ok(actions)
    }

    pub(super) fn has_ended(&self, verb: &str) -> Error {
        Error::new(
            Code::WrongState,
            format!(
                "application {} can not be {verb}: it is {}",
                self.name,
                state_name(self.state())
            ),
            "see `millrace list` for what is running",
        )
    }

    /// Time has passed: a driver that is silent or does not end is ended by force, and an end that
    /// was decided before the master's restart is entered.
    pub(crate) fn tick(&mut self, now: Moment) -> Vec<Action> {
        let Some(driver) = &self.driver else {
            let mut actions = Vec::new();
            self.settle(now, &mut actions);
            return actions;
        };
        let Some(reason) = driver.overdue(now, &self.timing) else { return Vec::new() };
        vec![Action::Kill { container: driver.container.clone(), is_graceful: false, reason }]
    }

    /// Whether a container that a node reports is a live one of the current attempt's, and if so
    /// takes it up. The number of an executor is not given again, whether it lives or not.
    pub(crate) fn adopt(&mut self, node: &NodeId, status: &v1::ContainerStatus) -> bool {
        if !self.is_live() || status.attempt != self.record.last_attempt {
            return false;
        }
        let id = ContainerId::new(status.container_id.clone());
        self.last_executor = self.last_executor.max(id.executor_number().unwrap_or(0));
        let is_over = status.state() == v1::ContainerState::Exited;
        match status.kind() {
            _ if is_over => false,
            v1::ContainerKind::Driver => {
                self.driver.as_ref().is_some_and(|driver| driver.container == id)
            }
            v1::ContainerKind::Executor if self.driver.is_some() => {
                self.executors.insert(id, node.clone());
                true
            }
            _ => false,
        }
    }
}
