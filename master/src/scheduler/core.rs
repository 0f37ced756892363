//! One round of scheduling over all applications, first come first served inside each queue.
//!
//! Three passes. The first serves what running applications need at least, in the order of
//! submission, and sets aside what a placed driver will ask for in a moment. The second starts
//! drivers; an application that has to wait holds up those behind it in its queue, unless the cluster
//! could not hold it even when empty. So a driver never takes a place that an executor of a running
//! application waits for. The third pass gives what is left to those that ask for more than their
//! minimum. No pass goes past a queue's cap, or into what is kept for another queue.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{ApplicationName, NodeId, QueueName};
use millrace_common::labels::NodeSelector;
use millrace_common::resources::Resources;
use millrace_proto::v1::CauseKind;

use super::placement::{Need, Room, count_fitting};
use super::queue::{Ledger, Queues, times};

/// What one application needs, in the order of submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Whose claim it is.
    pub application: ApplicationName,
    /// The queue whose share it comes out of.
    pub queue: QueueName,
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
    /// What the labels of its nodes must be.
    pub selector: NodeSelector,
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

/// What an application waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// What is lacking, for those who name one cause.
    pub lack: CauseKind,
    /// In one line, with numbers.
    pub reason: String,
    /// The application that comes first, when that is what it waits for.
    pub behind: Option<ApplicationName>,
}

impl Wait {
    /// It lacks something of the cluster.
    pub(crate) fn new(lack: CauseKind, reason: String) -> Self {
        Self { lack, reason, behind: None }
    }

    /// It waits for what another one waits for.
    fn behind(first: &ApplicationName, reason: String) -> Self {
        Self { lack: CauseKind::Behind, reason, behind: Some(first.clone()) }
    }
}

/// What a round decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Containers to start now.
    pub placed: Vec<Placed>,
    /// Applications that do not get all they want now.
    pub waiting: BTreeMap<ApplicationName, Wait>,
}

/// One round: which containers are started where, and who waits for what. `used` is what each queue
/// holds on the nodes of `rooms`; an application's own containers are part of it.
#[must_use]
pub(crate) fn schedule(
    rooms: Vec<Room>,
    claims: &[Claim],
    queues: &Queues,
    used: BTreeMap<QueueName, Resources>,
) -> Plan {
    let ledger = Ledger::new(queues, &rooms, used);
    let mut round =
        Round { plan: Plan::default(), rooms, ledger, blocked: BTreeMap::new(), starving: None };
    let mut growing = Vec::new();
    for claim in claims.iter().filter(|claim| claim.driver.is_none()) {
        let mut own = count_own(&round.rooms, claim);
        round.serve_running(&mut own, claim);
        growing.push((claim, own));
    }
    for claim in claims {
        if let Some(driver) = claim.driver {
            round.serve_queued(claim, driver);
        }
    }
    for (claim, mut own) in growing {
        round.grow(&mut own, claim);
    }
    round.plan
}

fn count_own(rooms: &[Room], claim: &Claim) -> Vec<u32> {
    if claim.held.is_empty() {
        return vec![0; rooms.len()];
    }
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

    fn need(&self) -> Need<'_> {
        Need { executor: self.executor, selector: &self.selector, avoided: &self.avoided }
    }

    /// Driver and minimum together.
    fn whole(&self, driver: Resources) -> Resources {
        driver.saturating_add(times(self.executor, self.num_minimum))
    }
}

struct Round<'a> {
    plan: Plan,
    rooms: Vec<Room>,
    ledger: Ledger<'a>,
    /// The first application of each queue that waits although the cluster could hold it.
    blocked: BTreeMap<QueueName, ApplicationName>,
    /// The first running application that has fewer executors than it needs, for want of room.
    starving: Option<ApplicationName>,
}

