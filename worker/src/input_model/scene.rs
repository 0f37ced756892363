//! Executors with the real books, the driver's real core, and the wires between them.
//!
//! Promises: what receivers' actors and the executor's process do with a command is done here in the
//! same order; the stream's records are numbers, so that each can be followed.
//! Never does: judge (see the model's properties).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use millrace_common::id::{BlockId, ContainerId};
use millrace_common::position::{HashKeyRange, Position, SequenceNumber, ShardKey};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;

use super::{Broken, Config};
use crate::driver::receivers::assignment::Layout;
use crate::driver::receivers::core::{Core, Effect, Home, Planned, SourceSetup, Stream};
use crate::driver::receivers::lineage::{ListedShard, Start as Begin};
use crate::executor::receiver::assignment::Assignment;
use crate::executor::receiver::book::{Book, Verdict};
use crate::executor::receiver::core::{EmptyAnswer, Start};

/// Time stands still: what it does is an action.
pub(super) const NOW: Duration = Duration::ZERO;
const SOURCE: &str = "logs";
/// Server time of the listings: after all arrivals.
const LISTED_MS: i64 = 1_000;

/// A shard of the stream, closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard {
    pub(super) id: &'static str,
    pub(super) parents: &'static [&'static str],
    /// Sequence numbers of its records.
    pub(super) records: &'static [u64],
    /// False when it came to be after the driver's first listing.
    pub(super) is_listed_at_once: bool,
}

impl Shard {
    pub(super) fn key(&self) -> ShardKey {
        stream().shard(SOURCE, self.id)
    }
}

pub(super) fn stream() -> Stream {
    Stream { arn: "arn".into(), name: "s".into(), created_ms: 1, keyed: true }
}

fn setup() -> SourceSetup {
    SourceSetup {
        name: SOURCE.into(),
        stream: stream(),
        start: Begin::Earliest,
        retention: Duration::from_secs(86_400),
        layout: Layout::PerExecutor,
        survives_loss: false,
        copies: false,
    }
}

fn core(config: &Config, positions: &BTreeMap<ShardKey, Position>) -> Core {
    let until_ms = config.until.map(|until| i64::try_from(until).unwrap());
    Core::until(until_ms, vec![setup()], positions, NOW)
}

fn home() -> Home {
    Home { budget_bytes: 1 << 30, ..Home::default() }
}

/// Told apart by how it is shown: the cores have no other way to be compared.
pub(super) struct Shown<'a, T>(pub(super) &'a T);

impl<T: fmt::Debug> Hash for Shown<'_, T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(format!("{:?}", self.0).as_bytes());
    }
}

/// The reader of one shard.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    reading: u64,
    generation: u64,
    /// The last record read; 0 before the first.
    after: u64,
    pub(super) has_ended: bool,
    /// The next record is behind the range that is asked for.
    pub(super) is_past_range: bool,
}

/// What a block holds: `(after, last]` of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) shard: ShardKey,
    pub(super) after: u64,
    pub(super) last: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Executor {
    pub(super) id: ContainerId,
    pub(super) is_alive: bool,
    /// The driver has heard that it is dead.
    pub(super) is_noticed: bool,
    pub(super) book: Book,
    pub(super) readers: BTreeMap<ShardKey, Reader>,
    pub(super) store: BTreeMap<String, Content>,
    num_blocks: u32,
    /// Commands on their way, in order.
    pub(super) commands: VecDeque<Body>,
}

/// What is on its way to the driver, in any order.
#[derive(Clone, Debug)]
pub(super) enum News {
    Announcement(usize, v1::BlockAnnouncement),
    Reread(usize, v1::RereadDone),
}

