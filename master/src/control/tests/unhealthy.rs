//! Nodes whose disk fails, against fake nodes and drivers.

use std::time::Duration;

use millrace_proto::v1::NodeState;
use proptest::prelude::*;

use super::drains::{asked, node_of, release, running, shown};
use super::world::{World, spec};

const FULL: &str = "MR6008: the disk is full";

/// Lets time pass; the driver gives up what it is asked to.
fn obey(world: &mut World, session: u64, seconds: u64) {
    for _ in 0..seconds {
        world.pass(Duration::from_secs(1));
        for executor in asked(world) {
            world.driver_says(session, release(&executor));
        }
    }
}

#[test]
fn what_is_on_an_unhealthy_node_moves_and_nothing_new_comes() {
    let (mut world, session) = running();
    let on_node = |world: &World| {
        world.executors_of("a").iter().filter(|e| node_of(world, e) == "n1").count()
    };
    assert!(on_node(&world) > 0);
    let since_ms = i64::try_from(world.now.as_millis()).unwrap() + 1_000_000;
    world.set_health("n1", FULL);
    world.pass(Duration::from_secs(1));
    assert!(asked(&mut world).is_empty(), "others may fail for the same reason");
    world.pass(Duration::from_secs(2));
    let node = shown(&world, "n1");
    assert_eq!((node.state(), node.unhealthy.as_str()), (NodeState::Unhealthy, FULL));
    assert_eq!(node.unhealthy_since_ms, since_ms);
    assert!(node.reason.contains("moves its shards and blocks"), "{}", node.reason);
    while on_node(&world) > 0 {
        let executor = asked(&mut world).pop().expect("the next one is asked for");
        assert_eq!(node_of(&world, &executor), "n1");
        world.driver_says(session, release(&executor));
        assert!(world.executors_of("a").len() >= 4, "fewer than the driver asked for");
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.driver_of("a").unwrap().attempt, 1);
    assert_eq!(shown(&world, "n1").reason, "");
    // Three nodes are not enough for both; the fourth gives nothing, and the reason says so.
    world.submit(&spec("b", 10, 1)).unwrap();
    assert!(world.nodes["n1"].running.is_empty());
    assert!(world.reason("b").contains("node n1 is unhealthy"), "{}", world.reason("b"));
    world.set_health("n1", "");
    world.pass(Duration::from_secs(1));
    let node = shown(&world, "n1");
    assert_eq!((node.state(), node.unhealthy_since_ms), (NodeState::Alive, 0));
    assert!(world.driver_of("b").is_some());
    assert_eq!(world.num_refused, 0);
}

#[test]
fn without_room_elsewhere_everything_stays() {
    let mut world = World::new();
    world.add_node("n1", 4);
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    world.told.clear();
    world.set_health("n1", FULL);
    world.pass(Duration::from_secs(300));
    assert!(asked(&mut world).is_empty());
    assert_eq!(world.nodes["n1"].running.len(), 3);
    let node = shown(&world, "n1");
    assert_eq!(node.state(), NodeState::Unhealthy);
    assert!(node.reason.contains("no other node is left"), "{}", node.reason);
    // Well again: nothing was moved, nothing is left over.
    world.set_health("n1", "");
    world.pass(Duration::from_secs(10));
    assert!(asked(&mut world).is_empty());
    assert_eq!(world.nodes["n1"].running.len(), 3);
}

#[test]
fn an_unhealthy_node_beside_another_one_is_no_room() {
    let mut world = World::new();
    world.add_node("n1", 4);
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    world.add_node("n2", 4);
    world.told.clear();
    // One disk below both: the second notices a little later.
    world.set_health("n1", FULL);
    world.pass(Duration::from_secs(1));
    world.set_health("n2", FULL);
    world.pass(Duration::from_secs(60));
    assert!(asked(&mut world).is_empty(), "there is nowhere to go");
    world.set_health("n2", "");
    world.pass(Duration::from_secs(1));
    assert_eq!(asked(&mut world), [""], "the driver and all of it has room there");
}

#[test]
fn a_node_that_recovers_keeps_what_it_has_and_gets_nothing() {
    let mut world = World::new();
    world.add_node("n1", 4);
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.add_node("n2", 4);
    world.told.clear();
    world.set_health("n2", FULL);
    world.set_health("n1", FULL);
    world.recovers("n1");
    // The other one is well first: that is no reason to move now.
    world.set_health("n2", "");
    obey(&mut world, session, 60);
    assert!(asked(&mut world).is_empty());
    assert_eq!((world.nodes["n1"].running.len(), world.nodes["n2"].running.len()), (3, 0));
    assert_eq!(shown(&world, "n1").state(), NodeState::Unhealthy);
    // What dies there starts elsewhere.
    let executor = world.executors_of("a").pop().unwrap();
    world.exit(&executor, 1);
    obey(&mut world, session, 60);
    assert_eq!((world.nodes["n1"].running.len(), world.nodes["n2"].running.len()), (2, 1));
    assert_eq!(world.num_refused, 0);
}

#[test]
fn a_new_master_hears_of_it_at_the_registration() {
    let (mut world, _) = running();
    world.set_health("n1", FULL);
    world.restart_master();
    for name in ["n1", "n2", "n3", "small"] {
        world.connect(name).unwrap();
    }
    assert_eq!(shown(&world, "n1").state(), NodeState::Unhealthy);
    assert_eq!(shown(&world, "n2").state(), NodeState::Alive);
}

#[test]
fn a_drain_of_an_unhealthy_node_shows_both() {
    let (mut world, _) = running();
    world.set_health("n1", FULL);
    world.drain("n1", 0).unwrap();
    world.pass(Duration::from_secs(1));
    let node = shown(&world, "n1");
    assert_eq!((node.state(), node.unhealthy.as_str()), (NodeState::Draining, FULL));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// However disks come and go, no application has ever less than it asked for, nothing is sent to
    /// an unhealthy node, and in the end it has exactly that again.
    #[test]
    fn health_that_comes_and_goes_takes_nothing_away(
        steps in prop::collection::vec((0_usize..3, 0_u8..3, 0_u64..4), 1..40),
    ) {
        const NODES: [&str; 3] = ["n1", "n2", "n3"];
        let (mut world, session) = running();
        for (node, health, seconds) in steps {
            match health {
                0 => world.set_health(NODES[node], ""),
                1 => world.set_health(NODES[node], FULL),
                _ => world.recovers(NODES[node]),
            }
            obey(&mut world, session, seconds);
            prop_assert!(world.executors_of("a").len() >= 4);
        }
        for node in NODES {
            world.set_health(node, "");
        }
        obey(&mut world, session, 30);
        prop_assert_eq!(world.executors_of("a").len(), 4);
        prop_assert_eq!(world.num_refused, 0);
        prop_assert_eq!(world.driver_of("a").unwrap().attempt, 1);
        for node in NODES {
            prop_assert_eq!(shown(&world, node).state(), NodeState::Alive);
        }
    }
}
