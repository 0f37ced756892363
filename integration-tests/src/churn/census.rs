//! Judges what is seen of the cluster, look by look.
//!
//! Promises: on no node do containers hold more cores or memory than it offers, as the master tells
//! it, as the process table shows it, and at every instant by the times of start and end; no queue
//! gets a container beyond its cap; every application is known, in a state that goes with what was
//! asked of it, and its attempts and epochs only grow; what has ended has no process.
//! Pure. Owned by the observer. Never does: take the scheduler's word for a sum.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millrace_proto::v1::ApplicationState;

use super::cast::{Cost, QUEUES, application_of, cost};
use super::wishes::Wishes;

/// Findings that are kept; one that repeats is kept once.
const FINDINGS_MAX: usize = 50;
/// For so long before a look a node counts as one that a queue's share was taken of.
const MEMORY_MS: u64 = 3_000;
/// And for so many looks: a master that was away may have placed something just before it went.
const MEMORY_LOOKS: usize = 15;

/// What the master shows in one look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When its answers were there, on the observer's clock.
    pub at_ms: u64,
    /// Nodes that are there and not being emptied: the shares of queues are of these.
    pub counted: BTreeSet<String>,
    /// Every container that the master lists, by id.
    pub containers: BTreeMap<String, Held>,
    /// Every application that the master lists, by name.
    pub applications: BTreeMap<String, Seen>,
}

/// A container as the master shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its node.
    pub node: String,
    /// What it was granted.
    pub cost: Cost,
    /// Granted or running.
    pub is_live: bool,
    /// Start of its process, Unix time in milliseconds; 0 when it was not started.
    pub started_ms: i64,
    /// Its end; 0 while it runs.
    pub ended_ms: i64,
}

/// An application as the master shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its state.
    pub state: ApplicationState,
    /// Its attempts in the order shown: number, epoch, and whether it has ended.
    pub attempts: Vec<(u32, u64, bool)>,
}

/// A container's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Process id.
    pub pid: u32,
    /// The node whose work directory it works in.
    pub node: String,
    /// Container id.
    pub container: String,
    /// Driver or executor.
    pub is_driver: bool,
}

/// What was looked at, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Looks at the master.
    pub num_looks: u64,
    /// Looks at the process table.
    pub num_scans: u64,
    /// Containers that were seen.
    pub num_containers: usize,
    /// The most processes of containers at once.
    pub num_processes_max: usize,
    /// Looks, node by node, at which a node was full to its last core.
    pub num_full: u64,
    /// Looks, queue by queue, at which a queue was within a core of its cap.
    pub num_at_cap: u64,
    /// Attempts over all applications.
    pub num_attempts: u64,
}

/// What was seen so far, and what is wrong about it.
#[derive(Debug)]
pub struct Census {
    offers: BTreeMap<String, Cost>,
    queues: BTreeMap<String, &'static str>,
    /// Which nodes counted lately, and when.
    counted: VecDeque<(u64, BTreeSet<String>)>,
    attempts: BTreeMap<String, (u32, u64)>,
    lives: BTreeMap<String, Held>,
    findings: Vec<String>,
    figures: Figures,
}

