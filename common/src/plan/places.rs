//! Places for a driver and its executors, as arithmetic: how many executors fit beside the driver,
//! also when any few nodes are lost.
//!
//! Promises: exact, whatever the nodes: the answer is what the best placement reaches after the
//! worst loss. Never does: choose a place; that is the scheduler's.

use crate::resources::Resources;

/// What an application asks places for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Of the driver.
    pub driver: Resources,
    /// Of each executor.
    pub executor: Resources,
    /// Without so many executors it does not start.
    pub min: u32,
}

/// One node: executors that fit on it, and how many of them the driver would displace.
#[derive(Clone, Copy, Debug)]
struct Room {
    num_executors: u64,
    /// None where the driver does not fit.
    displaced: Option<u64>,
}

/// How many containers of this cost fit into one node.
pub(super) fn count(free: Resources, cost: Resources) -> u64 {
    let by_cores = free.cores.checked_div(cost.cores).map_or(u64::MAX, u64::from);
    let by_memory = free.memory.as_u64().checked_div(cost.memory.as_u64()).unwrap_or(u64::MAX);
    by_cores.min(by_memory)
}

/// Executors that fit beside the driver once the worst `num_lost` of the nodes are gone; none when
/// the driver itself has no place then.
///
/// A loss hurts in two ways: it takes places, and it takes the nodes where the driver displaces
/// least. So each number that the driver may displace is tried: the nodes where it would displace
/// less are lost first, and of the others those with the most places.
pub(super) fn beside_driver(nodes: &[Resources], shape: Shape, num_lost: usize) -> Option<u64> {
    let mut rooms: Vec<Room> = nodes.iter().map(|free| room(*free, shape)).collect();
    rooms.sort_by_key(|room| std::cmp::Reverse(room.num_executors));
    let mut thresholds: Vec<u64> = rooms.iter().filter_map(|room| room.displaced).collect();
    thresholds.sort_unstable();
    if thresholds.len() <= num_lost {
        return None;
    }
    thresholds.dedup();
    let after = thresholds.iter().map_while(|threshold| after_loss(&rooms, *threshold, num_lost));
    after.min()
}

fn room(free: Resources, shape: Shape) -> Room {
    let num_executors = count(free, shape.executor);
    let left = free.checked_sub(shape.driver);
    let displaced = left.map(|left| num_executors - count(left, shape.executor));
    Room { num_executors, displaced }
}

/// Executors beside the driver when every node is lost where it displaces less than `threshold`, and
/// then those with the most places; none when the first are too many. `rooms` begin with the largest.
fn after_loss(rooms: &[Room], threshold: u64, num_lost: usize) -> Option<u64> {
    let is_cheap = |room: &Room| room.displaced.is_some_and(|displaced| displaced < threshold);
    let num_cheap = rooms.iter().filter(|room| is_cheap(room)).count();
    let left = num_lost.checked_sub(num_cheap)?;
    let rest = || rooms.iter().filter(|room| !is_cheap(room)).skip(left);
    let total = rest().fold(0_u64, |sum, room| sum.saturating_add(room.num_executors));
    // The caller has seen that more nodes take the driver than are lost.
    let displaced = rest().filter_map(|room| room.displaced).min()?;
    Some(total - displaced)
}

/// Executors that a share has room for beside the driver; without a share any number.
pub(super) fn within(share: Option<Resources>, shape: Shape) -> u64 {
    let Some(share) = share else { return u64::MAX };
    share.checked_sub(shape.driver).map_or(0, |left| count(left, shape.executor))
}

/// What driver and so many executors take together; saturates.
pub(super) fn total(shape: Shape, num_executors: u64) -> Resources {
    let cores = u64::from(shape.executor.cores).saturating_mul(num_executors);
    let memory = shape.executor.memory.as_u64().saturating_mul(num_executors);
    let cores = u32::try_from(cores).unwrap_or(u32::MAX);
    Resources::new(cores, crate::resources::ByteSize::bytes(memory)).saturating_add(shape.driver)
}

