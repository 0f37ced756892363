//! What lies outside the cluster: a stream, a head, a bucket, and the blocks of the executors.
//!
//! It answers late, not at all, too late and twice, as the seed wants. It checks at every write what
//! must hold at any time, and keeps the history of everything that was written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::head::HeadItem;
use millrace_worker::driver::head::{CommitWrite, PublishedMark};
use millrace_worker::executor::block_store::BlockStore;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use crate::network::EPOCH_MS;

/// The one stream.
pub(crate) const STREAM: &str = "app-logs";

/// A record: its place in its shard is its sequence number, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) shard: String,
    pub(crate) number: u64,
}

/// A shard of the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shard {
    pub(crate) parents: Vec<String>,
    pub(crate) children: Vec<String>,
    pub(crate) is_closed: bool,
    /// Arrival times of its records.
    pub(crate) arrivals: Vec<i64>,
}

/// An upload, and the object it becomes.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) rows: Vec<Row>,
    pub(crate) token: String,
    pub(crate) is_complete: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Applied and answered after this long.
    Answered(Duration),
    /// Not applied; the caller hears of no answer after this long.
    Failed(Duration),
    /// Applied, and the caller hears of no answer.
    AnswerLost(Duration),
    /// Applied this long after the caller heard of no answer.
    Late(Duration, Duration),
    /// Applied, answered, and applied again this long after.
    Twice(Duration, Duration),
}

/// A write that is still under way.
#[derive(Clone, Debug)]
pub(crate) enum Late {
    Commit(CommitWrite),
    Complete(String),
    Mark(PublishedMark),
}

/// Everything, behind one lock.
pub(crate) struct State {
    rng: StdRng,
    /// Time since the beginning, by the step.
    now: Duration,
    /// Share of calls that go wrong, in percent.
    pub(crate) trouble_percent: u32,
    pub(crate) shards: BTreeMap<String, Shard>,
    pub(crate) head: Option<HeadItem>,
    pub(crate) chunks: BTreeMap<(u64, String, u32), Vec<u8>>,
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// Keys that a won commit has named.
    named: BTreeSet<String>,
    late: Vec<(Duration, Late)>,
    /// The block stores of the executors that live.
    pub(crate) stores: BTreeMap<String, BlockStore>,
    history: Vec<String>,
    broken: Vec<String>,
}

/// The world, shared by all hosts.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
}

impl World {
    pub(crate) fn new(seed: u64, num_shards: usize) -> Self {
        let shards = (0..num_shards).map(|n| (shard_id(n), Shard::default())).collect();
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            trouble_percent: 10,
            shards,
            head: None,
            chunks: BTreeMap::new(),
            uploads: BTreeMap::new(),
            named: BTreeSet::new(),
            late: Vec::new(),
            stores: BTreeMap::new(),
            history: Vec::new(),
            broken: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the world in hand")
    }

    /// What becomes of the next call.
    pub(crate) fn fate(&self) -> Fate {
        self.lock().fate()
    }

    /// A read: it has an answer after a while, or none.
    pub(crate) async fn reach(&self) -> Result<(), Error> {
        match self.fate() {
            Fate::Answered(after) | Fate::Twice(after, _) => {
                sleep(after).await;
                Ok(())
            }
            Fate::Failed(after) | Fate::AnswerLost(after) | Fate::Late(after, _) => {
                sleep(after).await;
                Err(no_answer())
            }
        }
    }

    /// Writes down what happened.
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.lock().note(what.into());
    }

    /// It is `now`: the late writes whose time has come are applied.
    pub(crate) fn at(&self, now: Duration) {
        let mut state = self.lock();
        state.now = now;
        let (due, later) = std::mem::take(&mut state.late).into_iter().partition(|l| l.0 <= now);
        state.late = later;
        for (_, write) in due {
            match write {
                Late::Commit(write) => {
                    state.commit(&write, "late");
                }
                Late::Complete(key) => {
                    state.complete(&key, "late");
                }
                Late::Mark(mark) => {
                    state.mark(&mark, "late");
                }
            }
        }
    }
}

