//! The census finds what it looks for, and nothing in what is right.

use millrace_proto::v1::ApplicationState as S;

use super::*;
use crate::churn::wishes::Wish;

const EIGHT: Cost = Cost { cores: 8, memory_mib: 4_096 };

/// Two nodes of eight cores: 30% of them are 4 cores.
fn census() -> Census {
    let offers = ["node-1", "node-2"].map(|node| (node.to_owned(), EIGHT));
    let queues = [("x".to_owned(), "adhoc"), ("y".to_owned(), "default")];
    Census::new(offers.into(), queues.into())
}

fn wishes(wish: Wish) -> Wishes {
    let mut wishes = Wishes::of(["x", "y"]);
    wishes.set("x", wish);
    wishes
}

fn held(node: &str, cores: u32) -> Held {
    Held {
        node: node.to_owned(),
        cost: Cost { cores, memory_mib: 256 },
        is_live: true,
        ..Held::default()
    }
}

fn seen(state: S, attempts: &[(u32, u64, bool)]) -> Seen {
    Seen { state, attempts: attempts.to_vec() }
}

fn look(at_ms: u64, containers: &[(&str, Held)]) -> Look {
    let containers = containers.iter().map(|(id, held)| ((*id).to_owned(), held.clone()));
    Look {
        at_ms,
        counted: ["node-1".to_owned(), "node-2".to_owned()].into(),
        containers: containers.collect(),
        applications: [("x".to_owned(), seen(S::Running, &[(1, 1, false)]))].into(),
    }
}

fn judged(census: &mut Census, look: &Look) -> String {
    census.look(look, &wishes(Wish::Run), &wishes(Wish::Run));
    census.findings().join("\n")
}

#[test]
fn a_full_node_is_fine_and_one_core_more_is_not() {
    let mut census = census();
    let full = look(0, &[("y-a1-driver", held("node-1", 1)), ("y-a1-e1", held("node-1", 7))]);
    assert_eq!(judged(&mut census, &full), "");
    assert_eq!(census.figures().num_full, 1);
    let mut ended = full.clone();
    ended.containers.insert("y-a1-e2".to_owned(), Held { is_live: false, ..held("node-1", 4) });
    assert_eq!(judged(&mut census, &ended), "", "what has ended holds nothing");
    let over = look(0, &[("y-a1-driver", held("node-1", 2)), ("y-a1-e1", held("node-1", 7))]);
    assert!(judged(&mut census, &over).contains("node-1 offers 8 cores"));
}

#[test]
fn memory_counts_as_cores_do() {
    let mut census = census();
    let cost = Cost { cores: 1, memory_mib: 4_097 };
    let over = look(0, &[("y-a1-driver", Held { cost, ..held("node-2", 1) })]);
    assert!(judged(&mut census, &over).contains("4097 MiB"));
}

#[test]
fn processes_are_summed_by_what_the_cast_says() {
    let mut census = census();
    let running = |number: u32| Live {
        pid: number,
        node: "node-1".to_owned(),
        container: format!("y-a1-e{number}"),
        is_driver: false,
    };
    let wishes = Wishes::of(["x", "y"]);
    census.scan(&(1..=8).map(running).collect::<Vec<_>>(), &wishes, &wishes);
    assert_eq!(census.findings(), [""; 0]);
    census.scan(&(1..=9).map(running).collect::<Vec<_>>(), &wishes, &wishes);
    assert!(census.findings()[0].contains("these run 9 cores"), "{:?}", census.findings());
}

#[test]
fn what_has_ended_has_no_process() {
    let mut census = census();
    let left = Live {
        pid: 7,
        node: "node-1".to_owned(),
        container: "x-a3-driver".to_owned(),
        is_driver: true,
    };
    census.scan(std::slice::from_ref(&left), &wishes(Wish::Ended), &wishes(Wish::Submitting));
    assert_eq!(census.findings(), [""; 0], "it may have been started again");
    census.scan(&[left], &wishes(Wish::Ended), &wishes(Wish::Ended));
    assert!(census.findings()[0].contains("process 7 of x-a3-driver"));
}

