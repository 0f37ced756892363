//! Executors come and go with the load and by hand, without a lost record, a doubled one or a failed
//! task; queues and labels say where applications may run, and why they wait.

use std::collections::BTreeSet;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::counting::Counting;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_proto::v1::{ApplicationState, ContainerState, DriverReport};

const NODE: NodeSize = NodeSize { cores: 4, memory: "4GiB" };
/// The word count, with every line computed five hundred times over: a load that keeps compute
/// threads busy.
const HEAVY: &str = "SELECT word, count(*) / 500 AS n FROM (SELECT unnest(string_to_array(line, ' ')) \
    AS word FROM (SELECT line, unnest(generate_series(1, 500)) AS i FROM logs)) GROUP BY word";
/// Of the two nodes' 8 cores it is 2, of three nodes' 12 it is 3.
const QUEUES: &str = "{ small = { cap = \"25%\" }, closed = { submit = [\"bob\"] } }";

fn target(report: &DriverReport) -> u32 {
    report.scaling.as_ref().map_or(0, |scaling| scaling.target)
}

/// Executors that are here, when they are those that are asked for and each reads shards.
fn num_at_work(report: &DriverReport) -> u32 {
    let reading: BTreeSet<&str> =
        report.receivers.iter().map(|receiver| receiver.container_id.as_str()).collect();
    let num = u32::try_from(report.executors.len()).expect("few");
    if num == target(report) && reading.len() == report.executors.len() { num } else { 0 }
}

async fn has_executors(counting: &Counting, num: u32) -> DriverReport {
    let what = format!("has {num} executors");
    counting.cluster.wait_for_report("word-count", &what, |r| num_at_work(r) == num).await
}

async fn status(counting: &Counting) -> String {
    counting.cluster.millrace(&["status", "word-count"]).await.success().stdout
}

async fn start() -> Counting {
    let environment = [("MILLRACE_MASTER_QUEUE", QUEUES)];
    let cluster = Cluster::start_with(&Judge::Emulator, &[NODE, NODE], &environment).await;
    let application = File {
        range: "{ min = 1, max = 3, grow_after = \"1s\", shrink_after = \"3s\" }",
        sql: HEAVY,
        ..File::default()
    };
    Counting::start(cluster, application).await
}

#[tokio::test]
async fn executors_follow_the_load_and_queues_and_labels_hold() {
    let mut counting = start().await;
    has_executors(&counting, 1).await;
    it_grows_and_shrinks(&mut counting).await;
    it_is_scaled_by_hand(&counting).await;
    nothing_failed(&counting).await;
    a_queue_holds_an_application_back(&mut counting.cluster).await;
    labels_say_where(&counting.cluster).await;
    counting.ends_exactly().await;
}

async fn it_grows_and_shrinks(counting: &mut Counting) {
    counting.under_load();
    let grown = counting.cluster.wait_for_report("word-count", "has grown", |r| num_at_work(r) > 1);
    let scaling = grown.await.scaling.expect("the driver reports it");
    assert_eq!((scaling.min, scaling.max), (1, 3));
    let first = scaling.decisions.first().expect("it was decided");
    assert!(first.reason.contains("compute threads busy") && first.from == 1, "{first:?}");
    let shown = status(counting).await;
    assert!(shown.contains("(1 to 3): ") && shown.contains(" 1 -> "), "{shown}");
    counting.rest().await;
    counting.is_counted().await;
    let shrunk = has_executors(counting, 1).await.scaling.expect("the driver reports it");
    let last = shrunk.decisions.last().expect("it was decided");
    assert!(last.to == 1 && last.reason.contains("1 would have done for 3s"), "{last:?}");
    println!("{}", status(counting).await);
}

