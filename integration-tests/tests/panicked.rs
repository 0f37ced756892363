//! A task that panics never loses a row and never hangs: once, and the batch is run again; always,
//! and the application ends with one clear line, to be counted in full when the cause is gone.
//!
//! The worker must be built with its feature `failpoints`, as `test.sh` does.
#![cfg(feature = "failpoints")]

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::objects;
use millrace_integration_tests::words::{Counts, assert_equal};
use millrace_proto::v1::ApplicationState;

const LINES: u16 = 300;

async fn cluster_with_lines() -> Cluster {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 4, memory: "4GiB" }]).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let lines: Vec<String> = (0..LINES).map(|i| format!("line {}", i % 10)).collect();
    cluster.aws.put_lines("lines", &lines).await;
    cluster
}

fn failing(points: &str) -> File {
    File { env: vec![("FAILPOINTS", points.to_owned())], ..File::default() }
}

async fn is_counted_once(cluster: &Cluster) {
    let total = i64::from(LINES) * 2;
    cluster.wait_for_words("word-count", "results", "word-count/", total).await;
    cluster.stop("word-count", &[]).await;
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    let mut expected = Counts::from([("line".to_owned(), i64::from(LINES))]);
    expected.extend((0..10).map(|i| (i.to_string(), i64::from(LINES / 10))));
    assert_equal(&objects::word_counts(&found), &expected);
    objects::assert_each_batch_once(&found);
}

#[tokio::test]
async fn a_task_that_panics_once_is_run_again() {
    let cluster = cluster_with_lines().await;
    cluster.submit(&failing("task-run=1*panic(boom)->off")).await;
    is_counted_once(&cluster).await;
    let batches = cluster.batches("word-count").await;
    assert!(batches.iter().any(|batch| batch.num_runs > 1), "one was run again: {batches:?}");
}

#[tokio::test]
async fn a_task_that_always_panics_ends_the_application_with_one_line() {
    let cluster = cluster_with_lines().await;
    cluster.submit(&failing("task-run=panic(boom)")).await;
    let failed = cluster.wait_for_state("word-count", ApplicationState::Failed).await;
    let failure = failed.failure.unwrap();
    assert!(["MR4004", "MR4007"].contains(&failure.code.as_str()), "{failure:?}");
    assert!(failure.message.contains("boom"), "the panic's own words: {failure:?}");
    assert!(!failure.next_move.is_empty(), "{failure:?}");
    cluster.wait_for_no_containers().await;
    let nothing = objects::keys(&cluster.aws.endpoint, "results", "word-count/").await;
    assert_eq!(nothing, Vec::<String>::new());

    cluster.submit(&File::default()).await;
    is_counted_once(&cluster).await;
}
