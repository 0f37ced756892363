//! Queues and labels against their promises.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_common::config::Value as _;
use millrace_common::error::Code;
use millrace_common::id::QueueName;
use millrace_common::labels::{Labels, NodeSelector};
use millrace_common::resources::Resources;
use millrace_proto::v1::CauseKind;
use proptest::prelude::*;

use super::core::Plan;
use super::tests::{apply, claim, resources, room};
use super::*;

fn queues(text: &str) -> Queues {
    Queues::parse(text).unwrap()
}

fn three() -> Queues {
    queues("{ a = { guarantee = \"25%\", cap = \"50%\" }, b = { guarantee = \"25%\" } }")
}

fn of_queue(queue: &str, claim: Claim) -> Claim {
    Claim { queue: QueueName::new(queue), ..claim }
}

fn nodes(num: u32) -> Vec<Room> {
    (1..=num).map(|n| room(&format!("n{n}"), resources(4, 16))).collect()
}

fn round(rooms: &[Room], claims: &[Claim], queues: &Queues) -> Plan {
    schedule(rooms.to_vec(), claims, queues, BTreeMap::new())
}

#[test]
fn a_configuration_is_read_or_refused_with_what_is_wrong() {
    let read = queues("{ etl = { guarantee = \"12.5%\", cap = \"60%\", submit = [\"bob\"] } }");
    let names: Vec<_> = read.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["default", "etl"]);
    let total = resources(16, 64);
    let etl = &read.iter().find(|(name, _)| name.as_str() == "etl").unwrap().1;
    assert_eq!(etl.guarantee.of(total), resources(2, 8));
    assert_eq!((etl.guarantee.to_string(), etl.cap.to_string()), ("12.50%".into(), "60%".into()));
    for (wrong, why) in [
        ("{ a = { guarantee = \"60%\" }, b = { guarantee = \"60%\" } }", "add up to 120%"),
        ("{ a = { guarantee = \"60%\", cap = \"50%\" } }", "above its cap"),
        ("{ a = { cap = \"50\" } }", "not a share"),
        ("{ a = { cap = \"101%\" } }", "not a share"),
        ("{ a = { cap = \"-1%\" } }", "not a share"),
        ("{ a = { limit = \"50%\" } }", "limit"),
        ("{ \"A B\" = { } }", "a-z"),
        ("{", "inline table"),
    ] {
        let error = Queues::parse(wrong).unwrap_err();
        assert!(error.contains(why), "{wrong}: {error}");
    }
}

#[test]
fn only_those_who_are_named_may_submit() {
    let queues = queues("{ etl = { submit = [\"bob\"] }, none = { submit = [] } }");
    let admit = |queue: &str, user: &str| {
        queues.admit(&QueueName::new(queue), user).map_err(|error| error.code())
    };
    assert_eq!(admit("default", ""), Ok(()));
    assert_eq!(admit("etl", "bob"), Ok(()));
    assert_eq!(admit("etl", "alice"), Err(Code::QueueDenied));
    assert_eq!(admit("etl", ""), Err(Code::QueueDenied));
    assert_eq!(admit("none", "bob"), Err(Code::QueueDenied));
    assert_eq!(admit("other", "bob"), Err(Code::UnknownQueue));
}

#[test]
fn a_full_cluster_is_no_fault_of_a_queue_that_may_hold_all_of_it() {
    let one = |name, count| claim(name, Some(resources(1, 1)), resources(1, 1), count);
    // Two cores are free, and the second needs four.
    let claims = [one("first", 5), one("second", 3)];
    let plan = round(&nodes(2), &claims, &Queues::default());
    assert_eq!(plan.placed.len(), 1, "{plan:?}");
    let wait = &plan.waiting[&claims[1].application];
    assert_eq!(wait.lack, CauseKind::NoCores, "{wait:?}");
    assert!(wait.reason.contains("free now") && !wait.reason.contains("queue"), "{wait:?}");
    // Nor when nothing at all is left for an executor that a running application needs.
    let mut full = nodes(1);
    full[0].free = Resources::default();
    let running = claim("first", None, resources(1, 1), 1);
    let plan = round(&full, &[running], &Queues::default());
    let reason = &plan.waiting.values().next().unwrap().reason;
    assert!(reason.contains("free now") && !reason.contains("queue"), "{reason}");
}

