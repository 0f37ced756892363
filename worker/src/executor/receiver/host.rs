//! The parent of an executor's receivers.
//!
//! Promises: one receiver per id that the driver names; one that dies is noticed and made anew from
//! its book, so that nothing it had closed is read twice or forgotten. Lives on the thread that
//! hosts the executor's actors. Never does: look into blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor as _, Addr};
use millrace_common::position::ShardKey;
use millrace_common::retry::Backoff;
use millrace_common::{Code, Error};
use millrace_proto::v1;
use tokio::time::Instant;

use super::actor::{Acknowledged, Assign, Cut, Receiver, Reconnected, Revoke, Stop};
use super::assignment::Assignment;
use super::book::Book;
use super::shard_reader::SharedBook;
use super::shared::Shared;

/// Restarts of one receiver in a row, each within [`RESTART_WINDOW`] of the last, before the
/// executor gives up: something is wrong that a restart does not heal.
const RESTARTS_MAX: u32 = 10;
/// A receiver that lived this long counts as healthy.
const RESTART_WINDOW: Duration = Duration::from_secs(60);

struct Child {
    address: Addr<Receiver>,
    book: SharedBook,
    born: Instant,
    num_restarts: u32,
    /// Set while the next one waits for its time.
    due: Option<Instant>,
    /// Shards that were taken from it, which it could not be told yet. Nobody says that again: it
    /// would read them beside their new reader for ever. Bounded by the shards of the streams.
    to_revoke: BTreeSet<ShardKey>,
}

impl Child {
    /// Tells the receiver what the driver says again, or the receiver announces again, should it be
    /// dead or overloaded now.
    fn tell<M>(&self, message: M)
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Receiver: actix::Handler<M>,
    {
        self.hears(message);
    }

    /// Tells the receiver; false when it is dead or overloaded.
    fn hears<M>(&self, message: M) -> bool
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Receiver: actix::Handler<M>,
    {
        let told = self.address.try_send(message);
        if let Err(error) = &told {
            tracing::warn!(%error, "a receiver does not take a message");
        }
        told.is_ok()
    }

    /// Takes shards from the receiver: now, or as soon as it hears again.
    fn revoke(&mut self, shards: impl IntoIterator<Item = ShardKey>) {
        self.to_revoke.extend(shards);
        self.tell_revoked();
    }

    fn tell_revoked(&mut self) {
        if self.to_revoke.is_empty() {
            return;
        }
        if self.hears(Revoke(self.to_revoke.iter().cloned().collect())) {
            self.to_revoke.clear();
        }
    }

    /// Hands shards to the receiver. An older revocation of them is void once it has heard.
    fn assign(&mut self, assignments: Vec<Assignment>) {
        let shards: Vec<ShardKey> = assignments.iter().map(|a| a.shard.clone()).collect();
        if self.hears(Assign(assignments)) {
            self.to_revoke.retain(|shard| !shards.contains(shard));
        }
    }
}

/// The parent.
pub struct ReceiverHost {
    shared: Arc<Shared>,
    begun: Instant,
    children: BTreeMap<String, Child>,
}

