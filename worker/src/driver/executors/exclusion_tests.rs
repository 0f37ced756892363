//! Who is excluded, by the promises: after how many failures, for how long, and never all.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn e(number: usize) -> ContainerId {
    ContainerId::new(format!("app-a1-e{number}"))
}

fn run() -> Failure {
    Failure::Run("no report within 10s".into())
}

fn loss() -> Failure {
    Failure::Loss("silent".into())
}

/// Those of the executors 0, 1, ... that are excluded; number n is on the n-th of `nodes`.
fn excluded(exclusions: &Exclusions, nodes: &[&str]) -> Vec<usize> {
    let ids: Vec<ContainerId> = (0..nodes.len()).map(e).collect();
    let found = exclusions.executors(ids.iter().zip(nodes.iter().copied()));
    (0..nodes.len()).filter(|number| found.contains_key(&e(*number))).collect()
}

#[test]
fn two_failures_exclude_an_executor_for_ten_minutes() {
    let mut exclusions = Exclusions::default();
    exclusions.failed(&e(0), "n1", &run(), MINUTE);
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), Vec::<usize>::new());
    exclusions.failed(&e(0), "n1", &run(), MINUTE * 2);
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), [0]);
    let found = exclusions.executors([(&e(0), "n1"), (&e(1), "n2")]);
    let reason = &found[&e(0)].reason;
    assert_eq!(reason, "2 failures within 10 minutes, the last: no report within 10s");
    assert!(!exclusions.tick(MINUTE * 12 - SECOND));
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), [0]);
    assert!(exclusions.tick(MINUTE * 12));
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), Vec::<usize>::new());
}

#[test]
fn what_is_longer_ago_than_ten_minutes_does_not_count() {
    let mut exclusions = Exclusions::default();
    for minute in [0, 10, 20, 30] {
        exclusions.failed(&e(0), "n1", &run(), MINUTE * minute);
        assert_eq!(excluded(&exclusions, &["n1", "n2"]), Vec::<usize>::new());
    }
}

#[test]
fn a_crash_that_the_run_sees_too_is_one_failure() {
    for order in [[run(), loss()], [loss(), run()], [loss(), loss()]] {
        let mut exclusions = Exclusions::default();
        for number in 0..NODE_FAILURES_MAX {
            let now = MINUTE * u32::try_from(number).unwrap();
            assert_eq!(exclusions.nodes().len(), 0, "{order:?}: {number} crashes");
            exclusions.failed(&e(number), "n1", &order[0], now);
            exclusions.failed(&e(number), "n1", &order[1], now + SECOND * 10);
        }
        assert_eq!(exclusions.nodes().len(), 1, "{order:?}");
    }
}

#[test]
fn two_runs_that_see_one_crash_are_one_failure_of_the_node() {
    let mut exclusions = Exclusions::default();
    for number in 0..3 {
        let now = MINUTE * u32::try_from(number).unwrap();
        exclusions.failed(&e(number), "n1", &run(), now);
        exclusions.failed(&e(number), "n1", &run(), now + SECOND * 3);
        exclusions.failed(&e(number), "n1", &loss(), now + SECOND * 5);
    }
    assert_eq!(exclusions.nodes().len(), 0);
}

#[test]
fn four_failures_exclude_a_node_with_all_that_is_on_it() {
    let mut exclusions = Exclusions::default();
    for number in 0..4 {
        exclusions.failed(&e(number), "n1", &run(), MINUTE * u32::try_from(number).unwrap());
    }
    assert_eq!(exclusions.nodes().keys().collect::<Vec<_>>(), ["n1"]);
    assert_eq!(excluded(&exclusions, &["n1", "n1", "n2"]), [0, 1]);
    let found = exclusions.executors([(&e(9), "n1"), (&e(8), "n2")]);
    assert!(found[&e(9)].reason.starts_with("node n1: 4 failures"), "{found:?}");
    assert!(exclusions.tick(MINUTE * 13));
    assert_eq!((exclusions.nodes().len(), exclusions.tick(MINUTE * 14)), (0, false));
}

#[test]
fn a_node_that_is_lost_with_all_its_executors_failed_once() {
    let mut exclusions = Exclusions::default();
    for number in 0..8 {
        exclusions.failed(&e(number), "n1", &loss(), MINUTE + SECOND / 2 * number as u32);
    }
    assert_eq!(exclusions.nodes().len(), 0);
}

#[test]
fn the_last_one_goes_on_and_the_next_that_fails_takes_turns_with_it() {
    let mut exclusions = Exclusions::default();
    for second in [0, 1] {
        exclusions.failed(&e(0), "n1", &run(), SECOND * second);
    }
    assert_eq!(excluded(&exclusions, &["n1"]), Vec::<usize>::new(), "it is the only one");
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), [0], "it is not any more");
    for second in [5, 6] {
        exclusions.failed(&e(1), "n2", &run(), SECOND * second);
    }
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), [1], "the other has had its time");
    for second in [7, 8] {
        exclusions.failed(&e(0), "n1", &run(), SECOND * second);
    }
    assert_eq!(excluded(&exclusions, &["n1", "n2"]), [0]);
}

#[derive(Clone, Debug)]
enum Step {
    Fail(usize, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0usize..6, any::<bool>()).prop_map(|(number, is_loss)| Step::Fail(number, is_loss)),
        2 => (0u64..400).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever fails in whatever order: never all of those that are here, never without enough
    /// failures, never for longer than ten minutes.
    #[test]
    fn nobody_is_excluded_without_a_reason_and_never_all(
        steps in steps(),
        here in proptest::collection::btree_set(0usize..6, 1..6),
    ) {
        let node = |number: usize| ["n1", "n2", "n3"][number % 3];
        let mut exclusions = Exclusions::default();
        let mut told = Vec::<(Duration, usize)>::new();
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Fail(number, is_loss) => {
                    let failure = if is_loss { loss() } else { run() };
                    exclusions.failed(&e(number), node(number), &failure, now);
                    told.push((now, number));
                }
                Step::Wait(seconds) => {
                    now += SECOND * u32::try_from(seconds).unwrap();
                    exclusions.tick(now);
                }
            }
            let ids: BTreeSet<ContainerId> = here.iter().map(|number| e(*number)).collect();
            let with_nodes = ids.iter().zip(here.iter().map(|number| node(*number)));
            let found = exclusions.executors(with_nodes);
            prop_assert!(found.len() < here.len(), "one is left: {:?}", found);
            let recent = |of: &dyn Fn(usize) -> bool| {
                let counts = |(at, number): &&(Duration, usize)| {
                    now.saturating_sub(*at) < EXCLUSION * 2 && of(*number)
                };
                told.iter().filter(counts).count()
            };
            for (id, exclusion) in &found {
                prop_assert!(exclusion.until > now && exclusion.until <= now + EXCLUSION);
                let number = (0..6).find(|number| e(*number) == *id).unwrap();
                let own = recent(&|other| other == number);
                let on_node = recent(&|other| node(other) == node(number));
                prop_assert!(own >= EXECUTOR_FAILURES_MAX || on_node >= NODE_FAILURES_MAX);
            }
            for name in exclusions.nodes().keys() {
                prop_assert!(recent(&|other| node(other) == *name) >= NODE_FAILURES_MAX);
            }
        }
        exclusions.tick(now + EXCLUSION);
        prop_assert!(exclusions.nodes().is_empty());
        prop_assert!(exclusions.executors.is_empty() && exclusions.nodes.is_empty());
    }
}
