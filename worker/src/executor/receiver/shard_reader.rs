//! The reader of one shard: performs what the shard's core decides, and fills blocks.
//!
//! Promises: it calls Kinesis only when the shard's pace and the store's budget allow it; it obeys
//! a cut, a restart and a stop at any moment, while a call or a wait for room is under way too; a
//! block is in the store before the book hears of it. Owned by its receiver. Never does: decide.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::position::{Position, SequenceNumber};
use millrace_common::random;
use millrace_common::{Code, Error};
use millrace_proto::v1::{self, executor_message, shard_trouble};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::assignment::Assignment;
use super::block_builder::{BlockBuilder, BlockContext, Built, prepare};
use super::book::Book;
use super::core::{Brought, End, Lost, Run, ShardCore, Start, Step};
use super::kinesis::{ANSWER_BYTES_MAX, CallFailure, FailureKind, IteratorAt};
use super::pace::Share;
use super::shared::Shared;
use crate::executor::block_store::core::Purpose;
use crate::executor::block_store::{Keep, OpenBytes, Reservation};

/// Room for one answer, reserved before the call.
const ANSWER_ROOM: u64 = ANSWER_BYTES_MAX + (2 << 20);
/// A reservation that took longer than this has to ask for its turn again.
const STALE_TURN: Duration = Duration::from_millis(20);
/// How long an answer waits for the room its aggregates need. It holds room itself, so that two that
/// wait for each other would wait for ever: one gives up and is read again.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// Trouble that passes is told after this long, and all trouble again and again.
const TELL_TROUBLE_EVERY: Duration = Duration::from_secs(5);
/// How long a block is open at most. While a commit waits there are no cuts: a shard with few
/// records would look silent to the driver, which assigns it elsewhere after 30 s.
pub const BLOCK_OPEN_MAX: Duration = Duration::from_secs(10);
/// Commands to a reader that may wait; a receiver sends few and waits for the answers of cuts.
pub const COMMANDS_MAX: usize = 16;

/// The book of a receiver, shared by its readers.
pub type SharedBook = Arc<Mutex<Book>>;

/// What a receiver tells a reader.
#[derive(Debug)]
pub enum ReaderCommand {
    /// Close the open block, then answer.
    Cut(oneshot::Sender<()>),
    /// Give up what is open and read from here on.
    Restart {
        /// The reading that is valid from now on.
        reading: u64,
        /// Where it starts.
        start: Start,
    },
    /// End.
    Stop,
}

/// How a wait ended.
enum Heard<T> {
    Done(T),
    Restarted,
    Stopped,
}

/// The reader.
pub struct ShardReader {
    shared: Arc<Shared>,
    book: SharedBook,
    pace: Share,
    assignment: Assignment,
    reading: u64,
    /// Where this reading began.
    start: Start,
    commands: mpsc::Receiver<ReaderCommand>,
    begun: Instant,
    core: ShardCore,
    builder: BlockBuilder,
    /// Room of the open block, and of an answer that is being added to it.
    room: Option<Reservation>,
    open_bytes: OpenBytes,
    /// When the open block got its first record.
    open_since: Option<Duration>,
    /// The last record that was added to a block, or what the reading started after.
    added: Option<SequenceNumber>,
    keep: Keep,
    failing_since: Option<Duration>,
    told_trouble: Option<Duration>,
}

