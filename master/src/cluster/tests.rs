//! Silence, return and room of nodes. Whole lives are tested with the control core.

use std::time::Duration;

use millrace_common::retry::Backoff;
use millrace_proto::v1::{self, ContainerKind, ContainerState, NodeState};

use super::*;
use crate::config::Timing;
use crate::moment::Moment;

const TIMING: Timing = Timing {
    heartbeat_interval: Duration::from_secs(1),
    suspect_after: Duration::from_secs(5),
    lost_after: Duration::from_secs(15),
    adopt_timeout: Duration::from_secs(15),
    kill_grace: Duration::from_secs(10),
    attempt_backoff: Backoff::ATTEMPT,
    attempt_failures_max: 5,
    attempt_window: Duration::from_secs(600),
};

fn at(seconds: u64) -> Moment {
    Moment { wall_ms: 0, monotonic: Duration::from_secs(seconds) }
}

fn register(instance: &str, containers: Vec<v1::ContainerStatus>) -> v1::NodeRegister {
    v1::NodeRegister {
        node_id: "n1".to_owned(),
        instance_id: instance.to_owned(),
        host: "h".to_owned(),
        offered: Some(v1::Resources { cores: 4, memory_bytes: 8 << 30 }),
        containers,
        ..Default::default()
    }
}

fn container(id: &str, state: ContainerState) -> v1::ContainerStatus {
    let mut status = v1::ContainerStatus {
        container_id: id.to_owned(),
        application: "a".to_owned(),
        resources: Some(v1::Resources { cores: 1, memory_bytes: 1 << 30 }),
        pid: 7,
        ..Default::default()
    };
    status.set_kind(ContainerKind::Executor);
    status.set_state(state);
    status
}

#[test]
fn a_silent_node_is_suspect_then_lost_with_what_it_holds() {
    let mut cluster = Cluster::new(TIMING);
    cluster.register(at(0), 1, register("i", vec![])).unwrap();
    cluster.containers.insert("n1".into(), container("c", ContainerState::Running));
    assert!(cluster.tick(at(4)).0.is_empty());
    assert_eq!(cluster.tick(at(5)).0, [("n1".into(), NodeState::Suspect)]);
    assert_eq!(cluster.rooms(at(5))[0].free.cores, 0, "a suspect node gets nothing");
    assert!(cluster.heard(at(6), 1));
    assert_eq!(cluster.rooms(at(6))[0].free.cores, 3);
    let (changed, ended) = cluster.tick(at(21));
    assert_eq!(changed, [("n1".into(), NodeState::Lost)]);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].exit.reason, "node n1 is lost");
    assert!(cluster.rooms(at(21)).is_empty());
    assert!(cluster.tick(at(99)).1.is_empty(), "an end is told once");
}

#[test]
fn a_node_that_comes_back_is_asked_what_it_has() {
    let mut cluster = Cluster::new(TIMING);
    cluster.register(at(0), 1, register("i", vec![])).unwrap();
    for id in ["gone", "over", "there"] {
        cluster.containers.insert("n1".into(), container(id, ContainerState::Running));
    }
    let held = vec![
        container("over", ContainerState::Exited),
        container("there", ContainerState::Running),
        container("new", ContainerState::Running),
    ];
    let outcome = cluster.register(at(1), 2, register("i", held)).unwrap();
    assert_eq!(outcome.superseded, Some(1));
    let ended: Vec<&str> = outcome.ended.iter().map(|ended| ended.container.as_str()).collect();
    assert_eq!(ended, ["gone", "over"]);
    assert_eq!(outcome.forget, ["over".into()]);
    assert_eq!(outcome.unknown.len(), 1);
    assert_eq!(outcome.unknown[0].container_id, "new");
}

#[test]
fn a_refused_grant_goes_elsewhere_for_a_while() {
    let mut cluster = Cluster::new(TIMING);
    cluster.register(at(0), 1, register("i", vec![])).unwrap();
    cluster.containers.insert("n1".into(), container("c", ContainerState::Granted));
    let refusal = v1::GrantRefused { container_id: "c".to_owned(), reason: "no room".to_owned() };
    let ended = cluster.refused(at(1), 1, &refusal).unwrap();
    assert!(ended.exit.reason.contains("no room"));
    assert_eq!(cluster.rooms(at(2))[0].free.cores, 0);
    assert_eq!(cluster.rooms(at(7))[0].free.cores, 4);
}

#[test]
fn a_node_that_closes_its_stream_with_nothing_left_has_gone_for_good() {
    let mut cluster = Cluster::new(TIMING);
    cluster.register(at(0), 1, register("i", vec![])).unwrap();
    cluster.containers.insert("n1".into(), container("c", ContainerState::Running));
    assert_eq!(cluster.disconnected(1, true), None, "something still runs on it");
    cluster.register(at(1), 2, register("i", vec![])).unwrap();
    assert_eq!(cluster.disconnected(2, true), Some("n1".into()));
    assert!(cluster.nodes().next().is_none());
}