impl Round<'_> {
    fn place(&mut self, claim: &Claim, is_driver: bool, index: usize, resources: Resources) {
        self.ledger.take(&claim.queue, resources);
        self.plan.placed.push(Placed {
            application: claim.application.clone(),
            is_driver,
            node: self.rooms[index].node.clone(),
            resources,
        });
    }

    fn wait(&mut self, claim: &Claim, wait: Wait) {
        self.plan.waiting.entry(claim.application.clone()).or_insert(wait);
    }

    /// It waits, and so does what comes behind it in its queue.
    fn block(&mut self, claim: &Claim, wait: Wait) {
        self.wait(claim, wait);
        self.blocked.entry(claim.queue.clone()).or_insert_with(|| claim.application.clone());
    }

    fn serve_queued(&mut self, claim: &Claim, driver: Resources) {
        if let Some(wait) = self.explain_never(claim, driver) {
            return self.wait(claim, wait);
        }
        let whole = claim.whole(driver);
        if let Some(running) = &self.starving
            && !self.ledger.is_guaranteed(&claim.queue, whole)
        {
            let reason =
                format!("{running} runs, waits for executors that it needs, and comes first");
            let wait = Wait::behind(running, reason);
            return self.block(claim, wait);
        }
        if let Some(first) = self.blocked.get(&claim.queue) {
            let reason =
                format!("queued behind {first}, which comes first and waits for its place");
            let wait = Wait::behind(first, reason);
            return self.wait(claim, wait);
        }
        if self.ledger.count_allowed(&claim.queue, whole) == 0 {
            let why = self.ledger.explain(&claim.queue, whole);
            let wait = match why {
                Some(why) => {
                    Wait::new(CauseKind::Queue, format!("{}; {why}", needs(claim, driver)))
                }
                None => self.explain_not_now(claim, driver),
            };
            return self.block(claim, wait);
        }
        let minimum = u64::from(claim.num_minimum);
        let Some(index) = claim.need().take_driver(&mut self.rooms, driver, minimum) else {
            let wait = self.explain_not_now(claim, driver);
            return self.block(claim, wait);
        };
        self.place(claim, true, index, driver);
        let mut own = count_own(&self.rooms, claim);
        self.set_aside(&mut own, claim, claim.num_minimum);
    }

    fn serve_running(&mut self, own: &mut [u32], claim: &Claim) {
        let (now, later) = claim.split_minimum();
        if let Some((wait, lacks_room)) = self.start(own, claim, now) {
            if lacks_room && self.could_have_one(claim) {
                self.starving.get_or_insert_with(|| claim.application.clone());
            }
            return self.block(claim, wait);
        }
        self.set_aside(own, claim, later);
    }

    fn grow(&mut self, own: &mut [u32], claim: &Claim) {
        let base = claim.num_held().max(claim.num_minimum);
        let missing = claim.num_wanted.saturating_sub(base);
        if let Some((wait, _)) = self.start(own, claim, missing) {
            self.wait(claim, wait);
        }
    }

    /// Starts executors as far as there is room, in the queue's share and on the nodes. Why not all,
    /// and whether it is the nodes.
    fn start(&mut self, own: &mut [u32], claim: &Claim, count: u32) -> Option<(Wait, bool)> {
        if count == 0 {
            return None;
        }
        let allowed = self.ledger.count_allowed(&claim.queue, claim.executor);
        let wanted = allowed.min(u64::from(count));
        let taken = claim.need().take_executors(&mut self.rooms, own, wanted);
        for index in &taken {
            self.place(claim, false, *index, claim.executor);
        }
        let missing = count - u32::try_from(taken.len()).unwrap_or(count);
        if missing == 0 {
            return None;
        }
        let is_short = (taken.len() as u64) < wanted;
        let share = self.ledger.explain(&claim.queue, claim.executor).filter(|_| !is_short);
        let lacks_room = share.is_none();
        let lack = match share {
            Some(_) => CauseKind::Queue,
            None => lack_of_one(&self.rooms, claim),
        };
        let free = || free_now(&self.rooms, claim, |room| room.free);
        let why = share.unwrap_or_else(|| format!("free now: {}", free()));
        let (wanted, cost) = (claim.num_wanted, claim.executor);
        let reason = format!("{missing} of {wanted} executors wait for {cost} each; {why}");
        Some((Wait::new(lack, reason), lacks_room))
    }

    /// Keeps places for executors that will be asked for in a moment.
    fn set_aside(&mut self, own: &mut [u32], claim: &Claim, count: u32) {
        let taken = claim.need().take_executors(&mut self.rooms, own, u64::from(count));
        for _ in taken {
            self.ledger.take(&claim.queue, claim.executor);
        }
    }

    /// True when some node could hold an executor if it were empty.
    fn could_have_one(&self, claim: &Claim) -> bool {
        claim.need().rooms(&self.rooms).any(|room| room.offered.fits(claim.executor))
    }

    /// Why driver and minimum would not fit even if nothing ran on the nodes; none when they would.
    fn explain_never(&self, claim: &Claim, driver: Resources) -> Option<Wait> {
        let (needs, whole) = (needs(claim, driver), claim.whole(driver));
        if self.rooms.is_empty() {
            let reason = format!("{needs}; no node has registered, or all are drained or lost");
            return Some(Wait::new(CauseKind::NoNodes, reason));
        }
        let offered: Vec<&Room> = claim.need().rooms(&self.rooms).collect();
        if offered.is_empty() {
            let (selector, num) = (&claim.selector, self.rooms.len());
            let reason = format!("{needs} on nodes with {selector}; none of {num} nodes has that");
            return Some(Wait::new(CauseKind::Labels, reason));
        }
        let minimum = u64::from(claim.num_minimum);
        let fits = |room: &&Room| count_fitting(room.offered, claim.executor);
        let fitting = offered.iter().map(fits).fold(0, u64::saturating_add);
        // The driver takes the place of as few executors as it can.
        let has_place = offered.iter().any(|room| {
            room.offered.checked_sub(driver).is_some_and(|left| {
                let lost = fits(room) - count_fitting(left, claim.executor);
                fitting - lost >= minimum
            })
        });
        if !has_place {
            let reason = format!(
                "{needs}; the whole cluster offers {}, where {fitting} such executors fit without \
                 the driver: add nodes or ask for less",
                free_now(&self.rooms, claim, |room| room.offered),
            );
            let part = |room: &Room| room.offered;
            let lack = lack_of_all(&self.rooms, claim, driver, fitting >= minimum, part);
            return Some(Wait::new(lack, reason));
        }
        let empty = self.ledger.emptied();
        if empty.count_allowed(&claim.queue, whole) > 0 {
            return None;
        }
        let why = empty.explain(&claim.queue, whole)?;
        let reason =
            format!("{needs}; with nothing running {why}: use another queue or ask for less");
        Some(Wait::new(CauseKind::Queue, reason))
    }

    fn explain_not_now(&self, claim: &Claim, driver: Resources) -> Wait {
        let fitting = claim.need().count_free(&self.rooms);
        let reason = format!(
            "{}; free now: {}, where {fitting} such executors fit without the driver",
            needs(claim, driver),
            free_now(&self.rooms, claim, |room| room.free),
        );
        let executors_fit = fitting >= u64::from(claim.num_minimum);
        let part = |room: &Room| room.free;
        Wait::new(lack_of_all(&self.rooms, claim, driver, executors_fit, part), reason)
    }
}