impl State {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.now.as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) fn note(&mut self, what: String) {
        self.history.push(format!("{:>9.3} {what}", self.now.as_secs_f64()));
    }

    /// A promise is broken.
    pub(crate) fn accuse(&mut self, what: String) {
        self.note(format!("BROKEN {what}"));
        self.broken.push(what);
    }

    pub(crate) fn broken(&self) -> &[String] {
        &self.broken
    }

    pub(crate) fn history(&self) -> &[String] {
        &self.history
    }

    /// A number below `end`.
    pub(crate) fn pick(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end.max(1))
    }

    /// A time between two, in milliseconds.
    pub(crate) fn pause(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(low_ms..=high_ms))
    }

    pub(crate) fn strikes(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn fate(&mut self) -> Fate {
        let answer = self.pause(1, 60);
        if !self.strikes(self.trouble_percent) {
            return Fate::Answered(answer);
        }
        match self.pick(5) {
            0 => Fate::Answered(self.pause(100, 3_000)),
            1 => Fate::Failed(self.pause(1, 3_000)),
            2 => Fate::AnswerLost(self.pause(1, 3_000)),
            3 => Fate::Late(self.pause(1, 1_000), self.pause(10, 8_000)),
            _ => Fate::Twice(answer, self.pause(10, 8_000)),
        }
    }

    pub(crate) fn later(&mut self, after: Duration, write: Late) {
        self.late.push((self.now + after, write));
    }

    /// One conditional write: true when it was applied.
    pub(crate) fn commit(&mut self, write: &CommitWrite, how: &str) -> bool {
        let Some(item) = &self.head else { return false };
        if item.epoch != write.epoch || item.batch + 1 != write.batch {
            let (epoch, batch) = (item.epoch, item.batch);
            self.note(format!(
                "commit e{} b{} {how} refused by e{epoch} b{batch}",
                write.epoch, write.batch
            ));
            return false;
        }
        let next = write.applied_to(item);
        self.head = Some(next.clone());
        match self.pending_keys(&next) {
            Ok(keys) => {
                self.note(format!("commit e{} b{} {how} {keys:?}", write.epoch, write.batch));
                self.named.extend(keys);
            }
            Err(error) => self.accuse(format!("a head can not be read: {error}")),
        }
        true
    }

    /// Marks the head's batch as published: every file of it must be visible then.
    pub(crate) fn mark(&mut self, mark: &PublishedMark, how: &str) -> bool {
        let Some(item) = mark.applied_to(self.head.as_ref()) else { return false };
        self.note(format!("mark b{} {how}", item.batch));
        match self.pending_keys(&item) {
            Ok(keys) => {
                if let Some(key) = keys
                    .iter()
                    .find(|key| !self.uploads.get(*key).is_some_and(|upload| upload.is_complete))
                {
                    self.accuse(format!("batch {} is marked without {key}", item.batch));
                }
            }
            Err(error) => self.accuse(format!("a head can not be read: {error}")),
        }
        self.head = Some(item);
        true
    }

    fn pending_keys(&self, item: &HeadItem) -> Result<Vec<String>, String> {
        use millrace_common::head::{StoredBody, decode_body};
        let bytes = match &item.body {
            StoredBody::None => return Ok(Vec::new()),
            StoredBody::Inline(bytes) => bytes.clone(),
            StoredBody::Chunked { count, .. } => (0..*count)
                .flat_map(|index| {
                    let name = (item.batch, item.commit_id.clone(), index);
                    self.chunks.get(&name).cloned().unwrap_or_default()
                })
                .collect(),
        };
        let body = decode_body(&bytes).map_err(|error| error.to_string())?;
        Ok(body.pending.into_iter().map(|upload| upload.key).collect())
    }

    /// One Complete: false when there is no such upload (any more).
    pub(crate) fn complete(&mut self, key: &str, how: &str) -> bool {
        if !self.named.contains(key) {
            self.accuse(format!("{key} is completed before its batch is committed"));
        }
        let Some(upload) = self.uploads.get_mut(key) else { return false };
        if upload.is_complete {
            return false;
        }
        upload.is_complete = true;
        self.note(format!("complete {key} {how}"));
        true
    }

    /// Every row that readers see, with how often.
    pub(crate) fn visible(&self) -> BTreeMap<Row, usize> {
        let mut rows = BTreeMap::new();
        for upload in self.uploads.values().filter(|upload| upload.is_complete) {
            for row in &upload.rows {
                *rows.entry(row.clone()).or_default() += 1;
            }
        }
        rows
    }

    /// Every record that was ever put.
    pub(crate) fn truth(&self) -> BTreeSet<Row> {
        let rows = |(id, shard): (&String, &Shard)| {
            let shard_id = id.clone();
            let last = shard.arrivals.len() as u64;
            (1..=last)
                .map(move |number| Row { shard: shard_id.clone(), number })
                .collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(rows).collect()
    }

    /// Puts records into a random open shard.
    pub(crate) fn produce(&mut self, count: usize) {
        let open: Vec<String> = self.open_shards();
        let id = open[self.pick(open.len())].clone();
        let now = self.now_ms();
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.arrivals.extend(std::iter::repeat_n(now, count));
        }
    }

    pub(crate) fn open_shards(&self) -> Vec<String> {
        let open = self.shards.iter().filter(|(_, shard)| !shard.is_closed);
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Splits a random open shard, or merges two.
    pub(crate) fn reshard(&mut self) {
        let open = self.open_shards();
        let next = self.shards.len();
        let (parents, children) = if open.len() > 3 && self.strikes(50) {
            let at = self.pick(open.len() - 1);
            (open[at..at + 2].to_vec(), vec![shard_id(next)])
        } else {
            let at = self.pick(open.len());
            (vec![open[at].clone()], vec![shard_id(next), shard_id(next + 1)])
        };
        self.note(format!("reshard {parents:?} -> {children:?}"));
        for child in &children {
            let shard = Shard { parents: parents.clone(), ..Shard::default() };
            self.shards.insert(child.clone(), shard);
        }
        for parent in &parents {
            if let Some(shard) = self.shards.get_mut(parent) {
                shard.is_closed = true;
                shard.children.clone_from(&children);
            }
        }
    }
}

fn shard_id(number: usize) -> String {
    format!("shardId-{number:012}")
}

/// The error of a call without an answer.
pub(crate) fn no_answer() -> Error {
    Error::new(Code::AwsUnreachable, "no answer", "try again")
}
