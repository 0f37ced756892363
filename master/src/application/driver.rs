//! The current driver of an application, from its grant to its end.

use std::time::Duration;

use millrace_common::id::{ContainerId, NodeId};
use millrace_proto::v1;

use crate::config::Timing;
use crate::control::SessionId;
use crate::moment::Moment;

/// How long a driver may take from its grant to its registration.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(60);

/// The one driver that may act for an application.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    /// Its container.
    pub container: ContainerId,
    /// The node it is on.
    pub node: NodeId,
    /// The stream to it, when there is one.
    pub session: Option<SessionId>,
    /// Where executors reach it; empty before it registered.
    pub address: String,
    /// Executors that it knows of.
    pub known_executors: std::collections::BTreeSet<ContainerId>,
    /// Monotonic time of its last word, or of the grant before the first.
    heard: Duration,
    has_registered: bool,
    /// When it said that it is done.
    finished: Option<Duration>,
    /// True once it was asked to move elsewhere: its end is not a failure.
    pub is_leaving: bool,
    /// What it failed of, in its own words, when another attempt may succeed.
    pub failure: Option<v1::Failure>,
}

impl Driver {
    /// A driver that has just been granted, or that was known before the master's restart.
    pub(crate) fn new(now: Moment, container: ContainerId, node: NodeId) -> Self {
        Self {
            container,
            node,
            session: None,
            address: String::new(),
            known_executors: std::collections::BTreeSet::new(),
            heard: now.monotonic,
            has_registered: false,
            finished: None,
            is_leaving: false,
            failure: None,
        }
    }

    /// It opened a stream. The stream that this one replaces.
    pub(crate) fn connect(
        &mut self,
        now: Moment,
        session: SessionId,
        address: String,
    ) -> Option<SessionId> {
        self.heard = now.monotonic;
        self.has_registered = true;
        self.address = address;
        self.session.replace(session)
    }

    /// Its stream has ended; it may come back.
    pub(crate) fn disconnect(&mut self, now: Moment) {
        self.session = None;
        self.heard = now.monotonic;
    }

    /// A word of the driver.
    pub(crate) fn hear(&mut self, now: Moment) {
        self.heard = now.monotonic;
    }

    /// It said that it is done and will exit.
    pub(crate) fn finish(&mut self, now: Moment) {
        self.finished.get_or_insert(now.monotonic);
    }

    /// Why it has to be ended by force, if it has.
    pub(crate) fn overdue(&self, now: Moment, timing: &Timing) -> Option<String> {
        if let Some(finished) = self.finished {
            let late = now.since(finished) > timing.kill_grace;
            return late.then(|| {
                format!(
                    "the driver said that it is done {:?} ago and did not exit",
                    timing.kill_grace
                )
            });
        }
        let (limit, what) = if self.has_registered {
            (timing.lost_after, "was silent")
        } else {
            (REGISTER_TIMEOUT.max(timing.lost_after), "did not register")
        };
        (now.since(self.heard) > limit).then(|| format!("the driver {what} for {limit:?}"))
    }
}