impl ShardReader {
    /// A reader that begins at `start`.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        book: SharedBook,
        (assignment, reading, start): (Assignment, u64, Start),
        commands: mpsc::Receiver<ReaderCommand>,
    ) -> Self {
        let rules = shared.rules(&assignment.shard.source);
        let context = BlockContext {
            source: assignment.shard.source.as_str().into(),
            shard: assignment.shard.shard_id.as_str().into(),
            range: assignment.range,
            drops_out_of_range: BlockContext::drops(rules.out_of_range, assignment.keyed),
        };
        let limits = shared.limits.shared_by(assignment.num_readers);
        let core = ShardCore::new(start, assignment.retention_ms, limits)
            .passing_over(assignment.gap_after)
            .until(assignment.until_ms);
        Self {
            pace: shared.paces.share(&assignment.shard_ref, assignment.num_readers),
            book,
            reading,
            start,
            commands,
            begun: Instant::now(),
            added: core.tail(),
            core,
            builder: BlockBuilder::new(context),
            room: None,
            open_bytes: shared.store.open_bytes(),
            open_since: None,
            keep: Keep { may_spill: rules.may_spill, is_evictable: true },
            failing_since: None,
            told_trouble: None,
            assignment,
            shared,
        }
    }

    /// Reads until it is told to stop.
    pub async fn run(mut self) {
        loop {
            let heard = match self.core.step(self.begun.elapsed()) {
                Step::Iterator(at) => self.make_iterator(at).await,
                Step::Records { iterator, limit } => self.read(iterator, limit).await,
                Step::WaitUntil(time) => {
                    let until = self.begun + time;
                    self.listen(tokio::time::sleep_until(until)).await
                }
                Step::Rest => self.rest().await,
            };
            if matches!(heard, Heard::Stopped) {
                return;
            }
        }
    }

    async fn make_iterator(&mut self, at: IteratorAt) -> Heard<()> {
        let (shared, pace) = (Arc::clone(&self.shared), self.pace.clone());
        let shard = self.assignment.shard_ref.clone();
        let call = async move {
            pace.iterator().await;
            shared.kinesis.get_shard_iterator(&shard, at).await
        };
        match self.listen(call).await {
            Heard::Done(Ok(iterator)) => {
                self.core.iterator(self.begun.elapsed(), iterator);
                Heard::Done(())
            }
            Heard::Done(Err(failure)) => self.failed(&failure),
            Heard::Restarted => Heard::Restarted,
            Heard::Stopped => Heard::Stopped,
        }
    }

    async fn read(&mut self, iterator: String, limit: u32) -> Heard<()> {
        let (shared, pace) = (Arc::clone(&self.shared), self.pace.clone());
        let shard = self.assignment.shard_ref.clone();
        let call = async move {
            pace.read().await;
            let turn = Instant::now();
            let room = match shared.store.reserve(ANSWER_ROOM, Purpose::Receive).await {
                Ok(room) => room,
                Err(error) => {
                    return Err(CallFailure { kind: FailureKind::Unavailable, error });
                }
            };
            if turn.elapsed() > STALE_TURN {
                pace.read().await;
            }
            let answer = shared.kinesis.get_records(&shard, &iterator, limit).await?;
            Ok((answer, room))
        };
        match self.listen(call).await {
            Heard::Done(Ok((answer, room))) => {
                self.failing_since = None;
                let brought = self.core.answer(self.begun.elapsed(), answer);
                self.absorb(brought, room).await
            }
            Heard::Done(Err(failure)) => self.failed(&failure),
            Heard::Restarted => Heard::Restarted,
            Heard::Stopped => Heard::Stopped,
        }
    }

    /// Nothing to read any more: a loss or a missing shard is told until somebody acts on it. What
    /// was read before it is announced all the same.
    async fn rest(&mut self) -> Heard<()> {
        self.close_open_block();
        let told = match (self.core.lost(), self.core.is_missing()) {
            (Some(lost), _) => {
                self.tell_lost(lost);
                true
            }
            (None, true) => {
                let read = Lost { after_seq: self.core.tail(), before_seq: None };
                let error = missing(&self.assignment);
                self.tell(shard_trouble::Kind::StreamGone, &error, Some(read));
                true
            }
            (None, false) => false,
        };
        if told {
            self.listen(tokio::time::sleep(TELL_TROUBLE_EVERY)).await
        } else {
            self.listen(std::future::pending()).await
        }
    }

    /// Waits for `work` and obeys commands meanwhile.
    async fn listen<T>(&mut self, work: impl Future<Output = T>) -> Heard<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let command = tokio::select! {
                biased;
                command = self.commands.recv() => command,
                done = &mut work => return Heard::Done(done),
            };
            match command {
                Some(ReaderCommand::Cut(done)) => {
                    self.close_open_block();
                    // Whoever asked may have given up waiting.
                    let _heard = done.send(());
                }
                Some(ReaderCommand::Restart { reading, start }) => {
                    self.restart(reading, start);
                    return Heard::Restarted;
                }
                Some(ReaderCommand::Stop) | None => return Heard::Stopped,
            }
        }
    }

    fn core_from(&self, start: Start) -> ShardCore {
        let limits = self.shared.limits.shared_by(self.assignment.num_readers);
        ShardCore::new(start, self.assignment.retention_ms, limits)
            .passing_over(self.assignment.gap_after)
            .until(self.assignment.until_ms)
    }

    fn restart(&mut self, reading: u64, start: Start) {
        self.builder.discard();
        self.settle();
        (self.reading, self.start) = (reading, start);
        self.core = self.core_from(start);
        self.added = self.core.tail();
    }

    /// Puts what an answer brought where it belongs. `room` is what was reserved for it.
    async fn absorb(&mut self, brought: Brought, room: Reservation) -> Heard<()> {
        let Brought { run, empty, end, lost: _, millis_behind_latest } = brought;
        match &mut self.room {
            Some(open) => open.merge(room),
            none => *none = Some(room),
        }
        if let Some(run) = run {
            match self.add(run).await {
                Heard::Done(()) => {}
                other => return other,
            }
        }
        self.settle();
        if let Some(end) = end {
            self.close(Some(end));
        } else if empty.is_some_and(|empty| empty.nothing_before_ms > 0) {
            // The end of the range: nothing comes into this block any more.
            self.close_open_block();
        } else if self.open_since.is_some_and(|at| self.begun.elapsed() - at >= BLOCK_OPEN_MAX) {
            self.close(None);
        }
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        match (empty, millis_behind_latest) {
            (Some(empty), _) => book.empty(self.reading, &self.assignment.shard, empty),
            (None, Some(behind)) => book.lag(self.reading, &self.assignment.shard, behind),
            (None, None) => {}
        }
        Heard::Done(())
    }

    async fn add(&mut self, run: Run) -> Heard<()> {
        for record in &run.records {
            let prepared = prepare(self.builder.context(), record);
            let needed = (self.builder.size() + prepared.num_bytes()) as u64;
            // More than the answer's own size only where an aggregate is taken apart.
            while self.room.as_ref().map_or(0, Reservation::bytes) < needed {
                let missing = needed - self.room.as_ref().map_or(0, Reservation::bytes);
                let store = self.shared.store.clone();
                let more = store.reserve(missing, Purpose::Receive);
                match self.listen(tokio::time::timeout(ROOM_PATIENCE, more)).await {
                    Heard::Done(Ok(Ok(more))) => match &mut self.room {
                        Some(open) => open.merge(more),
                        none => *none = Some(more),
                    },
                    Heard::Done(Ok(Err(_)) | Err(_)) => {
                        tracing::info!(shard = %self.assignment.shard, missing, "no room yet");
                        self.reread_from_added();
                        return Heard::Restarted;
                    }
                    Heard::Restarted => return Heard::Restarted,
                    Heard::Stopped => return Heard::Stopped,
                }
            }
            self.builder.push(self.added, &prepared);
            self.added = Some(record.sequence_number);
            if self.builder.is_full() {
                self.close(None);
            }
        }
        Heard::Done(())
    }

    /// Reads again from the last record that is in a block.
    fn reread_from_added(&mut self) {
        let start = match self.added {
            Some(_) => {
                Start::Position(Position { sequence_number: self.added, ..Position::default() })
            }
            None => self.start,
        };
        self.core = self.core_from(start);
        self.settle();
    }

    /// Keeps room for the open block and no more.
    fn settle(&mut self) {
        let in_use = self.builder.size() as u64;
        self.open_bytes.set(in_use);
        if let Some(open) = &mut self.room {
            open.shrink_to(in_use);
        }
        if self.builder.is_empty() {
            (self.room, self.open_since) = (None, None);
        } else {
            self.open_since.get_or_insert(self.begun.elapsed());
        }
    }

    fn close_open_block(&mut self) {
        if !self.builder.is_empty() {
            self.close(None);
        }
    }

    /// Closes the open block, puts it into the store and into the book.
    fn close(&mut self, end: Option<End>) {
        let size = self.builder.size() as u64;
        let id = self.shared.names.next();
        let built = self.builder.close(id.clone(), self.added);
        let descriptor = describe(&self.assignment, &built, end);
        if let Some(room) = &mut self.room {
            let room = room.split(size);
            self.shared.store.insert(built.block, room, self.keep);
        } else {
            self.shared.store.insert_empty(built.block, self.keep);
        }
        self.open_bytes.set(0);
        self.open_since = None;
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let is_valid = book.closed(self.reading, &self.assignment.shard, descriptor);
        drop(book);
        if !is_valid {
            self.shared.store.release([&id]);
        }
    }

    fn failed(&mut self, failure: &CallFailure) -> Heard<()> {
        let now = self.begun.elapsed();
        self.core.failed(now, failure.kind, random::unit());
        tracing::debug!(shard = %self.assignment.shard, error = %failure.error, "call failed");
        let since = *self.failing_since.get_or_insert(now);
        let kind = match failure.kind {
            FailureKind::ExpiredIterator | FailureKind::InvalidPosition | FailureKind::Missing => {
                return Heard::Done(());
            }
            FailureKind::Forbidden => shard_trouble::Kind::Forbidden,
            FailureKind::Throttled | FailureKind::Unavailable
                if now.saturating_sub(since) < TELL_TROUBLE_EVERY =>
            {
                return Heard::Done(());
            }
            FailureKind::Throttled | FailureKind::Unavailable => shard_trouble::Kind::Delayed,
        };
        if self.told_trouble.is_none_or(|at| now.saturating_sub(at) >= TELL_TROUBLE_EVERY) {
            self.told_trouble = Some(now);
            tracing::warn!(shard = %self.assignment.shard, error = %failure.error, "delayed");
            self.tell_trouble(kind, &failure.error);
        }
        Heard::Done(())
    }

    fn tell_trouble(&self, kind: shard_trouble::Kind, error: &Error) {
        self.tell(kind, error, None);
    }

    fn tell_lost(&self, lost: Lost) {
        let text = |number: Option<SequenceNumber>| {
            number.map_or_else(|| "the shard's end".to_owned(), |number| number.to_string())
        };
        let error = Error::new(
            Code::DataLost,
            format!(
                "records of {} after {} and before {} can not be read any more",
                self.assignment.shard_ref,
                text(lost.after_seq),
                text(lost.before_seq)
            ),
            "lengthen the stream's retention; go on with `on_data_loss = \"continue\"`, or reset",
        );
        self.tell(shard_trouble::Kind::DataLost, &error, Some(lost));
    }

    fn tell(&self, kind: shard_trouble::Kind, error: &Error, lost: Option<Lost>) {
        let text = |number: Option<SequenceNumber>| {
            number.map(|number| number.to_string()).unwrap_or_default()
        };
        self.shared.outbox.send(executor_message::Body::Trouble(v1::ShardTrouble {
            shard: Some(self.assignment.shard.to_proto()),
            generation: self.assignment.generation,
            kind: kind.into(),
            failure: Some(error.to_failure()),
            lost_after_seq: text(lost.and_then(|lost| lost.after_seq)),
            lost_before_seq: text(lost.and_then(|lost| lost.before_seq)),
        }));
    }
}

