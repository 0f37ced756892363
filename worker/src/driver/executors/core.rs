//! Who is an executor and who is not: state and event in, decisions out.
//!
//! Promises: a container that was lost once is never taken back. Owned by the executors' actor.
//! Never does: send, wait, or read a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{BlockId, ContainerId};
use millrace_proto::v1;

use super::exclusion::{Exclusion, Exclusions, Failure};

/// Times that the core keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A silent executor is lost after this long.
    pub lost_after: Duration,
    /// One whose session broke has this long to open another.
    pub reopen_within: Duration,
    /// A registration waits this long for the master's word of the grant.
    pub grant_within: Duration,
}

/// A session of an executor, numbered by the server.
pub type SessionId = u64;

/// What an executor says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its container.
    pub container: ContainerId,
    /// Its node.
    pub node_id: String,
    /// `host:port` of its own server.
    pub address: String,
    /// Compute threads.
    pub cores: u32,
    /// Bytes of blocks it can hold, in memory and on disk.
    pub budget_bytes: u64,
    /// Blocks it holds already.
    pub held: BTreeSet<BlockId>,
}

/// What becomes of a registration.
#[derive(Debug)]
pub enum Answer {
    /// A new executor.
    Joined,
    /// A known one on a new session.
    Rejoined,
    /// Not yet: the master has not told of its grant.
    Wait,
    /// Never.
    Refused(Error),
}

/// An executor that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorView {
    /// Its registration.
    pub registration: Registration,
    /// Its last heartbeat.
    pub heartbeat: v1::ExecutorHeartbeat,
    /// Set while it gets no work.
    pub exclusion: Option<Exclusion>,
}

/// Who gets no work, as far as that has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// All the executors that are here and excluded.
    pub executors: Option<BTreeSet<ContainerId>>,
    /// All the nodes that are excluded.
    pub nodes: Option<BTreeMap<String, Exclusion>>,
}

#[derive(Debug)]
struct Live {
    view: ExecutorView,
    session: Option<SessionId>,
    heard_at: Duration,
    broken_at: Duration,
}

#[derive(Debug)]
struct Waiting {
    registration: Registration,
    session: SessionId,
    since: Duration,
}

/// The executors of one attempt.
#[derive(Debug)]
pub struct Core {
    application: String,
    attempt: u32,
    limits: Limits,
    granted: BTreeSet<ContainerId>,
    gone: BTreeSet<ContainerId>,
    live: BTreeMap<ContainerId, Live>,
    waiting: BTreeMap<ContainerId, Waiting>,
    exclusions: Exclusions,
    /// As the last review found it.
    excluded_nodes: BTreeMap<String, Exclusion>,
}

impl Core {
    /// No executor yet.
    #[must_use]
    pub fn new(application: &str, attempt: u32, limits: Limits) -> Self {
        Self {
            application: application.to_owned(),
            attempt,
            limits,
            granted: BTreeSet::new(),
            gone: BTreeSet::new(),
            live: BTreeMap::new(),
            waiting: BTreeMap::new(),
            exclusions: Exclusions::default(),
            excluded_nodes: BTreeMap::new(),
        }
    }

    /// The master granted a container; gives the registration that waited for it.
    pub fn granted(&mut self, container: &ContainerId) -> Option<(SessionId, Registration)> {
        if self.gone.contains(container) {
            return None;
        }
        self.granted.insert(container.clone());
        let waiting = self.waiting.remove(container)?;
        Some((waiting.session, waiting.registration))
    }

    /// An executor asks to be taken in on this session.
    pub fn register(
        &mut self,
        message: v1::ExecutorRegister,
        session: SessionId,
        now: Duration,
    ) -> (Registration, Answer) {
        let foreign = message.application != self.application || message.attempt != self.attempt;
        let named = format!("{} of attempt {}", message.container_id, message.attempt);
        let registration = Registration {
            container: ContainerId::new(message.container_id),
            node_id: message.node_id,
            address: message.address,
            cores: message.cores.max(1),
            budget_bytes: message.block_budget_bytes.saturating_add(message.disk_budget_bytes),
            held: message.held_blocks.into_iter().map(BlockId::new).collect(),
        };
        let refuse = |why: &str| {
            Answer::Refused(Error::new(
                Code::Protocol,
                format!("driver of {} refuses {named}: {why}", self.application),
                "nothing: the container ends and the master grants another if one is needed",
            ))
        };
        if foreign {
            let answer = refuse(&format!("it runs attempt {}", self.attempt));
            return (registration, answer);
        }
        if self.gone.contains(&registration.container) {
            return (registration, refuse("it was given up as lost"));
        }
        if !self.granted.contains(&registration.container) {
            let waiting = Waiting { registration: registration.clone(), session, since: now };
            self.waiting.insert(registration.container.clone(), waiting);
            return (registration, Answer::Wait);
        }
        let answer = self.admit(registration.clone(), session, now);
        (registration, answer)
    }

