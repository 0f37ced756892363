//! The driver aborts at each step of the commit, before and after it: whatever was decided is
//! completed by the next attempt, whatever was not is counted later; every word stands once.
//!
//! The worker must be built with its feature `failpoints`, as `test.sh` does.
#![cfg(feature = "failpoints")]

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::objects;
use millrace_integration_tests::words::{Counts, assert_equal};

const LINES: u16 = 200;

/// Where the driver dies. Every point is passed by each batch.
const POINTS: [&str; 8] = [
    "k2-after",
    "k3-after",
    "k4-after",
    "k5-before",
    "k5-after",
    "k6-before",
    "k6-after",
    "k7-after",
];

#[tokio::test]
async fn a_driver_that_dies_at_any_step_loses_and_doubles_nothing() {
    let nodes = [NodeSize { cores: 4, memory: "4GiB" }];
    let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let healthy = File::default();
    let mut num_lines = 0_u16;
    for point in POINTS {
        println!("--- {point}");
        let lines: Vec<String> = (0..LINES).map(|i| format!("{point} {}", i % 10)).collect();
        cluster.aws.put_lines("lines", &lines).await;
        num_lines += LINES;
        let env = vec![("FAILPOINTS", format!("{point}=return"))];
        dies(&cluster, &File { env, ..healthy.clone() }).await;
        cluster.submit(&healthy).await;
        let total = i64::from(num_lines) * 2;
        cluster.wait_for_words(healthy.name, "results", "word-count/", total).await;
        cluster.stop(healthy.name, &[]).await;
    }
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    let mut expected: Counts =
        (0..10).map(|i| (i.to_string(), i64::from(num_lines / 10))).collect();
    expected.extend(POINTS.map(|point| (point.to_owned(), i64::from(LINES))));
    assert_equal(&objects::word_counts(&found), &expected);
    objects::assert_each_batch_once(&found);
    cluster.wait_for_no_containers().await;
}

/// Runs the application until a driver of it has aborted, and ends it.
async fn dies(cluster: &Cluster, file: &File) {
    cluster.submit(file).await;
    within(PATIENCE, "a driver has aborted", async || {
        let application = cluster.application(file.name).await?;
        let attempt = application.attempts.last().ok_or("no attempt")?;
        let aborted = application.attempts.iter().any(|a| a.end_reason.contains("signal 6"));
        if aborted { Ok(()) } else { Err(format!("{attempt:?}")) }
    })
    .await;
    let _ = cluster.millrace(&["kill", file.name]).await;
    cluster.wait_for_no_containers().await;
}
