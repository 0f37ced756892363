//! Numbers of executors that change, by the driver's will and by hand; queues and labels.

use std::time::Duration;

use millrace_common::config::Value as _;
use millrace_common::error::Code;
use millrace_proto::v1::{self, ApplicationState, driver_command, driver_message};

use super::drains::{asked, node_of, release};
use super::world::{World, spec};
use crate::control::view;
use crate::scheduler::Queues;

fn target(count: u32) -> driver_message::Body {
    driver_message::Body::Target(v1::ExecutorTarget {
        count,
        resources: Some(v1::Resources { cores: 1, memory_bytes: 1 << 30 }),
        ..Default::default()
    })
}

/// What drivers were last told of their bounds.
fn told_bounds(world: &World) -> Option<(u32, u32)> {
    world.told.iter().rev().find_map(|(_, body)| match body {
        driver_command::Body::Bounds(bounds) => Some((bounds.min, bounds.max)),
        _ => None,
    })
}

fn elastic() -> (World, u64) {
    let mut world = World::new();
    for name in ["n1", "n2"] {
        world.add_node(name, 8);
    }
    let mut spec = spec("a", 2, 1);
    spec.resources.as_mut().unwrap().max_executors = 8;
    world.submit(&spec).unwrap();
    let session = world.driver_works("a");
    world.driver_says(session, target(2));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.executors_of("a").len(), 2);
    (world, session)
}

#[test]
fn executors_come_as_the_driver_asks_and_go_one_after_another() {
    let (mut world, session) = elastic();
    world.driver_says(session, target(5));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.executors_of("a").len(), 5);
    world.told.clear();
    world.driver_says(session, target(3));
    let mut given_up = Vec::new();
    for _ in 0..10 {
        world.pass(Duration::from_secs(1));
        let asked = asked(&mut world);
        assert!(asked.len() <= 1, "several at once: {asked:?}");
        for executor in asked {
            world.driver_says(session, release(&executor));
            given_up.push(executor);
        }
    }
    assert_eq!(given_up, ["a-a1-e5", "a-a1-e4"], "the newest first");
    assert_eq!(world.executors_of("a").len(), 3);
}

#[test]
fn a_number_set_by_hand_holds_for_the_attempts_to_come() {
    let (mut world, _) = elastic();
    assert_eq!(told_bounds(&world), Some((2, 8)));
    world.scale("a", 6).unwrap();
    assert_eq!(told_bounds(&world), Some((6, 6)));
    let shown = view::application(&world.core, "a").unwrap().application.unwrap();
    assert_eq!(shown.scaled_to, 6);
    // The driver dies, and the master too.
    world.exit("a-a1-driver", 1);
    world.pass(Duration::from_secs(5));
    world.restart_master();
    for node in ["n1", "n2"] {
        world.connect(node).unwrap();
    }
    world.pass(Duration::from_secs(20));
    let resources = world.driver_of("a").unwrap().spec.unwrap().resources.unwrap();
    assert_eq!((resources.min_executors, resources.max_executors), (6, 6));
    world.told.clear();
    world.driver_works("a");
    assert_eq!(told_bounds(&world), Some((6, 6)));
    world.scale("a", 0).unwrap();
    assert_eq!(told_bounds(&world), Some((2, 8)));
}

#[test]
fn what_is_asked_for_by_hand_is_not_needed_for_a_start() {
    let (mut world, _) = elastic();
    world.scale("a", 100).unwrap();
    world.exit("a-a1-driver", 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.state("a"), ApplicationState::Starting, "{}", world.reason("a"));
    assert_eq!(world.scale("a", 20_000).unwrap_err().code(), Code::InvalidValue);
    assert_eq!(world.scale("b", 1).unwrap_err().code(), Code::UnknownApplication);
    world.kill("a").unwrap();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.scale("a", 1).unwrap_err().code(), Code::WrongState);
}

#[test]
fn the_next_driver_hears_what_the_last_one_asked_for() {
    let (mut world, session) = elastic();
    assert_eq!(world.driver_of("a").unwrap().last_target, 0);
    world.driver_says(session, target(5));
    world.exit("a-a1-driver", 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.driver_of("a").unwrap().last_target, 5);
}

#[test]
fn a_submission_needs_a_queue_that_takes_it() {
    let mut world = World::new();
    world.add_node("n1", 8);
    let text = "{ etl = { cap = \"50%\", submit = [\"bob\"] }, all = { cap = \"50%\" } }";
    world.core.queues = Queues::parse(text).unwrap();
    let of = |queue: &str, name, executors| v1::ApplicationSpec {
        queue: queue.to_owned(),
        ..spec(name, executors, 1)
    };
    assert_eq!(world.submit(&of("none", "a", 1)).unwrap_err().code(), Code::UnknownQueue);
    assert_eq!(world.submit(&of("etl", "a", 1)).unwrap_err().code(), Code::QueueDenied);
    world.submit(&of("all", "a", 2)).unwrap();
    world.driver_works("a");
    world.submit(&of("all", "b", 1)).unwrap();
    let reason = world.reason("b");
    assert!(reason.contains("queue all may hold 50% of the cluster (4 cores, 8GiB)"), "{reason}");
    assert!(reason.contains("holds 3 cores, 2560MiB"), "{reason}");
    let queues = view::queues(&world.core, Default::default());
    let all = queues.iter().find(|queue| queue.name == "all").unwrap();
    assert_eq!((all.num_applications, all.num_queued, all.cap_bp), (2, 1, 5_000));
    assert_eq!(all.used.unwrap().cores, 3);
}

#[test]
fn containers_go_only_where_the_labels_are_right() {
    let mut world = World::new();
    world.add_labelled("n1", 8, "zone=a");
    world.add_labelled("n2", 8, "zone=b,gpu");
    let requires = |label: &str, value: &str| {
        let (label, values) = (label.to_owned(), vec![value.to_owned()]);
        vec![v1::LabelRequirement { label, values }]
    };
    let mut wanted = spec("a", 3, 1);
    wanted.node_selector = requires("gpu", "true");
    world.submit(&wanted).unwrap();
    world.driver_works("a");
    let mut all = world.executors_of("a");
    all.push("a-a1-driver".to_owned());
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|id| node_of(&world, id) == "n2"));
    let mut nowhere = spec("b", 1, 1);
    nowhere.node_selector = requires("zone", "c");
    world.submit(&nowhere).unwrap();
    let reason = world.reason("b");
    assert!(reason.contains("on nodes with zone=c; none of 2 nodes has that"), "{reason}");
    world.add_labelled("n3", 2, "zone=c");
    assert_eq!(world.state("b"), ApplicationState::Starting, "placed at once");
    let shown = view::nodes(&world.core);
    assert_eq!(shown[1].labels["gpu"], "true");
}
