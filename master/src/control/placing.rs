//! Giving out places: the time of adoption, rounds of the scheduler, grants, and why who waits.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{ApplicationName, ContainerId, NodeId, QueueName};
use millrace_common::labels::Labels;
use millrace_common::plan::Node;
use millrace_common::resources::Resources;
use millrace_proto::v1::{self, CauseKind, ContainerState, driver_command, node_command};

use super::core::Core;
use super::effect::Effect;
use crate::application::{Application, Launch};
use crate::cluster::NodeEntry;
use crate::moment::Moment;
use crate::scheduler::{Claim, Placed, Wait, schedule};
use crate::store::Record;

impl Core {
    /// Ends the time of adoption when it is over, and gives out what can be given out.
    pub(super) fn step(&mut self, now: Moment) {
        for (id, reason) in std::mem::take(&mut self.withdrawn) {
            let state = ContainerState::Exited;
            let end = self.cluster.containers.end(&id, state, &reason, now.wall_ms);
            self.end_all(now, end);
        }
        if self.is_adopting {
            let is_late = now.since(self.led_since) >= self.timing.adopt_timeout;
            if !is_late && !self.awaited.is_empty() {
                return self.explain_adoption();
            }
            self.end_adoption(now);
        }
        let leaving = self.cluster.leaving(now);
        for application in self.applications.values_mut() {
            application.waits = None;
        }
        let claims = self.claims(now, &leaving);
        if claims.is_empty() {
            return;
        }
        let used = self.used_by_queues(&leaving);
        let plan = schedule(self.cluster.rooms(now), &claims, &self.queues, used);
        for placed in plan.placed {
            self.grant(now, placed);
        }
        let unhealthy = self.cluster.explain_unhealthy();
        for claim in &claims {
            let wait = plan.waiting.get(&claim.application).map(|wait| match &unhealthy {
                Some(unhealthy) => {
                    Wait { reason: format!("{}; {unhealthy}", wait.reason), ..wait.clone() }
                }
                None => wait.clone(),
            });
            self.explain(&claim.application, wait, &leaving);
        }
    }

    /// The nodes as they would be with nothing on them, for admission: those too that are suspect,
    /// lost or being emptied, because they may come back. None while not all have reported.
    pub(super) fn possible_nodes(&self) -> Vec<Node> {
        if self.is_adopting {
            return Vec::new();
        }
        let empty = |node: &NodeEntry| {
            Node::empty(node.id.as_str(), node.offered).labelled(Labels::clone(&node.labels))
        };
        self.cluster.nodes().map(empty).collect()
    }

    fn claims(&self, now: Moment, leaving: &BTreeSet<NodeId>) -> Vec<Claim> {
        let mut applications: Vec<&Application> = self.applications.values().collect();
        applications.sort_by_key(|application| application.sequence());
        applications.into_iter().filter_map(|application| application.claim(now, leaving)).collect()
    }

    /// What each queue holds. A container that leaves its node is not counted: its replacement is.
    pub(super) fn used_by_queues(
        &self,
        leaving: &BTreeSet<NodeId>,
    ) -> BTreeMap<QueueName, Resources> {
        let queues: BTreeMap<&str, QueueName> = self
            .applications
            .iter()
            .map(|(name, application)| (name.as_str(), application.queue()))
            .collect();
        let mut used: BTreeMap<QueueName, Resources> = BTreeMap::new();
        let live = self.cluster.containers.iter().filter(|entry| entry.is_live());
        for entry in live.filter(|entry| !leaving.contains(&entry.node)) {
            let queue = queues.get(entry.status.application.as_str()).cloned().unwrap_or_default();
            let of_queue = used.entry(queue).or_default();
            *of_queue = of_queue.saturating_add(entry.resources());
        }
        used
    }

    fn explain_adoption(&mut self) {
        let Some(reason) = self.adoption() else { return };
        for application in self.applications.values_mut() {
            if application.state() == v1::ApplicationState::Queued {
                application.set_reason(&reason);
                application.waits = Some(Wait::new(CauseKind::MasterStarting, reason.clone()));
            }
        }
    }

