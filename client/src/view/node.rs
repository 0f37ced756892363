//! A node's view.
//!
//! Promises and keys as in the parent.

use std::collections::BTreeMap;

use millrace_proto::v1;
use serde::{Deserialize, Serialize};

use super::known;

/// A node as `millrace nodes` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node's id.
    pub node_id: String,
    /// Where its containers can be reached.
    pub host: String,
    /// `alive`, `unhealthy`, `draining`, `drained`, `suspect` or `lost`.
    pub state: String,
    /// What its drain, or the move off it while it is unhealthy, waits for; empty when nothing does.
    pub reason: String,
    /// Why it is unhealthy, under a code; null when it is well.
    #[serde(default)]
    pub unhealthy: Option<String>,
    /// Since when.
    #[serde(default)]
    pub unhealthy_since_ms: Option<i64>,
    /// When its drain ends what is left.
    pub drain_deadline_ms: Option<i64>,
    /// Cores it offers.
    pub cores: u32,
    /// Cores that are granted.
    pub cores_used: u32,
    /// Memory it offers.
    pub memory_bytes: u64,
    /// Memory that is granted.
    pub memory_used_bytes: u64,
    /// Containers on it.
    pub num_containers: u32,
    /// Its last heartbeat.
    pub last_heartbeat_ms: Option<i64>,
    /// Process id of its worker.
    pub pid: Option<u32>,
    /// Version of its worker.
    pub version: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl NodeView {
    /// From a message.
    #[must_use]
    pub fn new(node: &v1::Node) -> Self {
        let offered = node.offered.unwrap_or_default();
        let used = node.used.unwrap_or_default();
        Self {
            node_id: node.node_id.clone(),
            host: node.host.clone(),
            state: match node.state() {
                v1::NodeState::Alive => "alive",
                v1::NodeState::Suspect => "suspect",
                v1::NodeState::Lost => "lost",
                v1::NodeState::Draining => "draining",
                v1::NodeState::Drained => "drained",
                v1::NodeState::Unhealthy => "unhealthy",
                v1::NodeState::Unspecified => "unknown",
            }
            .to_owned(),
            reason: node.reason.clone(),
            unhealthy: (!node.unhealthy.is_empty()).then(|| node.unhealthy.clone()),
            unhealthy_since_ms: known(node.unhealthy_since_ms),
            drain_deadline_ms: known(node.drain_deadline_ms),
            cores: offered.cores,
            cores_used: used.cores,
            memory_bytes: offered.memory_bytes,
            memory_used_bytes: used.memory_bytes,
            num_containers: node.num_containers,
            last_heartbeat_ms: known(node.last_heartbeat_ms),
            pid: (node.pid != 0).then_some(node.pid),
            version: node.version.clone(),
            labels: node.labels.clone().into_iter().collect(),
        }
    }
}
