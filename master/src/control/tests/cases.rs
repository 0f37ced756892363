//! One promise per test.

use std::time::Duration;

use millrace_common::error::Code;
use millrace_proto::v1::{self, ApplicationState, driver_command, driver_message};

use super::world::{TIMING, World, request, spec};

fn finished(state: ApplicationState, retryable: bool) -> driver_message::Body {
    let mut finished =
        v1::DriverFinished { retryable, reason: "said so".to_owned(), ..Default::default() };
    finished.set_state(state);
    driver_message::Body::Finished(finished)
}

fn committed(number: u64) -> driver_message::Body {
    driver_message::Body::Batch(v1::Batch { number, committed_ms: 1, ..Default::default() })
}

/// Four nodes of 8 cores and one of 1.
fn seed() -> World {
    let mut world = World::new();
    for name in ["n1", "n2", "n3", "n4"] {
        world.add_node(name, 8);
    }
    world.add_node("small", 1);
    world
}

#[test]
fn the_seed_fills_every_core() {
    let mut world = seed();
    world.submit(&spec("a", 16, 2)).unwrap();
    assert!(world.nodes["small"].running.contains_key("a-a1-driver"), "{:?}", world.nodes);
    assert_eq!(world.state("a"), ApplicationState::Starting);
    world.driver_works("a");
    assert_eq!(world.state("a"), ApplicationState::Running);
    assert_eq!(world.executors_of("a").len(), 16);
    let started = |(_, body): &&(_, _)| matches!(body, driver_command::Body::Started(_));
    assert_eq!(world.told.iter().filter(started).count(), 16);
}

#[test]
fn a_name_in_use_is_refused_with_state_and_time() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    let error = world.submit(&spec("a", 1, 1)).unwrap_err();
    assert_eq!(error.code(), Code::NameInUse);
    assert!(error.message().contains("STARTING since 1970-01-01T00:16:40Z"), "{error}");
}

#[test]
fn what_waits_says_why_and_starts_when_a_node_comes() {
    let mut world = World::new();
    world.submit(&spec("a", 2, 2)).unwrap();
    assert_eq!(world.state("a"), ApplicationState::Queued);
    assert!(world.reason("a").contains("no node has registered"), "{}", world.reason("a"));
    world.add_node("n1", 4);
    assert!(
        world.reason("a").contains("the whole cluster offers 4 cores"),
        "{}",
        world.reason("a")
    );
    world.add_node("n2", 2);
    assert_eq!(world.state("a"), ApplicationState::Starting);
}

#[test]
fn a_driver_that_fails_is_started_again_and_given_up_after_five_times() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    for attempt in 1..=5 {
        let driver = world.driver_of("a").expect("the driver is started again");
        assert_eq!(driver.attempt, attempt);
        world.exit(&driver.container_id, 101);
        assert!(world.driver_of("a").is_none(), "no back-off before attempt {}", attempt + 1);
        if attempt < 5 {
            assert_eq!(world.state("a"), ApplicationState::Queued);
            assert!(world.reason("a").contains("exit code 101"), "{}", world.reason("a"));
            world.pass(Duration::from_secs(1 << (attempt - 1)) + Duration::from_millis(600));
        }
    }
    assert_eq!(world.state("a"), ApplicationState::Failed);
    assert!(world.reason("a").starts_with("MR2007"), "{}", world.reason("a"));
    world.submit(&spec("a", 1, 1)).unwrap();
    assert_eq!(world.driver_of("a").unwrap().attempt, 6);
}

#[test]
fn a_commit_forgives_earlier_failures() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    for round in 1..=12 {
        let session = world.driver_works("a");
        world.driver_says(session, committed(round));
        world.exit(&world.driver_of("a").unwrap().container_id, 1);
        assert_eq!(world.state("a"), ApplicationState::Queued, "round {round}");
        world.pass(Duration::from_secs(2));
    }
}

#[test]
fn a_final_failure_of_the_driver_is_final() {
    let mut world = seed();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.driver_says(session, finished(ApplicationState::Rejected, false));
    assert_eq!(world.state("a"), ApplicationState::Running, "its containers still run");
    world.exit("a-a1-driver", 1);
    assert_eq!(world.state("a"), ApplicationState::Rejected);
    assert!(world.executors_of("a").is_empty());
    world.pass(Duration::from_secs(120));
    assert!(world.driver_of("a").is_none());
}

#[test]
fn a_retryable_failure_is_tried_again() {
    let mut world = seed();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.driver_says(session, finished(ApplicationState::Failed, true));
    world.exit("a-a1-driver", 1);
    assert_eq!(world.state("a"), ApplicationState::Queued);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.driver_of("a").unwrap().attempt, 2);
}

