//! The master as a pure machine: events and times in, effects out.
//!
//! Two rules hold it together. A driver's grant and an epoch leave the master only after the record
//! that names them is in the store. And nothing is granted by a new leader before every node it
//! knows of has reported, or had its time to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_common::access::{Secrets, Token};
use millrace_common::error::{Code, Error};
use millrace_common::id::{ApplicationName, ContainerId, NodeId};
use millrace_proto::v1::{self, ContainerState, NodeState, node_command};

use super::SessionId;
use super::effect::Effect;
use crate::access::Tokens;
use crate::application::{Action, Application, ApplicationRecord};
use crate::cluster::{Cluster, Ended};
use crate::config::Timing;
use crate::moment::Moment;
use crate::scheduler::Queues;
use crate::store::{Record, Snapshot};

/// What this master is, for those it talks to.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// Its leadership term.
    pub term: u64,
    /// The table of the heads.
    pub table: String,
    /// `host:port` under which it is reached.
    pub address: String,
    /// Unix time at which it became leader, in milliseconds.
    pub started_ms: i64,
    /// What the containers' tokens are sealed with; none in a cluster without tokens.
    pub secrets: Option<Arc<Secrets>>,
}

/// All that the leading master knows.
#[derive(Debug)]
pub(crate) struct Core {
    /// What this master is.
    pub identity: Identity,
    pub(super) timing: Timing,
    /// Shares of the cluster.
    pub queues: Queues,
    /// Nodes and containers.
    pub cluster: Cluster,
    /// Tokens that were given out.
    pub tokens: Tokens,
    /// Applications by name.
    pub applications: BTreeMap<ApplicationName, Application>,
    pub(super) drivers: BTreeMap<SessionId, ApplicationName>,
    /// What the drivers of these sessions showed when they opened them.
    pub(super) driver_tokens: BTreeMap<SessionId, Token>,
    /// Nodes of the store that have not reported to this leader.
    pub(super) awaited: BTreeSet<NodeId>,
    pub(super) led_since: Duration,
    pub(super) is_adopting: bool,
    pub(super) last_ticket: u64,
    pub(super) last_sequence: u64,
    /// Effects that wait for their record to be written, by ticket.
    pub(super) after_write: BTreeMap<u64, Vec<Effect>>,
    pub(super) effects: Vec<Effect>,
    /// Grants that were taken back before they were sent; their end is dealt with in the next step.
    pub(super) withdrawn: Vec<(ContainerId, String)>,
}

impl Core {
    /// A new leader over what the store holds.
    pub(crate) fn new(now: Moment, timing: Timing, identity: Identity, snapshot: Snapshot) -> Self {
        let mut core = Self {
            identity,
            timing,
            queues: Queues::default(),
            cluster: Cluster::new(timing),
            tokens: Tokens::restore(snapshot.tokens),
            applications: BTreeMap::new(),
            drivers: BTreeMap::new(),
            driver_tokens: BTreeMap::new(),
            awaited: snapshot.nodes.into_iter().collect(),
            led_since: now.monotonic,
            is_adopting: true,
            last_ticket: 0,
            last_sequence: 0,
            after_write: BTreeMap::new(),
            effects: Vec::new(),
            withdrawn: Vec::new(),
        };
        for (node, order) in snapshot.drains {
            core.cluster.drains.begin(node, order);
        }
        for (name, record) in snapshot.applications {
            core.last_sequence = core.last_sequence.max(record.sequence);
            core.restore(now, name, record);
        }
        core
    }

    /// The same with these queues.
    pub(crate) fn with_queues(self, queues: Queues) -> Self {
        Self { queues, ..self }
    }

    fn restore(&mut self, now: Moment, name: ApplicationName, record: ApplicationRecord) {
        let application = Application::restore(now, self.timing, name.clone(), record);
        if let Some(driver) = &application.driver {
            let mut status = v1::ContainerStatus {
                container_id: driver.container.to_string(),
                application: name.to_string(),
                attempt: application.attempt(),
                resources: Some(application.driver_cost().to_proto()),
                ..Default::default()
            };
            status.set_kind(v1::ContainerKind::Driver);
            status.set_state(ContainerState::Running);
            self.cluster.containers.insert(driver.node.clone(), status);
        }
        self.applications.insert(name, application);
    }

    /// The effects since the last call.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Why nothing is granted yet, when the leader is new.
    pub(crate) fn adoption(&self) -> Option<String> {
        self.is_adopting.then(|| {
            let names: Vec<&str> = self.awaited.iter().map(NodeId::as_str).take(5).collect();
            format!(
                "the master has just started and waits for {} of its nodes to report: {}",
                self.awaited.len(),
                names.join(", ")
            )
        })
    }

    // Clients.

    /// An application is asked to stop. Its state and the ticket of the record.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`]; [`Code::WrongState`] when it has ended.
    pub(crate) fn stop(
        &mut self,
        now: Moment,
        name: &ApplicationName,
        drain: bool,
        deadline_ms: u64,
    ) -> Result<(v1::ApplicationState, u64), Error> {
        let application = self.applications.get_mut(name).ok_or_else(|| unknown(name))?;
        let actions = application.stop(now, drain, deadline_ms)?;
        self.finish_request(now, name, actions)
    }

    /// An application is ended at once. Its state and the ticket of the record.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`]; [`Code::WrongState`] when it has ended.
    pub(crate) fn kill(
        &mut self,
        now: Moment,
        name: &ApplicationName,
    ) -> Result<(v1::ApplicationState, u64), Error> {
        let application = self.applications.get_mut(name).ok_or_else(|| unknown(name))?;
        let actions = application.kill(now)?;
        self.finish_request(now, name, actions)
    }

