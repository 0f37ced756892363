//! Who is taken in as an executor, and when one is given up.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn core() -> Core {
    let limits =
        Limits { lost_after: MS * 5_000, reopen_within: MS * 2_000, grant_within: MS * 30_000 };
    Core::new("app", 2, limits)
}

fn message(container: &str) -> v1::ExecutorRegister {
    v1::ExecutorRegister {
        application: "app".into(),
        attempt: 2,
        container_id: container.into(),
        address: "127.0.0.1:9".into(),
        cores: 2,
        block_budget_bytes: 10,
        disk_budget_bytes: 5,
        ..Default::default()
    }
}

fn e1() -> ContainerId {
    ContainerId::new("app-a2-e1")
}

#[test]
fn a_granted_container_joins_and_another_waits_for_its_grant() {
    let mut core = core();
    let (_, answer) = core.register(message("app-a2-e1"), 1, MS);
    assert!(matches!(answer, Answer::Wait));
    let (session, registration) = core.granted(&e1()).unwrap();
    assert_eq!((session, registration.budget_bytes), (1, 15));
    assert!(matches!(core.admit(registration, session, MS), Answer::Joined));
    assert_eq!(core.views().len(), 1);
}

#[test]
fn another_attempt_and_another_application_are_refused() {
    let mut core = core();
    core.granted(&e1());
    let old = v1::ExecutorRegister { attempt: 1, ..message("app-a2-e1") };
    assert!(matches!(core.register(old, 1, MS).1, Answer::Refused(_)));
    let foreign = v1::ExecutorRegister { application: "other".into(), ..message("app-a2-e1") };
    assert!(matches!(core.register(foreign, 1, MS).1, Answer::Refused(_)));
    assert_eq!(core.views(), []);
}

#[test]
fn a_grant_that_never_comes_ends_the_wait() {
    let mut core = core();
    core.register(message("app-a2-e1"), 7, Duration::ZERO);
    assert_eq!(core.tick(MS * 29_999).1, Vec::<SessionId>::new());
    assert_eq!(core.tick(MS * 30_000).1, [7]);
}

#[test]
fn a_silent_executor_is_lost_and_never_taken_back() {
    let mut core = core();
    core.granted(&e1());
    core.register(message("app-a2-e1"), 1, Duration::ZERO);
    assert!(core.heartbeat(&e1(), 1, v1::ExecutorHeartbeat::default(), MS * 3_000));
    assert_eq!(core.tick(MS * 7_999).0, []);
    assert_eq!(core.tick(MS * 8_000).0, [e1()]);
    assert!(matches!(core.register(message("app-a2-e1"), 2, MS * 8_001).1, Answer::Refused(_)));
    assert!(core.granted(&e1()).is_none());
    assert!(matches!(core.register(message("app-a2-e1"), 3, MS * 8_002).1, Answer::Refused(_)));
}

#[test]
fn a_driver_that_stood_still_gives_its_executors_the_time_again() {
    let mut core = core();
    core.granted(&e1());
    core.register(message("app-a2-e1"), 1, Duration::ZERO);
    core.stood_still(MS * 7_000);
    assert_eq!(core.tick(MS * 11_999).0, []);
    assert_eq!(core.tick(MS * 12_000).0, [e1()], "it was silent for five seconds beside that");
}

#[test]
fn a_broken_session_may_be_opened_again_in_time() {
    let mut core = core();
    core.granted(&e1());
    core.register(message("app-a2-e1"), 1, Duration::ZERO);
    core.closed(&e1(), 1, MS * 100);
    assert!(matches!(core.register(message("app-a2-e1"), 2, MS * 600).1, Answer::Rejoined));
    core.closed(&e1(), 1, MS * 700);
    assert_eq!(core.tick(MS * 3_000).0, [], "the old session's end means nothing");
    assert!(!core.heartbeat(&e1(), 1, v1::ExecutorHeartbeat::default(), MS * 3_000));
    core.closed(&e1(), 2, MS * 3_000);
    assert_eq!(core.tick(MS * 4_999).0, []);
    assert_eq!(core.tick(MS * 5_000).0, [e1()]);
}

