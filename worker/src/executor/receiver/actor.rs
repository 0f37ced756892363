//! A receiver: the actor that owns the readers of its shards.
//!
//! Promises: every shard in its book is read by exactly one reader; a reader that dies is made anew
//! where its closed blocks end; a cut is answered when every reader has closed its open block.
//! Owned by [`super::host::ReceiverHost`], which makes a new one from the book if this one dies.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message,
    ResponseActFuture, WrapFuture as _,
};
use millrace_common::position::ShardKey;
use millrace_common::retry::Backoff;
use millrace_proto::v1::{self, executor_message};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError};
use tokio::time::Instant;

use super::assignment::Assignment;
use super::book::{Book, Verdict};
use super::shard_reader::{COMMANDS_MAX, ReaderCommand, ShardReader, SharedBook};
use super::shared::Shared;

/// How often news goes to the driver.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(200);
/// How long a reader may take to close its open block.
const CUT_DEADLINE: Duration = Duration::from_secs(5);

/// The receiver.
pub struct Receiver {
    shared: Arc<Shared>,
    book: SharedBook,
    begun: Instant,
    readers: BTreeMap<ShardKey, Reader>,
    num_dead_readers: u32,
}

/// A reader as its receiver sees it. Dropping it ends the reader.
struct Reader {
    commands: mpsc::Sender<ReaderCommand>,
    task: AbortHandle,
    /// Tells this reader from its successor.
    number: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// A receiver of everything in `book`. `begun` is the zero of the book's times.
    #[must_use]
    pub fn new(shared: Arc<Shared>, book: SharedBook, begun: Instant) -> Self {
        Self { shared, book, begun, readers: BTreeMap::new(), num_dead_readers: 0 }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a reader where the book says that the last one stopped.
    fn start_reader(&mut self, shard: &ShardKey, ctx: &mut Context<Self>) {
        let Some(begin) = self.book().begin(shard) else { return };
        let number = begin.1;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let reader =
            ShardReader::new(Arc::clone(&self.shared), Arc::clone(&self.book), begin, inbox);
        let task = self.shared.io.spawn(reader.run());
        let reader = Reader { commands, task: task.abort_handle(), number };
        self.readers.insert(shard.clone(), reader);
        let shard = shard.clone();
        ctx.spawn(
            task.into_actor(self)
                .map(move |end, act, ctx| act.reader_ended(&shard, number, end, ctx)),
        );
    }

    fn reader_ended(
        &mut self,
        shard: &ShardKey,
        number: u64,
        end: Result<(), JoinError>,
        ctx: &mut Context<Self>,
    ) {
        if self.readers.get(shard).is_none_or(|reader| reader.number != number) {
            return;
        }
        self.readers.remove(shard);
        let Err(error) = end else { return };
        self.num_dead_readers = self.num_dead_readers.saturating_add(1);
        let delay = Backoff::ATTEMPT.random_delay(self.num_dead_readers);
        tracing::error!(%shard, %error, ?delay, "a shard's reader died; a new one follows");
        let shard = shard.clone();
        ctx.run_later(delay, move |act, ctx| {
            if !act.readers.contains_key(&shard) {
                act.start_reader(&shard, ctx);
            }
        });
    }

    fn send(&self, announcements: Vec<v1::BlockAnnouncement>) {
        for announcement in announcements {
            self.shared.outbox.send(executor_message::Body::Announcement(announcement));
        }
    }

    fn perform(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(id) => self.shared.store.release([&id]),
            Verdict::Stop(shard) => drop(self.readers.remove(&shard)),
            Verdict::Restart { shard, reading, start } => {
                tracing::info!(%shard, ?start, "a block was refused; reading from the tail given");
                let restart = ReaderCommand::Restart { reading, start };
                let is_told = self
                    .readers
                    .get(&shard)
                    .is_some_and(|reader| reader.commands.try_send(restart).is_ok());
                if !is_told {
                    // Dead or deaf: its end is heard, and a new one starts from the book.
                    self.readers.get(&shard).inspect(|reader| reader.task.abort());
                }
            }
        }
    }
}

impl Actor for Receiver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let shards = self.book().shards();
        for shard in &shards {
            self.start_reader(shard, ctx);
        }
        ctx.run_interval(ANNOUNCE_EVERY, |act, _ctx| {
            let due = act.book().announce(act.begun.elapsed());
            act.send(due);
        });
    }
}

/// Take these shards on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Assign(pub Vec<Assignment>);

impl Handler<Assign> for Receiver {
    type Result = ();

    fn handle(&mut self, message: Assign, ctx: &mut Context<Self>) {
        for assignment in message.0 {
            let shard = assignment.shard.clone();
            let (shard_ref, rest) = (assignment.shard_ref.clone(), assignment.rest);
            let taken = self.book().assign(assignment);
            if let Some(dropped) = taken {
                self.shared.paces.rest(&shard_ref, rest);
                self.shared.store.release(&dropped);
                self.readers.remove(&shard);
                self.start_reader(&shard, ctx);
            }
        }
    }
}

/// Give these shards up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Revoke(pub Vec<ShardKey>);

impl Handler<Revoke> for Receiver {
    type Result = ();

    fn handle(&mut self, message: Revoke, _ctx: &mut Context<Self>) {
        for shard in message.0 {
            self.readers.remove(&shard);
            let dropped = self.book().revoke(&shard);
            self.shared.store.release(&dropped);
        }
    }
}

/// Close every open block and announce it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Cut(pub u64);

impl Handler<Cut> for Receiver {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, message: Cut, _ctx: &mut Context<Self>) -> Self::Result {
        let cuts: Vec<_> = self
            .readers
            .values()
            .filter_map(|reader| {
                let (done, heard) = oneshot::channel();
                reader.commands.try_send(ReaderCommand::Cut(done)).ok().map(|()| heard)
            })
            .collect();
        let closed = tokio::time::timeout(CUT_DEADLINE, futures::future::join_all(cuts));
        Box::pin(closed.into_actor(self).map(move |closed, act, _ctx| {
            if closed.is_err() {
                tracing::warn!("a reader did not close its block in {CUT_DEADLINE:?}");
            }
            let due = act.book().cut(message.0, act.begun.elapsed());
            act.send(due);
        }))
    }
}

/// The driver answered an announcement.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Acknowledged(pub v1::AnnouncementAcknowledged);

impl Handler<Acknowledged> for Receiver {
    type Result = ();

    fn handle(&mut self, message: Acknowledged, _ctx: &mut Context<Self>) {
        let answer = message.0;
        let verdicts = self.book().acknowledged(answer.sequence, answer.refused);
        match verdicts {
            Ok(verdicts) => verdicts.into_iter().for_each(|verdict| self.perform(verdict)),
            Err(error) => tracing::error!(%error, "the driver's answer makes no sense"),
        }
    }
}

/// The connection to the driver is a new one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reconnected;

impl Handler<Reconnected> for Receiver {
    type Result = ();

    fn handle(&mut self, _message: Reconnected, _ctx: &mut Context<Self>) {
        self.book().reconnected();
    }
}

/// End.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Receiver {
    type Result = ();

    fn handle(&mut self, _message: Stop, ctx: &mut Context<Self>) {
        self.readers.clear();
        ctx.stop();
    }
}

/// Dies of a defect, for tests of its parent.
#[cfg(test)]
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Panic;

#[cfg(test)]
impl Handler<Panic> for Receiver {
    type Result = ();

    fn handle(&mut self, _message: Panic, _ctx: &mut Context<Self>) {
        panic!("on purpose");
    }
}
