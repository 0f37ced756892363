//! Nodes that are drained, against fake nodes and drivers.

use std::time::Duration;

use millrace_common::error::Code;
use millrace_common::exit::HANDED_OVER;
use millrace_common::id::NodeId;
use millrace_proto::v1::{self, ApplicationState, NodeState, driver_command, driver_message};

use super::world::{TIMING, World, spec};
use crate::control::view;

pub(super) fn shown(world: &World, node: &str) -> v1::Node {
    view::node(&world.core, &NodeId::from(node)).unwrap()
}

/// What drivers were told of moving: executors to give up, and hand-overs as an empty name.
pub(super) fn asked(world: &mut World) -> Vec<String> {
    let told = std::mem::take(&mut world.told);
    told.into_iter()
        .filter_map(|(_, body)| match body {
            driver_command::Body::Retire(retire) => Some(retire.container_id),
            driver_command::Body::HandOver(_) => Some(String::new()),
            _ => None,
        })
        .collect()
}

pub(super) fn release(container: &str) -> driver_message::Body {
    let container_id = container.to_owned();
    driver_message::Body::Release(v1::ReleaseContainer { container_id, ..Default::default() })
}

pub(super) fn node_of(world: &World, container: &str) -> String {
    let holds = |(_, node): &(&String, &super::world::FakeNode)| {
        node.running.keys().any(|id| id.as_str() == container)
    };
    world.nodes.iter().find(holds).map(|(name, _)| name.clone()).expect("it runs somewhere")
}

/// An application of 4 executors over three nodes, its driver on the small one.
pub(super) fn running() -> (World, u64) {
    let mut world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.add_node(name, 8);
    }
    world.add_node("small", 1);
    world.submit(&spec("a", 4, 2)).unwrap();
    let session = world.driver_works("a");
    assert_eq!(node_of(&world, "a-a1-driver"), "small");
    world.pass(Duration::from_secs(1));
    world.told.clear();
    (world, session)
}

#[test]
fn executors_move_one_after_another_and_the_node_is_drained() {
    let (mut world, session) = running();
    let on_node = |world: &World| {
        world.executors_of("a").iter().filter(|e| node_of(world, e) == "n1").count()
    };
    let before = on_node(&world);
    assert!(before > 0);
    world.drain("n1", 0).unwrap();
    let mut moved = 0;
    while shown(&world, "n1").state() != NodeState::Drained {
        world.pass(Duration::from_secs(1));
        assert!(world.executors_of("a").len() >= 4, "fewer than the driver asked for");
        let asked = asked(&mut world);
        assert!(asked.len() <= 1, "several at once: {asked:?}");
        for executor in asked {
            assert_eq!(node_of(&world, &executor), "n1");
            assert_eq!(shown(&world, "n1").state(), NodeState::Draining);
            world.driver_says(session, release(&executor));
            moved += 1;
        }
        assert!(moved <= before, "it moves what it moved before");
    }
    assert_eq!((moved, on_node(&world)), (before, 0));
    assert_eq!(world.executors_of("a").len(), 4);
    assert_eq!(world.driver_of("a").unwrap().attempt, 1);
    // Nothing comes there, until it is undrained.
    world.submit(&spec("b", 10, 1)).unwrap();
    assert!(world.nodes["n1"].running.is_empty());
    world.undrain("n1").unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(shown(&world, "n1").state(), NodeState::Alive);
    assert!(world.driver_of("b").is_some());
}

#[test]
fn a_driver_moves_at_the_edge_of_a_batch_and_has_not_failed() {
    let (mut world, session) = running();
    world.drain("small", 0).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(asked(&mut world), [""]);
    world.pass(Duration::from_secs(5));
    assert!(asked(&mut world).is_empty(), "asked once");
    let mut finished = v1::DriverFinished { handed_over: true, ..Default::default() };
    finished.set_state(ApplicationState::Stopped);
    world.driver_says(session, driver_message::Body::Finished(finished));
    world.exit("a-a1-driver", HANDED_OVER.into());
    world.pass(Duration::from_millis(500));
    assert_eq!(world.driver_of("a").unwrap().attempt, 2, "{}", world.reason("a"));
    assert_eq!(shown(&world, "small").state(), NodeState::Drained);
    // Five moves are no five failures.
    for attempt in 2..8 {
        let driver = world.driver_of("a").unwrap();
        assert_eq!(driver.attempt, attempt);
        world.exit(&driver.container_id, HANDED_OVER.into());
        world.pass(Duration::from_millis(500));
    }
    assert_ne!(world.state("a"), ApplicationState::Failed);
}

#[test]
fn the_only_node_waits_and_a_deadline_ends_what_is_left() {
    let mut world = World::new();
    world.add_node("n1", 4);
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    world.told.clear();
    world.drain("n1", 30_000).unwrap();
    world.pass(Duration::from_secs(20));
    assert!(asked(&mut world).is_empty());
    let node = shown(&world, "n1");
    assert_eq!(node.state(), NodeState::Draining);
    assert!(node.reason.contains("no other node is left"), "{}", node.reason);
    world.pass(Duration::from_secs(15));
    assert_eq!(shown(&world, "n1").state(), NodeState::Drained);
    assert_eq!(world.state("a"), ApplicationState::Queued);
    assert!(world.reason("a").contains("no node has registered"), "{}", world.reason("a"));
    world.add_node("n2", 4);
    assert_eq!(world.driver_of("a").unwrap().attempt, 2);
}

#[test]
fn a_drain_outlives_the_master_and_the_worker() {
    let (mut world, _) = running();
    world.drain("n1", 0).unwrap();
    world.pass(Duration::from_secs(1));
    let retiring = asked(&mut world);
    assert_eq!(retiring.len(), 1);
    world.restart_master();
    for name in ["n1", "n2", "n3", "small"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_connects("a").unwrap();
    let resources = Some(v1::Resources { cores: 2, memory_bytes: 1 << 30 });
    let target = driver_message::Body::Target(v1::ExecutorTarget {
        count: 4,
        resources,
        ..Default::default()
    });
    world.driver_says(session, target);
    world.pass(Duration::from_secs(1));
    assert_eq!(shown(&world, "n1").state(), NodeState::Draining);
    assert_eq!(asked(&mut world), retiring, "the driver is asked again");
    world.crash_node("n1");
    world.pass(TIMING.lost_after + Duration::from_secs(1));
    assert_eq!(shown(&world, "n1").state(), NodeState::Lost);
    world.connect("n1").unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(shown(&world, "n1").state(), NodeState::Drained);
    assert_eq!(world.executors_of("a").len(), 4);
}

#[test]
fn replacements_that_a_called_off_drain_has_left_over_are_given_up() {
    let (mut world, session) = running();
    world.drain("n1", 0).unwrap();
    world.undrain("n1").unwrap();
    world.pass(Duration::from_secs(1));
    for _ in 0..10 {
        for executor in asked(&mut world) {
            world.driver_says(session, release(&executor));
        }
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.executors_of("a").len(), 4);
}

#[test]
fn a_node_that_nobody_knows_is_not_drained() {
    let mut world = World::new();
    let error = world.drain("n9", 0).unwrap_err();
    assert_eq!(error.code(), Code::UnknownNode);
    assert_eq!(world.undrain("n9").unwrap_err().code(), Code::UnknownNode);
    world.add_node("n9", 1);
    world.undrain("n9").unwrap();
}