/// Which of cores and memory keeps another executor off the nodes: memory, when one of them has the
/// cores for it.
fn lack_of_one(rooms: &[Room], claim: &Claim) -> CauseKind {
    let has_cores = |room: &Room| room.free.cores >= claim.executor.cores;
    match claim.need().rooms(rooms).any(has_cores) {
        true => CauseKind::NoMemory,
        false => CauseKind::NoCores,
    }
}

/// The same for driver and minimum together; the driver's place, when the executors alone would fit.
fn lack_of_all(
    rooms: &[Room],
    claim: &Claim,
    driver: Resources,
    executors_fit: bool,
    part: impl Fn(&Room) -> Resources,
) -> CauseKind {
    if executors_fit {
        return CauseKind::DriverPlace;
    }
    let cores: u64 = claim.need().rooms(rooms).map(|room| u64::from(part(room).cores)).sum();
    match cores >= u64::from(claim.whole(driver).cores) {
        true => CauseKind::NoMemory,
        false => CauseKind::NoCores,
    }
}

fn needs(claim: &Claim, driver: Resources) -> String {
    let plural = if claim.num_minimum == 1 { "executor" } else { "executors" };
    format!("needs a driver of {driver} and {} {plural} of {}", claim.num_minimum, claim.executor)
}

/// The sum over the nodes that the claim may use, as "3 cores, 4GiB on 2 nodes with zone=a".
fn free_now(rooms: &[Room], claim: &Claim, part: impl Fn(&Room) -> Resources) -> String {
    let mut num = 0;
    let mut sum = Resources::default();
    for room in claim.need().rooms(rooms) {
        sum = sum.saturating_add(part(room));
        num += 1;
    }
    if claim.selector.is_empty() {
        return format!("{sum} on {num} nodes");
    }
    format!("{sum} on {num} nodes with {}", claim.selector)
}
