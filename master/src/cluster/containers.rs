//! Every container the master has granted or heard of, and how it ended.

use std::collections::{BTreeMap, VecDeque};

use millrace_common::id::{ContainerId, NodeId};
use millrace_common::resources::Resources;
use millrace_proto::v1::{self, ContainerState};

/// Ended containers that stay listed; their logs stay readable as long as their node keeps them.
const ENDED_MAX: usize = 2_000;

/// One container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerEntry {
    /// As its node last reported it.
    pub status: v1::ContainerStatus,
    /// The node that it was granted on.
    pub node: NodeId,
    /// Why it was asked to end, when it was.
    pub kill_reason: Option<String>,
}

/// A container that has just ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    /// Which one.
    pub container: ContainerId,
    /// Whose it was.
    pub application: String,
    /// The node it was on.
    pub node: NodeId,
    /// How it ended.
    pub exit: v1::ContainerExit,
    /// False when its process never started.
    pub was_started: bool,
    /// True when its node ended it of its own accord, because its worker was told to end.
    pub was_evicted: bool,
    /// Unix time of its start in milliseconds, 0 when it never started.
    pub started_ms: i64,
}

impl ContainerEntry {
    /// Its id.
    pub(crate) fn id(&self) -> ContainerId {
        ContainerId::new(self.status.container_id.clone())
    }

    /// True while it holds resources.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.status.state(), ContainerState::Granted | ContainerState::Running)
    }

    /// What it holds.
    pub(crate) fn resources(&self) -> Resources {
        self.status.resources.as_ref().map(Resources::from_proto).unwrap_or_default()
    }
}

/// All containers by id.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    entries: BTreeMap<ContainerId, ContainerEntry>,
    ended: VecDeque<ContainerId>,
}

impl Containers {
    /// The container with this id.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<&ContainerEntry> {
        self.entries.get(id)
    }

    /// Every container, live and ended.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ContainerEntry> {
        self.entries.values()
    }

    /// The live ones on a node.
    pub(crate) fn live_on(&self, node: &NodeId) -> impl Iterator<Item = &ContainerEntry> {
        self.entries.values().filter(move |entry| entry.node == *node && entry.is_live())
    }

    /// Takes up a container: one just granted, or one that a node reports and that is wanted.
    pub(crate) fn insert(&mut self, node: NodeId, status: v1::ContainerStatus) {
        let entry = ContainerEntry { status, node, kill_reason: None };
        let (id, is_live) = (entry.id(), entry.is_live());
        self.entries.insert(id.clone(), entry);
        if !is_live {
            self.retire(id);
        }
    }

    /// Keeps an ended container listed until many others have ended after it.
    fn retire(&mut self, id: ContainerId) {
        self.ended.push_back(id);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// Remembers that the container was asked to end. True when it is live and was not asked before.
    pub(crate) fn mark_killed(&mut self, id: &ContainerId, reason: &str) -> bool {
        match self.entries.get_mut(id) {
            Some(entry) if entry.is_live() && entry.kill_reason.is_none() => {
                entry.kill_reason = Some(reason.to_owned());
                true
            }
            _ => false,
        }
    }

    /// What a node reports of a container it holds. The end, when this report is the first to tell.
    pub(crate) fn report(&mut self, node: &NodeId, status: v1::ContainerStatus) -> Option<Ended> {
        let id = ContainerId::new(status.container_id.clone());
        let entry = self.entries.get_mut(&id).filter(|entry| entry.node == *node)?;
        if !entry.is_live() {
            return None;
        }
        entry.status = status;
        if entry.is_live() { None } else { self.close(&id) }
    }

    /// Ends a live container without a word from its process: lost with its node, never taken up,
    /// or unknown to its node.
    pub(crate) fn end(
        &mut self,
        id: &ContainerId,
        state: ContainerState,
        reason: &str,
        now_ms: i64,
    ) -> Option<Ended> {
        let entry = self.entries.get_mut(id).filter(|entry| entry.is_live())?;
        entry.status.set_state(state);
        entry.status.ended_ms = now_ms;
        entry.status.exit =
            Some(v1::ContainerExit { reason: reason.to_owned(), ..Default::default() });
        self.close(id)
    }

    fn close(&mut self, id: &ContainerId) -> Option<Ended> {
        let entry = self.entries.get_mut(id)?;
        let mut exit = entry.status.exit.clone().unwrap_or_default();
        let was_evicted = exit.requested && entry.kill_reason.is_none();
        if let Some(reason) = &entry.kill_reason {
            exit.requested = true;
            exit.reason = reason.clone();
            entry.status.exit = Some(exit.clone());
        }
        let ended = Ended {
            container: id.clone(),
            application: entry.status.application.clone(),
            node: entry.node.clone(),
            exit,
            was_started: entry.status.pid != 0,
            was_evicted,
            started_ms: entry.status.started_ms,
        };
        self.retire(id.clone());
        Some(ended)
    }
}