#[test]
fn a_cap_holds_an_application_back_and_says_so_with_its_numbers() {
    let rooms = nodes(4);
    let queued =
        |name, count| of_queue("a", claim(name, Some(resources(1, 1)), resources(2, 4), count));
    // The cap is 8 cores: 1 + 3 x 2 fit, another 1 + 2 do not, though 9 cores are free.
    let claims = [queued("first", 3), queued("second", 1), queued("third", 1)];
    let plan = round(&rooms, &claims, &three());
    assert_eq!(plan.placed.len(), 1, "{plan:?}");
    let reason = &plan.waiting[&claims[1].application].reason;
    assert!(reason.contains("queue a may hold 50% of the cluster (8 cores, 32GiB)"), "{reason}");
    assert!(reason.contains("holds 7 cores, 13GiB"), "{reason}");
    assert!(plan.waiting[&claims[2].application].reason.contains("queued behind second"));
    // Another queue is not held up by it.
    let other = claim("other", Some(resources(1, 1)), resources(1, 1), 1);
    let claims = [claims.to_vec(), vec![other]].concat();
    let plan = round(&rooms, &claims, &three());
    assert!(plan.placed.iter().any(|p| p.application.as_str() == "other"), "{plan:?}");
    // What the cap never lets in does not hold up its own queue either.
    let claims = [queued("huge", 4), queued("small", 1)];
    let plan = round(&rooms, &claims, &three());
    assert!(
        plan.waiting[&claims[0].application]
            .reason
            .contains("with nothing running queue a may hold")
    );
    assert_eq!(plan.placed.len(), 1);
}

#[test]
fn growth_ends_at_the_cap() {
    let rooms = nodes(4);
    let mut elastic = of_queue("a", claim("elastic", None, resources(1, 1), 1));
    elastic.num_wanted = 12;
    let plan = round(&rooms, std::slice::from_ref(&elastic), &three());
    assert_eq!(plan.placed.len(), 8);
    let reason = &plan.waiting[&elastic.application].reason;
    assert!(
        reason.starts_with("4 of 12 executors wait for 1 core, 1GiB each; queue a"),
        "{reason}"
    );
}

#[test]
fn a_guarantee_is_kept_until_its_queue_comes() {
    let rooms = nodes(4);
    let mut greedy = claim("greedy", None, resources(1, 1), 1);
    greedy.num_wanted = 16;
    let plan = round(&rooms, std::slice::from_ref(&greedy), &three());
    assert_eq!(plan.placed.len(), 8, "two guarantees of four cores are kept: {plan:?}");
    let reason = &plan.waiting[&greedy.application].reason;
    assert!(reason.contains("queue a is guaranteed 25% (4 cores, 16GiB) and holds 0"), "{reason}");
    let mut rooms = rooms;
    apply(&mut rooms, &plan);
    let used = BTreeMap::from([(QueueName::default(), resources(8, 8))]);
    let late = of_queue("b", claim("late", Some(resources(1, 1)), resources(1, 1), 3));
    let plan = schedule(rooms, &[greedy, late], &three(), used);
    let placed: Vec<_> = plan.placed.iter().map(|p| p.application.as_str()).collect();
    assert_eq!(placed, ["late"]);
}

#[test]
fn labels_say_where_containers_may_go() {
    let mut rooms = nodes(4);
    for (index, labels) in ["zone=a", "zone=b", "zone=a,gpu", ""].iter().enumerate() {
        rooms[index].labels = Arc::new(Labels::parse(labels).unwrap());
    }
    let selector = |text: &str| -> NodeSelector { toml::from_str(text).unwrap() };
    let mut wanted = claim("a", None, resources(2, 1), 4);
    wanted.selector = selector("zone = \"a\"");
    let plan = round(&rooms, std::slice::from_ref(&wanted), &Queues::default());
    let mut on: Vec<_> = plan.placed.iter().map(|p| p.node.as_str()).collect();
    on.sort_unstable();
    assert_eq!(on, ["n1", "n1", "n3", "n3"]);
    wanted.num_wanted = 5;
    let plan = round(&rooms, std::slice::from_ref(&wanted), &Queues::default());
    let reason = &plan.waiting[&wanted.application].reason;
    assert!(reason.contains("0 cores, 28GiB on 2 nodes with zone=a"), "{reason}");
    let mut nowhere = claim("b", Some(resources(1, 1)), resources(1, 1), 1);
    nowhere.selector = selector("zone = \"c\"");
    let plan = round(&rooms, std::slice::from_ref(&nowhere), &Queues::default());
    let reason = &plan.waiting[&nowhere.application].reason;
    assert!(reason.ends_with("on nodes with zone=c; none of 4 nodes has that"), "{reason}");
}

