//! Emptying nodes, step by step: those that people order drained, and those that are unhealthy.

use std::collections::BTreeMap;

use millrace_common::error::{Code, Error};
use millrace_common::id::{ApplicationName, NodeId};
use millrace_proto::v1::{ApplicationState, ContainerState};

use super::core::Core;
use crate::application::Application;
use crate::moment::Moment;
use crate::scheduler::{DriverPlace, ExecutorPlace, Step, Tenant, drain};
use crate::store::{DrainOrder, Record};

impl Core {
    /// The node gets no more containers, and what is on it moves elsewhere; after `deadline_ms` what
    /// is left is ended (0: never). The ticket of the record.
    ///
    /// # Errors
    /// [`Code::UnknownNode`].
    pub(crate) fn drain(
        &mut self,
        now: Moment,
        node: &NodeId,
        deadline_ms: u64,
    ) -> Result<u64, Error> {
        let is_known = self.cluster.node(node).is_some()
            || self.awaited.contains(node)
            || self.cluster.drains.holds(node);
        if !is_known {
            return Err(unknown_node(node));
        }
        let after = i64::try_from(deadline_ms).unwrap_or(i64::MAX);
        let order = DrainOrder {
            asked_ms: now.wall_ms,
            deadline_ms: (after > 0).then(|| now.wall_ms.saturating_add(after)),
        };
        tracing::info!(%node, deadline_ms, "node is drained");
        self.cluster.drains.begin(node.clone(), order);
        let ticket = self.write(Record::Drain(node.clone(), order));
        self.step(now);
        self.go_on_draining(now);
        Ok(ticket)
    }

    /// The node takes containers again. The ticket of the record.
    ///
    /// # Errors
    /// [`Code::UnknownNode`] for a node that is neither here nor drained.
    pub(crate) fn undrain(&mut self, now: Moment, node: &NodeId) -> Result<u64, Error> {
        if !self.cluster.drains.end(node) {
            let is_here = self.cluster.node(node).is_some();
            return if is_here { Ok(self.last_ticket) } else { Err(unknown_node(node)) };
        }
        tracing::info!(%node, "node takes containers again");
        let ticket = self.write(Record::DrainGone(node.clone()));
        self.step(now);
        Ok(ticket)
    }

    /// Does what can be done now to empty the nodes that are drained or unhealthy.
    pub(super) fn go_on_draining(&mut self, now: Moment) {
        if self.is_adopting {
            return;
        }
        let leaving = self.cluster.leaving(now);
        if leaving.is_empty() && !self.applications.values().any(Application::has_surplus) {
            return self.cluster.explain_leaving(BTreeMap::new());
        }
        let mut applications: Vec<&Application> = self.applications.values().collect();
        applications.sort_by_key(|application| application.sequence());
        let tenants: Vec<Tenant> =
            applications.into_iter().filter_map(|application| self.tenant(application)).collect();
        let overdue = self.cluster.drains.overdue(now);
        let rooms = self.cluster.rooms(now).into_iter();
        let is_well = |id: &NodeId| self.cluster.node(id).is_none_or(|node| !node.is_unhealthy());
        let others = rooms.filter(|room| !leaving.contains(&room.node) && is_well(&room.node));
        let others = others.collect();
        let plan = drain(&leaving, &overdue, others, &tenants);
        self.cluster.explain_leaving(plan.waits);
        for step in plan.steps {
            self.take(step);
        }
    }

    /// The application as a drain sees it; none when it holds nothing.
    fn tenant(&self, application: &Application) -> Option<Tenant> {
        let executors = application.executors.iter().map(|(id, node)| {
            let state = self.cluster.containers.get(id).map(|entry| entry.status.state());
            let is_running = state == Some(ContainerState::Running);
            (id.clone(), ExecutorPlace { node: node.clone(), is_running })
        });
        let driver = application.driver.as_ref().map(|driver| DriverPlace {
            node: driver.node.clone(),
            is_at_work: driver.session.is_some() && application.num_wanted().is_some(),
            is_leaving: driver.is_leaving,
        });
        let tenant = Tenant {
            is_ending: application.state() == ApplicationState::Stopping
                && !application.is_draining_streams(),
            driver,
            executors: executors.collect(),
            retiring: application.retiring.clone(),
            ..application.tenant()
        };
        (tenant.driver.is_some() || !tenant.executors.is_empty()).then_some(tenant)
    }

    fn take(&mut self, step: Step) {
        match &step {
            Step::HandOver(_) | Step::Retire(..) => tracing::info!(?step, "drain"),
            // Said again until they have ended.
            Step::EndDriver(_) | Step::EndExecutor(..) => tracing::debug!(?step, "drain"),
        }
        let change =
            |core: &mut Self,
             name: &ApplicationName,
             act: &dyn Fn(&mut Application) -> Vec<crate::application::Action>| {
                let actions = core.applications.get_mut(name).map(act).unwrap_or_default();
                core.perform(name, actions);
            };
        match step {
            Step::HandOver(name) => change(self, &name, &Application::hand_over),
            Step::Retire(name, id) => change(self, &name, &|application| application.retire(&id)),
            Step::EndDriver(name) => change(self, &name, &Application::end_driver),
            Step::EndExecutor(name, id) => {
                change(self, &name, &|application| application.end_executor(&id));
            }
        }
    }
}

/// The refusal of a name that no node has.
pub(super) fn unknown_node(node: &NodeId) -> Error {
    Error::new(
        Code::UnknownNode,
        format!("no node is called {node}"),
        "see `millrace nodes` for the names",
    )
}