impl Census {
    /// A census of nodes that offer this, and of applications in these queues.
    #[must_use]
    pub fn new(offers: BTreeMap<String, Cost>, queues: BTreeMap<String, &'static str>) -> Self {
        Self {
            offers,
            queues,
            counted: VecDeque::new(),
            attempts: BTreeMap::new(),
            lives: BTreeMap::new(),
            findings: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// Something is wrong; said once.
    pub fn found(&mut self, what: String) {
        if !self.findings.contains(&what) && self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }

    /// What is wrong so far.
    #[must_use]
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// What was looked at.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let num_containers = self.lives.len();
        let num_attempts = self.attempts.values().map(|(number, _)| u64::from(*number)).sum();
        Figures { num_containers, num_attempts, ..self.figures.clone() }
    }

    /// A look at the master, with the wishes as they were before and after it.
    pub fn look(&mut self, look: &Look, before: &Wishes, after: &Wishes) {
        self.figures.num_looks += 1;
        let live = look.containers.iter().filter(|(_, held)| held.is_live);
        let live: BTreeMap<&str, &Held> = live.map(|(id, held)| (id.as_str(), held)).collect();
        let by_node =
            live.iter().map(|(id, held)| (held.node.clone(), ((*id).to_owned(), held.cost)));
        self.nodes_hold("the master lists", by_node.collect());
        self.queues_hold(look, &live);
        self.applications_are(look, before, after);
        for (id, held) in &mut self.lives {
            // A new master may not list what ended while there was none: nobody knows when.
            held.is_live &= look.containers.contains_key(id);
        }
        for (id, held) in &look.containers {
            let known = self.lives.entry(id.clone()).or_default();
            // An end that is known stays known: a new master may list less.
            if known.ended_ms == 0 {
                known.clone_from(held);
            }
        }
    }

    /// A look at the process table: processes that were all alive at one instant, with the wishes as
    /// they were before and after it.
    pub fn scan(&mut self, processes: &[Live], before: &Wishes, after: &Wishes) {
        self.figures.num_scans += 1;
        self.figures.num_processes_max = self.figures.num_processes_max.max(processes.len());
        let by_node = processes
            .iter()
            .map(|one| (one.node.clone(), (one.container.clone(), cost(one.is_driver))));
        self.nodes_hold("these run", by_node.collect());
        for one in processes {
            let name = application_of(&one.container);
            let has_ended = |wishes: &Wishes| wishes.get(name) == super::wishes::Wish::Ended;
            if has_ended(before) && has_ended(after) {
                self.found(format!(
                    "{name} is shown as ended, and process {} of {} on {} lives",
                    one.pid, one.container, one.node
                ));
            }
        }
    }

    /// The sums of what is held on each node.
    fn nodes_hold(&mut self, how: &str, held: Vec<(String, (String, Cost))>) {
        let mut nodes: BTreeMap<String, Vec<(String, Cost)>> = BTreeMap::new();
        for (node, container) in held {
            nodes.entry(node).or_default().push(container);
        }
        for (node, containers) in nodes {
            let sum: Cost = containers.iter().map(|(_, cost)| *cost).sum();
            let Some(offer) = self.offers.get(&node).copied() else {
                self.found(format!("there is no {node}, and it has {containers:?}"));
                continue;
            };
            self.figures.num_full += u64::from(sum.cores == offer.cores);
            if !sum.fits(offer) {
                let names: Vec<_> = containers.into_iter().map(|(name, _)| name).collect();
                self.found(format!("{node} offers {offer}, and {how} {sum}: {names:?}"));
            }
        }
    }

    /// No queue is given anything beyond its cap. What it held when nodes went, it may keep.
    fn queues_hold(&mut self, look: &Look, live: &BTreeMap<&str, &Held>) {
        self.counted.push_back((look.at_ms, look.counted.clone()));
        let is_old = |(at, _): &(u64, _)| at + MEMORY_MS < look.at_ms;
        while self.counted.len() > MEMORY_LOOKS && self.counted.front().is_some_and(is_old) {
            self.counted.pop_front();
        }
        // The most that a share may have been of, and the least that the queue holds there: a look
        // at nodes and one at containers are not of one instant.
        let once = |node: &&String| self.counted.iter().any(|(_, counted)| counted.contains(*node));
        let always =
            |node: &&String| self.counted.iter().all(|(_, counted)| counted.contains(*node));
        let total: Cost =
            self.offers.iter().filter(|(node, _)| once(node)).map(|(_, cost)| *cost).sum();
        let steady: BTreeSet<String> = self.offers.keys().filter(always).cloned().collect();
        for queue in QUEUES {
            let of_queue = |id: &str| self.queues.get(application_of(id)) == Some(&queue.name);
            let held = live.iter().filter(|(id, held)| of_queue(id) && steady.contains(&held.node));
            let sum: Cost = held.map(|(_, held)| held.cost).sum();
            let cap = Cost {
                cores: total.cores * queue.cap / 100,
                memory_mib: total.memory_mib * u64::from(queue.cap) / 100,
            };
            self.figures.num_at_cap += u64::from(queue.cap < 100 && sum.cores + 1 >= cap.cores);
            let is_new = |id: &&&str| of_queue(id) && !self.lives.contains_key(**id);
            if !sum.fits(cap)
                && let Some(new) = live.keys().find(is_new)
            {
                let name = queue.name;
                self.found(format!("queue {name} may hold {cap}, holds {sum} and was given {new}"));
            }
        }
    }

    fn applications_are(&mut self, look: &Look, before: &Wishes, after: &Wishes) {
        for (name, wish) in after.iter() {
            let shown = look.applications.get(name).map(|seen| seen.state);
            let earlier = before.get(name);
            if !wish.goes_with(shown) && !earlier.goes_with(shown) {
                let shown = shown.map_or("nothing", |state| state.as_str_name());
                let asked = if wish == earlier {
                    format!("{wish:?}")
                } else {
                    format!("{earlier:?}, then {wish:?}")
                };
                self.found(format!("{name} is shown as {shown}; asked of it: {asked}"));
            }
        }
        for (name, seen) in &look.applications {
            if !self.queues.contains_key(name) {
                self.found(format!("{name} is listed, and nobody submitted it"));
            }
            let last = seen.attempts.last().copied().unwrap_or_default();
            // What is granted is shown at once, and started once it is written down: a master that
            // dies before has begun nothing.
            let prefix = format!("{name}-a{}-", last.0);
            let of_last = look.containers.range(prefix.clone()..);
            let mut of_last = of_last.take_while(|(id, _)| id.starts_with(&prefix));
            let was_started = of_last.any(|(_, held)| held.started_ms > 0);
            self.attempts_grow(name, seen, was_started);
        }
    }

    /// Numbers and epochs of attempts only grow, and only the last one may be open. One of which
    /// something was started is never taken back.
    fn attempts_grow(&mut self, name: &str, seen: &Seen, was_started: bool) {
        let pairs = seen.attempts.iter().zip(seen.attempts.iter().skip(1));
        for (one, next) in pairs {
            if next.0 <= one.0 || next.1 <= one.1 {
                self.found(format!("{name}: attempt {next:?} follows {one:?}"));
            }
            if !one.2 {
                self.found(format!("{name}: attempt {} is open, and {} was begun", one.0, next.0));
            }
        }
        let Some((number, epoch, _)) = seen.attempts.last().copied() else { return };
        let known = self.attempts.entry(name.to_owned()).or_default();
        let (last_number, last_epoch) = *known;
        if number < last_number || epoch < last_epoch {
            self.found(format!(
                "{name}: attempt {number} of epoch {epoch} is the last one, after {last_number} of \
                 {last_epoch}"
            ));
        } else if was_started {
            *known = (number, epoch);
        }
    }

    /// Goes through every instant between the first start and the last end: what was held on each
    /// node by the times that nodes told.
    pub fn sweep(&mut self) {
        let mut changes: BTreeMap<&str, Vec<(i64, bool, Cost)>> = BTreeMap::new();
        let known = |held: &&Held| held.started_ms > 0 && (held.is_live || held.ended_ms > 0);
        for held in self.lives.values().filter(known) {
            let of_node = changes.entry(&held.node).or_default();
            of_node.push((held.started_ms, true, held.cost));
            if held.ended_ms > 0 {
                of_node.push((held.ended_ms.max(held.started_ms), false, held.cost));
            }
        }
        let mut wrong = Vec::new();
        for (node, mut changes) in changes {
            // Of one millisecond, ends come first: what ended made the room.
            changes.sort_by_key(|(at, is_start, _)| (*at, *is_start));
            let offer = self.offers.get(node).copied().unwrap_or_default();
            let (mut cores, mut memory_mib) = (0_i64, 0_i64);
            for (at, is_start, cost) in changes {
                let sign = if is_start { 1 } else { -1 };
                cores += sign * i64::from(cost.cores);
                memory_mib += sign * i64::try_from(cost.memory_mib).unwrap_or(i64::MAX / 2);
                let fits = cores <= i64::from(offer.cores)
                    && memory_mib <= i64::try_from(offer.memory_mib).unwrap_or(i64::MAX);
                if !fits {
                    wrong.push(format!(
                        "{node} offers {offer}, and by the times of start and end it held {cores} \
                         cores, {memory_mib} MiB at {at}"
                    ));
                    break;
                }
            }
        }
        wrong.into_iter().for_each(|what| self.found(what));
    }
}

#[cfg(test)]
#[path = "census_tests.rs"]
mod tests;
