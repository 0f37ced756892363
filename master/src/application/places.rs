//! What an application needs from the scheduler, and what becomes of it once there is a place.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{ContainerId, NodeId, QueueName};
use millrace_common::labels::NodeSelector;
use millrace_common::resources::Resources;
use millrace_proto::v1::{self, ApplicationState};

use super::core::Application;
use super::driver::Driver;
use crate::moment::Moment;
use crate::scheduler::Claim;

/// Attempts that stay listed.
const ATTEMPTS_MAX: usize = 50;

/// A container that is to be started.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    /// Its id.
    pub container: ContainerId,
    /// What its process is told; the control actor adds what it knows of the cluster.
    pub context: v1::LaunchContext,
}

impl Application {
    pub(super) fn spec_resources(&self) -> (Resources, Resources, u32) {
        let resources = self
            .record
            .application
            .spec
            .as_ref()
            .and_then(|spec| spec.resources)
            .unwrap_or_default();
        let cost = |cost: Option<v1::resources_spec::Cost>| {
            let cost = cost.unwrap_or_default();
            Resources::from_proto(&v1::Resources {
                cores: cost.cores,
                memory_bytes: cost.memory_bytes,
            })
        };
        let minimum = match self.record.application.scaled_to {
            0 => resources.min_executors,
            // More than that is asked for and not needed.
            scaled_to => resources.min_executors.min(scaled_to),
        };
        (cost(resources.driver), cost(resources.executor), minimum)
    }

    /// The queue whose share its containers come out of.
    pub(crate) fn queue(&self) -> QueueName {
        let spec = self.record.application.spec.as_ref();
        let named = spec.filter(|spec| !spec.queue.is_empty());
        named.map_or_else(QueueName::default, |spec| QueueName::new(spec.queue.clone()))
    }

    /// What the labels of its nodes must be.
    pub(super) fn selector(&self) -> NodeSelector {
        let spec = self.record.application.spec.as_ref();
        spec.map(|spec| NodeSelector::from_proto(&spec.node_selector)).unwrap_or_default()
    }

    /// What it needs from the scheduler now, if anything.
    ///
    /// An executor on one of the nodes that are `leaving` is not counted: another is started first.
    pub(crate) fn claim(&self, now: Moment, leaving: &BTreeSet<NodeId>) -> Option<Claim> {
        if !self.is_live() || self.is_concluded() {
            return None;
        }
        let (driver_cost, executor_cost, num_minimum) = self.spec_resources();
        let mut held: BTreeMap<NodeId, u32> = BTreeMap::new();
        for node in self.executors.values().filter(|node| !leaving.contains(*node)) {
            *held.entry(node.clone()).or_default() += 1;
        }
        // To stop at a batch edge a driver needs nobody.
        let num_minimum = match self.record.stop {
            Some(stop) if !stop.drain => 0,
            _ => num_minimum,
        };
        let mut claim = Claim {
            application: self.name.clone(),
            queue: self.queue(),
            selector: self.selector(),
            driver: None,
            executor: executor_cost,
            num_minimum,
            num_wanted: 0,
            held,
            avoided: BTreeSet::new(),
        };
        match &self.driver {
            // Executors of a failed driver end before the next one starts.
            None if now.monotonic < self.retry_at || !self.executors.is_empty() => return None,
            None => claim.driver = Some(driver_cost),
            Some(_) => {
                if let Some(target) = &self.target {
                    claim.executor = target.executor;
                    claim.num_minimum = num_minimum.min(target.count);
                    claim.num_wanted = target.count;
                    let avoided = target.excluded_nodes.iter();
                    claim.avoided = avoided.map(|node| NodeId::new(node.node_id.clone())).collect();
                }
                if now.monotonic < self.executor_retry_at {
                    claim.num_wanted = 0;
                }
            }
        }
        Some(claim)
    }

