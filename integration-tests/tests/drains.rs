//! Nodes that are drained under load: what is on them moves, and nothing fails, is lost or doubled.
//! (Fault rows 38 and 39.)

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::counting::Counting;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_proto::v1::{ContainerKind, ContainerState, NodeState};

const NODE: NodeSize = NodeSize { cores: 4, memory: "4GiB" };
/// What a drain may take: a host that is to go in 120 s must be empty before.
const BOUND: Duration = Duration::from_secs(110);

async fn counting(nodes: usize) -> Counting {
    let cluster = Cluster::start(&Judge::Emulator, &vec![NODE; nodes]).await;
    let application = File { executors: 3, ..File::default() };
    Counting::start(cluster, application).await
}

/// The nodes by what is on them: that of the driver, and those of executors alone.
async fn nodes(counting: &Counting) -> (String, BTreeSet<String>) {
    let driver = within(PATIENCE, "a driver runs", async || {
        match counting.running(ContainerKind::Driver).await.as_slice() {
            [driver] => Ok(driver.node.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let executors = counting.running(ContainerKind::Executor).await;
    let others = executors.into_iter().map(|executor| executor.node);
    let others = others.filter(|node| *node != driver).collect();
    (driver, others)
}

/// No container has ended but by request or with exit code 0, or that of a driver that moved, and
/// no batch was run twice.
async fn nothing_failed(counting: &Counting) {
    for container in counting.cluster.containers("word-count").await {
        let status = container.status.expect("a container has a status");
        assert_ne!(status.state(), ContainerState::Lost, "{status:?}");
        let Some(exit) = &status.exit else { continue };
        let is_fine = exit.requested || matches!(exit.code, Some(0 | 6));
        assert!(is_fine, "{status:?}");
    }
    for batch in counting.cluster.batches("word-count").await {
        assert!(batch.num_runs <= 1, "a run failed: {batch:?}");
    }
}

async fn is_drained(counting: &Counting, node: &str) {
    let shown = counting.cluster.millrace(&["nodes", "--json"]).await.success().json();
    let nodes = shown.as_array().expect("nodes are a list");
    let found = nodes.iter().find(|shown| shown["node_id"] == node).expect("the node is listed");
    assert_eq!(found["state"], "drained", "{shown}");
    assert_eq!(found["num_containers"], 0, "{shown}");
}

#[tokio::test]
async fn a_node_of_executors_is_drained_under_load() {
    let mut counting = counting(3).await;
    counting.under_load();
    let (_, others) = nodes(&counting).await;
    let node = others.first().expect("executors are spread").clone();
    let drained =
        counting.cluster.millrace(&["node", "drain", &node, "--deadline", "110s"]).await.success();
    println!("row 38: executors moved within {:?}", drained.took);
    assert!(drained.took < BOUND, "{drained}");
    is_drained(&counting, &node).await;
    assert_eq!(counting.running(ContainerKind::Executor).await.len(), 3);
    assert_eq!(counting.attempts().await, [""], "the driver has not moved");
    counting.put().await;
    counting.is_counted().await;
    nothing_failed(&counting).await;
    let _ = counting.cluster.millrace(&["node", "undrain", &node]).await.success();
    counting.cluster.wait_for_nodes(3).await;
    counting.ends_exactly().await;
}

#[tokio::test]
async fn a_drivers_node_is_drained_under_load() {
    let mut counting = counting(3).await;
    counting.under_load();
    let (node, _) = nodes(&counting).await;
    let drained =
        counting.cluster.millrace(&["node", "drain", &node, "--deadline", "110s"]).await.success();
    println!("row 38: the driver moved within {:?}", drained.took);
    assert!(drained.took < BOUND, "{drained}");
    is_drained(&counting, &node).await;
    within(PATIENCE, "the next attempt works elsewhere", async || {
        let driver = counting.running(ContainerKind::Driver).await;
        match driver.as_slice() {
            [driver] if driver.node != node => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    counting.put().await;
    counting.is_counted().await;
    let attempts = counting.attempts().await;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    nothing_failed(&counting).await;
    counting.ends_exactly().await;
}

#[tokio::test]
async fn the_last_node_is_not_emptied_and_says_so() {
    let cluster = Cluster::start(&Judge::Emulator, &[NODE]).await;
    let mut counting = Counting::start(cluster, File::default()).await;
    let order = ["node", "drain", "node-1", "--no-wait"];
    let _ = counting.cluster.millrace(&order).await.success();
    within(PATIENCE, "it says what it waits for", async || {
        let shown = counting.cluster.millrace(&["nodes"]).await.success();
        let is_said =
            shown.stdout.contains("draining") && shown.stdout.contains("no other node is left");
        if is_said { Ok(()) } else { Err(shown.stdout) }
    })
    .await;
    counting.put().await;
    counting.is_counted().await;
    assert_eq!(counting.attempts().await, [""], "it goes on meanwhile");
    let _ = counting.cluster.millrace(&["node", "undrain", "node-1"]).await.success();
    counting.cluster.wait_for_nodes(1).await;
    let unknown = counting.cluster.millrace(&["node", "drain", "node-9"]).await;
    unknown.assert_refused("MR2013", &["node-9"]);
    counting.ends_exactly().await;
}

#[tokio::test]
async fn every_process_is_restarted_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    cluster.add_standby(&[]).await;
    for _ in 0..3 {
        cluster.add_worker(NODE, &[]);
    }
    cluster.wait_for_nodes(3).await;
    let mut counting = Counting::start(cluster, File { executors: 3, ..File::default() }).await;
    counting.under_load();
    let mut num_moves = 0;
    for index in 0..3 {
        let node = format!("node-{}", index + 1);
        num_moves += usize::from(nodes(&counting).await.0 == node);
        let _ = counting.cluster.millrace(&["node", "drain", &node]).await.success();
        let ended = counting.cluster.workers[index].terminate(PATIENCE).await;
        assert!(ended.success(), "{ended}");
        counting.cluster.restart_worker(index, &[]);
        is_back(&counting, &node).await;
        let _ = counting.cluster.millrace(&["node", "undrain", &node]).await.success();
        counting.cluster.wait_for_nodes(3).await;
        // The next one waits until the application is whole again.
        within(PATIENCE, "three executors work", async || {
            let application = counting.cluster.application("word-count").await?;
            let num = application.report.map_or(0, |report| report.executors.len());
            if num == 3 { Ok(()) } else { Err(format!("{num}: {}", application.reason)) }
        })
        .await;
    }
    // The standby first, then the leader: it gives leadership up in order.
    let ended = counting.cluster.standbys[0].0.terminate(PATIENCE).await;
    assert!(ended.success(), "{ended}");
    counting.cluster.restart_standby().await;
    let ended = counting.cluster.master.terminate(PATIENCE).await;
    assert!(ended.success(), "{ended}");
    counting.cluster.standby_leads().await;
    counting.cluster.restart_standby().await;
    counting.cluster.wait_for_nodes(3).await;
    within(PATIENCE, "the new leader knows what runs", async || {
        match counting.running(ContainerKind::Executor).await.len() {
            3 => Ok(()),
            num => Err(format!("{num} executors")),
        }
    })
    .await;
    let attempts = counting.attempts().await;
    assert_eq!(attempts.len(), 1 + num_moves, "only drained drivers moved: {attempts:?}");
    counting.ends_exactly().await;
}

/// Waits until the worker is back, drained as before.
async fn is_back(counting: &Counting, node: &str) {
    let mut client = counting.cluster.client();
    within(PATIENCE, "the worker is back", async || {
        let answer = client.list_nodes(millrace_proto::v1::ListNodesRequest {}).await;
        let nodes = answer.map_err(|status| status.to_string())?.into_inner().nodes;
        let found = nodes.iter().find(|shown| shown.node_id == node);
        match found.map(millrace_proto::v1::Node::state) {
            Some(NodeState::Drained) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
