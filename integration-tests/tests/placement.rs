//! Receivers never starve the cluster: with many shards and few cores every placement of receivers
//! completes its batches, with every core of every executor free for tasks.

use std::collections::BTreeSet;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::objects;
use millrace_integration_tests::words::{Counts, assert_equal};
use millrace_proto::v1::{ApplicationState, DriverReport};

const NUM_SHARDS: u8 = 36;
/// Divisible by ten: each digit stands equally often.
const NUM_LINES: u16 = 3_600;

/// 4 workers of 8 cores and one of 1 core for the driver.
const CLUSTER: [NodeSize; 5] = [
    NodeSize { cores: 8, memory: "8GiB" },
    NodeSize { cores: 8, memory: "8GiB" },
    NodeSize { cores: 8, memory: "8GiB" },
    NodeSize { cores: 8, memory: "8GiB" },
    NodeSize { cores: 1, memory: "1GiB" },
];

fn sixteen_by_two(receivers: &'static str) -> File {
    File { executors: 16, executor_cores: 2, receivers, ..File::default() }
}

#[tokio::test]
async fn a_receiver_per_executor_leaves_all_cores_to_tasks() {
    let cluster = Cluster::start(&Judge::Emulator, &CLUSTER).await;
    let report = completes(&cluster, &sixteen_by_two("\"per_executor\"")).await;
    assert_eq!(report.executors.len(), 16);
    assert_eq!(report.task_cores_total, 32);
    assert_eq!(report.receivers.len(), 16);
    for receiver in &report.receivers {
        let num = receiver.shards.len();
        assert!((2..=3).contains(&num), "36 shards over 16 receivers: {receiver:?}");
    }
    status_shows_the_placement(&cluster, &report).await;
}

#[tokio::test]
async fn a_receiver_per_shard_leaves_all_cores_to_tasks() {
    let cluster = Cluster::start(&Judge::Emulator, &CLUSTER).await;
    let report = completes(&cluster, &sixteen_by_two("\"per_shard\"")).await;
    assert_eq!(report.executors.len(), 16);
    assert_eq!(report.task_cores_total, 32);
    assert_eq!(report.receivers.len(), usize::from(NUM_SHARDS));
    assert!(report.receivers.iter().all(|receiver| receiver.shards.len() == 1));
    status_shows_the_placement(&cluster, &report).await;
}

#[tokio::test]
async fn one_executor_of_one_core_reads_all_shards() {
    let nodes = [NodeSize { cores: 2, memory: "2GiB" }];
    let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
    let application = File { executors: 1, executor_cores: 1, ..File::default() };
    let report = completes(&cluster, &application).await;
    assert_eq!(report.task_cores_total, 1);
    assert_eq!(report.receivers.len(), 1);
}

/// Runs the application over known lines until all are counted, and returns a report of the driver
/// at rest.
async fn completes(cluster: &Cluster, application: &File) -> DriverReport {
    cluster.aws.create_stream(application.stream, NUM_SHARDS).await;
    cluster.aws.create_bucket("results").await;
    let lines: Vec<String> = (0..NUM_LINES).map(|i| format!("line {}", i % 10)).collect();
    let mut expected = Counts::from([("line".to_owned(), i64::from(NUM_LINES))]);
    for digit in 0..10 {
        expected.insert(digit.to_string(), i64::from(NUM_LINES / 10));
    }

    cluster.aws.put_lines(application.stream, &lines[..lines.len() / 2]).await;
    cluster.submit(application).await;
    cluster.wait_for_state(application.name, ApplicationState::Running).await;
    cluster.aws.put_lines(application.stream, &lines[lines.len() / 2..]).await;
    let total = expected.values().sum();
    cluster.wait_for_words(application.name, "results", "word-count/", total).await;
    let report = cluster
        .wait_for_report(application.name, "is at rest with all shards assigned", |report| {
            report.num_batches_in_flight == 0
                && report.task_cores_busy == 0
                && report.executors.len() == application.executors as usize
                && shards(report).len() == usize::from(NUM_SHARDS)
        })
        .await;
    let assigned: usize = report.receivers.iter().map(|receiver| receiver.shards.len()).sum();
    assert_eq!(assigned, usize::from(NUM_SHARDS), "no shard has two receivers");
    assert!(report.executors.iter().all(|executor| executor.cores == application.executor_cores));

    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    assert_equal(&objects::word_counts(&found), &expected);
    assert!(report.batch >= 1);
    report
}

fn shards(report: &DriverReport) -> BTreeSet<&str> {
    report
        .receivers
        .iter()
        .flat_map(|receiver| receiver.shards.iter().map(String::as_str))
        .collect()
}

/// `millrace status --json` is how people see the same.
async fn status_shows_the_placement(cluster: &Cluster, report: &DriverReport) {
    let status = cluster.millrace(&["status", "word-count", "--json"]).await.success().json();
    assert_eq!(status["task_cores_total"], 32, "{status}");
    assert_eq!(status["task_cores_free"], 32, "{status}");
    assert_eq!(status["num_shards"], NUM_SHARDS, "{status}");
    let receivers = status["receivers"].as_array().expect("receivers are shown");
    assert_eq!(receivers.len(), report.receivers.len());
    let shards = receivers.iter().map(|receiver| receiver["shards"].as_array());
    let shards: usize = shards.map(|shards| shards.map_or(0, Vec::len)).sum();
    assert_eq!(shards, usize::from(NUM_SHARDS));
}