impl News {
    pub(super) fn from(&self) -> usize {
        match self {
            Self::Announcement(from, _) | Self::Reread(from, _) => *from,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) core: Core,
    pub(super) executors: Vec<Executor>,
    pub(super) news: Vec<News>,
    pub(super) wants_listing: bool,
    num_listings: u8,
    /// The batch that is planned and not committed.
    pub(super) planned: Option<Planned>,
    /// The head.
    pub(super) batch: u64,
    positions: BTreeMap<ShardKey, Position>,
    pub(super) faults_left: u8,
    pub(super) deaths_left: u8,
    pub(super) restarts_left: u8,
    /// Ghost: the committed records.
    pub(super) committed: BTreeSet<u64>,
    /// Ghost: the batch that ended each shard.
    ended: BTreeMap<ShardKey, u64>,
    /// Ghost: what must not happen and did.
    pub(super) flaw: Option<String>,
}

fn number(of: Option<SequenceNumber>) -> u64 {
    of.map_or(0, |number| u64::from(number.as_bytes()[23]))
}

fn text(number: u64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

/// What the driver is told of a shard's parents.
fn parents(config: &Config, shard: &Shard) -> Vec<String> {
    if config.broken == Some(Broken::ForgetsParents) {
        return Vec::new();
    }
    shard.parents.iter().map(|parent| (*parent).to_owned()).collect()
}

fn begin_of(start: Start) -> (u64, bool) {
    match start {
        Start::Position(position) => (number(position.sequence_number), position.ended),
        Start::TrimHorizon | Start::Timestamp(_) => (0, false),
    }
}

impl Executor {
    fn new(nth: usize) -> Self {
        let id = ContainerId::new(format!("e{nth}"));
        Self {
            book: Book::new(format!("{SOURCE}/{id}")),
            id,
            is_alive: true,
            is_noticed: false,
            readers: BTreeMap::new(),
            store: BTreeMap::new(),
            num_blocks: 0,
            commands: VecDeque::new(),
        }
    }

    fn start_reader(&mut self, shard: &ShardKey) {
        let Some((assignment, reading, start)) = self.book.begin(shard) else { return };
        let (after, has_ended) = begin_of(start);
        let generation = assignment.generation;
        let reader = Reader { reading, generation, after, has_ended, is_past_range: false };
        self.readers.insert(shard.clone(), reader);
    }

    fn drop_blocks<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>) {
        for id in ids {
            self.store.remove(id);
        }
    }

    fn perform(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(id) => drop(self.store.remove(id.as_str())),
            Verdict::Stop(shard) => drop(self.readers.remove(&shard)),
            Verdict::Restart { shard, reading, start } => {
                let (after, has_ended) = begin_of(start);
                if let Some(reader) = self.readers.get_mut(&shard) {
                    (reader.reading, reader.after, reader.has_ended) = (reading, after, has_ended);
                    reader.is_past_range = false;
                }
            }
        }
    }

    /// Takes the next command. What it says to the driver at once.
    pub(super) fn obey(&mut self, broken: Option<Broken>) -> Option<v1::RereadDone> {
        match self.commands.pop_front()? {
            Body::Assign(assign) => {
                for message in assign.assignments {
                    let assignment = Assignment::from_proto(message).unwrap();
                    let shard = assignment.shard.clone();
                    if let Some(dropped) = self.book.assign(assignment) {
                        self.drop_blocks(dropped.iter().map(|id| id.as_str()));
                        self.start_reader(&shard);
                    }
                }
            }
            Body::Revoke(revoke) => {
                for shard in revoke.shards {
                    let shard = ShardKey::from_proto(Some(shard)).unwrap();
                    self.readers.remove(&shard);
                    let dropped = self.book.revoke(&shard);
                    self.drop_blocks(dropped.iter().map(|id| id.as_str()));
                    if broken == Some(Broken::DropsAnnounced) {
                        self.store.retain(|_, content| content.shard != shard);
                    }
                }
            }
            Body::Release(release) => {
                self.drop_blocks(release.block_ids.iter().map(String::as_str))
            }
            Body::Acknowledged(answer) => {
                let refused = match broken {
                    Some(Broken::IgnoresRefusals) => Vec::new(),
                    _ => answer.refused,
                };
                let verdicts = self.book.acknowledged(answer.sequence, refused).unwrap();
                verdicts.into_iter().for_each(|verdict| self.perform(verdict));
            }
            Body::Reread(command) => {
                let block = command.block.unwrap();
                let number = |text: &str| text.parse().unwrap_or(0);
                let content = Content {
                    shard: ShardKey::from_proto(block.shard).unwrap(),
                    after: number(&block.after_seq),
                    last: number(&block.last_seq),
                };
                self.store.insert(block.block_id.clone(), content);
                return Some(v1::RereadDone { block_id: block.block_id, failure: None });
            }
            other => panic!("not a command of the receivers' core: {other:?}"),
        }
        None
    }