    /// Its driver got a place: a new attempt with an epoch above all before. The context is
    /// completed by the control actor and sent once the record is written.
    pub(crate) fn place_driver(&mut self, now: Moment, node: NodeId) -> Launch {
        self.record.last_attempt += 1;
        self.record.max_epoch += 1;
        let attempt = self.record.last_attempt;
        let container = self.name.driver_id(attempt);
        let attempts = &mut self.record.application.attempts;
        attempts.push(v1::Attempt {
            number: attempt,
            epoch: self.record.max_epoch,
            container_id: container.to_string(),
            node_id: node.to_string(),
            started_ms: now.wall_ms,
            revision: self.record.application.revision,
            ..Default::default()
        });
        if attempts.len() > ATTEMPTS_MAX {
            attempts.remove(0);
        }
        self.last_executor = 0;
        self.retiring = None;
        self.target = None;
        self.told_unmet = None;
        // What the attempt before said of itself is over with it.
        self.report = None;
        let reason = format!("attempt {attempt} of the driver starts on node {node}");
        if self.state() != ApplicationState::Stopping {
            self.enter(now, ApplicationState::Starting, reason);
        }
        self.driver = Some(Driver::new(now, container.clone(), node));
        let (driver_cost, ..) = self.spec_resources();
        Launch {
            context: self.context(&container, v1::ContainerKind::Driver, driver_cost),
            container,
        }
    }

    /// An executor got a place.
    pub(crate) fn place_executor(&mut self, node: NodeId, resources: Resources) -> Launch {
        self.last_executor += 1;
        let container = self.name.executor_id(self.record.last_attempt, self.last_executor);
        self.executors.insert(container.clone(), node);
        let mut context = self.context(&container, v1::ContainerKind::Executor, resources);
        if let Some(driver) = &self.driver {
            context.driver_address.clone_from(&driver.address);
        }
        Launch { context, container }
    }

    fn context(
        &self,
        container: &ContainerId,
        kind: v1::ContainerKind,
        resources: Resources,
    ) -> v1::LaunchContext {
        let mut spec = self.record.application.spec.clone().unwrap_or_default();
        if let Some(resources) = &mut spec.resources {
            let bounds = self.bounds();
            (resources.min_executors, resources.max_executors) = (bounds.min, bounds.max);
        }
        let is_driver = kind == v1::ContainerKind::Driver;
        v1::LaunchContext {
            last_target: if is_driver { self.last_target } else { 0 },
            container_id: container.to_string(),
            application: self.name.to_string(),
            attempt: self.record.last_attempt,
            epoch: self.record.max_epoch,
            kind: kind.into(),
            resources: Some(resources.to_proto()),
            env: spec.env.clone(),
            args: spec.args.clone(),
            spec: Some(spec),
            head_expected: self.record.is_head_expected,
            batch_failures: self.record.batch_failures,
            ..Default::default()
        }
    }

    /// What its driver costs.
    pub(crate) fn driver_cost(&self) -> Resources {
        self.spec_resources().0
    }

    /// How many of the executors that the driver asked for it does not have.
    pub(crate) fn num_missing(&self, leaving: &BTreeSet<NodeId>) -> u32 {
        let held = self.executors.values().filter(|node| !leaving.contains(*node)).count();
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        self.target.as_ref().map_or(0, |target| target.count.saturating_sub(held))
    }

    /// What the submitter of this specification should know about its start positions: a head that
    /// exists wins over them.
    pub(crate) fn unused_start(&self, spec: &v1::ApplicationSpec) -> Option<String> {
        let starts = |spec: &v1::ApplicationSpec| -> Vec<_> {
            spec.sources.iter().map(|source| (source.name.clone(), source.start.clone())).collect()
        };
        let before = self.record.application.spec.as_ref().map(starts);
        // A replay that goes on where it was is what was asked for.
        let differs = spec.replay.is_none() && before.is_some_and(|before| before != starts(spec));
        (self.record.is_head_expected && differs).then(|| {
            format!(
                "the head of {} holds positions: it goes on from there, and `start` is not used; \
                 `millrace reset {}` gives them up",
                self.name, self.name
            )
        })
    }
}
