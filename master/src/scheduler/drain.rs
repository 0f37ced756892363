//! What a drain, or the move off an unhealthy node, does next: nodes to be emptied and what the applications have go in, steps come out.
//!
//! It promises: an executor is given up only when as many as the driver asked for run elsewhere, and
//! one after another per application; a driver is asked to move only when it and the least number of
//! its executors have room elsewhere; nothing on another node is touched, but what a drain that was
//! called off has left over. Only past its deadline does a drain end containers that have no
//! replacement. It never starts anything: the scheduler does.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{ApplicationName, ContainerId, NodeId};
use millrace_common::labels::NodeSelector;
use millrace_common::resources::Resources;

use super::placement::{Need, Room};

/// A driver as a drain sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriverPlace {
    /// Its node.
    pub node: NodeId,
    /// True once it has asked for its executors.
    pub is_at_work: bool,
    /// True once it was asked to move.
    pub is_leaving: bool,
}

/// An executor as a drain sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecutorPlace {
    /// Its node.
    pub node: NodeId,
    /// True once its process runs.
    pub is_running: bool,
}

/// An application that holds containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tenant {
    /// Its name.
    pub application: ApplicationName,
    /// True when it ends anyway.
    pub is_ending: bool,
    /// Its driver, when it has one.
    pub driver: Option<DriverPlace>,
    /// What the driver costs.
    pub driver_cost: Resources,
    /// What an executor costs.
    pub executor_cost: Resources,
    /// What the labels of its nodes must be.
    pub selector: NodeSelector,
    /// Executors without which it is not served.
    pub num_minimum: u32,
    /// Executors that the driver asks for; none before it has.
    pub num_wanted: Option<u32>,
    /// Its executors.
    pub executors: BTreeMap<ContainerId, ExecutorPlace>,
    /// The executor that its driver gives up now.
    pub retiring: Option<ContainerId>,
}

impl Tenant {
    pub(super) fn need<'a>(&'a self, avoided: &'a BTreeSet<NodeId>) -> Need<'a> {
        Need { executor: self.executor_cost, selector: &self.selector, avoided }
    }
}

/// One step of a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the driver to end at the edge of its batch.
    HandOver(ApplicationName),
    /// Ask the driver to give this executor up.
    Retire(ApplicationName, ContainerId),
    /// The deadline has passed: end the driver.
    EndDriver(ApplicationName),
    /// The deadline has passed: end this executor.
    EndExecutor(ApplicationName, ContainerId),
}

/// What is to be done, and what each node waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DrainPlan {
    /// To be done now.
    pub steps: Vec<Step>,
    /// Why a node is not empty yet, in one line.
    pub waits: BTreeMap<NodeId, String>,
}

/// The next steps for all nodes in `draining`, unhealthy ones among them, of which `overdue` have
/// passed their deadline. `rooms` are the other nodes; `tenants` come in the order of submission.
#[must_use]
pub(crate) fn drain(
    draining: &BTreeSet<NodeId>,
    overdue: &BTreeSet<NodeId>,
    rooms: Vec<Room>,
    tenants: &[Tenant],
) -> DrainPlan {
    let mut round = Round { draining, overdue, rooms, plan: DrainPlan::default() };
    for tenant in tenants {
        round.look_at(tenant);
    }
    round.plan
}

struct Round<'a> {
    draining: &'a BTreeSet<NodeId>,
    overdue: &'a BTreeSet<NodeId>,
    /// What is free, less what was promised to drivers that move.
    rooms: Vec<Room>,
    plan: DrainPlan,
}