fn missing(assignment: &Assignment) -> Error {
    Error::new(
        Code::StreamMissing,
        format!("Kinesis does not find {}", assignment.shard_ref),
        "see whether the stream still exists; the driver asks for its shards meanwhile",
    )
}

fn describe(assignment: &Assignment, built: &Built, end: Option<End>) -> v1::BlockDescriptor {
    let block = &built.block;
    let text = |bytes: [u8; 24]| SequenceNumber::from_bytes(bytes).to_string();
    let has_records = block.raw_records > 0;
    let ends_shard = end.is_some();
    let children = end.map(|end| end.children).unwrap_or_default();
    v1::BlockDescriptor {
        block_id: block.id.to_string(),
        shard: Some(assignment.shard.to_proto()),
        generation: assignment.generation,
        after_seq: block.after_seq.map(text).unwrap_or_default(),
        first_seq: if has_records { text(block.first_seq) } else { String::new() },
        last_seq: if has_records { text(block.last_seq) } else { String::new() },
        num_records: block.num_records() as u64,
        num_raw_records: block.raw_records,
        num_bytes: built.num_bytes,
        crc32c: block.crc32c,
        first_arrival_ms: built.first_arrival_ms,
        last_arrival_ms: built.last_arrival_ms,
        ends_shard,
        children: children
            .into_iter()
            .map(|child| v1::ChildShard { shard_id: child.shard_id, parents: child.parents })
            .collect(),
        num_out_of_range: built.num_out_of_range,
        // The book knows which.
        chain: 0,
    }
}