    /// Takes in a granted executor.
    pub fn admit(
        &mut self,
        registration: Registration,
        session: SessionId,
        now: Duration,
    ) -> Answer {
        let container = registration.container.clone();
        let heartbeat = v1::ExecutorHeartbeat::default();
        let exclusion = self.live.get(&container).and_then(|live| live.view.exclusion.clone());
        let view = ExecutorView { registration, heartbeat, exclusion };
        let live = Live { view, session: Some(session), heard_at: now, broken_at: now };
        match self.live.insert(container, live) {
            None => Answer::Joined,
            Some(_) => Answer::Rejoined,
        }
    }

    /// A heartbeat on a session. False when the session is not the executor's own any more.
    pub fn heartbeat(
        &mut self,
        container: &ContainerId,
        session: SessionId,
        heartbeat: v1::ExecutorHeartbeat,
        now: Duration,
    ) -> bool {
        match self.live.get_mut(container).filter(|live| live.session == Some(session)) {
            Some(live) => {
                live.heard_at = now;
                live.view.heartbeat = heartbeat;
                true
            }
            None => false,
        }
    }

    /// A session has ended, however.
    pub fn closed(&mut self, container: &ContainerId, session: SessionId, now: Duration) {
        self.waiting.retain(|_, waiting| waiting.session != session);
        if let Some(live) = self.live.get_mut(container)
            && live.session == Some(session)
        {
            live.session = None;
            live.broken_at = now;
        }
    }

    /// The container of this node has ended. That nobody asked it to points at the executor. True
    /// when it was a live one.
    pub fn exited(
        &mut self,
        container: &ContainerId,
        node: &str,
        exit: &v1::ContainerExit,
        now: Duration,
    ) -> bool {
        if self.granted.contains(container) && !exit.requested {
            let why = Failure::Loss(format!("it ended: {}", exit.reason));
            let node = match self.live.get(container) {
                Some(live) => live.view.registration.node_id.clone(),
                None => node.to_owned(),
            };
            self.exclusions.failed(container, &node, &why, now);
        }
        self.ended(container)
    }

    /// A run could not use this executor.
    pub fn suspected(&mut self, container: &ContainerId, why: &str, now: Duration) {
        // One whose session is broken is lost soon, which counts, or was only cut off for a moment.
        if let Some(live) = self.live.get(container).filter(|live| live.session.is_some()) {
            let node = &live.view.registration.node_id;
            self.exclusions.failed(container, node, &Failure::Run(why.to_owned()), now);
        }
    }

    /// Finds out who gets no work now, and what that changes.
    pub fn review(&mut self, now: Duration) -> Review {
        self.exclusions.tick(now);
        let here = self.live.iter().map(|(id, live)| (id, live.view.registration.node_id.as_str()));
        let mut excluded = self.exclusions.executors(here);
        let names = excluded.keys().cloned().collect();
        let mut has_changed = false;
        for (container, live) in &mut self.live {
            let exclusion = excluded.remove(container);
            has_changed |= exclusion.is_some() != live.view.exclusion.is_some();
            live.view.exclusion = exclusion;
        }
        let nodes = self.exclusions.nodes();
        let is_new = nodes != self.excluded_nodes;
        self.excluded_nodes.clone_from(&nodes);
        Review { executors: has_changed.then_some(names), nodes: is_new.then_some(nodes) }
    }

    /// The container has ended. True when it was a live executor.
    pub fn ended(&mut self, container: &ContainerId) -> bool {
        self.granted.remove(container);
        self.gone.insert(container.clone());
        self.waiting.remove(container);
        self.live.remove(container).is_some()
    }

    /// This process stood still for so long: what was sent to it meanwhile is not heard yet.
    pub fn stood_still(&mut self, pause: Duration) {
        for live in self.live.values_mut() {
            live.heard_at += pause;
            live.broken_at += pause;
        }
        for waiting in self.waiting.values_mut() {
            waiting.since += pause;
        }
    }

    /// Gives up those who are silent too long, and the registrations that waited too long.
    pub fn tick(&mut self, now: Duration) -> (Vec<ContainerId>, Vec<SessionId>) {
        let since = |at: Duration| now.saturating_sub(at);
        let lost: Vec<ContainerId> = self
            .live
            .iter()
            .filter(|(_, live)| {
                let broken =
                    live.session.is_none() && since(live.broken_at) >= self.limits.reopen_within;
                broken || since(live.heard_at) >= self.limits.lost_after
            })
            .map(|(container, _)| container.clone())
            .collect();
        for container in &lost {
            if let Some(live) = self.live.get(container) {
                let silence = Failure::Loss(format!("silent for {:?}", since(live.heard_at)));
                let node = &live.view.registration.node_id;
                self.exclusions.failed(container, node, &silence, now);
            }
            self.ended(container);
        }
        let late = |waiting: &Waiting| since(waiting.since) >= self.limits.grant_within;
        let refused = self.waiting.values().filter(|w| late(w)).map(|w| w.session).collect();
        self.waiting.retain(|_, waiting| !late(waiting));
        (lost, refused)
    }

    /// The executors that are here.
    #[must_use]
    pub fn views(&self) -> Vec<ExecutorView> {
        self.live.values().map(|live| live.view.clone()).collect()
    }

    /// Every container that the master granted and that has not ended.
    #[must_use]
    pub fn held(&self) -> Vec<ContainerId> {
        self.granted.iter().cloned().collect()
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