async fn it_is_scaled_by_hand(counting: &Counting) {
    let asked = ["scale", "word-count", "--executors", "2"];
    let said = counting.cluster.millrace(&asked).await.success();
    assert!(said.stdout.contains("2 executors are asked for"), "{said}");
    has_executors(counting, 2).await;
    let shown = status(counting).await;
    assert!(shown.contains("2 of 2, set by hand"), "{shown}");
    let _ = counting.cluster.millrace(&["scale", "word-count", "--auto"]).await.success();
    has_executors(counting, 1).await;
    counting
        .cluster
        .millrace(&["scale", "none", "--auto"])
        .await
        .assert_refused("MR2003", &["none"]);
}

/// Nobody was ended but in order, and every batch was run once.
async fn nothing_failed(counting: &Counting) {
    for container in counting.cluster.containers("word-count").await {
        let status = container.status.expect("a container has a status");
        assert_ne!(status.state(), ContainerState::Lost, "{status:?}");
        let is_fine =
            |exit: &millrace_proto::v1::ContainerExit| exit.requested || exit.code == Some(0);
        assert!(status.exit.as_ref().is_none_or(is_fine), "{status:?}");
    }
    for batch in counting.cluster.batches("word-count").await {
        assert!(batch.num_runs <= 1, "a run failed: {batch:?}");
    }
    assert_eq!(counting.attempts().await, [""]);
}

async fn reason(cluster: &Cluster, name: &str) -> String {
    cluster.application(name).await.map(|application| application.reason).unwrap_or_default()
}

async fn a_queue_holds_an_application_back(cluster: &mut Cluster) {
    let queued = File {
        name: "queued",
        top: "queue = \"small\"",
        path: "s3://results/queued/",
        ..File::default()
    };
    cluster.submit(&queued).await;
    let why = reason(cluster, "queued").await;
    assert!(why.contains("queue small may hold 25% of the cluster (2 cores, 2GiB)"), "{why}");
    let path = cluster.write("queued.toml", &queued.toml());
    for (queue, code) in [("queue=none", "MR2017"), ("queue=closed", "MR2018")] {
        let submit = ["submit", &path, "--set", "name=other", "--set", queue];
        cluster.millrace(&submit).await.assert_refused(code, &["queue"]);
    }
    // Another node: its share grows, and it is placed at once.
    cluster.add_worker(NODE, &[("MILLRACE_WORKER_LABEL", "zone=c,ssd")]);
    cluster.wait_for_nodes(3).await;
    cluster.wait_for_state("queued", ApplicationState::Running).await;
    let queues = cluster.millrace(&["queues"]).await.success().stdout;
    assert!(queues.contains("small") && queues.contains("25% (3 cores, 3GiB)"), "{queues}");
    println!("{queues}");
    let _ = cluster.millrace(&["kill", "queued"]).await.success();
}

async fn labels_say_where(cluster: &Cluster) {
    let placed = File {
        name: "placed",
        resources: "node_selector = { zone = [\"b\", \"c\"], ssd = true }",
        path: "s3://results/placed/",
        ..File::default()
    };
    let nowhere = placed.toml().replace("\"c\"", "\"d\"").replace("\"placed\"", "\"nowhere\"");
    let path = cluster.write("nowhere.toml", &nowhere);
    let said = cluster.millrace(&["submit", &path]).await.success();
    let why = "on nodes with ssd=true, zone=b|d; none of 3 nodes has that";
    assert!(said.stderr.contains(why), "{said}");
    let _ = cluster.millrace(&["kill", "nowhere"]).await.success();
    cluster.submit(&placed).await;
    cluster.wait_for_state("placed", ApplicationState::Running).await;
    within(PATIENCE, "both executors run", async || {
        let containers = cluster.containers("placed").await;
        let nodes: BTreeSet<String> = containers.iter().map(|c| c.node_id.clone()).collect();
        assert_eq!(nodes, BTreeSet::from(["node-3".to_owned()]), "{containers:?}");
        if containers.len() == 3 { Ok(()) } else { Err(format!("{containers:?}")) }
    })
    .await;
    let nodes = cluster.millrace(&["nodes"]).await.success().stdout;
    assert!(nodes.contains("ssd,zone=c"), "{nodes}");
    println!("{nodes}");
    cluster.stop("placed", &[]).await;
}