    /// Sets the number of executors of an application; 0: as its file says. The ticket of the record.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`]; as [`Application::scale`].
    pub(crate) fn scale(
        &mut self,
        now: Moment,
        name: &ApplicationName,
        executors: u32,
    ) -> Result<u64, Error> {
        let application = self.applications.get_mut(name).ok_or_else(|| unknown(name))?;
        let actions = application.scale(executors)?;
        tracing::info!(application = %name, executors, "scaled by hand");
        self.finish_request(now, name, actions).map(|(_, ticket)| ticket)
    }

    fn finish_request(
        &mut self,
        now: Moment,
        name: &ApplicationName,
        actions: Vec<Action>,
    ) -> Result<(v1::ApplicationState, u64), Error> {
        self.perform(name, actions);
        self.step(now);
        let application = self.applications.get(name).ok_or_else(|| unknown(name))?;
        Ok((application.state(), self.last_ticket))
    }

    // Time and the store.

    /// Everything up to this ticket is in the store.
    pub(crate) fn written(&mut self, ticket: u64) {
        let later = self.after_write.split_off(&(ticket + 1));
        for effects in std::mem::replace(&mut self.after_write, later).into_values() {
            self.effects.extend(effects);
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Moment) {
        let (changed, ended) = self.cluster.tick(now);
        for (node, state) in changed {
            match state {
                NodeState::Lost => {
                    tracing::warn!(%node, "node lost");
                    if let Some(session) = self.cluster.node(&node).and_then(|node| node.session) {
                        self.effects.push(Effect::CloseNode(session));
                    }
                    self.write(Record::NodeGone(node));
                }
                state => tracing::warn!(%node, ?state, "node is silent"),
            }
        }
        self.end_all(now, ended);
        self.step(now);
        if self.is_adopting {
            return;
        }
        let names: Vec<ApplicationName> = self.applications.keys().cloned().collect();
        for name in names {
            if let Some(application) = self.applications.get_mut(&name) {
                let actions = application.tick(now);
                self.perform(&name, actions);
            }
        }
        self.step(now);
        self.go_on_draining(now);
    }

    pub(super) fn driver_session(&self, name: &ApplicationName) -> Option<SessionId> {
        self.applications.get(name)?.driver.as_ref()?.session
    }

    pub(super) fn end_all(&mut self, now: Moment, ended: impl IntoIterator<Item = Ended>) {
        for ended in ended {
            let Ok(name) = ended.application.parse::<ApplicationName>() else { continue };
            let Some(application) = self.applications.get_mut(&name) else { continue };
            let actions = application.container_ended(now, &ended);
            self.perform(&name, actions);
        }
    }

    pub(super) fn perform(&mut self, name: &ApplicationName, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Save => {
                    self.save(name);
                }
                Action::SaveThenTell(body) => {
                    let ticket = self.save(name);
                    if let (Some(ticket), Some(session)) = (ticket, self.driver_session(name)) {
                        let tell = Effect::ToDriver(session, body);
                        self.after_write.entry(ticket).or_default().push(tell);
                    }
                }
                Action::Kill { container, is_graceful, reason } => {
                    self.kill_container(&container, is_graceful, &reason);
                }
                Action::Tell(body) => {
                    if let Some(session) = self.driver_session(name) {
                        self.effects.push(Effect::ToDriver(session, body));
                    }
                }
                Action::Close(session) => {
                    self.drivers.remove(&session);
                    self.effects.push(Effect::CloseDriver(session));
                }
            }
        }
    }

    fn kill_container(&mut self, id: &ContainerId, is_graceful: bool, reason: &str) {
        if !self.cluster.containers.mark_killed(id, reason) || self.withdraw(id, reason) {
            return;
        }
        let node = self.cluster.containers.get(id).map(|entry| entry.node.clone());
        let session = node.and_then(|node| self.cluster.node(&node)?.session);
        if let Some(session) = session {
            let grace = if is_graceful { self.timing.kill_grace } else { Duration::ZERO };
            self.kill_on(session, id, grace, reason);
        }
    }

    /// Takes back a driver's grant that waits for its record; true when there was one.
    fn withdraw(&mut self, id: &ContainerId, reason: &str) -> bool {
        let is_start_of = |effect: &Effect| match effect {
            Effect::ToNode(_, node_command::Body::Start(context)) => {
                context.container_id == id.as_str()
            }
            _ => false,
        };
        let found = self.after_write.values().flatten().any(is_start_of);
        if found {
            for effects in self.after_write.values_mut() {
                effects.retain(|effect| !is_start_of(effect));
            }
            self.withdrawn.push((id.clone(), reason.to_owned()));
        }
        found
    }

    pub(super) fn send_to_node(&mut self, session: SessionId, body: node_command::Body) {
        self.effects.push(Effect::ToNode(session, body));
    }

    pub(super) fn write(&mut self, record: Record) -> u64 {
        self.last_ticket += 1;
        self.effects.push(Effect::Write(self.last_ticket, record));
        self.last_ticket
    }

    pub(super) fn save(&mut self, name: &ApplicationName) -> Option<u64> {
        let record = self.applications.get(name)?.record();
        Some(self.write(Record::Application(name.clone(), Box::new(record))))
    }
}

/// The refusal of a name that no application has.
pub(super) fn unknown(name: &ApplicationName) -> Error {
    Error::new(
        Code::UnknownApplication,
        format!("no application is called {name}"),
        "see `millrace list` for the names",
    )
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
