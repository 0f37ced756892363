//! An application on a cluster, played by the real parts: the master's scheduler places it, the
//! driver's receivers' core assigns its shards, cuts batches and commits them, the executor's block
//! store gives the room.
//!
//! It knows nothing of `plan`, and answers only by what happened: every shard has moved on twice, or
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::application::{Receivers, SourceSpec};
use millrace_common::budget::PROCESS;
use millrace_common::id::{ContainerId, NodeId, QueueName};
use millrace_common::plan::Node;
use millrace_common::position::{HashKeyRange, ShardKey};
use millrace_common::resources::Resources;
use millrace_master::stepped::{Cluster, Step};
use millrace_proto::v1;
use millrace_proto::v1::executor_command::Body;
use millrace_worker::driver::receivers::assignment::Layout;
use millrace_worker::driver::receivers::core::{Core, Effect, Home, SourceSetup, Stream};
use millrace_worker::driver::receivers::lineage::{ListedShard, Start};
use millrace_worker::executor::block_store::Budgets;
use millrace_worker::executor::block_store::core::{Purpose, Room, StoreCore};

use crate::case::{Case, Shares};

/// Rounds after which the scheduler has done what it does.
const ROUNDS_MAX: usize = 100;
/// Batches that every shard must have a part in.
const BATCHES: u64 = 2;
/// Room that a reader reserves for one answer: 10 MiB as the service sends it, and its parts.
const ANSWER_BYTES: u64 = 12 << 20;
const NOW: Duration = Duration::from_secs(1);

/// What an application that progressed was like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) num_executors: usize,
    pub(crate) task_cores: u64,
    pub(crate) sources: Vec<SourceRun>,
}

/// How a source was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceRun {
    pub(crate) name: String,
    pub(crate) num_receivers: u64,
    /// Shards on an executor.
    pub(crate) fewest: u64,
    pub(crate) most: u64,
}

/// The run with the fewest executors on the cluster as it is, over every loss of as many nodes as the
/// case says; none when the application stands still after one of them.
pub(crate) fn now(case: &Case) -> Option<Run> {
    worst(case, |node| node.free, case.shares)
}

/// The same with nobody else on the cluster: what others hold, and how it is shared, may change.
pub(crate) fn alone(case: &Case) -> Option<Run> {
    worst(case, |node| node.offered, None)
}

fn worst(case: &Case, room: impl Fn(&Node) -> Resources, shares: Option<Shares>) -> Option<Run> {
    let number = case.nodes.len();
    let num_lost = case.num_lost.min(number);
    let losses = (0_u32..1 << number).filter(|lost| lost.count_ones() as usize == num_lost);
    let mut worst: Option<Run> = None;
    for lost in losses {
        let nodes = case.nodes.iter().enumerate().filter(|(index, _)| lost & (1 << index) == 0);
        let nodes: Vec<&Node> = nodes.map(|(_, node)| node).collect();
        let run = play(case, cluster(case, &nodes, &room, shares))?;
        if worst.as_ref().is_none_or(|worst| run.num_executors < worst.num_executors) {
            worst = Some(run);
        }
    }
    worst
}

fn cluster(
    case: &Case,
    nodes: &[&Node],
    room: impl Fn(&Node) -> Resources,
    shares: Option<Shares>,
) -> Cluster {
    let name = |node: &Node| NodeId::new(node.name.as_str());
    let mut cluster = Cluster::new(nodes.iter().map(|node| (name(node), node.offered, room(node))));
    for node in nodes {
        cluster = cluster.labelled(&name(node), node.labels.clone().unwrap_or_default());
    }
    let Some(Shares { cap, other_guarantee }) = shares else { return cluster };
    let queues = format!(
        "{{ default = {{ cap = \"{cap}%\" }}, other = {{ guarantee = \"{other_guarantee}%\" }} }}"
    );
    let used = BTreeMap::from([(QueueName::new("other"), case.taken())]);
    cluster.with_queues(&queues, used).unwrap()
}

fn play(case: &Case, mut cluster: Cluster) -> Option<Run> {
    let resources = &case.spec.resources;
    let count = (resources.executors.min, resources.executors.max);
    let name = case.spec.name.clone();
    let mut step = Step::new(name, resources.driver, resources.executor, count);
    step.selector = resources.node_selector.clone();
    let mut rounds = 0..ROUNDS_MAX;
    while rounds.next().is_some() && cluster.round(&mut step) > 0 {}
    assert!(!rounds.is_empty(), "the scheduler comes to rest");

    let nodes = step.executors();
    let is_served = step.driver_node().is_some() && nodes.len() >= count.0 as usize;
    let lives = PROCESS <= resources.driver.memory && executor_lives(case);
    if !is_served || !lives {
        return None;
    }
    let task_cores = nodes.len() as u64 * u64::from(resources.executor.cores);
    let sources = Driver::new(case).run(&nodes)?;
    Some(Run { num_executors: nodes.len(), task_cores, sources })
}

/// True when an executor's store takes answers, and its process lives while the store is full: the
/// node ends a container that holds more than it was granted.
fn executor_lives(case: &Case) -> bool {
    let memory = case.spec.resources.executor.memory;
    let budgets = Budgets::of_container(memory, true);
    let mut store = StoreCore::new(budgets.memory, budgets.disk);
    let takes_answers = store.reserve(ANSWER_BYTES, Purpose::Receive) == Room::Reserved;
    for purpose in [Purpose::Receive, Purpose::Load] {
        for bytes in (0..40).rev().map(|power| 1 << power) {
            while store.reserve(bytes, purpose) == Room::Reserved {}
        }
    }
    takes_answers && PROCESS.as_u64() + store.usage().memory_bytes <= memory.as_u64()
}

