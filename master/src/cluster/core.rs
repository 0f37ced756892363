//! Nodes: registration, heartbeats, suspicion, loss, and the room they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{ContainerId, NodeId};
use millrace_common::labels::Labels;
use millrace_common::resources::{ByteSize, Resources};
use millrace_proto::v1::{self, ContainerKind, ContainerState, NodeState};

use super::containers::{ContainerEntry, Containers, Ended};
use super::drains::Drains;
use super::health::{Trouble, trouble_after};
use crate::config::Timing;
use crate::control::SessionId;
use crate::moment::Moment;
use crate::scheduler::Room;

/// No host has more cores than this; more is a defect of the node or a lie.
const CORES_MAX: u32 = 4_096;
/// Nor more memory: 64 TiB.
const MEMORY_MAX: ByteSize = ByteSize::mib(64 << 20);
/// Below this no container can start.
const MEMORY_MIN: ByteSize = ByteSize::mib(64);
/// Longest node id: it is part of keys and file names.
const NODE_ID_MAX: usize = 128;
/// How long a node that refused a grant gets no other.
const REFUSAL_PAUSE: Duration = Duration::from_secs(5);

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct NodeEntry {
    /// Its name, stable over restarts of its worker.
    pub id: NodeId,
    /// The worker process that speaks for it.
    pub instance: String,
    /// Where its containers can be reached.
    pub host: String,
    /// What it offers.
    pub offered: Resources,
    /// Alive, suspect or lost.
    pub state: NodeState,
    /// The stream to it, when there is one.
    pub session: Option<SessionId>,
    /// Monotonic time of its last word.
    pub last_heard: Duration,
    /// Unix time of its last word.
    pub last_heartbeat_ms: i64,
    /// Version of its worker.
    pub version: String,
    /// Process id of its worker.
    pub pid: u32,
    /// What its worker says of it.
    pub labels: Arc<Labels>,
    /// Why it is unhealthy; none when it is well.
    pub trouble: Option<Trouble>,
    /// Until when it gets no grants, after it refused one.
    paused_until: Duration,
}

/// What a registration brought to light.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// An older stream of the same node, to be closed.
    pub superseded: Option<SessionId>,
    /// Containers that ended while nobody listened.
    pub ended: Vec<Ended>,
    /// Containers that the node holds and the master has never heard of.
    pub unknown: Vec<v1::ContainerStatus>,
    /// Containers whose end is dealt with: the node may forget them.
    pub forget: Vec<ContainerId>,
    /// Containers that the master holds for dead and that live: to be ended.
    pub unwanted: Vec<ContainerId>,
    /// True when the node was not known before, or held for lost.
    pub is_new: bool,
}

/// All nodes and all containers.
#[derive(Debug)]
pub(crate) struct Cluster {
    timing: Timing,
    nodes: BTreeMap<NodeId, NodeEntry>,
    /// Nodes that get no containers, whether they are here or not.
    pub drains: Drains,
    /// Every container.
    pub containers: Containers,
}

impl Cluster {
    /// No nodes yet.
    pub(crate) fn new(timing: Timing) -> Self {
        let (drains, containers) = (Drains::default(), Containers::default());
        Self { timing, nodes: BTreeMap::new(), drains, containers }
    }

