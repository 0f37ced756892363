//! What the node holds and what it answers: pure.
//!
//! Commands of the master and ends of processes go in, effects come out. A command of an older term
//! is refused; a grant without room, or one for an unhealthy node, is refused; an end is kept until the master said to forget it.

use std::collections::{BTreeMap, VecDeque};

use millrace_common::id::ContainerId;
use millrace_common::resources::Resources;
use millrace_proto::v1::{
    ContainerExit, ContainerState, ContainerStatus, GrantRefused, KillContainer, LaunchContext,
    ReadLogChunk, node_command,
};

/// What the shell does for the core.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Start the process.
    Start(Box<LaunchContext>),
    /// End the process: SIGTERM, and SIGKILL after this many milliseconds.
    Kill(ContainerId, u64),
    /// Tell the master how a container stands.
    Report(ContainerStatus),
    /// Tell the master that a grant has no room.
    Refuse(GrantRefused),
    /// Read a piece of a log and send it.
    ReadLog(ReadLogChunk),
    /// Remove the files of a container that is long over.
    Remove(ContainerId),
    /// Leave the master of this term: a later one has been heard of.
    Leave(u64),
}

#[derive(Debug)]
struct Entry {
    status: ContainerStatus,
    kill_reason: Option<String>,
}

impl Entry {
    fn is_live(&self) -> bool {
        matches!(self.status.state(), ContainerState::Granted | ContainerState::Running)
    }

    fn resources(&self) -> Resources {
        self.status.resources.as_ref().map(Resources::from_proto).unwrap_or_default()
    }
}

/// Everything the node knows.
#[derive(Debug)]
pub(super) struct Core {
    offered: Resources,
    term: u64,
    containers: BTreeMap<ContainerId, Entry>,
    /// Ended containers that the master has heard of, oldest first; their files are kept.
    finished: VecDeque<ContainerId>,
    num_kept: usize,
    /// Why nothing can be started here now.
    trouble: Option<String>,
}

impl Core {
    /// A node that offers this much, and keeps the files of this many ended containers.
    pub(super) fn new(offered: Resources, num_kept: usize) -> Self {
        Self {
            offered,
            term: 0,
            containers: BTreeMap::new(),
            finished: VecDeque::new(),
            num_kept,
            trouble: None,
        }
    }

    /// What the node offers.
    pub(super) fn offered(&self) -> Resources {
        self.offered
    }

    /// Why nothing can be started here now; none when it can.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Grants are refused for this reason from now on, or taken when there is none.
    pub(super) fn set_trouble(&mut self, trouble: Option<String>) {
        self.trouble = trouble;
    }

    /// Highest leadership term that was seen.
    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// Cores and memory of all live containers.
    pub(super) fn used(&self) -> Resources {
        self.containers
            .values()
            .filter(|entry| entry.is_live())
            .fold(Resources::default(), |sum, entry| sum.saturating_add(entry.resources()))
    }

    /// Every container that is live or kept, for a registration.
    pub(super) fn statuses(&self) -> Vec<ContainerStatus> {
        self.containers.values().map(|entry| entry.status.clone()).collect()
    }

    /// How one container stands.
    pub(super) fn status(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.containers.get(id).map(|entry| &entry.status)
    }

    /// The live containers.
    pub(super) fn live(&self) -> Vec<ContainerId> {
        let live = self.containers.iter().filter(|(_, entry)| entry.is_live());
        live.map(|(id, _)| id.clone()).collect()
    }

