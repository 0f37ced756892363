//! One specification in the place of another, the same submission twice, and who may be asked later.

use std::time::Duration;

use millrace_common::config::Value as _;
use millrace_common::error::Code;
use millrace_proto::v1::{self, ApplicationState, RevisionState, driver_command, driver_message};
use proptest::prelude::*;

use super::world::{World, request, spec};
use crate::control::SessionId;
use crate::scheduler::Queues;

fn world() -> World {
    let mut world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.add_node(name, 8);
    }
    world
}

fn upgrade(spec: &v1::ApplicationSpec) -> v1::SubmitApplicationRequest {
    v1::SubmitApplicationRequest { upgrade: true, ..request(spec) }
}

/// The same application with another query.
fn changed(sql: &str) -> v1::ApplicationSpec {
    let mut spec = spec("a", 2, 1);
    spec.query.as_mut().unwrap().sql = sql.to_owned();
    spec
}

fn checked(revision: u32, failure: Option<Code>) -> driver_message::Body {
    let failure = failure.map(|code| v1::Failure {
        code: code.as_str().to_owned(),
        message: "no".to_owned(),
        ..Default::default()
    });
    driver_message::Body::SpecChecked(v1::SpecChecked { revision, failure })
}

fn ends(state: ApplicationState, is_handed_over: bool) -> driver_message::Body {
    let failure = (state == ApplicationState::Rejected).then(|| v1::Failure {
        code: "MR1004".to_owned(),
        message: "no such column".to_owned(),
        ..Default::default()
    });
    let mut finished =
        v1::DriverFinished { handed_over: is_handed_over, failure, ..Default::default() };
    finished.set_state(state);
    driver_message::Body::Finished(finished)
}

fn states(world: &World) -> Vec<RevisionState> {
    world.shown("a").revisions.iter().map(v1::Revision::state).collect()
}

/// What the drivers were asked about the next revision: to look at it, or to make place.
fn asked(world: &mut World) -> Vec<&'static str> {
    let told = std::mem::take(&mut world.told);
    let word = |(_, body): (String, driver_command::Body)| match body {
        driver_command::Body::CheckSpec(_) => Some("check"),
        driver_command::Body::HandOver(_) => Some("hand over"),
        _ => None,
    };
    told.into_iter().filter_map(word).collect()
}

/// The running driver ends at the edge of its batch, as it was asked to.
fn hands_over(world: &mut World, session: SessionId) {
    let container = world.driver_of("a").unwrap().container_id;
    world.driver_says(session, ends(ApplicationState::Stopped, true));
    world.exit(&container, 77);
    world.pass(Duration::from_secs(2));
}

#[test]
fn a_checked_revision_follows_at_the_edge_of_a_batch() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    assert_eq!(states(&world), [RevisionState::Active]);
    let answer = world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    assert_eq!(answer.warnings, Vec::<String>::new(), "it was running");
    assert_eq!((answer.revision, answer.attempt), (2, 2));
    assert_eq!(asked(&mut world), ["check"]);
    assert_eq!(states(&world), [RevisionState::Active, RevisionState::Checking]);
    world.driver_says(session, checked(2, None));
    assert_eq!(asked(&mut world), ["hand over"]);
    assert!(world.shown("a").spec.unwrap().query.unwrap().sql.contains("line"), "not yet");
    hands_over(&mut world, session);
    let driver = world.driver_of("a").unwrap();
    assert_eq!(
        (driver.attempt, driver.spec.unwrap().query.unwrap().sql.as_str()),
        (2, "SELECT 2 FROM logs")
    );
    world.driver_works("a");
    assert_eq!(states(&world), [RevisionState::Ended, RevisionState::Active]);
    let shown = world.shown("a");
    assert_eq!((shown.revision, shown.owner.as_str()), (2, "ann"));
    let of_attempts: Vec<u32> = shown.attempts.iter().map(|attempt| attempt.revision).collect();
    assert_eq!(of_attempts, [1, 2]);
}