/// Applications of three queues that come, run and grow; what they hold.
#[derive(Debug)]
struct Life {
    rooms: Vec<Room>,
    claims: Vec<Claim>,
    used: BTreeMap<QueueName, Resources>,
}

impl Life {
    fn take(&mut self, plan: &Plan) {
        apply(&mut self.rooms, plan);
        for placed in &plan.placed {
            let claim =
                self.claims.iter_mut().find(|claim| claim.application == placed.application);
            let claim = claim.expect("only claims are served");
            let used = self.used.entry(claim.queue.clone()).or_default();
            *used = used.saturating_add(placed.resources);
            if placed.is_driver {
                assert!(claim.driver.take().is_some(), "one driver at a time");
                claim.num_wanted = claim.num_minimum;
            } else {
                *claim.held.entry(placed.node.clone()).or_default() += 1;
            }
        }
    }
}

prop_compose! {
    fn any_claim()(
        queue in prop::sample::select(vec!["default", "a", "b"]),
        driver in (1u32..3, 1u64..3),
        executor in (1u32..4, 1u64..6),
        minimum in 0u32..4,
        more in 0u32..6,
        zone in prop::option::of(prop::sample::select(vec!["x", "y"])),
    ) -> (Claim, u32) {
        let mut made = claim(
            "a",
            Some(resources(driver.0, driver.1)),
            resources(executor.0, executor.1),
            minimum,
        );
        made.queue = QueueName::new(queue);
        if let Some(zone) = zone {
            made.selector = toml::from_str(&format!("zone = \"{zone}\"")).unwrap();
        }
        (made, more)
    }
}

proptest! {
    /// Cores and memory, caps, guarantees and labels, over whole lives.
    #[test]
    fn no_share_is_ever_gone_past(
        sizes in prop::collection::vec((0u32..9, 0u64..17, 0usize..3), 1..6),
        arrivals in prop::collection::vec(any_claim(), 1..12),
    ) {
        let queues = three();
        let zones = ["zone=x", "zone=y", ""];
        let rooms: Vec<Room> = sizes.iter().enumerate().map(|(n, (cores, gib, zone))| Room {
            labels: Arc::new(Labels::parse(zones[*zone]).unwrap()),
            ..room(&format!("n{n}"), resources(*cores, *gib))
        }).collect();
        let total = rooms.iter().fold(Resources::default(), |sum, room| {
            sum.saturating_add(room.offered)
        });
        let mut life = Life { rooms, claims: Vec::new(), used: BTreeMap::new() };
        for (number, (mut arrival, more)) in arrivals.into_iter().enumerate() {
            arrival.application = format!("a{number}").parse().unwrap();
            life.claims.push(arrival);
            for grows in [false, true] {
                if grows {
                    for claim in life.claims.iter_mut().filter(|claim| claim.driver.is_none()) {
                        claim.num_wanted += more;
                    }
                }
                let before = life.used.clone();
                let plan = schedule(life.rooms.clone(), &life.claims, &queues, before);
                for placed in &plan.placed {
                    let room = life.rooms.iter().find(|room| room.node == placed.node).unwrap();
                    let claim = life.claims.iter().find(|c| c.application == placed.application);
                    prop_assert!(claim.unwrap().selector.accepts(&room.labels));
                }
                life.take(&plan);
                let free = life.rooms.iter().fold(Resources::default(), |sum, room| {
                    sum.saturating_add(room.free)
                });
                let mut kept = Resources::default();
                for (name, queue) in queues.iter() {
                    let used = life.used.get(name).copied().unwrap_or_default();
                    prop_assert!(queue.cap.of(total).fits(used), "{name} holds {used} of {total}");
                    kept = kept.saturating_add(queue::saturating_sub(
                        queue.guarantee.of(total),
                        used,
                    ));
                }
                prop_assert!(free.fits(kept), "free {free}, to be kept {kept}");
                // First come, first served: nobody's driver starts before an older one's of the
                // same queue that could run on the empty cluster.
                for (index, claim) in life.claims.iter().enumerate() {
                    let Some(Wait { reason, .. }) = plan.waiting.get(&claim.application) else { continue };
                    let could = claim.driver.is_some()
                        && !reason.contains("none of")
                        && !reason.contains("the whole cluster")
                        && !reason.contains("with nothing running");
                    let overtaken = life.claims[index + 1..].iter().any(|younger| {
                        younger.queue == claim.queue
                            && plan.placed.iter().any(|placed| {
                                placed.is_driver && placed.application == younger.application
                            })
                    });
                    prop_assert!(!(could && overtaken), "{} was overtaken: {reason}", claim.application);
                }
            }
        }
    }
}