#[test]
fn stop_tells_the_driver_and_ends_when_everything_has_ended() {
    let mut world = seed();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.stop("a").unwrap();
    assert_eq!(world.state("a"), ApplicationState::Stopping);
    assert!(matches!(world.told.last(), Some((_, driver_command::Body::Stop(_)))));
    world.driver_says(session, finished(ApplicationState::Stopped, false));
    world.exit("a-a1-driver", 0);
    assert_eq!(world.state("a"), ApplicationState::Stopped);
    assert!(world.executors_of("a").is_empty());
    assert_eq!(world.stop("a").unwrap_err().code(), Code::WrongState);
    world.submit(&spec("a", 2, 1)).unwrap();
    assert_eq!(world.driver_of("a").unwrap().attempt, 2);
    assert_eq!(world.driver_of("a").unwrap().epoch, 2);
    assert!(world.driver_of("a").unwrap().head_expected);
}

#[test]
fn a_driver_that_fails_while_it_stops_is_started_to_finish() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    world.driver_works("a");
    world.stop("a").unwrap();
    world.exit("a-a1-driver", 101);
    world.pass(Duration::from_secs(2));
    world.driver_connects("a").unwrap();
    let told = world.told.iter().filter(|(container, _)| container == "a-a2-driver");
    let stops = told.filter(|(_, body)| matches!(body, driver_command::Body::Stop(_)));
    assert_eq!(stops.count(), 1);
    assert_eq!(world.state("a"), ApplicationState::Stopping);
}

#[test]
fn stop_of_an_application_without_a_driver_is_at_once() {
    let mut world = World::new();
    world.submit(&spec("a", 1, 1)).unwrap();
    world.stop("a").unwrap();
    assert_eq!(world.state("a"), ApplicationState::Stopped);
}

#[test]
fn kill_ends_every_container() {
    let mut world = seed();
    world.submit(&spec("a", 4, 1)).unwrap();
    world.driver_works("a");
    world.kill("a").unwrap();
    assert_eq!(world.state("a"), ApplicationState::Killed);
    assert!(world.driver_of("a").is_none() && world.executors_of("a").is_empty());
    assert_eq!(world.kill("a").unwrap_err().code(), Code::WrongState);
}

#[test]
fn kill_takes_back_a_grant_that_was_not_sent_yet() {
    let mut world = seed();
    world.store_is_slow = true;
    world.submit(&spec("a", 1, 1)).unwrap();
    assert!(world.driver_of("a").is_none(), "started before it was in the store");
    world.kill("a").unwrap();
    world.write_all();
    world.write_all();
    assert!(world.driver_of("a").is_none());
    assert_eq!(world.state("a"), ApplicationState::Killed);
}

#[test]
fn an_executor_that_ends_is_told_and_replaced() {
    let mut world = seed();
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    world.pass(Duration::from_secs(31));
    world.exit("a-a1-e1", 137);
    assert_eq!(world.executors_of("a").len(), 2, "{:?}", world.executors_of("a"));
    let told: Vec<_> = world.told.iter().map(|(_, body)| body.clone()).collect();
    let ended = told.iter().position(|body| {
        matches!(body,
        driver_command::Body::Ended(ended) if ended.container_id == "a-a1-e1")
    });
    let started = told.iter().position(|body| {
        matches!(body,
        driver_command::Body::Started(started) if started.container_id == "a-a1-e3")
    });
    assert!(ended.is_some() && ended < started, "{told:?}");
}

#[test]
fn executors_that_fail_at_their_start_are_not_started_in_a_loop() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    world.driver_works("a");
    let mut number = 1;
    for _ in 0..100 {
        for container in world.executors_of("a") {
            world.exit(&container, 1);
            number += 1;
        }
        world.pass(Duration::from_millis(500));
    }
    assert!(number < 12, "{number} executors in 50 s");
}

#[test]
fn a_lost_node_takes_its_containers_with_it() {
    let mut world = World::new();
    world.add_node("n1", 4);
    world.add_node("n2", 4);
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    let before = world.driver_of("a").unwrap();
    let holds = |name: &&str| world.nodes[*name].running.contains_key(before.container_id.as_str());
    let on = ["n1", "n2"].into_iter().find(holds).unwrap();
    world.cut(on);
    world.pass(TIMING.lost_after - Duration::from_secs(1));
    assert_eq!(world.driver_of("a").unwrap().attempt, 1);
    world.pass(Duration::from_secs(4));
    let after = world.driver_of("a").unwrap();
    assert_eq!(after.attempt, 2);
    assert!(after.epoch > before.epoch);
    // It comes back with containers that nobody wants any more.
    world.connect(on).unwrap();
    assert!(world.nodes[on].running.keys().all(|id| id.as_str().contains("-a2-")));
}