#[test]
fn a_revision_that_the_driver_finds_wrong_changes_nothing() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.ask(&upgrade(&changed("SELECT nothing FROM logs"))).unwrap();
    world.driver_says(session, checked(2, Some(Code::UnknownName)));
    assert_eq!(asked(&mut world), ["check"]);
    assert_eq!(states(&world), [RevisionState::Active, RevisionState::Refused]);
    assert_eq!(world.shown("a").revisions[1].failure.as_ref().unwrap().code, "MR1004");
    assert_eq!(world.state("a"), ApplicationState::Running);
    assert_eq!(world.driver_of("a").unwrap().attempt, 1);
    // A late answer of the same driver is about nothing.
    world.driver_says(session, checked(2, None));
    assert!(asked(&mut world).is_empty());
}

#[test]
fn a_revision_that_does_not_come_to_work_is_taken_back() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    world.driver_says(session, checked(2, None));
    hands_over(&mut world, session);
    let session = world.driver_connects("a").unwrap();
    world.driver_says(session, ends(ApplicationState::Rejected, false));
    world.exit("a-a2-driver", 1);
    world.pass(Duration::from_secs(2));
    let driver = world.driver_of("a").unwrap();
    assert_eq!(driver.attempt, 3);
    assert!(driver.spec.unwrap().query.unwrap().sql.contains("line"), "the one before goes on");
    assert_eq!(states(&world), [RevisionState::Starting, RevisionState::Refused]);
    world.driver_works("a");
    assert_eq!(world.state("a"), ApplicationState::Running);
    assert_eq!(states(&world), [RevisionState::Active, RevisionState::Refused]);
}

#[test]
fn a_revision_that_crashes_again_and_again_is_taken_back() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    world.driver_says(session, checked(2, None));
    hands_over(&mut world, session);
    for _ in 0..5 {
        if let Some(driver) = world.driver_of("a").filter(|_| world.shown("a").revision == 2) {
            world.exit(&driver.container_id, 101);
        }
        world.pass(Duration::from_secs(61));
    }
    assert_eq!(world.shown("a").revision, 1, "{:?}", world.shown("a"));
    assert_eq!(states(&world)[1], RevisionState::Refused);
}

#[test]
fn a_revision_that_is_denied_again_and_again_is_taken_back() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    let acquired = v1::HeadAcquired { epoch: 1, batch: 0 };
    world.driver_says(session, driver_message::Body::Head(acquired));
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    world.driver_says(session, checked(2, None));
    hands_over(&mut world, session);
    for _ in 0..5 {
        if world.shown("a").revision == 2 {
            let session = world.driver_connects("a").unwrap();
            let container = world.driver_of("a").unwrap().container_id;
            let failure = v1::Failure { code: "MR3001".to_owned(), ..Default::default() };
            let denied = v1::DriverFinished {
                failure: Some(failure),
                retryable: true,
                ..Default::default()
            };
            world.driver_says(session, driver_message::Body::Finished(denied));
            world.exit(&container, 1);
        }
        world.pass(Duration::from_secs(61));
    }
    assert_eq!(world.shown("a").revision, 1, "{:?}", world.shown("a"));
    assert_eq!(states(&world)[1], RevisionState::Refused);
}

#[test]
fn what_stops_has_no_revision_to_follow() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    world.driver_says(session, checked(2, None));
    world.stop("a").unwrap();
    assert_eq!(states(&world), [RevisionState::Active, RevisionState::Refused]);
    // It was told to make place before; the next attempt is told to stop, and nothing else.
    hands_over(&mut world, session);
    world.told.clear();
    let session = world.driver_connects("a").unwrap();
    assert!(asked(&mut world).is_empty());
    let container = world.driver_of("a").unwrap().container_id;
    world.driver_says(session, ends(ApplicationState::Stopped, false));
    world.exit(&container, 0);
    world.pass(Duration::from_secs(12));
    assert_eq!(world.state("a"), ApplicationState::Stopped, "{}", world.reason("a"));
}

#[test]
fn positions_are_given_up_once() {
    let mut world = world();
    let mut first = spec("a", 2, 1);
    first.drop_sources = vec!["old".to_owned()];
    world.submit(&first).unwrap();
    assert_eq!(world.driver_of("a").unwrap().spec.unwrap().drop_sources, ["old"]);
    world.driver_works("a");
    assert!(world.shown("a").spec.unwrap().drop_sources.is_empty());
}