/// All nodes together; saturates.
pub(super) fn sum(nodes: &[Resources]) -> Resources {
    nodes.iter().copied().fold(Resources::default(), Resources::saturating_add)
}

/// All nodes together once any `num_lost` are gone: of cores and of memory what is left at least.
pub(super) fn sum_after_loss(nodes: &[Resources], num_lost: usize) -> Resources {
    let num_left = nodes.len().saturating_sub(num_lost);
    let mut cores: Vec<u32> = nodes.iter().map(|node| node.cores).collect();
    let mut memory: Vec<u64> = nodes.iter().map(|node| node.memory.as_u64()).collect();
    cores.sort_unstable();
    memory.sort_unstable();
    Resources::new(
        cores.into_iter().take(num_left).fold(0, u32::saturating_add),
        crate::resources::ByteSize::bytes(
            memory.into_iter().take(num_left).fold(0, u64::saturating_add),
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resources::ByteSize;

    fn gib(cores: u32, gib: u64) -> Resources {
        Resources::new(cores, ByteSize::mib(gib << 10))
    }

    fn shape(driver: Resources, executor: Resources) -> Shape {
        Shape { driver, executor, min: 1 }
    }

    #[test]
    fn the_driver_goes_where_it_displaces_least() {
        let two = shape(gib(1, 1), gib(2, 3));
        let mut nodes = vec![gib(8, 32); 4];
        assert_eq!(beside_driver(&nodes, two, 0), Some(15));
        nodes.push(gib(1, 4));
        assert_eq!(beside_driver(&nodes, two, 0), Some(16));
        // The small node is the worst to lose, worse than four places.
        assert_eq!(beside_driver(&nodes, two, 1), Some(12));
        assert_eq!(beside_driver(&nodes, two, 4), Some(0));
        assert_eq!(beside_driver(&nodes, two, 5), None);
    }

    #[test]
    fn what_costs_nothing_is_held_back_by_nothing() {
        assert_eq!(count(gib(1, 1), Resources::default()), u64::MAX);
        assert_eq!(beside_driver(&[], shape(gib(1, 1), gib(1, 1)), 0), None);
        assert_eq!(beside_driver(&[gib(4, 4)], shape(gib(1, 1), gib(1, 1)), 1), None);
    }

    /// By trying every loss and every place of the driver.
    fn by_search(nodes: &[Resources], shape: Shape, num_lost: usize) -> Option<u64> {
        let worst = (0_u32..1 << nodes.len()).filter(|lost| lost.count_ones() as usize == num_lost);
        let left = worst.map(|lost| {
            let left: Vec<Resources> = nodes
                .iter()
                .enumerate()
                .filter(|(index, _)| lost & (1 << index) == 0)
                .map(|(_, node)| *node)
                .collect();
            let total: u64 = left.iter().map(|node| count(*node, shape.executor)).sum();
            let with_driver = left.iter().filter_map(|node| {
                let rest = node.checked_sub(shape.driver)?;
                Some(total - count(*node, shape.executor) + count(rest, shape.executor))
            });
            with_driver.max()
        });
        left.min().flatten()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn the_worst_loss_is_found(
            nodes in prop::collection::vec((0u32..9, 0u64..9), 0..7),
            driver in (1u32..4, 1u64..4),
            executor in (1u32..4, 1u64..4),
            num_lost in 0usize..4,
        ) {
            let nodes: Vec<Resources> = nodes.iter().map(|(c, m)| gib(*c, *m)).collect();
            let shape = shape(gib(driver.0, driver.1), gib(executor.0, executor.1));
            let found = beside_driver(&nodes, shape, num_lost);
            prop_assert_eq!(found, by_search(&nodes, shape, num_lost.min(nodes.len())));
        }
    }
}
