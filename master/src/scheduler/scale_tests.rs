//! 1,000 nodes and 16,000 containers: applications come, lose nodes, grow and end. Nothing is
//! oversubscribed, everything is placed, and a round takes no longer than its work is worth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use millrace_common::id::{NodeId, QueueName};
use millrace_common::resources::Resources;

use super::core::Plan;
use super::tests::{claim, resources, room};
use super::*;

const NUM_NODES: usize = 1_000;
const NUM_APPLICATIONS: usize = 40;
/// With its driver, 400 containers of an application: 16,000 in all.
const NUM_EXECUTORS: u32 = 399;
/// Every node is filled: 16 of one core each, and memory to spare for none.
const NODE: (u32, u64) = (16, 32);
/// The longest that one round may take in a debug build on a machine that others use too; it takes
/// some hundredths of that. A round that looked at every node for every container would not do.
const ROUND_MAX: Duration = Duration::from_secs(5);

struct Cluster {
    rooms: BTreeMap<NodeId, Room>,
    claims: Vec<Claim>,
    /// Where each driver is.
    drivers: BTreeMap<usize, NodeId>,
    queues: Queues,
    longest: Duration,
    num_rounds: u32,
}

fn node(number: usize) -> NodeId {
    NodeId::from(format!("n{number:04}").as_str())
}

fn queue(number: usize) -> QueueName {
    QueueName::new(["default", "a", "b"][number % 3])
}

impl Cluster {
    fn new() -> Self {
        use millrace_common::config::Value as _;

        let offered = resources(NODE.0, NODE.1);
        let rooms = (0..NUM_NODES).map(|n| (node(n), room(node(n).as_str(), offered))).collect();
        let text = "{ a = { guarantee = \"30%\" }, b = { guarantee = \"30%\", cap = \"40%\" } }";
        let queues = Queues::parse(text).unwrap();
        let (claims, drivers) = (Vec::new(), BTreeMap::new());
        Self { rooms, claims, drivers, queues, longest: Duration::ZERO, num_rounds: 0 }
    }

    fn cost() -> Resources {
        resources(1, 2)
    }

    fn submit(&mut self, number: usize) {
        let name = format!("app-{number}");
        let mut made = claim(&name, Some(Self::cost()), Self::cost(), NUM_EXECUTORS);
        made.queue = queue(number);
        self.claims.push(made);
    }

    fn used(&self) -> BTreeMap<QueueName, Resources> {
        let mut used: BTreeMap<QueueName, Resources> = BTreeMap::new();
        for claim in &self.claims {
            let num = claim.held.values().sum::<u32>() + u32::from(claim.driver.is_none());
            let of_queue = used.entry(claim.queue.clone()).or_default();
            *of_queue = of_queue.saturating_add(times(Self::cost(), num));
        }
        used
    }

    /// One round; what it starts runs at once.
    fn round(&mut self) -> Plan {
        let (rooms, used) = (self.rooms.values().cloned().collect(), self.used());
        let began = Instant::now();
        let plan = schedule(rooms, &self.claims, &self.queues, used);
        self.longest = self.longest.max(began.elapsed());
        self.num_rounds += 1;
        let by_name: BTreeMap<String, usize> = self
            .claims
            .iter()
            .enumerate()
            .map(|(index, claim)| (claim.application.to_string(), index))
            .collect();
        for placed in &plan.placed {
            let room = self.rooms.get_mut(&placed.node).unwrap();
            room.free = room.free.checked_sub(placed.resources).expect("oversubscribed");
            let index = by_name[placed.application.as_str()];
            let claim = &mut self.claims[index];
            if placed.is_driver {
                room.num_drivers += 1;
                claim.driver = None;
                claim.num_wanted = NUM_EXECUTORS;
                self.drivers.insert(index, placed.node.clone());
            } else {
                room.num_executors += 1;
                *claim.held.entry(placed.node.clone()).or_default() += 1;
            }
        }
        plan
    }

    fn num_containers(&self) -> usize {
        let executors: u32 = self.claims.iter().flat_map(|claim| claim.held.values()).sum();
        self.drivers.len() + executors as usize
    }

    /// A node is lost and another comes in its place: its executors are wanted again, its drivers
    /// lose all of theirs.
    fn replace(&mut self, number: usize) {
        let lost = node(number);
        let offered = resources(NODE.0, NODE.1);
        self.rooms.insert(lost.clone(), room(lost.as_str(), offered));
        let dead: BTreeSet<usize> =
            self.drivers.iter().filter(|(_, at)| **at == lost).map(|(index, _)| *index).collect();
        for (index, claim) in self.claims.iter_mut().enumerate() {
            claim.held.remove(&lost);
            if dead.contains(&index) {
                self.drivers.remove(&index);
                claim.driver = Some(Self::cost());
                claim.num_wanted = 0;
                for (at, num) in std::mem::take(&mut claim.held) {
                    let room = self.rooms.get_mut(&at).unwrap();
                    room.free = room.free.saturating_add(times(Self::cost(), num));
                    room.num_executors -= num;
                }
            }
        }
    }
}

#[test]
fn a_thousand_nodes_hold_sixteen_thousand_containers() {
    let mut cluster = Cluster::new();
    // One after another, as they would come, then all at once.
    for number in 0..NUM_APPLICATIONS / 2 {
        cluster.submit(number);
        assert_eq!(cluster.round().placed.len(), 1);
        assert_eq!(cluster.round().placed.len(), NUM_EXECUTORS as usize);
    }
    (NUM_APPLICATIONS / 2..NUM_APPLICATIONS).for_each(|number| cluster.submit(number));
    cluster.round();
    let plan = cluster.round();
    assert!(plan.waiting.is_empty(), "{:?}", plan.waiting);
    assert_eq!(cluster.num_containers(), 16_000);
    assert!(cluster.rooms.values().all(|room| room.free.cores == 0), "every place is taken");
    // Executors of one application are spread: 399 on 1,000 nodes that fill up evenly.
    let most = cluster.claims[0].held.values().max();
    assert_eq!(most, Some(&1), "{most:?}");
    let drivers = cluster.rooms.values().map(|room| room.num_drivers).max();
    assert!(drivers <= Some(2), "drivers are spread too: {drivers:?}");
    // A full cluster says why the next one waits, and 50 nodes are lost and replaced meanwhile.
    cluster.submit(NUM_APPLICATIONS);
    for number in (0..NUM_NODES).step_by(20) {
        cluster.replace(number);
        for _ in 0..2 {
            cluster.round();
        }
    }
    for _ in 0..4 {
        cluster.round();
    }
    let plan = cluster.round();
    assert!(plan.placed.is_empty());
    assert_eq!(plan.waiting.len(), 1, "only the one too many waits: {:?}", plan.waiting);
    assert_eq!(cluster.num_containers(), 16_000);
    println!("{} rounds, the longest {:?}", cluster.num_rounds, cluster.longest);
    assert!(cluster.longest < ROUND_MAX, "a round took {:?}", cluster.longest);
}