#[test]
fn a_specification_that_the_store_could_not_hold_is_refused() {
    let mut world = world();
    let huge = changed(&format!("SELECT '{}' FROM logs", "x".repeat(96 << 10)));
    let refusal = world.ask(&request(&huge)).unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidValue);
    assert!(refusal.message().contains("bytes"), "{refusal}");
}

#[test]
fn a_new_master_and_a_driver_that_comes_back_go_on_with_the_upgrade() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    world.driver_works("a");
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    asked(&mut world);
    world.restart_master();
    for name in ["n1", "n2", "n3"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_connects("a").unwrap();
    assert_eq!(asked(&mut world), ["check"]);
    world.driver_says(session, checked(2, None));
    assert_eq!(asked(&mut world), ["hand over"]);
    world.restart_master();
    for name in ["n1", "n2", "n3"] {
        world.connect(name).unwrap();
    }
    let session = world.driver_connects("a").unwrap();
    assert!(asked(&mut world).contains(&"hand over"));
    hands_over(&mut world, session);
    assert_eq!(world.shown("a").revision, 2);
}

#[test]
fn what_waits_for_its_place_is_replaced_at_once() {
    let mut world = World::new();
    world.submit(&spec("a", 2, 1)).unwrap();
    assert_eq!(world.state("a"), ApplicationState::Queued);
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    assert_eq!(states(&world), [RevisionState::Ended, RevisionState::Starting]);
    world.add_node("n1", 8);
    assert!(world.driver_of("a").unwrap().spec.unwrap().query.unwrap().sql.contains('2'));
}

#[test]
fn an_application_that_ends_takes_what_was_to_follow_with_it() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    world.ask(&upgrade(&changed("SELECT 2 FROM logs"))).unwrap();
    let second = world.ask(&upgrade(&changed("SELECT 3 FROM logs"))).unwrap_err();
    assert_eq!(second.code(), Code::WrongState);
    world.stop("a").unwrap();
    assert_eq!(world.ask(&upgrade(&changed("x"))).unwrap_err().code(), Code::WrongState);
    world.driver_says(session, ends(ApplicationState::Stopped, false));
    world.exit("a-a1-driver", 0);
    world.pass(Duration::from_secs(12));
    assert_eq!(world.state("a"), ApplicationState::Stopped, "{}", world.reason("a"));
    assert_eq!(states(&world), [RevisionState::Ended, RevisionState::Refused]);
    let report = world.shown("a").report.expect("what was committed stands");
    assert_eq!((report.executors.len(), report.millis_behind_latest), (0, -1), "{report:?}");
    // Nothing runs: an upgrade is an ordinary submission.
    let answer = world.ask(&upgrade(&changed("SELECT 4 FROM logs"))).unwrap();
    assert_eq!(answer.revision, 3);
    let says_so = |warning: &String| warning.contains("nothing was running under the name a");
    assert!(answer.warnings.iter().any(says_so), "{answer:?}");
    assert_eq!(world.shown("a").revision, 3);
}

#[test]
fn what_runs_is_not_stopped_for_what_its_queue_can_never_hold() {
    let mut world = world();
    let queues = "{ small = { cap = \"10%\" }, kept = { guarantee = \"90%\" } }";
    world.core.queues = Queues::parse(queues).unwrap();
    let mut first = spec("a", 1, 1);
    first.queue = "kept".to_owned();
    world.submit(&first).unwrap();
    world.driver_works("a");
    let to = |queue: &str, executors| {
        upgrade(&v1::ApplicationSpec { queue: queue.to_owned(), ..spec("a", executors, 1) })
    };
    for (queue, why) in [
        ("small", "queue small may hold 10% of the cluster (2 cores, "),
        ("default", "queue kept is guaranteed 90% (21 cores, "),
    ] {
        let error = world.ask(&to(queue, 3)).unwrap_err();
        assert_eq!(error.code(), Code::DoesNotFit, "{error}");
        assert!(error.message().contains(why), "{error}");
    }
    assert_eq!(states(&world), [RevisionState::Active], "{:?}", world.shown("a"));
    assert_eq!(world.ask(&to("small", 1)).unwrap().revision, 2, "a driver and one executor fit");
    // What does not run may wait for another cap.
    let mut waits = spec("b", 3, 1);
    waits.queue = "small".to_owned();
    world.submit(&waits).unwrap();
    assert!(world.reason("b").contains("queue small may hold 10%"), "{}", world.reason("b"));
}