#[test]
fn the_masters_word_of_an_end_is_final() {
    let mut core = core();
    core.granted(&e1());
    core.register(message("app-a2-e1"), 1, Duration::ZERO);
    assert!(core.ended(&e1()));
    assert!(!core.ended(&e1()));
    assert_eq!(core.held(), []);
}

fn here(core: &mut Core, number: u32, node: &str) -> ContainerId {
    let container = ContainerId::new(format!("app-a2-e{number}"));
    core.granted(&container);
    let register = v1::ExecutorRegister { node_id: node.into(), ..message(container.as_str()) };
    core.register(register, number.into(), Duration::ZERO);
    container
}

fn died(core: &mut Core, container: &ContainerId, requested: bool, now: Duration) {
    let exit = v1::ContainerExit { requested, reason: "exit code 1".into(), ..Default::default() };
    core.exited(container, "n1", &exit, now);
}

#[test]
fn an_executor_that_runs_can_not_use_twice_gets_no_work_for_a_while() {
    let mut core = core();
    let (first, other) = (here(&mut core, 1, "n1"), here(&mut core, 2, "n2"));
    core.suspected(&first, "no report", MS);
    assert_eq!(core.review(MS), Review::default());
    core.suspected(&first, "no report", MS * 2);
    let review = core.review(MS * 2);
    assert_eq!(review.executors, Some(BTreeSet::from([first.clone()])));
    assert_eq!((review.nodes, core.review(MS * 3)), (None, Review::default()));
    let is_excluded = |core: &Core| -> Vec<bool> {
        core.views().iter().map(|view| view.exclusion.is_some()).collect()
    };
    assert_eq!(is_excluded(&core), [true, false]);
    // A session that is opened again changes nothing of that.
    core.register(message(first.as_str()), 9, MS * 4);
    assert_eq!(is_excluded(&core), [true, false]);
    // When the other is gone, it is the last one.
    died(&mut core, &other, true, MS * 5);
    assert_eq!(core.review(MS * 5).executors, Some(BTreeSet::new()));
    assert_eq!(is_excluded(&core), [false]);
    here(&mut core, 3, "n2");
    assert_eq!(core.review(MS * 6).executors, Some(BTreeSet::from([first])));
    assert_eq!(core.review(MS * 600_002).executors, Some(BTreeSet::new()), "ten minutes later");
}

#[test]
fn one_that_was_cut_off_for_a_moment_is_not_excluded() {
    let mut core = core();
    let (first, _) = (here(&mut core, 1, "n1"), here(&mut core, 2, "n2"));
    core.closed(&first, 1, MS);
    for _ in 0..5 {
        core.suspected(&first, "connection reset", MS * 2);
    }
    core.register(message(first.as_str()), 9, MS * 1_000);
    assert_eq!(core.review(MS * 1_001), Review::default());
}

#[test]
fn a_node_on_which_executors_crash_is_avoided_and_one_that_is_emptied_is_not() {
    for (requested, is_avoided) in [(false, true), (true, false)] {
        let mut core = core();
        for number in 1..=4 {
            let container = here(&mut core, number, "n1");
            died(&mut core, &container, requested, MS * 20_000 * number);
            // Its end is told twice.
            died(&mut core, &container, false, MS * 20_000 * number);
        }
        let nodes = core.review(MS * 80_000).nodes;
        assert_eq!(nodes.is_some_and(|nodes| nodes.contains_key("n1")), is_avoided);
    }
}

#[test]
fn a_container_that_ends_before_it_registers_counts_against_its_node() {
    let mut core = core();
    for number in 1..=4 {
        let container = ContainerId::new(format!("app-a2-e{number}"));
        core.granted(&container);
        died(&mut core, &container, false, MS * 20_000 * number);
    }
    assert!(core.review(MS * 80_000).nodes.is_some_and(|nodes| nodes.contains_key("n1")));
}
