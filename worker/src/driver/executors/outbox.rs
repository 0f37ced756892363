//! The way to an executor: a handle that never waits.
//!
//! Promises: commands to one executor arrive in order, or its session ends and the executor has to
//! open another, after which the driver tells it everything again. Cloning is cheap.
//! Never does: queue without bound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_common::id::ContainerId;
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;
use tokio::sync::mpsc;
use tonic::Status;

use super::core::SessionId;

/// Commands on their way to one executor. A batch costs it a few; this many unread ones mean that
/// it does not read at all.
pub const OUTBOX_CAPACITY: usize = 1024;

/// What a session's stream carries.
pub type Outgoing = Result<v1::ExecutorCommand, Status>;

/// The session of an executor, and the way into its stream.
type OpenSession = (SessionId, mpsc::Sender<Outgoing>);

/// Senders of the open sessions.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    sessions: Arc<Mutex<BTreeMap<ContainerId, OpenSession>>>,
}

impl Outbox {
    /// Commands for this executor go to this session from now on.
    pub fn open(&self, to: ContainerId, session: SessionId, sender: mpsc::Sender<Outgoing>) {
        self.lock().insert(to, (session, sender));
    }

    /// Ends this session, unless another has taken its place.
    pub fn close(&self, to: &ContainerId, session: SessionId) {
        let mut sessions = self.lock();
        if sessions.get(to).is_some_and(|(open, _)| *open == session) {
            sessions.remove(to);
        }
    }

    /// Ends whatever session the executor has.
    pub fn forget(&self, to: &ContainerId) {
        self.lock().remove(to);
    }

    /// Sends a command. False when there is no session, or it does not take any more: it is closed
    /// then.
    pub fn send(&self, to: &ContainerId, body: Body) -> bool {
        let mut sessions = self.lock();
        let Some((_, sender)) = sessions.get(to) else { return false };
        if sender.try_send(Ok(v1::ExecutorCommand { body: Some(body) })).is_ok() {
            return true;
        }
        tracing::warn!(executor = %to, "the executor does not take its commands: its session is ended");
        sessions.remove(to);
        false
    }

    /// Sends a command to every executor.
    pub fn send_all(&self, body: &Body) {
        let executors: Vec<ContainerId> = self.lock().keys().cloned().collect();
        for executor in executors {
            self.send(&executor, body.clone());
        }
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, (SessionId, mpsc::Sender<Outgoing>)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