#[test]
fn the_same_submission_is_taken_once() {
    let mut world = world();
    let named = |id: &str, spec: &v1::ApplicationSpec| v1::SubmitApplicationRequest {
        request_id: id.to_owned(),
        ..request(spec)
    };
    let first = world.ask(&named("r-1", &spec("a", 2, 1))).unwrap();
    let again = world.ask(&named("r-1", &spec("a", 2, 1))).unwrap();
    assert!(!first.repeated_request && again.repeated_request);
    assert_eq!((again.revision, again.attempt), (first.revision, first.attempt));
    assert_eq!(world.shown("a").revisions.len(), 1);
    // After the end as well, and under a new master.
    world.kill("a").unwrap();
    world.restart_master();
    assert!(world.ask(&named("r-1", &spec("a", 2, 1))).unwrap().repeated_request);
    let other = world.ask(&named("r-1", &changed("SELECT 2 FROM logs"))).unwrap_err();
    assert_eq!(other.code(), Code::RequestReused);
    let long = "x".repeat(129);
    assert_eq!(world.ask(&named(&long, &spec("a", 2, 1))).unwrap_err().code(), Code::InvalidValue);
}

#[test]
fn what_is_remembered_is_bounded_and_holds_what_is_in_use() {
    let mut world = world();
    world.submit(&spec("a", 2, 1)).unwrap();
    let session = world.driver_works("a");
    for number in 2..60 {
        world.ask(&upgrade(&changed(&format!("SELECT {number} FROM logs")))).unwrap();
        world.driver_says(session, checked(number, Some(Code::UnknownName)));
    }
    let revisions = world.shown("a").revisions;
    assert_eq!(revisions.len(), 20);
    assert_eq!((revisions[0].number, revisions[0].state()), (1, RevisionState::Active));
    assert_eq!(revisions[19].number, 59);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens in whatever order, the revision in use is listed, and one is at most on its
    /// way.
    #[test]
    fn the_list_of_revisions_stays_true(steps in proptest::collection::vec(0u8..10, 1..40)) {
        let mut world = world();
        let mut number = 0;
        for step in steps {
            let session = world.drivers.iter().find(|(_, c)| c.starts_with("a-")).map(|(s, _)| *s);
            let next = world.core.applications.values().next().and_then(|a| a.next_revision());
            match (step, session) {
                (0 | 1, _) => {
                    number += 1;
                    drop(world.ask(&upgrade(&changed(&format!("SELECT {number} FROM logs")))));
                }
                (2, Some(session)) => {
                    world.driver_says(session, checked(next.unwrap_or(0), None));
                }
                (3, Some(session)) => {
                    world.driver_says(session, checked(next.unwrap_or(0), Some(Code::SqlType)));
                }
                (4, Some(session)) => {
                    let container = world.drivers[&session].clone();
                    world.driver_says(session, ends(ApplicationState::Rejected, false));
                    world.exit(&container, 1);
                }
                (5, Some(session)) => {
                    let container = world.drivers[&session].clone();
                    world.driver_says(session, ends(ApplicationState::Stopped, true));
                    world.exit(&container, 77);
                }
                (6, None) if world.driver_of("a").is_some() => {
                    world.driver_works("a");
                }
                (7, _) => drop(world.kill("a")),
                (8, _) => drop(world.stop("a")),
                _ => world.pass(Duration::from_secs(70)),
            }
            if number == 0 { continue }
            let shown = world.shown("a");
            let live: Vec<_> = shown
                .revisions
                .iter()
                .filter(|r| matches!(r.state(), RevisionState::Starting | RevisionState::Active))
                .map(|r| r.number)
                .collect();
            prop_assert!(live.len() <= 1, "{live:?} are in use at once");
            let is_live = world.core.applications.values().all(|a| a.is_live());
            if is_live {
                prop_assert_eq!(&live, &[shown.revision]);
            }
            let checking = shown.revisions.iter().filter(|r| r.state() == RevisionState::Checking);
            prop_assert_eq!(checking.count(), usize::from(world.core.applications.values().any(|a| a.next_revision().is_some())));
        }
    }
}
