//! What nodes say, and what the master answers.

use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{ContainerId, NodeId};
use millrace_proto::v1::{self, ContainerState, node_command, node_message};

use super::SessionId;
use super::core::{Core, millis};
use super::effect::Effect;
use crate::moment::Moment;
use crate::store::Record;

impl Core {
    /// A node opened a stream.
    ///
    /// # Errors
    /// [`Code::NodeRefused`] as the cluster says, [`Code::StaleTerm`] when the node has seen a
    /// higher term.
    pub(crate) fn node_opened(
        &mut self,
        now: Moment,
        session: SessionId,
        term: u64,
        message: v1::NodeRegister,
    ) -> Result<(), Error> {
        self.check_term(term, &message.node_id)?;
        let node = NodeId::new(message.node_id.clone());
        let registered = self.cluster.register(now, session, message)?;
        self.effects.extend(registered.superseded.map(Effect::CloseNode));
        self.send_to_node(
            session,
            node_command::Body::Registered(v1::NodeRegistered {
                cluster: self.identity.cluster.clone(),
                heartbeat_interval_ms: millis(self.timing.heartbeat_interval),
            }),
        );
        if registered.is_new {
            self.write(Record::Node(node.clone()));
        }
        self.adopt(&node, registered.unknown);
        for id in registered.unwanted {
            self.kill_on(session, &id, Duration::ZERO, "its end was already dealt with");
        }
        self.kill_again(&node, session);
        self.forget(session, registered.forget);
        self.awaited.remove(&node);
        if let Some(trouble) = self.cluster.node(&node).and_then(|node| node.trouble.as_ref()) {
            tracing::warn!(%node, reason = trouble.reason, "an unhealthy node has registered");
        }
        self.end_all(now, registered.ended);
        self.step(now);
        Ok(())
    }

    /// Refuses a peer that has obeyed a later leader: this master is deposed.
    ///
    /// # Errors
    /// [`Code::StaleTerm`].
    pub(super) fn check_term(&mut self, seen: u64, peer: &str) -> Result<(), Error> {
        let own = self.identity.term;
        if seen <= own {
            return Ok(());
        }
        self.effects.push(Effect::HigherTerm(seen));
        Err(Error::new(
            Code::StaleTerm,
            format!("{peer} has seen term {seen}, above {own}"),
            "wait: another master leads, or this one takes up leadership again",
        ))
    }

    /// Takes up what a node holds and this master has not granted itself; ends what nobody wants.
    fn adopt(&mut self, node: &NodeId, unknown: Vec<v1::ContainerStatus>) {
        for status in unknown {
            let id = ContainerId::new(status.container_id.clone());
            let is_over = status.state() == ContainerState::Exited;
            let is_wanted = self
                .applications
                .values_mut()
                .find(|application| application.name.as_str() == status.application)
                .is_some_and(|application| application.adopt(node, &status));
            self.cluster.containers.insert(node.clone(), status);
            if !is_wanted && !is_over {
                let reason = "no application wants this container";
                self.cluster.containers.mark_killed(&id, reason);
            }
        }
    }

    /// A node spoke.
    pub(crate) fn node_said(&mut self, now: Moment, session: SessionId, message: v1::NodeMessage) {
        if message.term > self.identity.term {
            self.effects.push(Effect::HigherTerm(message.term));
        }
        if message.term > self.identity.term {
            return;
        }
        let has_returned = self.cluster.heard(now, session);
        match message.body {
            Some(node_message::Body::Container(status)) => {
                let Some(node) = self.cluster.by_session(session).map(|node| node.id.clone())
                else {
                    return;
                };
                let id = ContainerId::new(status.container_id.clone());
                let is_over = status.state() == ContainerState::Exited;
                let ended = self.cluster.containers.report(&node, status);
                if is_over {
                    self.forget(session, vec![id]);
                }
                self.end_all(now, ended);
                self.step(now);
            }
            Some(node_message::Body::Heartbeat(heartbeat)) => {
                let is_news = self.health(now, session, &heartbeat);
                if is_news || has_returned {
                    self.step(now);
                }
            }
            Some(node_message::Body::Refused(refusal)) => {
                let ended = self.cluster.refused(now, session, &refusal);
                self.end_all(now, ended);
                self.step(now);
            }
            _ if has_returned => self.step(now),
            _ => {}
        }
    }

    /// A node says how it is; true when that is news.
    fn health(&mut self, now: Moment, session: SessionId, heartbeat: &v1::NodeHeartbeat) -> bool {
        let (reason, is_recovering) = (&heartbeat.unhealthy, heartbeat.recovering);
        let changed = self.cluster.health(now, session, reason, is_recovering);
        let Some(node) = changed else { return false };
        match &node.trouble {
            Some(trouble) => {
                tracing::warn!(node = %node.id, reason = trouble.reason, "node is unhealthy");
            }
            None => tracing::info!(node = %node.id, "node is well again"),
        }
        true
    }

    /// The stream to a node has ended; `is_orderly` when the node closed it itself.
    pub(crate) fn node_closed(&mut self, now: Moment, session: SessionId, is_orderly: bool) {
        if let Some(node) = self.cluster.disconnected(session, is_orderly) {
            tracing::info!(%node, "node left");
            self.write(Record::NodeGone(node));
            self.step(now);
        }
    }

    /// Sends the kills again that the node may not have heard while it was away.
    fn kill_again(&mut self, node: &NodeId, session: SessionId) {
        let kills: Vec<(ContainerId, String)> = self
            .cluster
            .containers
            .live_on(node)
            .filter_map(|entry| Some((entry.id(), entry.kill_reason.clone()?)))
            .collect();
        for (id, reason) in kills {
            self.kill_on(session, &id, self.timing.kill_grace, &reason);
        }
    }

    pub(super) fn forget(&mut self, session: SessionId, ids: Vec<ContainerId>) {
        for id in ids {
            let container_id = id.to_string();
            self.send_to_node(
                session,
                node_command::Body::Forget(v1::ContainerForget { container_id }),
            );
        }
    }

    pub(super) fn kill_on(
        &mut self,
        session: SessionId,
        id: &ContainerId,
        grace: Duration,
        reason: &str,
    ) {
        self.send_to_node(
            session,
            node_command::Body::Kill(v1::KillContainer {
                container_id: id.to_string(),
                grace_ms: millis(grace),
                reason: reason.to_owned(),
            }),
        );
    }
}
