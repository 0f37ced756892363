//! Drains against their promises, one step after another on a simulated cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_common::id::{ContainerId, NodeId};
use millrace_common::labels::NodeSelector;
use millrace_common::resources::{ByteSize, Resources};
use proptest::prelude::*;

use super::drain::DrainPlan;
use super::*;

const MIB: ByteSize = ByteSize::mib(1);

fn cores(cores: u32) -> Resources {
    Resources::new(cores, MIB)
}

/// A cluster of one core sizes: who runs what where.
#[derive(Clone, Debug)]
struct World {
    offered: BTreeMap<NodeId, u32>,
    draining: BTreeSet<NodeId>,
    overdue: BTreeSet<NodeId>,
    tenants: Vec<Tenant>,
    next: u32,
}

impl World {
    fn new(offered: &[u32], num_draining: usize) -> Self {
        let name = |index: usize| NodeId::from(format!("n{index}").as_str());
        Self {
            offered: offered.iter().enumerate().map(|(i, cores)| (name(i), *cores)).collect(),
            draining: (0..num_draining).map(name).collect(),
            overdue: BTreeSet::new(),
            tenants: Vec::new(),
            next: 0,
        }
    }

    fn free(&self, node: &NodeId) -> u32 {
        let taken: u32 = self.tenants.iter().map(|tenant| taken_on(tenant, node)).sum();
        self.offered[node] - taken
    }

    fn rooms(&self) -> Vec<Room> {
        let staying = self.offered.iter().filter(|(node, _)| !self.draining.contains(*node));
        staying
            .map(|(node, offered)| Room {
                node: node.clone(),
                offered: Resources::new(*offered, ByteSize::mib(1 << 20)),
                free: Resources::new(self.free(node), ByteSize::mib(1 << 19)),
                num_drivers: 0,
                num_executors: 0,
                labels: Arc::default(),
            })
            .collect()
    }

    /// An application that runs somewhere, wherever there is room; false when there is none.
    fn run(&mut self, name: &str, num_executors: u32, cost: u32, first: usize) -> bool {
        let nodes: Vec<NodeId> = self.offered.keys().cloned().collect();
        let num = nodes.len();
        let around = |from: usize| (0..num).map(move |i| (from + i) % num);
        let Some(at) = around(first).find(|i| self.free(&nodes[*i]) >= 1) else { return false };
        self.tenants.push(Tenant {
            application: name.parse().unwrap(),
            is_ending: false,
            driver: Some(DriverPlace {
                node: nodes[at].clone(),
                is_at_work: true,
                is_leaving: false,
            }),
            driver_cost: cores(1),
            executor_cost: cores(cost),
            selector: NodeSelector::default(),
            num_minimum: num_executors,
            num_wanted: Some(num_executors),
            executors: BTreeMap::new(),
            retiring: None,
        });
        for number in 0..num_executors as usize {
            let Some(at) = around(first + number).find(|i| self.free(&nodes[*i]) >= cost) else {
                self.tenants.pop();
                return false;
            };
            let place = ExecutorPlace { node: nodes[at].clone(), is_running: true };
            self.next += 1;
            let id = ContainerId::new(format!("{name}-a1-e{:04}", self.next));
            self.tenants.last_mut().unwrap().executors.insert(id, place);
        }
        true
    }

    fn plan(&self) -> DrainPlan {
        drain(&self.draining, &self.overdue, self.rooms(), &self.tenants)
    }

    /// Checks the steps against the promises and takes them; true when there was one, or when the
    /// scheduler had something to place.
    fn advance(&mut self) -> bool {
        let plan = self.plan();
        for step in &plan.steps {
            self.check(step);
        }
        let mut has_moved = !plan.steps.is_empty();
        for step in plan.steps {
            self.take(&step);
        }
        has_moved |= self.place();
        has_moved
    }