#[test]
fn a_silent_driver_is_replaced() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    let session = world.driver_works("a");
    world.drivers.remove(&session);
    world.pass(TIMING.lost_after + Duration::from_secs(3));
    assert_eq!(world.driver_of("a").unwrap().attempt, 2);
}

#[test]
fn a_driver_of_an_older_attempt_is_fenced() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    let old = world.driver_of("a").unwrap();
    world.exit(&old.container_id, 1);
    world.pass(Duration::from_secs(2));
    let register = v1::DriverRegister {
        application: "a".to_owned(),
        attempt: old.attempt,
        epoch: old.epoch,
        container_id: old.container_id,
        ..Default::default()
    };
    let now = crate::moment::Moment { wall_ms: 0, monotonic: world.now };
    let error = world.core.driver_opened(now, 99_999, register).unwrap_err();
    assert_eq!(error.code(), Code::Fenced);
}

#[test]
fn a_granted_epoch_is_above_all_that_were_seen_and_is_kept_first() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    let session = world.driver_connects("a").unwrap();
    world.store_is_slow = true;
    world.driver_says(session, driver_message::Body::Epoch(v1::EpochRequest { seen_epoch: 41 }));
    let granted = |world: &World| {
        world.told.iter().find_map(|(_, body)| match body {
            driver_command::Body::Epoch(granted) => Some(granted.epoch),
            _ => None,
        })
    };
    assert_eq!(granted(&world), None, "told before it was kept");
    world.write_all();
    assert_eq!(granted(&world), Some(42));
}

#[test]
fn a_new_master_takes_everything_up_and_starts_nothing_twice() {
    let mut world = seed();
    world.submit(&spec("a", 4, 2)).unwrap();
    world.driver_works("a");
    let driver = world.driver_of("a").unwrap();
    let mut executors = world.executors_of("a");
    executors.sort();
    world.restart_master();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.state("a"), ApplicationState::Running);
    for name in ["n1", "n2", "n3", "n4", "small"] {
        world.connect(name).unwrap();
    }
    world.driver_connects("a").unwrap();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.driver_of("a").unwrap().container_id, driver.container_id);
    let mut after = world.executors_of("a");
    after.sort();
    assert_eq!(after, executors);
}

#[test]
fn a_new_master_waits_for_a_node_only_so_long() {
    let mut world = World::new();
    world.add_node("n1", 2);
    world.submit(&spec("a", 1, 1)).unwrap();
    world.driver_works("a");
    world.restart_master();
    world.add_node("n2", 4);
    world.pass(TIMING.adopt_timeout - Duration::from_secs(1));
    assert_eq!(world.driver_of("a").unwrap().attempt, 1, "n1 may still report");
    world.pass(Duration::from_secs(4));
    assert_eq!(world.driver_of("a").unwrap().attempt, 2);
}

#[test]
fn what_ended_while_the_master_was_away_is_told_to_the_driver() {
    let mut world = seed();
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    world.restart_master();
    world.exit("a-a1-e2", 1);
    // The driver does not know yet.
    world.told.clear();
    for name in ["n1", "n2", "n3", "n4", "small"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_connects("a").unwrap();
    world.driver_says(session, driver_message::Body::Heartbeat(v1::DriverHeartbeat::default()));
    assert_eq!(world.executors_of("a").len(), 1);
    let target = v1::ExecutorTarget {
        count: 2,
        resources: Some(v1::Resources { cores: 1, memory_bytes: 1 << 30 }),
        ..Default::default()
    };
    world.driver_says(session, driver_message::Body::Target(target));
    assert_eq!(world.executors_of("a").len(), 2);
    assert!(world.executors_of("a").contains(&"a-a1-e1".to_owned()), "the other one lives on");
}

#[test]
fn a_taken_node_id_is_refused() {
    let mut world = seed();
    let register = v1::NodeRegister {
        node_id: "n1".to_owned(),
        instance_id: "another".to_owned(),
        host: "h".to_owned(),
        offered: Some(v1::Resources { cores: 1, memory_bytes: 1 << 30 }),
        ..Default::default()
    };
    let now = crate::moment::Moment { wall_ms: 0, monotonic: world.now };
    let error = world.core.node_opened(now, 99_999, 1, register.clone()).unwrap_err();
    assert_eq!(error.code(), Code::NodeRefused);
    for (cores, memory_bytes) in [(0, 1 << 30), (1, 0), (100_000, 1 << 30), (1, u64::MAX)] {
        let offered = Some(v1::Resources { cores, memory_bytes });
        let register = v1::NodeRegister { node_id: "n9".to_owned(), offered, ..register.clone() };
        let error = world.core.node_opened(now, 99_999, 1, register).unwrap_err();
        assert_eq!(error.code(), Code::NodeRefused, "{cores} cores, {memory_bytes} bytes");
    }
    for id in ["", "..", ".n", "-n", "../n", "a/b", "a b", &"n".repeat(129)] {
        let register = v1::NodeRegister { node_id: id.to_owned(), ..register.clone() };
        let error = world.core.node_opened(now, 99_999, 1, register).unwrap_err();
        assert_eq!(error.code(), Code::NodeRefused, "{id:?}");
    }
    let register = v1::NodeRegister { node_id: "4.Host-a_b".to_owned(), ..register };
    world.core.node_opened(now, 99_999, 1, register).unwrap();
}

#[test]
fn a_restarted_worker_is_taken_up_at_once() {
    let mut world = World::new();
    world.add_node("n1", 4);
    world.submit(&spec("a", 1, 1)).unwrap();
    world.driver_works("a");
    world.crash_node("n1");
    world.connect("n1").unwrap();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.driver_of("a").unwrap().attempt, 2);
}

