//! Placement against its promises: nothing oversubscribed, nobody overtaken, the driver out of the
//! executors' way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_common::id::{NodeId, QueueName};
use millrace_common::labels::NodeSelector;
use millrace_common::resources::{ByteSize, Resources};
use proptest::prelude::*;

use super::core::Plan;
use super::*;

pub(super) fn resources(cores: u32, gib: u64) -> Resources {
    Resources::new(cores, ByteSize::mib(gib * 1024))
}

pub(super) fn room(node: &str, offered: Resources) -> Room {
    let labels = Arc::default();
    Room { node: node.into(), offered, free: offered, num_drivers: 0, num_executors: 0, labels }
}

/// A round of a cluster without queues.
fn schedule(rooms: Vec<Room>, claims: &[Claim]) -> Plan {
    super::schedule(rooms, claims, &Queues::default(), BTreeMap::new())
}

pub(super) fn claim(
    name: &str,
    driver: Option<Resources>,
    executor: Resources,
    count: u32,
) -> Claim {
    Claim {
        application: name.parse().unwrap(),
        queue: QueueName::default(),
        selector: NodeSelector::default(),
        driver,
        executor,
        num_minimum: count,
        num_wanted: if driver.is_some() { 0 } else { count },
        held: BTreeMap::new(),
        avoided: BTreeSet::new(),
    }
}

fn seed_cluster() -> Vec<Room> {
    let mut rooms: Vec<Room> = (1..=4).map(|n| room(&format!("n{n}"), resources(8, 32))).collect();
    rooms.push(room("small", resources(1, 4)));
    rooms
}

/// Applies a plan to the rooms; fails when a node is asked for more than it has.
pub(super) fn apply(rooms: &mut [Room], plan: &Plan) {
    for placed in &plan.placed {
        let room = rooms.iter_mut().find(|room| room.node == placed.node).unwrap();
        room.free = room.free.checked_sub(placed.resources).expect("oversubscribed");
    }
}

#[test]
fn the_driver_leaves_room_for_all_its_executors() {
    let mut rooms = seed_cluster();
    let queued = claim("a", Some(resources(1, 1)), resources(2, 3), 16);
    let plan = schedule(rooms.clone(), &[queued]);
    assert_eq!(plan.placed.len(), 1);
    assert_eq!(plan.placed[0].node, NodeId::from("small"));
    apply(&mut rooms, &plan);
    let plan = schedule(rooms.clone(), &[claim("a", None, resources(2, 3), 16)]);
    assert_eq!(plan.placed.len(), 16);
    apply(&mut rooms, &plan);
    assert!(plan.waiting.is_empty());
    assert!(rooms.iter().all(|room| room.free.cores == 0));
}

