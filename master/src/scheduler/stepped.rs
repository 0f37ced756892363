//! The scheduler's core for those outside who step it: simulations that hold other parts of the
//! project against it.
//!
//! Promises: every round is the one that the master runs, and what it places is taken from the nodes.
//! Never does: decide anything itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_common::id::{ApplicationName, NodeId, QueueName};
use millrace_common::labels::NodeSelector;
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
        let (driver_node, held) = (None, BTreeMap::new());
        Self { application, driver, executor, num_minimum, num_wanted, driver_node, held }
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
            selector: NodeSelector::default(),
        }
    }
}

/// The nodes of a cluster, and rounds on them.
#[derive(Clone, Debug)]
pub struct Cluster {
    rooms: Vec<Room>,
}

impl Cluster {
    /// Of these nodes: name, what it offers, and what is free of it.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, Resources, Resources)>) -> Self {
        let room = |(node, offered, free)| {
            let labels = Arc::default();
            Room { node, offered, free, num_drivers: 0, num_executors: 0, labels }
        };
        Self { rooms: nodes.into_iter().map(room).collect() }
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
        let plan =
            schedule(self.rooms.clone(), &[step.claim()], &Queues::default(), BTreeMap::new());
        for placed in &plan.placed {
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
