//! One round of scheduling over all applications, first come first served.
//!
//! Two passes. The first serves every application's minimum in the order of submission and sets
//! aside what a placed driver will ask for in a moment; an application that has to wait holds up
//! those behind it, unless the cluster could not hold it even when empty. The second pass gives
//! what is left to those that asked for more than their minimum.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{ApplicationName, NodeId};
use millrace_common::resources::Resources;

use super::placement::{Room, count_fitting_all, take_driver, take_executor};

/// What one application needs, in the order of submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Whose claim it is.
    pub application: ApplicationName,
    /// Cost of the driver while it has no place; none once it has one.
    pub driver: Option<Resources>,
    /// Cost of one executor.
    pub executor: Resources,
    /// Executors without which the application is not served.
    pub num_minimum: u32,
    /// Executors that the driver asks for now; 0 before it is at work.
    pub num_wanted: u32,
    /// Executors that the application has, by node.
    pub held: BTreeMap<NodeId, u32>,
    /// Nodes on which its executors failed too often.
    pub avoided: BTreeSet<NodeId>,
}

/// A container that gets a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Whose container it is.
    pub application: ApplicationName,
    /// True for a driver, false for an executor.
    pub is_driver: bool,
    /// Where it goes.
    pub node: NodeId,
    /// What it takes there.
    pub resources: Resources,
}

/// What a round decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Containers to start now.
    pub placed: Vec<Placed>,
    /// Applications that do not get all they want now, each with its reason in one line.
    pub waiting: BTreeMap<ApplicationName, String>,
}

/// One round: which containers are started where, and who waits for what.
#[must_use]
pub(crate) fn schedule(mut rooms: Vec<Room>, claims: &[Claim]) -> Plan {
    let mut round = Round { plan: Plan::default(), blocked_by: None };
    let mut growing = Vec::new();
    for claim in claims {
        let mut own = count_own(&rooms, claim);
        match claim.driver {
            Some(driver) => round.serve_queued(&mut rooms, &mut own, claim, driver),
            None => {
                round.serve_running(&mut rooms, &mut own, claim);
                growing.push((claim, own));
            }
        }
    }
    for (claim, mut own) in growing {
        round.grow(&mut rooms, &mut own, claim);
    }
    round.plan
}

fn count_own(rooms: &[Room], claim: &Claim) -> Vec<u32> {
    rooms.iter().map(|room| claim.held.get(&room.node).copied().unwrap_or(0)).collect()
}

impl Claim {
    fn num_held(&self) -> u32 {
        self.held.values().sum()
    }

    /// Executors to be started in the first pass, and those to be set aside for.
    fn split_minimum(&self) -> (u32, u32) {
        let held = self.num_held();
        let now = self.num_wanted.min(self.num_minimum).saturating_sub(held);
        (now, self.num_minimum.saturating_sub(held + now))
    }
}

struct Round {
    plan: Plan,
    /// The first application that waits although the cluster could hold it.
    blocked_by: Option<ApplicationName>,
}

impl Round {
    fn place(&mut self, claim: &Claim, is_driver: bool, node: &NodeId, resources: Resources) {
        self.plan.placed.push(Placed {
            application: claim.application.clone(),
            is_driver,
            node: node.clone(),
            resources,
        });
    }

    fn wait(&mut self, claim: &Claim, reason: String) {
        self.plan.waiting.insert(claim.application.clone(), reason);
    }

    fn serve_queued(
        &mut self,
        rooms: &mut [Room],
        own: &mut [u32],
        claim: &Claim,
        driver: Resources,
    ) {
        let minimum = u64::from(claim.num_minimum);
        if !fits_when_empty(rooms, claim, driver) {
            let reason = explain_never(rooms, claim, driver);
            return self.wait(claim, reason);
        }
        if let Some(first) = &self.blocked_by {
            let reason = format!("queued behind {first}, which came first and waits for its place");
            return self.wait(claim, reason);
        }
        let Some(index) = take_driver(rooms, driver, claim.executor, minimum) else {
            let reason = explain_not_now(rooms, claim, driver);
            self.blocked_by = Some(claim.application.clone());
            return self.wait(claim, reason);
        };
        let node = rooms[index].node.clone();
        self.place(claim, true, &node, driver);
        set_aside(rooms, own, claim, claim.num_minimum);
    }

