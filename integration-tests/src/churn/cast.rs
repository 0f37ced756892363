//! Who plays: the nodes with what they offer, the queues with their shares, the applications with
//! what their containers cost.
//!
//! Promises: the same size gives the same cast; at rest, with every node there, all of it fits.
//! Never does: ask the cluster. What it says is what the cluster is held to.

use std::collections::BTreeMap;

use crate::application::{EVERY_RECORD, File};
use crate::cluster::NodeSize;
use crate::faults::scene::EVERY_RECORD_SHUFFLED;

/// Bucket of all applications.
pub const BUCKET: &str = "results";
/// Shards of each stream: four applications read each of them, which is what Kinesis allows at once.
pub const NUM_SHARDS: u8 = 1;

/// What a driver costs, as [`File::toml`] writes it.
const DRIVER: Cost = Cost { cores: 1, memory_mib: 256 };
/// What an executor costs.
const EXECUTOR: Cost = Cost { cores: 1, memory_mib: 320 };
/// [`EXECUTOR`]'s memory in an application file.
const EXECUTOR_MEMORY: &str = "320MiB";

/// Cores and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Cores.
    pub cores: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

impl Cost {
    /// True when neither part is above that of `offer`.
    #[must_use]
    pub fn fits(self, offer: Self) -> bool {
        self.cores <= offer.cores && self.memory_mib <= offer.memory_mib
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { cores: self.cores + other.cores, memory_mib: self.memory_mib + other.memory_mib }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), std::ops::Add::add)
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores, {} MiB", self.cores, self.memory_mib)
    }
}

/// A queue with its shares of the cluster, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Its name.
    pub name: &'static str,
    /// What nobody else is given.
    pub guarantee: u32,
    /// What it never goes beyond.
    pub cap: u32,
}

/// Three queues. The middle one is tight: at rest its applications fit, and hardly more.
pub const QUEUES: [Queue; 3] = [
    Queue { name: "etl", guarantee: 20, cap: 60 },
    Queue { name: "adhoc", guarantee: 0, cap: 30 },
    Queue { name: "default", guarantee: 10, cap: 100 },
];

/// How large the play is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 8 nodes and 20 applications.
    Full,
    /// 4 nodes and 8 applications, for every test run.
    Short,
}

/// One application.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its file.
    pub file: File,
    /// Its queue.
    pub queue: &'static str,
    /// The last executors that it may be scaled to by hand.
    pub executors_max: u32,
    /// True when a watcher looks at its head and its files all the time.
    pub is_watched: bool,
}

/// Everybody.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The applications.
    pub roles: Vec<Role>,
    /// What the nodes offer, `node-1` first.
    pub nodes: Vec<NodeSize>,
    /// Names of the streams.
    pub streams: Vec<&'static str>,
}

impl Cast {
    /// The cast of a size.
    #[must_use]
    pub fn of(size: Size) -> Self {
        // Some of the nodes run out of memory before cores.
        let four = [NODE, NODE, NODE, TIGHT_NODE];
        let (num_roles, num_streams, nodes) = match size {
            Size::Full => (20, 5, [four, four].concat()),
            Size::Short => (8, 2, four.to_vec()),
        };
        let streams: Vec<&'static str> =
            (1..=num_streams).map(|number| &*format!("stream-{number}").leak()).collect();
        let roles = (0..num_roles).map(|index| role(index, streams[index % streams.len()]));
        Self { roles: roles.collect(), nodes, streams }
    }

    /// What each node offers, by its name.
    #[must_use]
    pub fn offers(&self) -> BTreeMap<String, Cost> {
        let offer = |(index, size): (usize, &NodeSize)| {
            let gib = size.memory.trim_end_matches("GiB").parse::<u64>();
            let memory_mib = gib.expect("memory of nodes is given in GiB") * 1024;
            (format!("node-{}", index + 1), Cost { cores: size.cores, memory_mib })
        };
        self.nodes.iter().enumerate().map(offer).collect()
    }