    /// Reads on and closes a block of so many records at most; at the end of its range it says so.
    pub(super) fn read(
        &mut self,
        shard: &Shard,
        num_records: usize,
        until: Option<u64>,
        children: Vec<v1::ChildShard>,
    ) -> Vec<v1::BlockAnnouncement> {
        let key = shard.key();
        let Some(reader) = self.readers.get_mut(&key) else { return Vec::new() };
        let after = reader.after;
        let all = shard.records.iter().copied().filter(|seq| *seq > after);
        let until_ms = until.unwrap_or(u64::MAX);
        let rest: Vec<u64> = all.clone().take_while(|seq| *seq < until_ms).collect();
        let is_cut = all.count() > rest.len();
        if rest.is_empty() && is_cut {
            (reader.has_ended, reader.is_past_range) = (true, true);
            let empty = EmptyAnswer {
                after_seq: text(after).parse().ok(),
                server_ms: 0,
                millis_behind_latest: 1,
                nothing_before_ms: i64::try_from(until_ms).unwrap(),
            };
            let reading = reader.reading;
            self.book.empty(reading, &key, empty);
            return self.book.cut(0, NOW);
        }
        let read = &rest[..num_records.min(rest.len())];
        let ends = read.len() == rest.len() && !is_cut;
        let last = read.last().copied().unwrap_or(after);
        reader.after = last;
        reader.has_ended = ends;
        self.num_blocks += 1;
        let block = v1::BlockDescriptor {
            block_id: format!("{}/{}", self.id, self.num_blocks),
            shard: Some(key.to_proto()),
            generation: reader.generation,
            after_seq: text(after),
            first_seq: read.first().copied().map_or_else(String::new, text),
            last_seq: text(last),
            num_records: read.len() as u64,
            num_raw_records: read.len() as u64,
            ends_shard: ends,
            children: if ends { children } else { Vec::new() },
            ..v1::BlockDescriptor::default()
        };
        let (id, reading) = (block.block_id.clone(), reader.reading);
        if self.book.closed(reading, &key, block) {
            self.store.insert(id, Content { shard: key, after, last });
        }
        Vec::new()
    }

    /// The blocks in the store, as a registration names them.
    fn held_blocks(&self, broken: Option<Broken>) -> BTreeSet<BlockId> {
        let is_left_out = |id: &&String| {
            broken == Some(Broken::HidesUnanswered)
                && self.book.open_blocks().any(|open| open == id.as_str())
        };
        let held = self.store.keys().filter(|id| !is_left_out(id));
        held.map(|id| BlockId::new(id.as_str())).collect()
    }
}

impl Scene {
    pub(super) fn new(config: &Config) -> Self {
        let mut scene = Self {
            core: core(config, &BTreeMap::new()),
            executors: Vec::new(),
            news: Vec::new(),
            wants_listing: true,
            num_listings: 0,
            planned: None,
            batch: 0,
            positions: BTreeMap::new(),
            faults_left: config.faults,
            deaths_left: config.deaths,
            restarts_left: config.restarts,
            committed: BTreeSet::new(),
            ended: BTreeMap::new(),
            flaw: None,
        };
        (0..config.num_executors).for_each(|_| scene.join());
        scene
    }

    /// The stores are taken apart by what they hold, the rest as it is shown.
    pub(super) fn hash_into<H: Hasher>(&self, state: &mut H) {
        Shown(self).hash(state);
    }

