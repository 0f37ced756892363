//! Choosing a node for one container.
//!
//! A driver goes where it costs the application the fewest executors, executors are spread over the
//! nodes, and go where they failed too often only when no other node has room. Ties are broken by
//! the order of the nodes, so that the same question has the same answer.
//!
//! The work: one look at every node for a driver or a count, and for any number of executors of one
//! application together one look at every node and then one step in a heap for each.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use millrace_common::id::NodeId;
use millrace_common::labels::{Labels, NodeSelector};
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
    /// What its worker says of it.
    pub labels: Arc<Labels>,
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

/// Containers of an application and where they may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need<'a> {
    /// Of one executor.
    pub executor: Resources,
    /// What a node's labels must be.
    pub selector: &'a NodeSelector,
    /// Nodes that are taken only when no other has room.
    pub avoided: &'a BTreeSet<NodeId>,
}

impl<'a> Need<'a> {
    /// The rooms that will do.
    pub(super) fn rooms<'r>(
        &self,
        rooms: &'r [Room],
    ) -> impl Iterator<Item = &'r Room> + use<'r, 'a> {
        let selector = self.selector;
        rooms.iter().filter(move |room| selector.accepts(&room.labels))
    }

    /// How many executors fit into all rooms that will do together.
    pub(super) fn count_free(&self, rooms: &[Room]) -> u64 {
        let count = |room: &Room| count_fitting(room.free, self.executor);
        self.rooms(rooms).map(count).fold(0, u64::saturating_add)
    }

    /// Takes a place for a driver such that at least `num_executors` of its executors still fit
    /// beside it; the index of the room, or none when there is no such place.
    pub(super) fn take_driver(
        &self,
        rooms: &mut [Room],
        driver: Resources,
        num_executors: u64,
    ) -> Option<usize> {
        let total = self.count_free(rooms);
        let (_, index) = rooms
            .iter()
            .enumerate()
            .filter(|(_, room)| self.selector.accepts(&room.labels))
            .filter_map(|(index, room)| {
                let left = room.free.checked_sub(driver)?;
                let cost =
                    count_fitting(room.free, self.executor) - count_fitting(left, self.executor);
                let fits = total - cost >= num_executors;
                let rank = (cost, room.num_drivers, room.num_executors, Reverse(left.cores));
                fits.then_some((rank, index))
            })
            .min()?;
        rooms[index].take(driver);
        rooms[index].num_drivers += 1;
        Some(index)
    }

    /// Takes places for up to `count` executors, each on the emptiest node that has room; the
    /// indices of their rooms. `own` counts the application's executors per room and is kept up to
    /// date.
    pub(super) fn take_executors(
        &self,
        rooms: &mut [Room],
        own: &mut [u32],
        count: u64,
    ) -> Vec<usize> {
        let mut taken = Vec::new();
        if count == 0 {
            return taken;
        }
        let rank = |room: &Room, own: u32, index: usize| {
            let is_avoided = self.avoided.contains(&room.node);
            Reverse((is_avoided, own, Reverse(room.free.cores), room.num_executors, index))
        };
        let candidates = rooms.iter().enumerate().filter(|(_, room)| {
            room.free.fits(self.executor) && self.selector.accepts(&room.labels)
        });
        let mut heap: BinaryHeap<_> =
            candidates.map(|(index, room)| rank(room, own[index], index)).collect();
        while (taken.len() as u64) < count {
            let Some(Reverse((.., index))) = heap.pop() else { break };
            let room = &mut rooms[index];
            room.take(self.executor);
            room.num_executors += 1;
            own[index] += 1;
            taken.push(index);
            if room.free.fits(self.executor) {
                heap.push(rank(room, own[index], index));
            }
        }
        taken
    }
}
