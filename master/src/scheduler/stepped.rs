//! The scheduler's core for those outside who step it: simulations that hold other parts of the
//! project against it.
//!
//! Promises: every round is the one that the master runs, and what it places is taken from the nodes.
//! Never does: decide anything itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_common::config::Value as _;
use millrace_common::id::{ApplicationName, NodeId, QueueName};
use millrace_common::labels::{Labels, NodeSelector};
use millrace_common::resources::Resources;

use super::{Claim, Queues, Room, schedule};

/// One application on its way, as a master sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub application: ApplicationName,
    /// Cost of the driver.
    pub driver: Resources,
    /// Cost of one executor.
    pub executor: Resources,
    /// Executors without which it is not served.
    pub num_minimum: u32,
    /// Executors that its driver asks for once it is at work.
    pub num_wanted: u32,
    /// What the labels of its nodes must be.
    pub selector: NodeSelector,
    driver_node: Option<NodeId>,
    held: BTreeMap<NodeId, u32>,
}

impl Step {
    /// An application that has no container yet.
    #[must_use]
    pub fn new(
        application: ApplicationName,
        driver: Resources,
        executor: Resources,
        (num_minimum, num_wanted): (u32, u32),
    ) -> Self {
        Self {
            application,
            driver,
            executor,
            num_minimum,
            num_wanted,
            selector: NodeSelector::default(),
            driver_node: None,
            held: BTreeMap::new(),
        }
    }

    /// Where its driver is.
    #[must_use]
    pub fn driver_node(&self) -> Option<&NodeId> {
        self.driver_node.as_ref()
    }

    /// The nodes of its executors, a node once for each.
    #[must_use]
    pub fn executors(&self) -> Vec<&NodeId> {
        let nodes = self.held.iter();
        nodes.flat_map(|(node, count)| (0..*count).map(move |_| node)).collect()
    }

    fn claim(&self) -> Claim {
        Claim {
            application: self.application.clone(),
            driver: self.driver_node.is_none().then_some(self.driver),
            executor: self.executor,
            num_minimum: self.num_minimum,
            num_wanted: if self.driver_node.is_some() { self.num_wanted } else { 0 },
            held: self.held.clone(),
            avoided: BTreeSet::new(),
            queue: QueueName::default(),
            selector: self.selector.clone(),
        }
    }
}

/// The nodes of a cluster, and rounds on them.
#[derive(Clone, Debug)]
pub struct Cluster {
    rooms: Vec<Room>,
    queues: Queues,
    used: BTreeMap<QueueName, Resources>,
}

impl Cluster {
    /// Of these nodes: name, what it offers, and what is free of it.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, Resources, Resources)>) -> Self {
        let room = |(node, offered, free)| {
            let labels = Arc::default();
            Room { node, offered, free, num_drivers: 0, num_executors: 0, labels }
        };
        let rooms = nodes.into_iter().map(room).collect();
        Self { rooms, queues: Queues::default(), used: BTreeMap::new() }
    }

    /// The same with labels on a node.
    #[must_use]
    pub fn labelled(mut self, node: &NodeId, labels: Labels) -> Self {
        if let Some(room) = self.rooms.iter_mut().find(|room| room.node == *node) {
            room.labels = Arc::new(labels);
        }
        self
    }

    /// The same with queues as the master is configured with, and what each holds on these nodes.
    ///
    /// # Errors
    /// What the configuration's own check says.
    pub fn with_queues(
        self,
        queues: &str,
        used: BTreeMap<QueueName, Resources>,
    ) -> Result<Self, String> {
        Ok(Self { queues: Queues::parse(queues)?, used, ..self })
    }

    /// What is free on each node.
    pub fn free(&self) -> impl Iterator<Item = Resources> + '_ {
        self.rooms.iter().map(|room| room.free)
    }

    /// One round over this application alone. The number of containers that it placed.
    ///
    /// # Panics
    /// When the scheduler places more on a node than it has free: that is a defect.
    pub fn round(&mut self, step: &mut Step) -> usize {
        let plan = schedule(self.rooms.clone(), &[step.claim()], &self.queues, self.used.clone());
        for placed in &plan.placed {
            let used = self.used.entry(QueueName::default()).or_default();
            *used = used.saturating_add(placed.resources);
            let room = self.rooms.iter_mut().find(|room| room.node == placed.node);
            let room = room.expect("the scheduler places on nodes that there are");
            let left = room.free.checked_sub(placed.resources);
            room.free = left.expect("the scheduler never oversubscribes a node");
            if placed.is_driver {
                room.num_drivers += 1;
                step.driver_node = Some(placed.node.clone());
            } else {
                room.num_executors += 1;
                *step.held.entry(placed.node.clone()).or_default() += 1;
            }
        }
        plan.placed.len()
    }
}
