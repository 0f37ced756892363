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
