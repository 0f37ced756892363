//! What a new master finds, and what may be asked of it before every node has reported.

use std::time::Duration;

use millrace_proto::v1::{self, ApplicationState, driver_command, driver_message};

use super::world::{TIMING, World, spec};

fn running() -> World {
    let mut world = World::new();
    for name in ["n1", "n2"] {
        world.add_node(name, 4);
    }
    world.submit(&spec("a", 4, 1)).unwrap();
    world.driver_works("a");
    world
}

fn driver_node(world: &World) -> (&'static str, &'static str) {
    let holds =
        |name: &str| world.nodes[name].running.keys().any(|id| id.as_str().ends_with("driver"));
    if holds("n1") { ("n1", "n2") } else { ("n2", "n1") }
}

#[test]
fn a_kill_during_adoption_ends_everything_before_it_says_so() {
    for driver_first in [true, false] {
        let mut world = running();
        let (of_driver, other) = driver_node(&world);
        let (first, second) = if driver_first { (of_driver, other) } else { (other, of_driver) };
        world.restart_master();
        world.kill("a").unwrap();
        assert_eq!(world.state("a"), ApplicationState::Stopping);
        world.connect(first).unwrap();
        world.pass(Duration::from_secs(2));
        assert_eq!(world.state("a"), ApplicationState::Stopping, "{second} may hold some of it");
        assert!(world.submit(&spec("a", 1, 1)).is_err(), "its containers may live");
        world.connect(second).unwrap();
        world.pass(Duration::from_secs(1));
        assert_eq!(world.state("a"), ApplicationState::Killed);
        assert!(world.nodes.values().all(|node| node.running.is_empty()));
    }
}

#[test]
fn a_kill_during_adoption_ends_with_a_node_that_does_not_come_back() {
    let mut world = running();
    let (_, other) = driver_node(&world);
    world.restart_master();
    world.kill("a").unwrap();
    world.connect(other).unwrap();
    world.pass(TIMING.adopt_timeout + Duration::from_secs(1));
    assert_eq!(world.state("a"), ApplicationState::Killed);
}

#[test]
fn a_stop_during_adoption_is_told_when_the_driver_is_back() {
    let mut world = running();
    world.restart_master();
    world.stop("a").unwrap();
    world.told.clear();
    for name in ["n1", "n2"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_connects("a").unwrap();
    let stops = world.told.iter().filter(|(_, body)| matches!(body, driver_command::Body::Stop(_)));
    assert_eq!(stops.count(), 1);
    let mut finished = v1::DriverFinished::default();
    finished.set_state(ApplicationState::Stopped);
    world.driver_says(session, driver_message::Body::Finished(finished));
    world.exit("a-a1-driver", 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.state("a"), ApplicationState::Stopped);
}

#[test]
fn a_stop_during_adoption_without_a_driver_waits_for_the_executors_it_may_have() {
    let mut world = running();
    // The driver is gone, and its executors' nodes are cut off before they hear of it.
    let (of_driver, other) = driver_node(&world);
    world.cut(other);
    world.exit("a-a1-driver", 1);
    let left = world.nodes[other].running.len();
    assert!(left > 0);
    world.restart_master();
    world.stop("a").unwrap();
    assert_eq!(world.state("a"), ApplicationState::Stopping);
    world.connect(of_driver).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.state("a"), ApplicationState::Stopping);
    world.connect(other).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.state("a"), ApplicationState::Stopped);
    assert!(world.nodes[other].running.is_empty());
}

#[test]
fn failures_and_their_pause_survive_the_master() {
    let mut world = running();
    for attempt in 1..=4 {
        world.exit(&format!("a-a{attempt}-driver"), 1);
        if attempt == 3 {
            world.restart_master();
            for name in ["n1", "n2"] {
                world.connect(name).unwrap();
            }
            assert!(world.driver_of("a").is_none(), "the pause goes on");
        }
        world.pass(Duration::from_secs(1 << (attempt - 1)) + Duration::from_millis(600));
    }
    world.exit("a-a5-driver", 1);
    assert_eq!(world.state("a"), ApplicationState::Failed, "{}", world.reason("a"));
    assert!(world.reason("a").contains("failed 5 times"), "{}", world.reason("a"));
}

#[test]
fn batches_survive_the_master_with_the_next_record_or_through_the_driver() {
    let mut world = running();
    let session = *world.drivers.keys().next().unwrap();
    let batch = |number| {
        let batch = v1::Batch { number, committed_ms: 1, ..Default::default() };
        driver_message::Body::Batch(batch)
    };
    let known = |world: &World| -> Vec<u64> {
        let batches = crate::control::view::batches(&world.core, "a", 0).unwrap();
        batches.iter().map(|batch| batch.number).collect()
    };
    for number in 1..=3 {
        world.driver_says(session, batch(number));
    }
    world.exit("a-a1-driver", 1);
    world.pass(Duration::from_secs(2));
    world.restart_master();
    assert_eq!(known(&world), [3, 2, 1]);
    for name in ["n1", "n2"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_works("a");
    world.driver_says(session, batch(5));
    // A driver says to a new master what it said to the old one.
    world.driver_says(session, batch(4));
    assert_eq!(known(&world), [5, 4, 3, 2, 1]);
}

#[test]
fn the_number_of_an_executor_that_ended_unheard_is_not_given_again() {
    let mut world = running();
    world.restart_master();
    world.exit("a-a1-e4", 1);
    for name in ["n1", "n2"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_connects("a").unwrap();
    let resources = Some(v1::Resources { cores: 1, memory_bytes: 1 << 30 });
    let target = driver_message::Body::Target(v1::ExecutorTarget {
        count: 4,
        resources,
        ..Default::default()
    });
    world.driver_says(session, target);
    world.pass(Duration::from_secs(2));
    let executors = world.executors_of("a");
    assert_eq!(executors.len(), 4);
    assert!(executors.contains(&"a-a1-e5".to_owned()), "{executors:?}");
    assert!(!executors.contains(&"a-a1-e4".to_owned()), "{executors:?}");
}
