//! Moving an application off nodes that are drained or unhealthy: what its driver is asked for.

use millrace_common::id::ContainerId;
use millrace_proto::v1::{self, driver_command};

use super::core::{Action, Application};
use crate::scheduler::Tenant;

/// Why containers have to leave.
const REASON: &str = "its node is being emptied";

impl Application {
    /// What a drain has to know of it beside its containers.
    pub(crate) fn tenant(&self) -> Tenant {
        let (driver_cost, executor_cost, num_minimum) = self.spec_resources();
        let executor_cost = self.target.as_ref().map_or(executor_cost, |target| target.executor);
        Tenant {
            application: self.name.clone(),
            is_ending: false,
            driver: None,
            driver_cost,
            executor_cost,
            selector: self.selector(),
            num_minimum,
            num_wanted: self.num_wanted(),
            executors: std::collections::BTreeMap::new(),
            retiring: None,
        }
    }

    /// Executors that its driver asks for; none before it has.
    pub(crate) fn num_wanted(&self) -> Option<u32> {
        self.target.as_ref().map(|target| target.count)
    }

    /// True when it has more executors than its driver asks for.
    pub(crate) fn has_surplus(&self) -> bool {
        self.num_wanted().is_some_and(|wanted| self.executors.len() > wanted as usize)
    }

    /// True while it was asked to read everything that is there before it ends.
    pub(crate) fn is_draining_streams(&self) -> bool {
        !self.is_concluded() && self.record.stop.is_some_and(|stop| stop.drain)
    }

    /// Asks the driver to end at the edge of its batch, for another attempt elsewhere.
    pub(crate) fn hand_over(&mut self) -> Vec<Action> {
        let Some(driver) = &mut self.driver else { return Vec::new() };
        driver.is_leaving = true;
        vec![Action::Tell(hand_over(REASON.to_owned()))]
    }

    /// Asks the driver to give an executor up in order.
    pub(crate) fn retire(&mut self, executor: &ContainerId) -> Vec<Action> {
        self.retiring = Some(executor.clone());
        vec![Action::Tell(retire(executor))]
    }

    /// Ends the driver now; that it ends is not its failure.
    pub(crate) fn end_driver(&mut self) -> Vec<Action> {
        let Some(driver) = &mut self.driver else { return Vec::new() };
        driver.is_leaving = true;
        vec![kill(&driver.container)]
    }

    /// Ends an executor now.
    pub(crate) fn end_executor(&mut self, executor: &ContainerId) -> Vec<Action> {
        vec![kill(executor)]
    }

    /// What a driver that has come back was asked for, and may not have heard.
    pub(super) fn ask_again_to_move(&self, actions: &mut Vec<Action>) {
        if self.driver.as_ref().is_some_and(|driver| driver.is_leaving) {
            actions.push(Action::Tell(hand_over(REASON.to_owned())));
        }
        actions.extend(self.retiring.iter().map(|executor| Action::Tell(retire(executor))));
    }
}

fn kill(container: &ContainerId) -> Action {
    let reason = "its node is drained, and the deadline has passed".to_owned();
    Action::Kill { container: container.clone(), is_graceful: true, reason }
}

/// Asks a driver to end at the edge of its batch, for another attempt.
pub(super) fn hand_over(reason: String) -> driver_command::Body {
    driver_command::Body::HandOver(v1::HandOver { reason })
}

fn retire(executor: &ContainerId) -> driver_command::Body {
    let (container_id, reason) = (executor.to_string(), REASON.to_owned());
    driver_command::Body::Retire(v1::RetireExecutor { container_id, reason })
}
