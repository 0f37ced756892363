//! The node's core on its own: grants, refusals, terms, ends, and what is kept.

use std::path::Path;

use millrace_common::id::ContainerId;
use millrace_common::resources::{ByteSize, Resources};
use millrace_proto::v1::{
    ContainerExit, ContainerForget, ContainerKind, ContainerState, KillContainer, LaunchContext,
    node_command,
};
use proptest::prelude::*;

use super::core::{Core, Effect, is_plain};
use super::launcher::environment;

fn node() -> Core {
    Core::new(Resources::new(4, ByteSize::mib(4096)), 2)
}

fn grant(id: &str, cores: u32, mib: u64) -> node_command::Body {
    let mut context = LaunchContext {
        container_id: id.to_owned(),
        application: "a".to_owned(),
        resources: Some(Resources::new(cores, ByteSize::mib(mib)).to_proto()),
        ..Default::default()
    };
    context.set_kind(ContainerKind::Executor);
    node_command::Body::Start(context)
}

fn kill(id: &str) -> node_command::Body {
    let container_id = id.to_owned();
    node_command::Body::Kill(KillContainer { container_id, grace_ms: 5, reason: "why".to_owned() })
}

fn forget(id: &str) -> node_command::Body {
    node_command::Body::Forget(ContainerForget { container_id: id.to_owned() })
}

fn exited(code: i32) -> ContainerExit {
    ContainerExit { code: Some(code), ..Default::default() }
}

#[test]
fn a_grant_without_room_is_refused() {
    let mut node = node();
    assert!(matches!(node.command(1, grant("a-a1-e1", 3, 1024))[..], [Effect::Start(_)]));
    assert!(matches!(node.command(1, grant("a-a1-e2", 2, 1024))[..], [Effect::Refuse(_)]));
    assert!(matches!(node.command(1, grant("a-a1-e3", 1, 4096))[..], [Effect::Refuse(_)]));
    assert!(matches!(node.command(1, grant("../etc", 1, 1))[..], [Effect::Refuse(_)]));
    node.ended(&"a-a1-e1".into(), exited(0), 1);
    assert!(matches!(node.command(1, grant("a-a1-e2", 2, 1024))[..], [Effect::Start(_)]));
}

#[test]
fn an_unhealthy_node_refuses_grants_and_keeps_what_it_has() {
    let mut node = node();
    node.command(1, grant("a-a1-e1", 1, 1));
    node.set_trouble(Some("MR6008: the disk is full".to_owned()));
    let refused = node.command(1, grant("a-a1-e2", 1, 1));
    assert!(matches!(&refused[..], [Effect::Refuse(r)] if r.reason.contains("MR6008")));
    assert!(matches!(node.command(1, grant("a-a1-e1", 1, 1))[..], [Effect::Report(_)]));
    node.set_trouble(None);
    assert!(matches!(node.command(1, grant("a-a1-e2", 1, 1))[..], [Effect::Start(_)]));
}

#[test]
fn a_grant_that_comes_twice_is_started_once() {
    let mut node = node();
    node.command(1, grant("a-a1-e1", 1, 1));
    assert!(matches!(node.command(1, grant("a-a1-e1", 1, 1))[..], [Effect::Report(_)]));
}

#[test]
fn commands_of_an_older_term_are_refused() {
    let mut node = node();
    assert_eq!(node.command(5, grant("a-a1-e1", 1, 1)).len(), 1);
    assert_eq!(node.command(4, kill("a-a1-e1")), [Effect::Leave(4)]);
    assert_eq!(node.command(4, grant("a-a1-e2", 1, 1)), [Effect::Leave(4)]);
    assert_eq!(node.statuses().len(), 1);
    assert_eq!(node.term(), 5);
    assert_eq!(node.command(6, kill("a-a1-e1")), [Effect::Kill("a-a1-e1".into(), 5)]);
}