    /// Every node that has registered, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.values()
    }

    /// The node with this name.
    pub(crate) fn node(&self, id: &NodeId) -> Option<&NodeEntry> {
        self.nodes.get(id)
    }

    /// The node at the other end of a stream.
    pub(crate) fn by_session(&self, session: SessionId) -> Option<&NodeEntry> {
        self.nodes.values().find(|node| node.session == Some(session))
    }

    pub(super) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut NodeEntry> {
        self.nodes.values_mut()
    }

    pub(super) fn by_session_mut(&mut self, session: SessionId) -> Option<&mut NodeEntry> {
        self.nodes.values_mut().find(|node| node.session == Some(session))
    }

    /// Takes a node in, or up again.
    ///
    /// # Errors
    /// [`Code::NodeRefused`] for an impossible offer or a name that a live worker holds.
    pub(crate) fn register(
        &mut self,
        now: Moment,
        session: SessionId,
        message: v1::NodeRegister,
    ) -> Result<Registered, Error> {
        let offered = check(&message)?;
        let labels = Labels::from_map(message.labels)
            .map_err(|error| refuse(error.message().to_owned(), error.next_move()))?;
        let id = NodeId::new(message.node_id);
        let mut outcome = Registered { is_new: true, ..Registered::default() };
        let before = self.nodes.get(&id).and_then(|known| known.trouble.as_ref());
        let trouble = trouble_after(before, &message.unhealthy, message.recovering, now);
        if let Some(known) = self.nodes.get(&id) {
            let is_same = known.instance == message.instance_id;
            if !is_same && known.session.is_some() && known.state == NodeState::Alive {
                return Err(refuse(
                    format!(
                        "node id {id} is in use by a worker with process id {} on {}",
                        known.pid, known.host
                    ),
                    "give each worker a --node-id of its own",
                ));
            }
            outcome.is_new = known.state == NodeState::Lost;
            outcome.superseded = known.session;
        }
        let node = NodeEntry {
            id: id.clone(),
            instance: message.instance_id,
            host: message.host,
            offered,
            state: NodeState::Alive,
            session: Some(session),
            last_heard: now.monotonic,
            last_heartbeat_ms: now.wall_ms,
            version: message.version,
            pid: message.pid,
            labels: Arc::new(labels),
            trouble,
            paused_until: Duration::ZERO,
        };
        self.nodes.insert(id.clone(), node);
        self.reconcile(now, &id, message.containers, &mut outcome);
        Ok(outcome)
    }

    /// Holds what the node has against what the master thinks it has.
    fn reconcile(
        &mut self,
        now: Moment,
        node: &NodeId,
        reported: Vec<v1::ContainerStatus>,
        outcome: &mut Registered,
    ) {
        let held: BTreeSet<ContainerId> =
            reported.iter().map(|status| ContainerId::new(status.container_id.clone())).collect();
        for id in self.live_ids(node).into_iter().filter(|id| !held.contains(id)) {
            let reason = "its node does not hold it any more: the worker was restarted";
            let ended = self.containers.end(&id, ContainerState::Lost, reason, now.wall_ms);
            outcome.ended.extend(ended);
        }
        for status in reported {
            let id = ContainerId::new(status.container_id.clone());
            let is_over = status.state() == ContainerState::Exited;
            match self.containers.get(&id) {
                None => outcome.unknown.push(status),
                Some(entry) if entry.is_live() && entry.node == *node => {
                    outcome.ended.extend(self.containers.report(node, status));
                }
                Some(_) if !is_over => outcome.unwanted.push(id.clone()),
                Some(_) => {}
            }
            if is_over {
                outcome.forget.push(id);
            }
        }
    }

    fn live_ids(&self, node: &NodeId) -> Vec<ContainerId> {
        self.containers.live_on(node).map(ContainerEntry::id).collect()
    }

    /// A word of the node: it lives. True when it was held for suspect or lost.
    pub(crate) fn heard(&mut self, now: Moment, session: SessionId) -> bool {
        let Some(node) = self.by_session_mut(session) else { return false };
        node.last_heard = now.monotonic;
        node.last_heartbeat_ms = now.wall_ms;
        std::mem::replace(&mut node.state, NodeState::Alive) != NodeState::Alive
    }

    /// The stream to a node has ended. The node's name when it left for good: nothing runs on it
    /// and it closed the stream itself.
    pub(crate) fn disconnected(&mut self, session: SessionId, is_orderly: bool) -> Option<NodeId> {
        let node = self.by_session_mut(session)?;
        node.session = None;
        let id = node.id.clone();
        if !is_orderly || self.containers.live_on(&id).next().is_some() {
            return None;
        }
        self.nodes.remove(&id);
        Some(id)
    }

    /// The node refused a grant: it has the last word on its capacity.
    pub(crate) fn refused(
        &mut self,
        now: Moment,
        session: SessionId,
        refusal: &v1::GrantRefused,
    ) -> Option<Ended> {
        let node = self.by_session_mut(session)?;
        node.paused_until = now.monotonic + REFUSAL_PAUSE;
        let reason = format!("node {} refused the grant: {}", node.id, refusal.reason);
        let id = ContainerId::new(refusal.container_id.clone());
        self.containers.end(&id, ContainerState::Exited, &reason, now.wall_ms)
    }

    /// Time has passed: nodes that fell silent become suspect, then lost with all they hold.
    /// The nodes whose state changed, and what ended with them.
    pub(crate) fn tick(&mut self, now: Moment) -> (Vec<(NodeId, NodeState)>, Vec<Ended>) {
        let mut changed = Vec::new();
        for node in self.nodes.values_mut().filter(|node| node.state != NodeState::Lost) {
            let silent = now.since(node.last_heard);
            let state = if silent >= self.timing.lost_after {
                NodeState::Lost
            } else if silent >= self.timing.suspect_after {
                NodeState::Suspect
            } else {
                node.state
            };
            if state != node.state {
                node.state = state;
                changed.push((node.id.clone(), state));
            }
        }
        let mut ended = Vec::new();
        for (id, _) in changed.iter().filter(|(_, state)| *state == NodeState::Lost) {
            let reason = format!("node {id} is lost");
            for container in self.live_ids(id) {
                let end =
                    self.containers.end(&container, ContainerState::Lost, &reason, now.wall_ms);
                ended.extend(end);
            }
        }
        (changed, ended)
    }

    /// What the scheduler may give out, by node. A suspect, silent, unhealthy or refusing node counts
    /// with all that it offers and nothing free; one that is drained does not count.
    pub(crate) fn rooms(&self, now: Moment) -> Vec<Room> {
        let usage = self.usage();
        let known = self.nodes.values().filter(|node| node.state != NodeState::Lost);
        known
            .filter(|node| !self.drains.holds(&node.id))
            .map(|node| {
                let is_open = node.state == NodeState::Alive
                    && node.trouble.is_none()
                    && node.session.is_some()
                    && now.monotonic >= node.paused_until;
                let usage = usage.get(&node.id).copied().unwrap_or_default();
                let free = node.offered.checked_sub(usage.resources).filter(|_| is_open);
                Room {
                    node: node.id.clone(),
                    offered: node.offered,
                    free: free.unwrap_or_default(),
                    num_drivers: usage.num_drivers,
                    num_executors: usage.num_executors,
                    labels: Arc::clone(&node.labels),
                }
            })
            .collect()
    }

    /// What is taken, by node; a node without containers is not in it.
    pub(crate) fn usage(&self) -> BTreeMap<NodeId, Usage> {
        let mut usage: BTreeMap<NodeId, Usage> = BTreeMap::new();
        for entry in self.containers.iter().filter(|entry| entry.is_live()) {
            let of_node = usage.entry(entry.node.clone()).or_default();
            of_node.resources = of_node.resources.saturating_add(entry.resources());
            match entry.status.kind() {
                ContainerKind::Driver => of_node.num_drivers += 1,
                _ => of_node.num_executors += 1,
            }
        }
        usage
    }
}

