//! Writes records behind the control actor's back, in order, for as long as it takes.
//!
//! A later record of the same key replaces one that still waits, so that the queue never holds more
//! than there are applications and nodes, however long DynamoDB is away. A refused write means that
//! another master leads: the writer says so and ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use millrace_common::retry::Backoff;
use tokio::sync::{Notify, watch};

use super::{Record, Store, StoreError, Tenure};

/// What the writer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterEvent {
    /// Everything up to this ticket is in the store.
    Written(u64),
    /// Another master leads; nothing more will be written.
    Fenced,
}

#[derive(Debug, Default)]
struct Queue {
    /// Waiting records by key; each with the first ticket it stands for, and the last.
    waiting: BTreeMap<String, (u64, u64, Record)>,
    in_flight: Option<u64>,
    highest: u64,
}

impl Queue {
    fn push(&mut self, ticket: u64, record: Record) {
        self.highest = self.highest.max(ticket);
        let entry = self.waiting.entry(record.key()).or_insert((ticket, ticket, record.clone()));
        entry.1 = ticket;
        entry.2 = record;
    }

    /// The record that has waited longest.
    fn next(&mut self) -> Option<(u64, Record)> {
        let key = self.waiting.iter().min_by_key(|(_, (first, ..))| *first)?.0.clone();
        let (first, _, record) = self.waiting.remove(&key)?;
        self.in_flight = Some(first);
        Some((first, record))
    }

    /// The ticket up to which nothing waits and nothing is on its way.
    fn written(&self) -> u64 {
        let waiting = self.waiting.values().map(|(first, ..)| *first).min();
        let open = waiting.into_iter().chain(self.in_flight).min();
        open.map_or(self.highest, |first| first - 1)
    }
}

/// Handle of the writer; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
    events: watch::Receiver<WriterEvent>,
}

impl Writer {
    /// A writer for one term, and the work that its owner has to drive.
    ///
    /// It writes only while `tenure` lasts.
    pub fn new(
        store: Arc<dyn Store>,
        term: u64,
        tenure: Tenure,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let wake = Arc::new(Notify::new());
        let (tell, events) = watch::channel(WriterEvent::Written(0));
        let scribe = Scribe { store, term, tenure };
        let work = run(scribe, Arc::clone(&queue), Arc::clone(&wake), tell);
        (Self { queue, wake, events }, work)
    }

    /// Adds a record; tickets are given in rising order.
    pub fn push(&self, ticket: u64, record: Record) {
        lock(&self.queue).push(ticket, record);
        self.wake.notify_one();
    }

    /// The highest ticket that was added.
    #[must_use]
    pub fn highest(&self) -> u64 {
        lock(&self.queue).highest
    }

    /// What has been written, as it changes.
    #[must_use]
    pub fn events(&self) -> watch::Receiver<WriterEvent> {
        self.events.clone()
    }
}

fn lock(queue: &Mutex<Queue>) -> std::sync::MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Who writes, for which term, and for how long.
struct Scribe {
    store: Arc<dyn Store>,
    term: u64,
    tenure: Tenure,
}

async fn run(
    scribe: Scribe,
    queue: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
    tell: watch::Sender<WriterEvent>,
) {
    loop {
        let next = lock(&queue).next();
        let Some((ticket, record)) = next else {
            tokio::select! {
                () = wake.notified() => continue,
                () = tell.closed() => return,
            }
        };
        if !scribe.write(&record, &tell).await {
            tell.send_replace(WriterEvent::Fenced);
            return;
        }
        let written = {
            let mut queue = lock(&queue);
            debug_assert_eq!(queue.in_flight, Some(ticket));
            queue.in_flight = None;
            queue.written()
        };
        tell.send_replace(WriterEvent::Written(written));
    }
}

impl Scribe {
    /// Writes one record, however often it takes; false when this master does not lead any more or
    /// nobody listens.
    async fn write(&self, record: &Record, tell: &watch::Sender<WriterEvent>) -> bool {
        let mut failures = 0;
        loop {
            if !self.tenure.is_valid() {
                let (key, term) = (record.key(), self.term);
                tracing::warn!(key, term, "leadership was not renewed: nothing more is written");
                return false;
            }
            match self.store.put(self.term, record).await {
                Ok(()) => return true,
                Err(StoreError::Refused | StoreError::Deposed) => {
                    let (key, term) = (record.key(), self.term);
                    tracing::warn!(key, term, "a write is refused: a later master leads");
                    return false;
                }
                Err(StoreError::Passing(error) | StoreError::Lasting(error)) => {
                    failures += 1;
                    let delay = Backoff::CALL.random_delay(failures);
                    let key = record.key();
                    tracing::warn!(key, %error, ?delay, "the store does not take a record");
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = tell.closed() => return false,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Record {
        Record::Node(name.into())
    }

    #[test]
    fn a_ticket_is_written_only_when_nothing_before_it_is_open() {
        let mut queue = Queue::default();
        queue.push(1, node("a"));
        queue.push(2, node("b"));
        queue.push(3, node("a"));
        assert_eq!(queue.written(), 0);
        let (first, record) = queue.next().unwrap();
        assert_eq!((first, record), (1, node("a")));
        assert_eq!(queue.written(), 0);
        queue.in_flight = None;
        assert_eq!(queue.written(), 1);
        // "a" again while "b" is on its way: 3 stays open until then.
        let (first, _) = queue.next().unwrap();
        assert_eq!(first, 2);
        queue.push(4, node("a"));
        queue.in_flight = None;
        assert_eq!(queue.written(), 3);
    }
}