#[test]
fn an_end_says_whether_it_was_asked_for() {
    let mut node = node();
    node.command(1, grant("a-a1-e1", 1, 1));
    node.command(1, grant("a-a1-e2", 1, 1));
    node.command(1, kill("a-a1-e1"));
    let exit_of = |effects: Vec<Effect>| match &effects[..] {
        [Effect::Report(status)] => status.exit.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    let asked = exit_of(node.ended(&"a-a1-e1".into(), exited(143), 9));
    assert!(asked.requested && asked.reason == "why");
    assert!(!exit_of(node.ended(&"a-a1-e2".into(), exited(1), 9)).requested);
}

#[test]
fn killing_what_is_not_there_is_answered() {
    let mut node = node();
    match &node.command(1, kill("a-a1-e9"))[..] {
        [Effect::Report(status)] => assert_eq!(status.state(), ContainerState::Exited),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_end_is_told_until_the_master_has_heard_and_files_are_kept_for_some() {
    let mut node = node();
    for id in ["a-a1-e1", "a-a1-e2", "a-a1-e3"] {
        node.command(1, grant(id, 1, 1));
        assert!(node.command(1, forget(id)).is_empty(), "a live container is not forgotten");
        node.ended(&id.into(), exited(0), 1);
    }
    assert_eq!(node.statuses().len(), 3);
    assert!(node.command(1, forget("a-a1-e1")).is_empty());
    assert!(node.command(1, forget("a-a1-e1")).is_empty(), "told twice");
    assert!(node.command(1, forget("a-a1-e2")).is_empty());
    assert_eq!(node.command(1, forget("a-a1-e3")), [Effect::Remove("a-a1-e1".into())]);
    assert_eq!(node.statuses().len(), 2);
}

#[test]
fn the_environment_is_an_allow_list_and_the_application_wins() {
    let of_node = [
        ("PATH", "/bin"),
        ("TZ", "UTC"),
        ("AWS_REGION", "r"),
        ("LC_ALL", "C"),
        ("SECRET", "no"),
        ("TMPDIR", "/tmp"),
        ("MILLRACE_ATTEMPT", "99"),
        ("MILLRACE_SECRET_OF_NODE", "no"),
        ("MILLRACE_TOKEN", "no"),
        ("MILLRACE_WORKER_TOKEN_FILE", "no"),
        ("MILLRACE_MASTER_SECRET_FILE", "no"),
    ]
    .map(|(name, value)| (name.into(), value.into()));
    let mut context = LaunchContext {
        application: "a".to_owned(),
        attempt: 3,
        container_id: "a-a3-driver".to_owned(),
        ..Default::default()
    };
    context.env.insert("TZ".to_owned(), "Europe/Vienna".to_owned());
    context.env.insert("EMPTY".to_owned(), String::new());
    let lent = [("MILLRACE_SECRET_LENT".to_owned(), "yes".to_owned())].into();
    let directory = Path::new("/work/c");
    let made: Vec<(String, String)> = environment(of_node, directory, &context, &lent)
        .into_iter()
        .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
        .collect();
    let wanted = [
        ("AWS_REGION", "r"),
        ("EMPTY", ""),
        ("LC_ALL", "C"),
        ("MILLRACE_APPLICATION", "a"),
        ("MILLRACE_ATTEMPT", "3"),
        ("MILLRACE_CONTAINER_ID", "a-a3-driver"),
        ("MILLRACE_SECRET_LENT", "yes"),
        ("PATH", "/bin"),
        ("TMPDIR", "/work/c/tmp"),
        ("TZ", "Europe/Vienna"),
    ];
    assert_eq!(made, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

proptest! {
    #[test]
    fn the_node_never_holds_more_than_it_offers(
        steps in proptest::collection::vec((0usize..8, 0u32..4, 0u64..3000, 0u8..3), 0..60),
    ) {
        let mut node = node();
        for (number, cores, mib, what) in steps {
            let id = format!("a-a1-e{number}");
            match what {
                0 => drop(node.command(1, grant(&id, cores, mib))),
                1 => drop(node.ended(&ContainerId::new(id.clone()), exited(0), 1)),
                _ => drop(node.command(1, forget(&id))),
            }
            prop_assert!(node.offered().fits(node.used()));
        }
    }

    #[test]
    fn an_id_that_names_a_directory_stays_inside_it(id in ".{0,20}") {
        if is_plain(&id) {
            prop_assert!(!id.contains(['/', '.', '\0']) && !id.is_empty());
        }
    }
}