fn layout(source: &SourceSpec) -> Layout {
    match source.receivers {
        Receivers::PerExecutor => Layout::PerExecutor,
        Receivers::PerShard => Layout::PerShard,
        Receivers::Count(count) => Layout::Count(count),
    }
}

fn stream(name: &str) -> Stream {
    Stream { arn: format!("arn:{name}"), name: name.to_owned(), created_ms: 1, keyed: true }
}

/// Who reads a shard, as the commands said.
#[derive(Clone, Debug)]
struct Reading {
    executor: ContainerId,
    receiver: String,
    generation: u64,
}

/// The driver's core with executors that do what they are told.
struct Driver<'a> {
    case: &'a Case,
    core: Core,
    readings: BTreeMap<ShardKey, Reading>,
}

impl<'a> Driver<'a> {
    fn new(case: &'a Case) -> Self {
        let setup = |(name, source): (&String, &SourceSpec)| SourceSetup {
            name: name.clone(),
            stream: stream(&source.stream),
            start: Start::Earliest,
            retention: Duration::from_secs(86_400),
            layout: layout(source),
            survives_loss: false,
            copies: false,
        };
        let setups = case.spec.sources.iter().map(setup).collect();
        Self { case, core: Core::new(setups, &BTreeMap::new(), NOW), readings: BTreeMap::new() }
    }

    /// Runs some batches on executors on these nodes; none when a shard stands still.
    fn run(mut self, nodes: &[&NodeId]) -> Option<Vec<SourceRun>> {
        for name in self.case.spec.sources.keys() {
            let shard = |number| ListedShard {
                shard_id: format!("shardId-{number:012}"),
                parents: Vec::new(),
                range: HashKeyRange { starting: u128::from(number), ending: u128::from(number) },
                open: true,
            };
            let shards = (0..self.case.shards[name]).map(shard).collect();
            let effects = self.core.listed(name, shards, 1, NOW);
            self.hear(effects);
        }
        let executors: Vec<ContainerId> =
            (0..nodes.len()).map(|number| ContainerId::new(format!("e{number:03}"))).collect();
        for (executor, node) in executors.iter().zip(nodes) {
            let home = Home {
                budget_bytes: 1 << 30,
                node_id: node.as_str().to_owned(),
                address: format!("{executor}:1"),
            };
            let effects = self.core.joined(executor.clone(), home, &BTreeSet::new(), NOW);
            self.hear(effects);
        }
        for batch in 1..=BATCHES {
            if !self.commits(batch) {
                return None;
            }
        }
        let sources = self.case.spec.sources.keys();
        Some(sources.map(|source| self.seen(source, &executors)).collect())
    }

    fn hear(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(_, Body::Revoke(revoked)) => {
                    for shard in revoked.shards {
                        self.readings.remove(&ShardKey::from_proto(Some(shard)).unwrap());
                    }
                }
                Effect::Send(executor, Body::Assign(assigned)) => {
                    for assignment in assigned.assignments {
                        let shard = ShardKey::from_proto(assignment.shard).unwrap();
                        let reading = Reading {
                            executor: executor.clone(),
                            receiver: assignment.receiver_id,
                            generation: assignment.generation,
                        };
                        self.readings.insert(shard, reading);
                    }
                }
                Effect::Fail(error) | Effect::Gap(error) => panic!("{error}"),
                Effect::Send(..) | Effect::Discover(_) => {}
            }
        }
    }

    /// Every reader brings a block, and all of them are cut, planned, committed and released. True
    /// when every shard has moved to the end of its block.
    fn commits(&mut self, batch: u64) -> bool {
        let (cut_id, effects) = self.core.cut();
        self.hear(effects);
        for (shard, reading) in self.readings.clone() {
            let before = if batch == 1 { String::new() } else { (batch - 1).to_string() };
            let block = v1::BlockDescriptor {
                block_id: format!(
                    "{}/{}/{}-{batch}",
                    reading.executor, shard.source, shard.shard_id
                ),
                shard: Some(shard.to_proto()),
                generation: reading.generation,
                after_seq: before,
                first_seq: batch.to_string(),
                last_seq: batch.to_string(),
                num_records: 1,
                num_raw_records: 1,
                num_bytes: 1 << 20,
                ..Default::default()
            };
            let announcement = v1::BlockAnnouncement {
                receiver_id: reading.receiver,
                sequence: batch,
                cut_id,
                blocks: vec![block],
                ..Default::default()
            };
            let effects = self.core.announced(&reading.executor, announcement, NOW);
            self.hear(effects);
        }
        let is_cut = self.core.cut_is_answered();
        let (planned, effects) = self.core.plan(batch, NOW);
        self.hear(effects);
        let has_blocks = self.core.blocks(batch).is_some_and(|blocks| !blocks.is_empty());
        self.core.committed(batch, NOW);
        let effects = self.core.release(batch, NOW);
        self.hear(effects);
        let end = Some(batch.to_string());
        let moved = planned
            .positions
            .values()
            .filter(|position| position.sequence_number.map(|number| number.to_string()) == end);
        is_cut && has_blocks && moved.count() as u32 == self.case.shards.values().sum::<u32>()
    }

    fn seen(&self, source: &str, executors: &[ContainerId]) -> SourceRun {
        let mine = || self.readings.iter().filter(|(shard, _)| shard.source == source);
        let receivers: BTreeSet<&str> =
            mine().map(|(_, reading)| reading.receiver.as_str()).collect();
        let on = |executor: &ContainerId| {
            mine().filter(|(_, reading)| reading.executor == *executor).count() as u64
        };
        SourceRun {
            name: source.to_owned(),
            num_receivers: receivers.len() as u64,
            fewest: executors.iter().map(on).min().unwrap_or_default(),
            most: executors.iter().map(on).max().unwrap_or_default(),
        }
    }
}
