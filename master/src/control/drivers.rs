//! What drivers say, and what the master tells them of their executors.

use millrace_common::access::Token;
use millrace_common::error::Error;
use millrace_common::id::{ApplicationName, ContainerId};
use millrace_proto::v1::{self, driver_command, driver_message};

use super::SessionId;
use super::core::{Core, millis, unknown};
use super::effect::Effect;
use crate::moment::Moment;

impl Core {
    /// A driver opened a stream.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], [`Code::Fenced`] for a driver that is not the current one,
    /// [`Code::StaleTerm`] when the driver has seen a higher term.
    pub(crate) fn driver_opened(
        &mut self,
        now: Moment,
        session: SessionId,
        message: v1::DriverRegister,
    ) -> Result<(), Error> {
        self.check_term(message.term, &message.container_id)?;
        let name: ApplicationName = message.application.parse()?;
        let application = self.applications.get_mut(&name).ok_or_else(|| unknown(&name))?;
        let actions = application.driver_registered(now, session, message)?;
        self.drivers.insert(session, name.clone());
        let heartbeat_interval_ms = millis(self.timing.heartbeat_interval);
        self.effects.push(Effect::ToDriver(
            session,
            driver_command::Body::Registered(v1::DriverRegistered { heartbeat_interval_ms }),
        ));
        self.perform(&name, actions);
        self.tell_executors(&name, session);
        self.step(now);
        Ok(())
    }

    /// Tells a driver of the executors it does not know of, and of those that are gone.
    pub(super) fn tell_executors(&mut self, name: &ApplicationName, session: SessionId) {
        if self.is_adopting {
            return;
        }
        let Some(application) = self.applications.get_mut(name) else { return };
        let actions = application.reconcile_driver();
        let executors: Vec<ContainerId> = application.executors.keys().cloned().collect();
        self.perform(name, actions);
        for id in executors {
            self.tell_started(name, session, &id);
        }
    }

    pub(super) fn tell_started(
        &mut self,
        name: &ApplicationName,
        session: SessionId,
        id: &ContainerId,
    ) {
        let Some(entry) = self.cluster.containers.get(id) else { return };
        let host = self.cluster.node(&entry.node).map(|node| node.host.clone()).unwrap_or_default();
        let started = v1::ContainerStarted {
            container_id: id.to_string(),
            node_id: entry.node.to_string(),
            host,
        };
        let driver = self.applications.get_mut(name).and_then(|app| app.driver.as_mut());
        if driver.is_some_and(|driver| driver.known_executors.insert(id.clone())) {
            let body = driver_command::Body::Started(started);
            self.effects.push(Effect::ToDriver(session, body));
        }
    }

    /// A driver spoke.
    pub(crate) fn driver_said(
        &mut self,
        now: Moment,
        session: SessionId,
        body: driver_message::Body,
    ) {
        let Some(name) = self.drivers.get(&session).cloned() else { return };
        let Some(application) = self.applications.get_mut(&name) else { return };
        let wants_places = matches!(body, driver_message::Body::Target(_));
        let actions = application.driver_said(now, session, body);
        self.perform(&name, actions);
        if wants_places {
            self.step(now);
        }
    }

    /// The token under which a driver opened this session: its executors get the same.
    pub(crate) fn driver_shows(&mut self, session: SessionId, token: Option<Token>) {
        self.driver_tokens.extend(token.map(|token| (session, token)));
    }

    /// The stream to a driver has ended.
    pub(crate) fn driver_closed(&mut self, now: Moment, session: SessionId) {
        self.driver_tokens.remove(&session);
        if let Some(name) = self.drivers.remove(&session)
            && let Some(application) = self.applications.get_mut(&name)
        {
            application.driver_disconnected(now, session);
        }
    }
}