    /// The queue of each application, by its name.
    #[must_use]
    pub fn queues(&self) -> BTreeMap<String, &'static str> {
        self.roles.iter().map(|role| (role.file.name.to_owned(), role.queue)).collect()
    }

    /// The master's `queue` key.
    #[must_use]
    pub fn queue_setting() -> String {
        let queues = QUEUES.map(|Queue { name, guarantee, cap }| {
            format!("{name} = {{ guarantee = \"{guarantee}%\", cap = \"{cap}%\" }}")
        });
        format!("{{ {} }}", queues.join(", "))
    }
}

const NODE: NodeSize = NodeSize { cores: 8, memory: "4GiB" };
const TIGHT_NODE: NodeSize = NodeSize { cores: 8, memory: "2GiB" };

/// What a container costs.
#[must_use]
pub fn cost(is_driver: bool) -> Cost {
    if is_driver { DRIVER } else { EXECUTOR }
}

/// The application that a container belongs to: its id is `<application>-a<attempt>-...`.
#[must_use]
pub fn application_of(container: &str) -> &str {
    container.split("-a").next().unwrap_or(container)
}

fn role(index: usize, stream: &'static str) -> Role {
    // No "-a" in a name, so that the id of a container can be taken apart.
    let name: &'static str = format!("churn-{:02}", index + 1).leak();
    let queue = QUEUES[index % QUEUES.len()].name;
    let shuffles = index % 4 == 1;
    let follows_load = index % 5 == 2;
    let file = File {
        name,
        stream,
        executors: if index.is_multiple_of(3) { 2 } else { 1 },
        range: if follows_load { "{ min = 1, max = 3 }" } else { "" },
        executor_memory: EXECUTOR_MEMORY,
        env: vec![("MILLRACE_HEARTBEAT_INTERVAL", "1s".to_owned())],
        interval: if index.is_multiple_of(2) { "4s" } else { "6s" },
        sql: if shuffles { EVERY_RECORD_SHUFFLED } else { EVERY_RECORD },
        path: format!("s3://{BUCKET}/{name}/").leak(),
        top: format!("queue = \"{queue}\"").leak(),
        ..File::every_record()
    };
    Role { file, queue, executors_max: 3, is_watched: index == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_rest_everybody_fits_and_every_queue_within_its_cap() {
        for size in [Size::Full, Size::Short] {
            let cast = Cast::of(size);
            let cores: u32 = cast.nodes.iter().map(|node| node.cores).sum();
            let total: Cost = cast.offers().into_values().sum();
            assert_eq!(total.cores, cores);
            let at_rest = |role: &Role| {
                let most = if role.file.range.is_empty() { role.file.executors } else { 3 };
                cost(true) + (0..most).map(|_| cost(false)).sum()
            };
            let all: Cost = cast.roles.iter().map(at_rest).sum();
            assert!(all.fits(total), "{all} of {total}");
            for queue in QUEUES {
                let of_queue = cast.roles.iter().filter(|role| role.queue == queue.name);
                let held: Cost = of_queue.map(at_rest).sum();
                let cap = Cost {
                    cores: total.cores * queue.cap / 100,
                    memory_mib: total.memory_mib * u64::from(queue.cap) / 100,
                };
                assert!(held.fits(cap), "{}: {held} of {cap}", queue.name);
            }
        }
    }

    #[test]
    fn the_full_cast_is_what_the_issue_asks_for() {
        let cast = Cast::of(Size::Full);
        assert_eq!((cast.nodes.len(), cast.roles.len(), QUEUES.len()), (8, 20, 3));
        let names: Vec<&str> = cast.roles.iter().map(|role| role.file.name).collect();
        for name in names {
            assert_eq!(application_of(&format!("{name}-a12-e3")), name);
        }
    }

    #[test]
    fn the_setting_is_what_the_master_reads() {
        let setting = Cast::queue_setting();
        assert!(
            setting.starts_with("{ etl = { guarantee = \"20%\", cap = \"60%\" }, "),
            "{setting}"
        );
    }
}
