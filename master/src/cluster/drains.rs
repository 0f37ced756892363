//! Which nodes are drained, by when, and what each drain waits for.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::NodeId;

use crate::moment::Moment;
use crate::store::DrainOrder;

/// One node that is emptied, or kept empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draining {
    /// As it was ordered.
    pub order: DrainOrder,
    /// What it waits for, in one line; empty when it does not wait.
    pub waits: String,
}

/// The orders to drain nodes, by node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains(BTreeMap<NodeId, Draining>);

impl Drains {
    /// The node gets no more containers.
    pub(crate) fn begin(&mut self, node: NodeId, order: DrainOrder) {
        self.0.entry(node).or_default().order = order;
    }

    /// The node gets containers again. False when it was not drained.
    pub(crate) fn end(&mut self, node: &NodeId) -> bool {
        self.0.remove(node).is_some()
    }

    /// True when the node is drained.
    pub(crate) fn holds(&self, node: &NodeId) -> bool {
        self.0.contains_key(node)
    }

    /// The drain of a node, if there is one.
    pub(crate) fn of(&self, node: &NodeId) -> Option<&Draining> {
        self.0.get(node)
    }

    /// Every node that is drained.
    pub(crate) fn nodes(&self) -> BTreeSet<NodeId> {
        self.0.keys().cloned().collect()
    }

    /// Those of them whose deadline has passed. It is a time of the wall clock, so that it means
    /// the same to the next master.
    pub(crate) fn overdue(&self, now: Moment) -> BTreeSet<NodeId> {
        let is_overdue = |draining: &Draining| {
            draining.order.deadline_ms.is_some_and(|deadline| now.wall_ms >= deadline)
        };
        let overdue = self.0.iter().filter(|(_, draining)| is_overdue(draining));
        overdue.map(|(node, _)| node.clone()).collect()
    }

    /// What each drain waits for now.
    pub(crate) fn explain(&mut self, mut waits: BTreeMap<NodeId, String>) {
        for (node, draining) in &mut self.0 {
            draining.waits = waits.remove(node).unwrap_or_default();
        }
    }
}