impl Round<'_> {
    fn wait(&mut self, node: &NodeId, why: String) {
        self.plan.waits.entry(node.clone()).or_insert(why);
    }

    fn look_at(&mut self, tenant: &Tenant) {
        let name = &tenant.application;
        for (id, executor) in &tenant.executors {
            if self.overdue.contains(&executor.node) {
                self.plan.steps.push(Step::EndExecutor(name.clone(), id.clone()));
                self.wait(&executor.node, format!("ends {id}: the deadline has passed"));
            }
        }
        match &tenant.driver {
            Some(driver) if self.draining.contains(&driver.node) => {
                self.move_driver(tenant, driver);
            }
            _ => self.move_executors(tenant),
        }
    }

    /// All executors of an attempt end with its driver, so none is moved before.
    fn move_driver(&mut self, tenant: &Tenant, driver: &DriverPlace) {
        let why = self.step_of_driver(tenant, driver);
        self.wait(&driver.node, why.clone());
        for executor in tenant.executors.values() {
            if self.draining.contains(&executor.node) {
                self.wait(&executor.node, why.clone());
            }
        }
    }

    fn step_of_driver(&mut self, tenant: &Tenant, driver: &DriverPlace) -> String {
        let name = &tenant.application;
        if self.overdue.contains(&driver.node) {
            self.plan.steps.push(Step::EndDriver(name.clone()));
            return format!("ends the driver of {name}: the deadline has passed");
        }
        if tenant.is_ending {
            return format!("{name} ends");
        }
        let has_room = self.set_aside(tenant);
        if driver.is_leaving {
            return format!("the driver of {name} finishes its batch");
        }
        if !driver.is_at_work {
            return format!("the driver of {name} starts; then it moves");
        }
        if has_room {
            self.plan.steps.push(Step::HandOver(name.clone()));
            return format!("the driver of {name} finishes its batch");
        }
        let plural = if tenant.num_minimum == 1 { "executor" } else { "executors" };
        format!(
            "{} no room for the driver of {name} ({}) and {} {plural} of {}: add a node, or \
             undrain one",
            self.others(),
            tenant.driver_cost,
            tenant.num_minimum,
            tenant.executor_cost,
        )
    }

    fn others(&self) -> &'static str {
        if self.rooms.is_empty() { "no other node is left:" } else { "the other nodes have" }
    }

    /// Keeps room for a driver that moves and the executors that it needs at least. Its executors
    /// elsewhere make room when their driver ends. False when there is no room.
    fn set_aside(&mut self, tenant: &Tenant) -> bool {
        let mut rooms = self.rooms.clone();
        for room in &mut rooms {
            let own = tenant.executors.values().filter(|executor| executor.node == room.node);
            room.free = own.fold(room.free, |free, _| free.saturating_add(tenant.executor_cost));
        }
        let (minimum, avoided) = (u64::from(tenant.num_minimum), BTreeSet::new());
        let need = tenant.need(&avoided);
        if need.take_driver(&mut rooms, tenant.driver_cost, minimum).is_none() {
            return false;
        }
        let mut own = vec![0; rooms.len()];
        if (need.take_executors(&mut rooms, &mut own, minimum).len() as u64) < minimum {
            return false;
        }
        self.rooms = rooms;
        true
    }

    fn move_executors(&mut self, tenant: &Tenant) {
        let name = &tenant.application;
        let is_here = |executor: &ExecutorPlace| self.draining.contains(&executor.node);
        let is_overdue = |executor: &ExecutorPlace| self.overdue.contains(&executor.node);
        let (leaving, staying): (Vec<_>, Vec<_>) = tenant
            .executors
            .iter()
            .filter(|(_, executor)| !is_overdue(executor))
            .partition(|(_, executor)| is_here(executor));
        let num_ready = staying.iter().filter(|(_, executor)| executor.is_running).count();
        let is_starting = num_ready < staying.len();
        let wanted = tenant.num_wanted.map_or(usize::MAX, |wanted| wanted as usize);
        let next = match leaving.first() {
            Some(first) => Some(*first),
            // The driver asks for fewer, or a drain was called off after the replacements had come:
            // the newest go.
            None => staying
                .iter()
                .max_by_key(|(id, _)| id.executor_number())
                .copied()
                .filter(|_| num_ready > wanted),
        };
        let Some((id, _)) = next else { return };
        let num_after = num_ready + leaving.len() - 1;
        let why = if tenant.is_ending {
            format!("{name} ends")
        } else if let Some(retiring) = &tenant.retiring {
            format!("{retiring} moves its shards and blocks")
        } else if num_after >= wanted {
            self.plan.steps.push(Step::Retire(name.clone(), id.clone()));
            format!("{id} moves its shards and blocks")
        } else if is_starting || tenant.need(&BTreeSet::new()).count_free(&self.rooms) > 0 {
            format!("a replacement of {id} starts")
        } else {
            let cost = tenant.executor_cost;
            let others = self.others();
            format!(
                "{others} no room for an executor of {name} ({cost}): add a node, or undrain one"
            )
        };
        for (_, executor) in &leaving {
            self.wait(&executor.node, why.clone());
        }
    }
}