    /// An executor starts and registers.
    pub(super) fn join(&mut self) {
        let executor = Executor::new(self.executors.len());
        let id = executor.id.clone();
        self.executors.push(executor);
        let effects = self.core.joined(id, home(), &BTreeSet::new(), NOW);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, body) => {
                    let to = self.executors.iter_mut().find(|executor| executor.id == to);
                    if let Some(to) = to.filter(|executor| executor.is_alive) {
                        to.commands.push_back(body);
                    }
                }
                Effect::Discover(_) => self.wants_listing = true,
                Effect::Fail(error) | Effect::Gap(error) => {
                    self.flaw.get_or_insert(error.to_string());
                }
            }
        }
    }

    pub(super) fn list(&mut self, config: &Config) {
        let is_first = self.num_listings == 0;
        self.num_listings = 1;
        self.wants_listing = false;
        let listed = config.shards.iter().filter(|shard| shard.is_listed_at_once || !is_first);
        let listed = listed.map(|shard| ListedShard {
            shard_id: shard.id.into(),
            parents: parents(config, shard),
            range: HashKeyRange { starting: 0, ending: 9 },
            open: false,
        });
        let effects = self.core.listed(SOURCE, listed.collect(), LISTED_MS, NOW);
        self.perform(effects);
    }

    pub(super) fn read(&mut self, config: &Config, executor: usize, shard: usize, count: usize) {
        let parent = config.shards[shard].id;
        let children = config.shards.iter().filter(|shard| shard.parents.contains(&parent));
        let children = children.map(|child| v1::ChildShard {
            shard_id: child.id.into(),
            parents: parents(config, child),
        });
        let children = children.collect();
        let shard = &config.shards[shard];
        let told = self.executors[executor].read(shard, count, config.until, children);
        self.news.extend(told.into_iter().map(|a| News::Announcement(executor, a)));
    }

    pub(super) fn tell_again(&mut self, config: &Config, executor: usize, shard: usize) {
        self.read(config, executor, shard, 0);
    }

    pub(super) fn announce(&mut self, nth: usize, is_again: bool) {
        let executor = &mut self.executors[nth];
        if is_again {
            executor.book.reconnected();
        }
        let due = executor.book.announce(NOW);
        self.news.extend(due.into_iter().map(|a| News::Announcement(nth, a)));
    }

    pub(super) fn hear(&mut self, config: &Config, news: News) {
        let from = self.executors[news.from()].id.clone();
        let effects = match news {
            News::Announcement(_, mut announcement) => {
                if config.broken == Some(Broken::TakesAnyBlock) {
                    self.make_it_chain(&from, &mut announcement);
                }
                self.core.announced(&from, announcement, NOW)
            }
            News::Reread(_, done) => self.core.reread_done(&from, done, NOW),
        };
        self.perform(effects);
    }

    /// What the driver's core would refuse is written anew until it takes it.
    fn make_it_chain(&self, from: &ContainerId, announcement: &mut v1::BlockAnnouncement) {
        for _ in 0..announcement.blocks.len() {
            let effects = self.core.clone().announced(from, announcement.clone(), NOW);
            let refused = effects.into_iter().find_map(|effect| match effect {
                Effect::Send(_, Body::Acknowledged(answer)) => answer.refused.into_iter().next(),
                _ => None,
            });
            let Some(refused) = refused else { return };
            let after_seq = match refused.tail.and_then(|tail| tail.at) {
                Some(v1::read_from::At::Position(tail)) => tail.sequence_number,
                _ => String::new(),
            };
            let mut blocks = announcement.blocks.iter_mut();
            if let Some(block) = blocks.find(|block| block.block_id == refused.block_id) {
                block.generation = refused.generation;
                block.after_seq = after_seq.clone();
            }
        }
    }

    pub(super) fn obey(&mut self, config: &Config, nth: usize) {
        if let Some(done) = self.executors[nth].obey(config.broken) {
            self.news.push(News::Reread(nth, done));
        }
    }

    /// The stream between an executor and the driver breaks with what is on it, and is made anew.
    pub(super) fn break_session(&mut self, config: &Config, nth: usize) {
        self.news.retain(|news| news.from() != nth);
        let executor = &mut self.executors[nth];
        executor.commands.clear();
        executor.book.reconnected();
        let (id, held) = (executor.id.clone(), executor.held_blocks(config.broken));
        if config.broken == Some(Broken::TrustsSessions) {
            return;
        }
        let effects = self.core.rejoined(&id, home(), &held, NOW);
        self.perform(effects);
    }

    pub(super) fn kill(&mut self, nth: usize) {
        // What it knew dies with it, so that all the dead are alike.
        self.executors[nth] = Executor { is_alive: false, ..Executor::new(nth) };
    }

    /// The driver hears that an executor is dead.
    pub(super) fn notice(&mut self, nth: usize) {
        self.executors[nth].is_noticed = true;
        let effects = self.core.lost(&self.executors[nth].id.clone(), NOW);
        self.perform(effects);
    }

    /// Nothing is heard of any shard for so long that each gets another reader.
    pub(super) fn fall_silent(&mut self) {
        let effects = self.core.tick(crate::driver::receivers::core::SILENCE_LIMIT);
        self.perform(effects);
    }

    pub(super) fn plan(&mut self) {
        let (planned, effects) = self.core.plan(self.batch + 1, NOW);
        self.planned = Some(planned);
        self.perform(effects);
    }

    /// True when every block of the planned batch is where the driver thinks, and can be run.
    pub(super) fn can_commit(&self) -> bool {
        self.planned.is_some()
            && self.core.blocks(self.batch + 1).is_some_and(|blocks| {
                blocks.iter().all(|block| {
                    let mut holders = self.executors.iter().filter(|e| e.id == block.executor);
                    holders.any(|e| e.is_alive && e.store.contains_key(block.id.as_str()))
                })
            })
    }

    /// True when the driver relies on a block that a living executor does not have.
    pub(super) fn misses_a_block(&self) -> bool {
        self.core.blocks(self.batch + 1).is_some_and(|blocks| {
            blocks.iter().any(|block| {
                let mut holders = self.executors.iter().filter(|e| e.id == block.executor);
                holders.any(|e| e.is_alive && !e.store.contains_key(block.id.as_str()))
            })
        })
    }

    /// Runs and commits the planned batch, and lets its blocks go.
    pub(super) fn commit(&mut self, config: &Config) {
        let Some(planned) = self.planned.take() else { return };
        let batch = self.batch + 1;
        let contents = self.contents(batch);
        for advance in &planned.advances {
            let (from, to) = (number(advance.from), number(advance.to));
            let shard = config.shards.iter().find(|shard| shard.key() == advance.shard).unwrap();
            let before = self.positions.get(&advance.shard).copied().unwrap_or_default();
            if number(before.sequence_number) != from || before.ended {
                self.flaw
                    .get_or_insert(format!("batch {batch} does not follow the head: {advance:?}"));
            }
            let ended = |parent: &&str| {
                let parent = stream().shard(SOURCE, parent);
                self.ended.get(&parent).is_some_and(|ended_in| *ended_in < batch)
            };
            if !shard.parents.iter().all(ended) {
                self.flaw.get_or_insert(format!("{} is in a batch with a parent's end", shard.id));
            }
            if advance.ends {
                self.ended.insert(advance.shard.clone(), batch);
                if shard.records.last().is_some_and(|last| *last != to) {
                    self.flaw.get_or_insert(format!("{} ends before its last record", shard.id));
                }
            }
            let mut at = from;
            for content in contents.iter().filter(|content| content.shard == advance.shard) {
                if content.after != at {
                    self.flaw.get_or_insert(format!("a gap before {content:?}"));
                }
                at = content.last;
                for record in shard.records.iter().filter(|n| content.after < **n && **n <= at) {
                    if !config.is_of_range(*record) {
                        self.flaw.get_or_insert(format!("record {record} is behind the range"));
                    }
                    if !self.committed.insert(*record) {
                        self.flaw.get_or_insert(format!("record {record} twice"));
                    }
                }
            }
            let after = planned.positions.get(&advance.shard).copied().unwrap_or_default();
            if at != to || number(after.sequence_number) != to || after.ended != advance.ends {
                self.flaw.get_or_insert(format!("the blocks or positions do not fit {advance:?}"));
            }
        }
        self.batch = batch;
        self.positions = planned.positions;
        self.core.committed(batch, NOW);
        let effects = self.core.release(batch, NOW);
        self.perform(effects);
    }

    fn contents(&self, batch: u64) -> Vec<Content> {
        let blocks = self.core.blocks(batch).unwrap_or_default();
        let content = |block: &crate::driver::receivers::core::PlannedBlock| {
            let holder = self.executors.iter().find(|executor| executor.id == block.executor)?;
            holder.store.get(block.id.as_str()).cloned()
        };
        blocks.iter().filter_map(content).collect()
    }

    /// The driver dies, its executors with it, and the next one begins at the head.
    pub(super) fn restart(&mut self, config: &Config) {
        for nth in 0..self.executors.len() {
            self.kill(nth);
            self.executors[nth].is_noticed = true;
        }
        self.news.clear();
        self.planned = None;
        self.wants_listing = true;
        self.core = core(config, &self.positions);
        (0..config.num_executors).for_each(|_| self.join());
    }
}