impl ReceiverHost {
    /// No receivers yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, begun: Instant::now(), children: BTreeMap::new() }
    }

    /// Number of receivers.
    #[must_use]
    pub fn num_receivers(&self) -> usize {
        self.children.len()
    }

    /// Hands shards to their receivers, which are made when their id is new.
    ///
    /// # Errors
    /// When an assignment makes no sense; the others are taken all the same.
    pub fn assign(&mut self, assignments: Vec<v1::ShardAssignment>) -> Result<(), Error> {
        let mut by_receiver: BTreeMap<String, Vec<Assignment>> = BTreeMap::new();
        let mut refused = Ok(());
        for message in assignments {
            let receiver_id = message.receiver_id.clone();
            match Assignment::from_proto(message) {
                Ok(assignment) => by_receiver.entry(receiver_id).or_default().push(assignment),
                Err(error) => refused = Err(error),
            }
        }
        for (receiver_id, assignments) in by_receiver {
            let shards: BTreeSet<ShardKey> =
                assignments.iter().map(|assignment| assignment.shard.clone()).collect();
            for (id, other) in &mut self.children {
                if *id != receiver_id {
                    // A shard that moves between receivers of one executor has one reader.
                    other.revoke(shards.iter().cloned());
                }
            }
            self.child(&receiver_id).assign(assignments);
        }
        refused
    }

    /// Takes shards from whoever reads them.
    ///
    /// # Errors
    /// When a shard's key makes no sense.
    pub fn revoke(&mut self, shards: Vec<v1::ShardKey>) -> Result<(), Error> {
        let shards: Vec<ShardKey> = shards
            .into_iter()
            .map(|shard| ShardKey::from_proto(Some(shard)))
            .collect::<Result<_, _>>()?;
        for child in self.children.values_mut() {
            child.revoke(shards.iter().cloned());
        }
        Ok(())
    }

    /// Every receiver closes its open blocks.
    pub fn cut(&self, cut_id: u64) {
        for child in self.children.values() {
            child.tell(Cut(cut_id));
        }
    }

    /// The driver's answer to an announcement.
    pub fn acknowledged(&self, answer: v1::AnnouncementAcknowledged) {
        match self.children.get(&answer.receiver_id) {
            Some(child) => child.tell(Acknowledged(answer)),
            None => tracing::warn!(receiver = %answer.receiver_id, "an answer to no receiver"),
        }
    }

    /// The connection to the driver is a new one: everything unanswered is sent again.
    pub fn reconnected(&self) {
        for child in self.children.values() {
            child.tell(Reconnected);
        }
    }

    /// Makes dead receivers anew, and tells what could not be told. To be called often.
    ///
    /// # Errors
    /// When one dies again and again: the executor had better be another process.
    pub fn tend(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        for (receiver_id, child) in &mut self.children {
            if child.address.connected() {
                child.tell_revoked();
                continue;
            }
            match child.due {
                None => {
                    if now - child.born > RESTART_WINDOW {
                        child.num_restarts = 0;
                    }
                    child.num_restarts += 1;
                    if child.num_restarts > RESTARTS_MAX {
                        return Err(Error::new(
                            Code::Internal,
                            format!("receiver {receiver_id} died {RESTARTS_MAX} times in a row"),
                            "report this with the log of the executor",
                        ));
                    }
                    tracing::error!(receiver = %receiver_id, "a receiver died; a new one follows");
                    child.due = Some(now + Backoff::CALL.random_delay(child.num_restarts));
                }
                Some(due) if due <= now => {
                    child.due = None;
                    child.born = now;
                    let book = Arc::clone(&child.book);
                    child.address =
                        Receiver::new(Arc::clone(&self.shared), book, self.begun).start();
                    child.tell_revoked();
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn receiver(&self, receiver_id: &str) -> Option<Addr<Receiver>> {
        self.children.get(receiver_id).map(|child| child.address.clone())
    }

    /// The shards in a receiver's book.
    #[cfg(test)]
    pub(super) fn shards_of(&self, receiver_id: &str) -> Vec<ShardKey> {
        self.children.get(receiver_id).map_or_else(Vec::new, |c| {
            c.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner).shards()
        })
    }

    /// Ends every receiver.
    pub fn stop(&mut self) {
        for child in std::mem::take(&mut self.children).into_values() {
            child.tell(Stop);
        }
    }

    fn child(&mut self, receiver_id: &str) -> &mut Child {
        let (shared, begun) = (&self.shared, self.begun);
        self.children.entry(receiver_id.to_owned()).or_insert_with(|| {
            let book = Arc::new(Mutex::new(Book::new(receiver_id)));
            let receiver = Receiver::new(Arc::clone(shared), Arc::clone(&book), begun);
            let address = receiver.start();
            let to_revoke = BTreeSet::new();
            Child { address, book, born: Instant::now(), num_restarts: 0, due: None, to_revoke }
        })
    }
}