    fn serve_running(&mut self, rooms: &mut [Room], own: &mut [u32], claim: &Claim) {
        let (now, later) = claim.split_minimum();
        for given in 0..now {
            let Some(index) = take_executor(rooms, claim.executor, own, &claim.avoided) else {
                let missing = now - given;
                self.wait(claim, explain_missing(rooms, claim, missing));
                self.blocked_by.get_or_insert_with(|| claim.application.clone());
                return;
            };
            let node = rooms[index].node.clone();
            self.place(claim, false, &node, claim.executor);
        }
        set_aside(rooms, own, claim, later);
    }

    fn grow(&mut self, rooms: &mut [Room], own: &mut [u32], claim: &Claim) {
        let base = claim.num_held().max(claim.num_minimum);
        let missing = claim.num_wanted.saturating_sub(base);
        for given in 0..missing {
            let Some(index) = take_executor(rooms, claim.executor, own, &claim.avoided) else {
                let reason = explain_missing(rooms, claim, missing - given);
                self.plan.waiting.entry(claim.application.clone()).or_insert(reason);
                return;
            };
            let node = rooms[index].node.clone();
            self.place(claim, false, &node, claim.executor);
        }
    }
}

/// Keeps places for executors that will be asked for in a moment.
fn set_aside(rooms: &mut [Room], own: &mut [u32], claim: &Claim, count: u32) {
    for _ in 0..count {
        if take_executor(rooms, claim.executor, own, &claim.avoided).is_none() {
            return;
        }
    }
}

/// True when driver and minimum fit on the nodes as they would be without any container.
fn fits_when_empty(rooms: &[Room], claim: &Claim, driver: Resources) -> bool {
    let mut empty: Vec<Room> =
        rooms.iter().map(|room| Room { free: room.offered, ..room.clone() }).collect();
    take_driver(&mut empty, driver, claim.executor, u64::from(claim.num_minimum)).is_some()
}

fn needs(claim: &Claim, driver: Resources) -> String {
    let plural = if claim.num_minimum == 1 { "executor" } else { "executors" };
    format!("needs a driver of {driver} and {} {plural} of {}", claim.num_minimum, claim.executor)
}

fn sum(rooms: &[Room], part: impl Fn(&Room) -> Resources) -> Resources {
    rooms.iter().map(part).fold(Resources::default(), Resources::saturating_add)
}

fn explain_never(rooms: &[Room], claim: &Claim, driver: Resources) -> String {
    if rooms.is_empty() {
        return format!("{}; no node has registered", needs(claim, driver));
    }
    let fitting: u64 = rooms
        .iter()
        .map(|room| super::placement::count_fitting(room.offered, claim.executor))
        .fold(0, u64::saturating_add);
    format!(
        "{}; the whole cluster offers {} on {} nodes, where {fitting} such executors fit without \
         the driver: add nodes or ask for less",
        needs(claim, driver),
        sum(rooms, |room| room.offered),
        rooms.len(),
    )
}

fn explain_not_now(rooms: &[Room], claim: &Claim, driver: Resources) -> String {
    format!(
        "{}; free now: {} on {} nodes, where {} such executors fit without the driver",
        needs(claim, driver),
        sum(rooms, |room| room.free),
        rooms.len(),
        count_fitting_all(rooms, claim.executor),
    )
}

fn explain_missing(rooms: &[Room], claim: &Claim, missing: u32) -> String {
    format!(
        "{missing} of {} executors wait for {} each; free now: {} on {} nodes",
        claim.num_wanted,
        claim.executor,
        sum(rooms, |room| room.free),
        rooms.len(),
    )
}
