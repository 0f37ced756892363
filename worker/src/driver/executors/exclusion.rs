//! Which executors and nodes get no work for a while, because they failed too often.
//!
//! Promises: two failures within ten minutes exclude an executor for ten minutes, four exclude a
//! node; of the executors that are here at least one is never excluded; what a query does with its
//! data counts for nothing. Owned by the executors' actor. Never does: wait, or decide
//! by a clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use millrace_common::clock::Clock;
use millrace_common::id::ContainerId;

/// Failures that exclude an executor.
pub const EXECUTOR_FAILURES_MAX: usize = 2;
/// Failures that exclude a node, over all of its executors, dead or alive.
pub const NODE_FAILURES_MAX: usize = 4;
/// How long an exclusion lasts, and how long a failure counts.
pub const EXCLUSION: Duration = Duration::from_secs(600);
/// Losses on one node that come this close to one another are one: the node was lost, or its
/// network, and not so many executors. Two heartbeats and some, by which they are noticed apart.
const TOGETHER: Duration = Duration::from_secs(5);
/// A crash is seen by a run or two first and by the session later, or the other way round. So a loss
/// this soon after another failure of the executor is the same one, and counts once for its node.
const SEEN_TWICE: Duration = Duration::from_secs(30);

/// What points at an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A run could not use it although it is here, for this reason.
    Run(String),
    /// Its session or its process ended without having been asked to.
    Loss(String),
}

/// Why and until when something gets no work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// When it is over, monotonic.
    pub until: Duration,
    /// In one line, for people.
    pub reason: String,
}

impl Exclusion {
    /// When it is over, Unix milliseconds.
    #[must_use]
    pub fn until_ms(&self, clock: &dyn Clock) -> i64 {
        let left = self.until.saturating_sub(clock.monotonic()).as_millis();
        clock.now_ms().saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
    }
}

/// The failures of one executor or node.
#[derive(Clone, Debug, Default)]
struct Record {
    /// When those happened that count.
    failures: VecDeque<Duration>,
    /// The last failure, counted or not.
    last: Option<Duration>,
    /// The last loss that was counted.
    last_loss: Option<Duration>,
    /// Of an executor: when it last counted against its node.
    charged: Option<Duration>,
    exclusion: Option<Exclusion>,
}

impl Record {
    /// Counts a failure. The count begins anew with an exclusion.
    fn fail(&mut self, most: usize, why: &str, now: Duration) {
        self.forget(now);
        self.failures.push_back(now);
        if self.failures.len() >= most {
            let minutes = EXCLUSION.as_secs() / 60;
            let reason = format!("{most} failures within {minutes} minutes, the last: {why}");
            self.exclusion = Some(Exclusion { until: now + EXCLUSION, reason });
            self.failures.clear();
        }
    }

    fn forget(&mut self, now: Duration) {
        while self.failures.pop_front_if(|at| now.saturating_sub(*at) >= EXCLUSION).is_some() {}
        self.exclusion.take_if(|exclusion| exclusion.until <= now);
    }

    fn is_empty(&self, now: Duration) -> bool {
        self.exclusion.is_none() && !within(self.last, EXCLUSION, now)
    }
}

/// True when this was less than `span` ago.
fn within(at: Option<Duration>, span: Duration, now: Duration) -> bool {
    at.is_some_and(|at| now.saturating_sub(at) < span)
}

/// Who failed, and how often.
#[derive(Clone, Debug, Default)]
pub struct Exclusions {
    executors: BTreeMap<ContainerId, Record>,
    nodes: BTreeMap<String, Record>,
}

impl Exclusions {
    /// Something points at this executor.
    pub fn failed(&mut self, executor: &ContainerId, node: &str, failure: &Failure, now: Duration) {
        let record = self.executors.entry(executor.clone()).or_default();
        let (is_loss, why) = match failure {
            Failure::Run(why) => (false, why),
            Failure::Loss(why) => (true, why),
        };
        let is_known = if is_loss {
            record.last_loss.is_some() || within(record.last, SEEN_TWICE, now)
        } else {
            within(record.last_loss, SEEN_TWICE, now)
        };
        record.last = Some(now);
        if is_loss {
            record.last_loss = Some(now);
        }
        if is_known {
            return;
        }
        record.fail(EXECUTOR_FAILURES_MAX, why, now);
        if !node.is_empty() && !within(record.charged, SEEN_TWICE, now) {
            record.charged = Some(now);
            self.node_failed(node, is_loss, &format!("{executor}: {why}"), now);
        }
    }

    fn node_failed(&mut self, node: &str, is_loss: bool, why: &str, now: Duration) {
        let record = self.nodes.entry(node.to_owned()).or_default();
        record.last = Some(now);
        if is_loss {
            if within(record.last_loss, TOGETHER, now) {
                return;
            }
            record.last_loss = Some(now);
        }
        record.fail(NODE_FAILURES_MAX, why, now);
    }

    /// Time has passed. True when an exclusion is over.
    pub fn tick(&mut self, now: Duration) -> bool {
        let count = |exclusions: &Self| {
            let records = exclusions.executors.values().chain(exclusions.nodes.values());
            records.filter(|record| record.exclusion.is_some()).count()
        };
        let before = count(self);
        self.executors.values_mut().for_each(|record| record.forget(now));
        self.nodes.values_mut().for_each(|record| record.forget(now));
        self.executors.retain(|_, record| !record.is_empty(now));
        self.nodes.retain(|_, record| !record.is_empty(now));
        before != count(self)
    }

    /// The nodes that are to be avoided.
    #[must_use]
    pub fn nodes(&self) -> BTreeMap<String, Exclusion> {
        let excluded =
            |(node, record): (&String, &Record)| Some((node.clone(), record.exclusion.clone()?));
        self.nodes.iter().filter_map(excluded).collect()
    }

    /// Of the executors that are here, those that get no work, themselves or with their nodes.
    /// Never all: the one whose exclusion ends first is spared.
    #[must_use]
    pub fn executors<'a>(
        &self,
        here: impl IntoIterator<Item = (&'a ContainerId, &'a str)>,
    ) -> BTreeMap<ContainerId, Exclusion> {
        let mut num_here = 0;
        let mut excluded = BTreeMap::new();
        for (executor, node) in here {
            num_here += 1;
            if let Some(exclusion) = self.exclusion(executor, node) {
                excluded.insert(executor.clone(), exclusion);
            }
        }
        if num_here > 0 && excluded.len() == num_here {
            let spared = excluded.iter().min_by_key(|(_, exclusion)| exclusion.until);
            if let Some(spared) = spared.map(|(executor, _)| executor.clone()) {
                excluded.remove(&spared);
            }
        }
        excluded
    }

    fn exclusion(&self, executor: &ContainerId, node: &str) -> Option<Exclusion> {
        let own = self.executors.get(executor).and_then(|record| record.exclusion.clone());
        let of_node = self.nodes.get(node).and_then(|record| record.exclusion.as_ref());
        let of_node = of_node.map(|exclusion| Exclusion {
            until: exclusion.until,
            reason: format!("node {node}: {}", exclusion.reason),
        });
        match (own, of_node) {
            (Some(own), Some(of_node)) if of_node.until > own.until => Some(of_node),
            (own, of_node) => own.or(of_node),
        }
    }
}

#[cfg(test)]
#[path = "exclusion_tests.rs"]
mod tests;