/// What is taken on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Cores and memory of all live containers.
    pub resources: Resources,
    /// Drivers among them.
    pub num_drivers: u32,
    /// Executors among them.
    pub num_executors: u32,
}

fn refuse(message: String, next_move: &str) -> Error {
    Error::new(Code::NodeRefused, message, next_move)
}

/// Holds an offer against what a host can be.
fn check(message: &v1::NodeRegister) -> Result<Resources, Error> {
    let id = &message.node_id;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // It stands in addresses, where `..` means another thing.
    let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins_well || id.len() > NODE_ID_MAX || !id.chars().all(is_plain) {
        return Err(refuse(
            format!("{id:?} is not a node id"),
            "use 1 to 128 letters, digits, '-', '_' and '.' for --node-id, a letter or digit first",
        ));
    }
    if message.host.is_empty() || message.instance_id.is_empty() {
        return Err(refuse(
            format!("node {id} gives no host or no instance"),
            "give the host under which other nodes reach this one with --host",
        ));
    }
    let offered = message.offered.as_ref().map(Resources::from_proto).unwrap_or_default();
    if !(1..=CORES_MAX).contains(&offered.cores) {
        return Err(refuse(
            format!("node {id} offers {} cores", offered.cores),
            "offer between 1 and 4096 cores with --cores",
        ));
    }
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&offered.memory) {
        return Err(refuse(
            format!("node {id} offers {} of memory", offered.memory),
            "offer between 64MiB and 64TiB with --memory",
        ));
    }
    Ok(offered)
}
