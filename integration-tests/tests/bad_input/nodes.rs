//! Workers that offer what no host has, or come under a name that is taken: refused by the exit code
//! of the worker, and nothing changes for the master and its nodes.

use millrace_integration_tests::cluster::{Cluster, NodeSize};
use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_proto::v1::{ListNodesRequest, Node, NodeState};

use super::{AT_ONCE, small_cluster};

/// A worker beside those of the cluster, to its end.
async fn worker(cluster: &Cluster, name: &str, flags: &[&str]) -> Output {
    let work = cluster.path().join(name).display().to_string();
    let masters = cluster.masters();
    let own = ["node", "--master", &masters, "--host", "127.0.0.1", "--work-dir", &work];
    let arguments = [&own[..], flags].concat();
    let mut environment = base_environment();
    environment.extend(cluster.caller.environment());
    run(&binary("millrace-worker"), &arguments, &environment, AT_ONCE).await
}

async fn nodes(cluster: &Cluster) -> Vec<Node> {
    let answer = cluster.client().list_nodes(ListNodesRequest {}).await;
    answer.expect("the master answers").into_inner().nodes
}

#[tokio::test]
async fn an_impossible_worker_is_refused_by_its_exit_code() {
    let mut cluster = small_cluster().await;
    let before = nodes(&cluster).await;
    let taken = format!("process id {}", cluster.workers[0].pid());
    let long = "n".repeat(129);
    let cases: [(&[&str], &str, &[&str]); 11] = [
        (&["--cores", "0"], "MR6004", &["0 cores"]),
        (&["--memory", "0B"], "MR6004", &["0B", "can run nothing"]),
        (&["--memory", "0"], "MR6004", &["memory = \"0\""]),
        (&["--cores", "100000", "--memory", "1GiB"], "MR2006", &["100000 cores"]),
        (&["--cores", "1", "--memory", "100000GiB"], "MR2006", &["100000GiB of memory"]),
        (&["--cores", "1", "--memory", "1MiB"], "MR2006", &["1MiB"]),
        (&["--cores", "-1"], "MR6004", &["cores = \"-1\""]),
        (
            &["--cores", "1", "--memory", "1GiB", "--node-id", "node-1"],
            "MR2006",
            &["node-1", &taken],
        ),
        (&["--cores", "1", "--memory", "1GiB", "--node-id", "a/../b"], "MR2006", &["a/../b"]),
        (&["--cores", "1", "--memory", "1GiB", "--node-id", &long], "MR2006", &["node id"]),
        (&["--cores", "99999999999999999999"], "MR6004", &["99999999999999999999"]),
    ];
    let num_by_master = cases.iter().filter(|(_, code, _)| *code == "MR2006").count();
    for (number, (flags, code, names)) in cases.into_iter().enumerate() {
        let id = format!("odd-{number}");
        let more: &[&str] = if flags.contains(&"--node-id") { &[] } else { &["--node-id", &id] };
        let output = worker(&cluster, &id, &[flags, more].concat()).await;
        assert_eq!(output.code, 1, "{output}");
        output.assert_refused(code, names);
    }
    // Each refusal of the master is one line in its log.
    let log = cluster.master.log();
    let told = log.lines().filter(|line| line.contains("a node is refused")).count();
    assert_eq!(told, num_by_master, "{log}");

    let after = nodes(&cluster).await;
    let told = |nodes: &[Node]| {
        let one = |node: &Node| (node.node_id.clone(), node.pid, node.offered, node.state());
        nodes.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(told(&before), told(&after));
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].state(), NodeState::Alive);
    // The next one is taken.
    cluster.add_worker(NodeSize { cores: 1, memory: "1GiB" }, &[]);
    cluster.wait_for_nodes(2).await;
}