#[test]
fn executors_are_spread() {
    let plan = schedule(seed_cluster(), &[claim("a", None, resources(2, 3), 4)]);
    let mut nodes: Vec<_> = plan.placed.iter().map(|placed| placed.node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2", "n3", "n4"]);
}

#[test]
fn where_executors_failed_others_go_only_when_no_other_node_has_room() {
    let nodes = |count: u32| -> Vec<String> {
        let avoided = BTreeSet::from([NodeId::from("n1"), NodeId::from("n3")]);
        let claim = Claim { avoided, ..claim("a", None, resources(2, 3), count) };
        let plan = schedule(seed_cluster(), &[claim]);
        let mut nodes: Vec<_> = plan.placed.iter().map(|p| p.node.to_string()).collect();
        nodes.sort_unstable();
        nodes
    };
    assert_eq!(nodes(2), ["n2", "n4"]);
    assert_eq!(nodes(4), ["n2", "n2", "n4", "n4"]);
    assert_eq!(nodes(9)[0], "n1", "the others are full");
    assert_eq!(nodes(9).len(), 9);
}

#[test]
fn drivers_are_spread() {
    let rooms: Vec<Room> = (1..=3).map(|n| room(&format!("n{n}"), resources(8, 32))).collect();
    let claims: Vec<Claim> = (1..=3)
        .map(|n| claim(&format!("a{n}"), Some(resources(1, 1)), resources(1, 1), 1))
        .collect();
    let plan = schedule(rooms, &claims);
    let mut nodes: Vec<_> = plan.placed.iter().map(|placed| placed.node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
}

#[test]
fn what_can_never_fit_waits_with_its_numbers_and_holds_nobody_up() {
    let claims = [
        claim("huge", Some(resources(1, 1)), resources(16, 3), 1),
        claim("small", Some(resources(1, 1)), resources(2, 3), 1),
    ];
    let plan = schedule(seed_cluster(), &claims);
    assert_eq!(plan.placed.len(), 1);
    assert_eq!(plan.placed[0].application.as_str(), "small");
    let reason = &plan.waiting[&claims[0].application].reason;
    assert!(reason.contains("1 executor of 16 cores, 3GiB"), "{reason}");
    assert!(reason.contains("33 cores"), "{reason}");
}

#[test]
fn nobody_overtakes_an_application_that_waits_for_room() {
    let mut rooms = seed_cluster();
    rooms[0].free = resources(0, 0);
    let claims = [
        claim("first", Some(resources(1, 1)), resources(2, 3), 16),
        claim("second", Some(resources(1, 1)), resources(2, 3), 1),
    ];
    let plan = schedule(rooms, &claims);
    assert!(plan.placed.is_empty());
    assert!(
        plan.waiting[&claims[0].application].reason.contains("12 such executors fit"),
        "{plan:?}"
    );
    assert!(
        plan.waiting[&claims[1].application].reason.contains("queued behind first"),
        "{plan:?}"
    );
}

#[test]
fn a_driver_at_work_finds_the_places_that_were_set_aside() {
    let mut rooms = vec![room("n1", resources(4, 16)), room("n2", resources(4, 16))];
    let first = claim("first", Some(resources(1, 1)), resources(2, 2), 3);
    let second = claim("second", Some(resources(1, 1)), resources(1, 1), 1);
    let plan = schedule(rooms.clone(), &[first.clone(), second.clone()]);
    assert_eq!(plan.placed.len(), 1, "first's executors need 6 of the 7 cores left: {plan:?}");
    apply(&mut rooms, &plan);
    let mut placed = Claim { driver: None, ..first };
    let plan = schedule(rooms.clone(), &[placed.clone(), second.clone()]);
    assert!(plan.placed.is_empty(), "the driver has not asked yet: {plan:?}");
    placed.num_wanted = 3;
    let plan = schedule(rooms, &[placed, second]);
    assert_eq!(plan.placed.iter().filter(|p| p.application.as_str() == "first").count(), 3);
}

#[test]
fn a_driver_never_takes_the_place_that_a_running_application_waits_for() {
    // The older application's driver has failed; the younger one runs and has lost an executor.
    let rooms = vec![room("n1", resources(1, 4))];
    let older = claim("older", Some(resources(1, 1)), resources(1, 1), 0);
    let younger = claim("younger", None, resources(1, 1), 1);
    let plan = schedule(rooms, &[older.clone(), younger.clone()]);
    let placed: Vec<_> = plan.placed.iter().map(|p| p.application.as_str()).collect();
    assert_eq!(placed, ["younger"]);
    assert!(plan.waiting.contains_key(&older.application));
    // It does not get in its way piece by piece either: the executor wants two cores at once.
    let mut half = room("n1", resources(2, 4));
    half.free = resources(1, 4);
    let waits = claim("younger", None, resources(2, 1), 1);
    let plan = schedule(vec![half.clone()], &[older.clone(), waits]);
    assert!(plan.placed.is_empty(), "{plan:?}");
    let reason = &plan.waiting[&older.application].reason;
    assert!(reason.contains("younger runs"), "{reason}");
    // But nobody waits for one that no node could ever hold.
    let never = claim("younger", None, resources(3, 1), 1);
    let plan = schedule(vec![half.clone(), half], &[older.clone(), never]);
    assert_eq!(plan.waiting.len(), 2, "the same queue: first come, first served");
}

#[test]
fn growth_takes_only_what_no_minimum_needs() {
    let rooms = vec![room("n1", resources(4, 16))];
    let mut elastic = claim("elastic", None, resources(1, 1), 1);
    elastic.num_wanted = 10;
    let fixed = claim("fixed", None, resources(1, 1), 2);
    let plan = schedule(rooms, &[elastic.clone(), fixed.clone()]);
    let count = |name: &str| plan.placed.iter().filter(|p| p.application.as_str() == name).count();
    assert_eq!((count("elastic"), count("fixed")), (2, 2));
    assert!(plan.waiting[&elastic.application].reason.starts_with("8 of 10 executors wait"));
}

fn any_rooms() -> impl Strategy<Value = Vec<Room>> {
    proptest::collection::vec((0u32..9, 0u64..9, 0u32..9, 0u64..9), 0..6).prop_map(|sizes| {
        sizes
            .into_iter()
            .enumerate()
            .map(|(index, (cores, gib, used_cores, used_gib))| {
                let mut made = room(&format!("n{index}"), resources(cores, gib));
                made.free =
                    resources(cores.saturating_sub(used_cores), gib.saturating_sub(used_gib));
                made
            })
            .collect()
    })
}

fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
    let one = (any::<bool>(), (1u32..3, 1u64..3), (1u32..4, 1u64..4), 1u32..5, 0u32..6, 0u32..4);
    proptest::collection::vec(one, 0..6).prop_map(|claims| {
        claims
            .into_iter()
            .enumerate()
            .map(|(index, (queued, driver, executor, minimum, wanted, held))| {
                let driver = queued.then(|| resources(driver.0, driver.1));
                let mut made =
                    claim(&format!("a{index}"), driver, resources(executor.0, executor.1), minimum);
                if !queued {
                    made.num_wanted = wanted;
                    made.held.insert("n0".into(), held);
                }
                made
            })
            .collect()
    })
}

/// Whether a driver and its executors fit, by trying every node for the driver.
fn fits_by_search(rooms: &[Room], driver: Resources, executor: Resources, count: u32) -> bool {
    (0..rooms.len()).any(|at| {
        let mut free: Vec<Resources> = rooms.iter().map(|room| room.free).collect();
        let Some(left) = free[at].checked_sub(driver) else { return false };
        free[at] = left;
        (0..count).all(|_| {
            free.iter_mut().any(|room| match room.checked_sub(executor) {
                Some(left) => {
                    *room = left;
                    true
                }
                None => false,
            })
        })
    })
}

proptest! {
    #[test]
    fn nothing_is_ever_oversubscribed(rooms in any_rooms(), claims in any_claims()) {
        let plan = schedule(rooms.clone(), &claims);
        apply(&mut rooms.clone(), &plan);
    }

    #[test]
    fn every_claim_is_served_or_told_why(rooms in any_rooms(), claims in any_claims()) {
        let plan = schedule(rooms, &claims);
        for claim in &claims {
            let placed = |driver| plan.placed.iter()
                .filter(|p| p.application == claim.application && p.is_driver == driver)
                .count();
            let held: u32 = claim.held.values().sum();
            let served = match claim.driver {
                Some(_) => placed(true) == 1 && placed(false) == 0,
                None => placed(true) == 0
                    && placed(false) == claim.num_wanted.saturating_sub(held) as usize,
            };
            prop_assert_eq!(served, !plan.waiting.contains_key(&claim.application));
        }
    }

    #[test]
    fn an_application_alone_starts_exactly_when_it_fits(
        rooms in any_rooms(),
        driver in (1u32..4, 1u64..4),
        executor in (1u32..4, 1u64..4),
        count in 1u32..8,
    ) {
        let (driver, executor) = (resources(driver.0, driver.1), resources(executor.0, executor.1));
        let fits = fits_by_search(&rooms, driver, executor, count);
        let mut rooms = rooms;
        let plan = schedule(rooms.clone(), &[claim("a", Some(driver), executor, count)]);
        prop_assert_eq!(plan.placed.len() == 1, fits);
        if fits {
            apply(&mut rooms, &plan);
            let plan = schedule(rooms, &[claim("a", None, executor, count)]);
            prop_assert_eq!(plan.placed.len(), count as usize);
        }
    }

    #[test]
    fn a_round_is_a_function_of_its_input(rooms in any_rooms(), claims in any_claims()) {
        prop_assert_eq!(schedule(rooms.clone(), &claims), schedule(rooms, &claims));
    }
}
