//! Nodes that say of themselves that they are unhealthy: since when, why, and what is to leave them.
//!
//! A node judges its own disk and does not flap; the master believes it. Nothing of this is stored:
//! a node says it again when it registers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::id::NodeId;
use millrace_proto::v1::NodeState;

use super::core::{Cluster, NodeEntry};
use crate::control::SessionId;
use crate::moment::Moment;

/// How long a node has to be unhealthy before anything leaves it. Disks that fail together, as those
/// of several workers on one, are noticed one after another: none of them is a place to go.
const LEAVE_AFTER: Duration = Duration::from_secs(2);
/// Unhealthy nodes that a reason names before the rest is only counted.
const NAMED_MAX: usize = 3;

/// Why a node is unhealthy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// In its own words: a code and one line.
    pub reason: String,
    /// Unix time at which it was first heard of.
    pub since_ms: i64,
    /// Monotonic time at which it was last heard to fail anew.
    failing_since: Duration,
    /// True while it shows that it is well again: nothing has to leave it any more.
    pub is_recovering: bool,
    /// What the move off it waits for, in one line; empty when it does not wait.
    pub waits: String,
}

/// What a node says of itself, beside what it said before: an old trouble keeps its date.
pub(super) fn trouble_after(
    before: Option<&Trouble>,
    reason: &str,
    is_recovering: bool,
    now: Moment,
) -> Option<Trouble> {
    if reason.is_empty() {
        return None;
    }
    let mut trouble = before.cloned().unwrap_or_default();
    if before.is_none() {
        trouble.since_ms = now.wall_ms;
    }
    if before.is_none_or(|before| before.is_recovering) {
        trouble.failing_since = now.monotonic;
    }
    reason.clone_into(&mut trouble.reason);
    trouble.is_recovering = is_recovering;
    Some(trouble)
}

impl Cluster {
    /// A node says how it is, with an empty reason when it is well. The node when that is news.
    pub(crate) fn health(
        &mut self,
        now: Moment,
        session: SessionId,
        reason: &str,
        is_recovering: bool,
    ) -> Option<&NodeEntry> {
        let node = self.by_session_mut(session)?;
        let before = node.trouble.take();
        node.trouble = trouble_after(before.as_ref(), reason, is_recovering, now);
        (before.is_some() != node.trouble.is_some()).then_some(node)
    }

    /// Nodes that containers are to leave, as far as there is room for them elsewhere: those that are
    /// drained, and those that are here and have been unhealthy for [`LEAVE_AFTER`], and do not
    /// recover.
    pub(crate) fn leaving(&self, now: Moment) -> BTreeSet<NodeId> {
        let is_failing = |trouble: &Trouble| {
            !trouble.is_recovering && now.since(trouble.failing_since) >= LEAVE_AFTER
        };
        let failing = self
            .nodes()
            .filter(|node| node.is_unhealthy() && node.trouble.as_ref().is_some_and(is_failing));
        let mut leaving = self.drains.nodes();
        leaving.extend(failing.map(|node| node.id.clone()));
        leaving
    }

    /// What the move off each of these nodes waits for now.
    pub(crate) fn explain_leaving(&mut self, waits: BTreeMap<NodeId, String>) {
        for node in self.nodes_mut() {
            if let Some(trouble) = &mut node.trouble {
                trouble.waits = waits.get(&node.id).cloned().unwrap_or_default();
            }
        }
        self.drains.explain(waits);
    }

    /// The nodes that give nothing out because they are unhealthy, in words; none when there are
    /// none.
    pub(crate) fn explain_unhealthy(&self) -> Option<String> {
        let unhealthy: Vec<&str> = self
            .nodes()
            .filter(|node| node.is_unhealthy() && !self.drains.holds(&node.id))
            .map(|node| node.id.as_str())
            .collect();
        let named = unhealthy.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        match unhealthy.len() {
            0 => None,
            1 => Some(format!("node {named} is unhealthy and gives nothing")),
            num if num <= NAMED_MAX => {
                Some(format!("nodes {named} are unhealthy and give nothing"))
            }
            num => {
                let others = num - NAMED_MAX;
                Some(format!("nodes {named} and {others} others are unhealthy and give nothing"))
            }
        }
    }
}

impl NodeEntry {
    /// True when it is here and says that it is unhealthy.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.trouble.is_some() && self.state != NodeState::Lost
    }
}