#[test]
fn a_queue_keeps_what_it_has_and_gets_nothing_beyond_its_cap() {
    let mut census = census();
    let [one, two] = [held("node-1", 2), held("node-1", 2)];
    let at_cap = [("x-a1-driver", one), ("x-a1-e1", two.clone())];
    assert_eq!(judged(&mut census, &look(0, &at_cap)), "");
    // One node goes: 30% of 8 cores are 2.
    let mut fewer = look(10_000, &at_cap);
    fewer.counted.remove("node-2");
    for _ in 0..MEMORY_LOOKS {
        fewer.at_ms += 200;
        assert_eq!(judged(&mut census, &fewer), "", "it keeps what it has");
    }
    fewer.containers.remove("x-a1-e1");
    fewer.containers.insert("x-a1-e2".to_owned(), two);
    assert!(judged(&mut census, &fewer).contains("queue adhoc may hold 2 cores"));
}

#[test]
fn a_share_is_of_the_nodes_that_were_there_lately() {
    let mut census = census();
    let before = look(0, &[("x-a1-driver", held("node-1", 2))]);
    assert_eq!(judged(&mut census, &before), "");
    // Placed before node-2 went, seen after.
    let mut after =
        look(500, &[("x-a1-driver", held("node-1", 2)), ("x-a1-e1", held("node-1", 2))]);
    after.counted.remove("node-2");
    assert_eq!(judged(&mut census, &after), "");
}

#[test]
fn applications_are_known_in_a_state_that_was_asked_for() {
    let mut census = census();
    let mut lost = look(0, &[]);
    lost.applications.clear();
    assert!(judged(&mut census, &lost).contains("x is shown as nothing; asked of it: Run"));
    let mut failed = look(0, &[]);
    failed.applications.insert("x".to_owned(), seen(S::Failed, &[]));
    failed.applications.insert("z".to_owned(), seen(S::Running, &[]));
    let found = judged(&mut census, &failed);
    assert!(found.contains("x is shown as APPLICATION_STATE_FAILED"), "{found}");
    assert!(found.contains("z is listed, and nobody submitted it"), "{found}");
}

#[test]
fn a_state_may_go_with_what_was_asked_before_or_after() {
    let mut census = census();
    let mut look = look(0, &[]);
    look.applications.insert("x".to_owned(), seen(S::Stopped, &[]));
    census.look(&look, &wishes(Wish::Ending), &wishes(Wish::Submitting));
    assert_eq!(census.findings(), [""; 0]);
    census.look(&look, &wishes(Wish::Run), &wishes(Wish::Run));
    assert_eq!(census.findings().len(), 1);
}

#[test]
fn attempts_and_epochs_only_grow() {
    let with = |attempts: &[(u32, u64, bool)]| {
        let mut look = look(0, &[]);
        look.applications.insert("x".to_owned(), seen(S::Running, attempts));
        let (number, ..) = attempts[attempts.len() - 1];
        let driver = Held { started_ms: 1, ..held("node-1", 1) };
        look.containers.insert(format!("x-a{number}-driver"), driver);
        look
    };
    let mut fine = census();
    assert_eq!(judged(&mut fine, &with(&[(1, 1, true), (2, 5, false)])), "");
    assert_eq!(judged(&mut fine, &with(&[(2, 5, true), (3, 6, false)])), "");
    assert_eq!(fine.figures().num_attempts, 3);
    let mut unwritten = with(&[(3, 6, true), (4, 7, false)]);
    unwritten.containers.clear();
    assert_eq!(judged(&mut fine, &unwritten), "");
    assert_eq!(judged(&mut fine, &with(&[(3, 6, false)])), "", "nothing of it was started");
    let fallen = judged(&mut fine, &with(&[(3, 5, false)]));
    assert!(fallen.contains("attempt 3 of epoch 5 is the last one"), "{fallen}");
    let twice = judged(&mut census(), &with(&[(1, 1, false), (2, 2, false)]));
    assert!(twice.contains("attempt 1 is open, and 2 was begun"), "{twice}");
}

#[test]
fn the_sweep_sees_what_fell_between_two_looks() {
    let times = |started_ms, ended_ms| Held {
        is_live: ended_ms == 0,
        started_ms,
        ended_ms,
        ..held("node-1", 5)
    };
    let mut census = census();
    let after = [("y-a1-e1", times(10, 20)), ("y-a1-e2", times(20, 30)), ("y-a1-e3", times(30, 0))];
    assert_eq!(judged(&mut census, &look(0, &after)), "");
    census.sweep();
    assert_eq!(census.findings(), [""; 0]);
    let _ = judged(&mut census, &look(0, &[("y-a1-e4", times(19, 20))]));
    census.sweep();
    assert!(census.findings()[0].contains("it held 10 cores"), "{:?}", census.findings());
}
