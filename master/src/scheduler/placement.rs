//! Choosing a node for one container.
//!
//! A driver goes where it costs the application the fewest executors, executors are spread over the
//! nodes, and go where they failed too often only when no other node has room. Ties are broken by name, so that the same question has the same answer.

use std::collections::BTreeSet;

use millrace_common::id::NodeId;
use millrace_common::resources::Resources;

/// What one node has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Its name.
    pub node: NodeId,
    /// All that it offers, used or not.
    pub offered: Resources,
    /// What is free; nothing while the node is suspect or has just refused a grant.
    pub free: Resources,
    /// Drivers on it.
    pub num_drivers: u32,
    /// Executors on it, of all applications.
    pub num_executors: u32,
}

impl Room {
    fn take(&mut self, cost: Resources) {
        self.free = self.free.checked_sub(cost).expect("only a room with space is chosen");
    }
}

/// How many containers of this cost fit into `free`.
pub(super) fn count_fitting(free: Resources, cost: Resources) -> u64 {
    let by_cores = match cost.cores {
        0 => u64::MAX,
        cores => u64::from(free.cores / cores),
    };
    let by_memory = match cost.memory.as_u64() {
        0 => u64::MAX,
        memory => free.memory.as_u64() / memory,
    };
    by_cores.min(by_memory)
}

/// How many containers of this cost fit into all rooms together.
pub(super) fn count_fitting_all(rooms: &[Room], cost: Resources) -> u64 {
    rooms.iter().map(|room| count_fitting(room.free, cost)).fold(0, u64::saturating_add)
}

/// Takes a place for a driver such that at least `num_executors` of its executors still fit
/// beside it; the index of the room, or none when there is no such place.
pub(super) fn take_driver(
    rooms: &mut [Room],
    driver: Resources,
    executor: Resources,
    num_executors: u64,
) -> Option<usize> {
    let total = count_fitting_all(rooms, executor);
    let (_, index) = rooms
        .iter()
        .enumerate()
        .filter_map(|(index, room)| {
            let left = room.free.checked_sub(driver)?;
            let cost = count_fitting(room.free, executor) - count_fitting(left, executor);
            let fits = total - cost >= num_executors;
            let rank = (cost, room.num_drivers, room.num_executors, std::cmp::Reverse(left.cores));
            fits.then_some(((rank, &room.node), index))
        })
        .min()?;
    rooms[index].take(driver);
    rooms[index].num_drivers += 1;
    Some(index)
}

/// Takes a place for an executor on the emptiest node that has room, on one of `avoided` only when
/// no other has; `own` counts the application's executors per room and is kept up to date.
pub(super) fn take_executor(
    rooms: &mut [Room],
    executor: Resources,
    own: &mut [u32],
    avoided: &BTreeSet<NodeId>,
) -> Option<usize> {
    let (_, index) = rooms
        .iter()
        .enumerate()
        .filter(|(_, room)| room.free.fits(executor))
        .map(|(index, room)| {
            let is_avoided = avoided.contains(&room.node);
            let free = std::cmp::Reverse(room.free.cores);
            let rank = (is_avoided, own[index], free, room.num_executors);
            ((rank, &room.node), index)
        })
        .min()?;
    rooms[index].take(executor);
    rooms[index].num_executors += 1;
    own[index] += 1;
    Some(index)
}