    fn end_adoption(&mut self, now: Moment) {
        self.is_adopting = false;
        for application in self.applications.values_mut() {
            application.end_adoption();
        }
        let absent = std::mem::take(&mut self.awaited);
        for node in &absent {
            tracing::warn!(%node, "node did not report to the new leader: taken for lost");
            self.write(Record::NodeGone(node.clone()));
        }
        let lost: Vec<(ContainerId, NodeId)> = self
            .cluster
            .containers
            .iter()
            .filter(|entry| entry.is_live() && self.cluster.node(&entry.node).is_none())
            .map(|entry| (entry.id(), entry.node.clone()))
            .collect();
        for (id, node) in lost {
            let reason = format!("node {node} did not report to the new leader");
            let end = self.cluster.containers.end(&id, ContainerState::Lost, &reason, now.wall_ms);
            self.end_all(now, end);
        }
        let drivers: Vec<_> = self.drivers.iter().map(|(id, name)| (*id, name.clone())).collect();
        for (session, name) in drivers {
            self.tell_executors(&name, session);
        }
    }

    fn explain(&mut self, name: &ApplicationName, wait: Option<Wait>, leaving: &BTreeSet<NodeId>) {
        let Some(application) = self.applications.get_mut(name) else { return };
        let session = application.driver.as_ref().and_then(|driver| driver.session);
        application.waits = wait;
        let reason = application.waits.as_ref().map(|wait| wait.reason.clone());
        match (reason, session) {
            (Some(reason), None) if application.driver.is_none() => application.set_reason(&reason),
            (Some(reason), Some(session)) => {
                let missing = application.num_missing(leaving);
                let unmet = Some((missing, reason.clone()));
                if application.told_unmet != unmet {
                    application.told_unmet = unmet;
                    let body = v1::TargetUnmet { missing, reason };
                    self.effects.push(Effect::ToDriver(session, driver_command::Body::Unmet(body)));
                }
            }
            _ => application.told_unmet = None,
        }
    }

    /// Hands a place to its application and the container to its node.
    fn grant(&mut self, now: Moment, placed: Placed) {
        let Some(application) = self.applications.get_mut(&placed.application) else { return };
        let launch = if placed.is_driver {
            application.place_driver(now, placed.node.clone())
        } else {
            application.place_executor(placed.node.clone(), placed.resources)
        };
        let Some(session) = self.cluster.node(&placed.node).and_then(|node| node.session) else {
            return;
        };
        let Launch { container, mut context } = launch;
        context.cluster.clone_from(&self.identity.cluster);
        context.master_address.clone_from(&self.identity.address);
        context.table.clone_from(&self.identity.table);
        context.term = self.identity.term;
        if let Some(secrets) = &self.identity.secrets {
            // What its driver shows and expects, also after the cluster's secret was changed.
            let shown = self.driver_session(&placed.application);
            let shown = shown.and_then(|session| self.driver_tokens.get(&session)).cloned();
            let sealed = || secrets.container_token(&context.application, context.attempt);
            let token = shown.filter(|_| !placed.is_driver).unwrap_or_else(sealed);
            token.reveal().clone_into(&mut context.token);
        }
        let mut status = v1::ContainerStatus {
            container_id: container.to_string(),
            application: placed.application.to_string(),
            attempt: context.attempt,
            kind: context.kind,
            resources: Some(placed.resources.to_proto()),
            ..Default::default()
        };
        status.set_state(ContainerState::Granted);
        self.cluster.containers.insert(placed.node, status);
        let start = Effect::ToNode(session, node_command::Body::Start(context));
        if placed.is_driver {
            if let Some(ticket) = self.save(&placed.application) {
                self.after_write.entry(ticket).or_default().push(start);
            }
            return;
        }
        self.effects.push(start);
        if let Some(session) = self.driver_session(&placed.application) {
            self.tell_started(&placed.application, session, &container);
        }
    }
}