    /// Process ids of the running containers.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        let running = self.containers.values().filter(|entry| entry.is_live());
        running.map(|entry| entry.status.pid).filter(|pid| *pid != 0)
    }

    /// Takes up the files of a container that ended before this node's process began.
    pub(super) fn keep(&mut self, status: ContainerStatus) {
        let id = ContainerId::new(status.container_id.clone());
        self.containers.insert(id.clone(), Entry { status, kill_reason: None });
        self.finished.push_back(id);
    }

    /// A command of the master of this term. One of an older term changes nothing.
    pub(super) fn command(&mut self, term: u64, body: node_command::Body) -> Vec<Effect> {
        if term < self.term {
            return vec![Effect::Leave(term)];
        }
        self.term = term;
        match body {
            node_command::Body::Registered(_) => Vec::new(),
            node_command::Body::Start(context) => self.start(context),
            node_command::Body::Kill(kill) => self.kill(kill),
            node_command::Body::ReadLog(request) => vec![Effect::ReadLog(request)],
            node_command::Body::Forget(forget) => {
                self.forget(ContainerId::new(forget.container_id))
            }
        }
    }

    fn start(&mut self, context: LaunchContext) -> Vec<Effect> {
        let id = ContainerId::new(context.container_id.clone());
        if let Some(known) = self.containers.get(&id) {
            return vec![Effect::Report(known.status.clone())];
        }
        let asked = context.resources.as_ref().map(Resources::from_proto).unwrap_or_default();
        let free = self.offered.checked_sub(self.used()).unwrap_or_default();
        let refuse = |reason: String| {
            vec![Effect::Refuse(GrantRefused { container_id: id.to_string(), reason })]
        };
        if !is_plain(id.as_str()) {
            return refuse(format!("{id:?} is not a container id"));
        }
        if let Some(trouble) = &self.trouble {
            return refuse(trouble.clone());
        }
        if !free.fits(asked) {
            return refuse(format!("{asked} are asked for and {free} are free"));
        }
        let mut status = ContainerStatus {
            container_id: id.to_string(),
            application: context.application.clone(),
            attempt: context.attempt,
            kind: context.kind,
            resources: Some(asked.to_proto()),
            ..Default::default()
        };
        status.set_state(ContainerState::Granted);
        self.containers.insert(id, Entry { status, kill_reason: None });
        vec![Effect::Start(Box::new(context))]
    }

    fn kill(&mut self, kill: KillContainer) -> Vec<Effect> {
        let id = ContainerId::new(kill.container_id);
        match self.containers.get_mut(&id) {
            Some(entry) if entry.is_live() => {
                entry.kill_reason.get_or_insert(kill.reason);
                vec![Effect::Kill(id, kill.grace_ms)]
            }
            Some(entry) => vec![Effect::Report(entry.status.clone())],
            None => {
                let mut status =
                    ContainerStatus { container_id: id.to_string(), ..Default::default() };
                status.set_state(ContainerState::Exited);
                status.exit = Some(ContainerExit {
                    reason: "its node does not know it".to_owned(),
                    ..Default::default()
                });
                vec![Effect::Report(status)]
            }
        }
    }

    /// The master has heard of the end: the container is kept for its logs only, and not for ever.
    fn forget(&mut self, id: ContainerId) -> Vec<Effect> {
        let is_over = self.containers.get(&id).is_some_and(|entry| !entry.is_live());
        if !is_over || self.finished.contains(&id) {
            return Vec::new();
        }
        self.finished.push_back(id);
        self.prune()
    }

    /// Gives up the files of the oldest ended containers beyond the number to keep.
    pub(super) fn prune(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while self.finished.len() > self.num_kept {
            let Some(oldest) = self.finished.pop_front() else { break };
            self.containers.remove(&oldest);
            effects.push(Effect::Remove(oldest));
        }
        effects
    }

    /// A process was started.
    pub(super) fn started(
        &mut self,
        id: &ContainerId,
        pid: u32,
        work_dir: String,
        now_ms: i64,
    ) -> Vec<Effect> {
        let Some(entry) = self.containers.get_mut(id) else { return Vec::new() };
        entry.status.set_state(ContainerState::Running);
        entry.status.pid = pid;
        entry.status.started_ms = now_ms;
        entry.status.work_dir = work_dir;
        vec![Effect::Report(entry.status.clone())]
    }

    /// A process has ended, or could not be started.
    pub(super) fn ended(
        &mut self,
        id: &ContainerId,
        mut exit: ContainerExit,
        now_ms: i64,
    ) -> Vec<Effect> {
        let Some(entry) = self.containers.get_mut(id) else { return Vec::new() };
        if let Some(reason) = &entry.kill_reason {
            exit.requested = true;
            exit.reason.clone_from(reason);
        }
        entry.status.set_state(ContainerState::Exited);
        entry.status.ended_ms = now_ms;
        entry.status.exit = Some(exit);
        vec![Effect::Report(entry.status.clone())]
    }

    /// The node is told to end: everything that runs has to.
    pub(super) fn end_all(&mut self, grace_ms: u64) -> Vec<Effect> {
        self.live()
            .into_iter()
            .flat_map(|id| {
                self.kill(KillContainer {
                    container_id: id.to_string(),
                    grace_ms,
                    reason: "the worker of its node was told to end".to_owned(),
                })
            })
            .collect()
    }
}

/// True for an id that can name a directory: what the master makes of names and numbers.
pub(super) fn is_plain(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