#[test]
fn numbers_that_no_cluster_has_are_refused() {
    let mut world = seed();
    let mut spec = spec("a", 1, 1);
    spec.resources.as_mut().unwrap().executor.as_mut().unwrap().cores = 5_000;
    let error = world.submit(&spec).unwrap_err();
    assert!(matches!(error.code(), Code::DoesNotFit | Code::InvalidValue), "{error}");
    spec.resources.as_mut().unwrap().executor.as_mut().unwrap().cores = 0;
    assert!(world.submit(&spec).is_err());
    assert_eq!(
        world
            .core
            .submit(Default::default(), &Default::default(), String::new())
            .unwrap_err()
            .code(),
        Code::IncompleteMessage
    );
}

#[test]
fn a_start_position_that_the_head_overrules_is_named() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    world.driver_works("a");
    world.kill("a").unwrap();
    let mut changed = spec("a", 1, 1);
    let latest = v1::StartPosition { at: Some(v1::start_position::At::Latest(true)) };
    changed.sources[0].start = Some(latest);
    let now = crate::moment::Moment { wall_ms: 0, monotonic: world.now };
    let (response, _) = world.core.submit(now, &request(&changed), String::new()).unwrap();
    assert!(response.warnings[0].contains("millrace reset a"), "{:?}", response.warnings);
    assert_eq!(response.attempt, 2);
}

fn replay(of: &str, path: &str) -> v1::ApplicationSpec {
    let mut replay = spec(&format!("{of}-replay"), 1, 1);
    replay.replay = Some(v1::ReplaySpec { of: of.to_owned(), from_ms: 1, to_ms: 2 });
    let start = v1::start_position::At::TimestampMs(1);
    replay.sources[0].start = Some(v1::StartPosition { at: Some(start) });
    replay.sink.as_mut().unwrap().path = path.to_owned();
    replay
}

#[test]
fn a_replay_does_not_write_where_its_application_does() {
    let mut world = seed();
    world.submit(&spec("a", 1, 1)).unwrap();
    for path in ["s3://bucket/out/", "s3://bucket/out/again/", "s3://bucket/"] {
        let error = world.submit(&replay("a", path)).unwrap_err();
        assert_eq!(error.code(), Code::ReplayPath, "{path}");
    }
    world.submit(&replay("a", "s3://bucket/again/")).unwrap();
}

#[test]
fn a_replay_and_an_application_never_share_a_head() {
    let mut world = seed();
    world.submit(&spec("b", 1, 1)).unwrap();
    world.kill("b").unwrap();
    let mut taken = replay("a", "s3://bucket/again/");
    taken.name = "b".to_owned();
    assert_eq!(world.submit(&taken).unwrap_err().code(), Code::WrongState);
    world.submit(&replay("a", "s3://bucket/again/")).unwrap();
    world.kill("a-replay").unwrap();
    assert_eq!(world.submit(&spec("a-replay", 1, 1)).unwrap_err().code(), Code::WrongState);
    let mut longer = replay("a", "s3://bucket/again/");
    longer.replay.as_mut().unwrap().to_ms = 3;
    assert_eq!(world.submit(&longer).unwrap_err().code(), Code::WrongState);
    world.submit(&replay("a", "s3://bucket/again/")).unwrap();
}

#[test]
fn a_replay_that_is_finished_is_over() {
    let mut world = seed();
    world.submit(&replay("a", "s3://bucket/again/")).unwrap();
    let session = world.driver_works("a-replay");
    world.driver_says(session, finished(ApplicationState::Finished, false));
    world.exit("a-replay-a1-driver", 0);
    assert_eq!(world.state("a-replay"), ApplicationState::Finished);
    assert_eq!(world.reason("a-replay"), "said so");
    world.pass(Duration::from_secs(600));
    assert_eq!(world.state("a-replay"), ApplicationState::Finished, "nobody starts it again");
}