    fn tenant(&mut self, name: &str) -> &mut Tenant {
        self.tenants.iter_mut().find(|tenant| tenant.application.as_str() == name).unwrap()
    }

    fn check(&self, step: &Step) {
        let of = |name: &str| {
            self.tenants.iter().find(|tenant| tenant.application.as_str() == name).unwrap()
        };
        match step {
            Step::HandOver(name) => {
                let tenant = of(name.as_str());
                let driver = tenant.driver.as_ref().unwrap();
                assert!(self.draining.contains(&driver.node) && !driver.is_leaving);
            }
            Step::Retire(name, id) => {
                let tenant = of(name.as_str());
                assert!(tenant.retiring.is_none(), "two at once");
                assert!(self.draining.contains(&tenant.executors[id].node));
                let running =
                    tenant.executors.iter().filter(|(other, e)| *other != id && e.is_running);
                assert!(running.count() >= tenant.num_wanted.unwrap() as usize, "a dip");
            }
            Step::EndDriver(name) => {
                let node = &of(name.as_str()).driver.as_ref().unwrap().node;
                assert!(self.overdue.contains(node));
            }
            Step::EndExecutor(name, id) => {
                assert!(self.overdue.contains(&of(name.as_str()).executors[id].node));
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::HandOver(name) | Step::EndDriver(name) => {
                let tenant = self.tenant(name.as_str());
                // The driver ends, and with it all its executors.
                tenant.driver = None;
                tenant.executors.clear();
            }
            Step::Retire(name, id) | Step::EndExecutor(name, id) => {
                self.tenant(name.as_str()).executors.remove(id);
            }
        }
    }

    /// What the scheduler does: first come, first served, never on a draining node.
    fn place(&mut self) -> bool {
        let mut has_placed = false;
        for index in 0..self.tenants.len() {
            let tenant = self.tenants[index].clone();
            let wanted = tenant.num_minimum;
            let staying =
                tenant.executors.values().filter(|e| !self.draining.contains(&e.node)).count();
            let mut rooms = self.rooms();
            if tenant.driver.is_none() {
                let avoided = BTreeSet::new();
                let taken = tenant.need(&avoided).take_driver(
                    &mut rooms,
                    tenant.driver_cost,
                    u64::from(wanted),
                );
                let Some(at) = taken else { continue };
                let node = rooms[at].node.clone();
                let place = DriverPlace { node, is_at_work: true, is_leaving: false };
                self.tenants[index].driver = Some(place);
                has_placed = true;
            }
            for _ in staying..wanted as usize {
                let mut rooms = self.rooms();
                let mut own = vec![0; rooms.len()];
                let avoided = BTreeSet::new();
                let taken = tenant.need(&avoided).take_executors(&mut rooms, &mut own, 1);
                let Some(at) = taken.first().copied() else { break };
                self.next += 1;
                let id = ContainerId::new(format!("{}-a1-e{:04}", tenant.application, self.next));
                let place = ExecutorPlace { node: rooms[at].node.clone(), is_running: true };
                self.tenants[index].executors.insert(id, place);
                has_placed = true;
            }
        }
        has_placed
    }

    fn is_empty(&self, node: &NodeId) -> bool {
        self.tenants.iter().all(|tenant| taken_on(tenant, node) == 0)
    }
}

fn taken_on(tenant: &Tenant, node: &NodeId) -> u32 {
    let driver = tenant.driver.iter().filter(|driver| driver.node == *node).count();
    let executors = tenant.executors.values().filter(|executor| executor.node == *node).count();
    u32::try_from(driver).unwrap() * tenant.driver_cost.cores
        + u32::try_from(executors).unwrap() * tenant.executor_cost.cores
}

#[test]
fn executors_leave_one_by_one_after_their_replacements_have_come() {
    let mut world = World::new(&[4, 4, 8], 1);
    assert!(world.run("a", 4, 1, 1));
    world.tenant("a").driver.as_mut().unwrap().node = "n2".into();
    for (index, executor) in world.tenant("a").executors.values_mut().enumerate() {
        executor.node = if index < 2 { "n0".into() } else { "n1".into() };
    }
    assert!(world.plan().steps.is_empty(), "no replacement runs yet");
    assert!(world.plan().waits["n0"].contains("a replacement of"), "{:?}", world.plan());
    let mut num_retired = 0;
    while world.advance() {
        let left = world.tenant("a").executors.values().filter(|e| e.node == "n0".into()).count();
        num_retired = 2 - left;
    }
    assert_eq!(num_retired, 2);
    assert!(world.is_empty(&"n0".into()));
}

#[test]
fn the_last_node_is_not_emptied_and_says_so() {
    let mut world = World::new(&[8], 1);
    assert!(world.run("a", 2, 1, 0));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert!(plan.waits["n0"].contains("no other node is left"), "{plan:?}");
    // A deadline is a deadline.
    world.overdue = world.draining.clone();
    assert!(world.plan().steps.contains(&Step::EndDriver("a".parse().unwrap())));
}

#[test]
fn an_executor_that_is_retiring_is_waited_for() {
    let mut world = World::new(&[4, 8], 1);
    assert!(world.run("a", 2, 1, 1));
    let first = world.tenant("a").executors.keys().next().unwrap().clone();
    world.tenant("a").executors.get_mut(&first).unwrap().node = "n0".into();
    world.tenant("a").num_wanted = Some(1);
    assert_eq!(world.plan().steps, [Step::Retire("a".parse().unwrap(), first.clone())]);
    world.tenant("a").retiring = Some(first);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn what_a_called_off_drain_has_left_over_is_given_up() {
    let mut world = World::new(&[8], 0);
    assert!(world.run("a", 3, 1, 0));
    world.tenant("a").num_wanted = Some(2);
    let newest = world.tenant("a").executors.keys().last().unwrap().clone();
    assert_eq!(world.plan().steps, [Step::Retire("a".parse().unwrap(), newest)]);
    world.tenant("a").num_wanted = Some(3);
    assert!(world.plan().steps.is_empty());
}

proptest! {
    #[test]
    fn every_drain_ends_or_says_what_it_waits_for(
        offered in proptest::collection::vec(1u32..9, 1..6),
        num_draining in 0usize..3,
        apps in proptest::collection::vec((1u32..5, 1u32..4, 0usize..6), 0..5),
    ) {
        let mut world = World::new(&offered, num_draining.min(offered.len()));
        for (index, (num, cost, first)) in apps.iter().enumerate() {
            world.run(&format!("app-{index}"), *num, *cost, *first);
        }
        let mut rounds = 0;
        while world.advance() {
            rounds += 1;
            prop_assert!(rounds < 200, "it goes in circles");
        }
        let waits = world.plan().waits;
        for node in &world.draining {
            let is_empty = world.is_empty(node);
            prop_assert_eq!(is_empty, !waits.contains_key(node), "{} {:?}", node, waits);
        }
        // With an endless node beside them everything moves.
        world.offered.insert("spare".into(), 1_000);
        for _ in 0..200 {
            world.advance();
        }
        for node in &world.draining {
            prop_assert!(world.is_empty(node), "{} waits: {:?}", node, world.plan().waits);
        }
    }

    #[test]
    fn past_the_deadline_nothing_is_left(
        offered in proptest::collection::vec(1u32..9, 1..5),
        apps in proptest::collection::vec((1u32..5, 1u32..4, 0usize..6), 0..5),
    ) {
        let mut world = World::new(&offered, 1);
        for (index, (num, cost, first)) in apps.iter().enumerate() {
            world.run(&format!("app-{index}"), *num, *cost, *first);
        }
        world.overdue = world.draining.clone();
        for _ in 0..20 {
            world.advance();
        }
        prop_assert!(world.is_empty(&"n0".into()));
    }
}
