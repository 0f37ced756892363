//! An executor that fails its tasks again and again gets no more of them, and no shards, while the
//! application goes on with the others; it is shown with the reason, and every record stands once.
//!
//! The worker must be built with its feature `failpoints`, as `test.sh` does.
#![cfg(feature = "failpoints")]

use std::collections::BTreeSet;

use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, Subject};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};

const NAME: &str = "every-record";

async fn put(cluster: &Cluster, what: &str) {
    let lines: Vec<String> = (0..200).map(|i| format!("{what} {i}")).collect();
    cluster.aws.put_lines("lines", &lines).await;
}

#[tokio::test]
async fn an_executor_that_fails_twice_gets_no_more_work() {
    let nodes = [NodeSize { cores: 2, memory: "2GiB" }; 2];
    let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let points = cluster.path().join("failpoints");
    std::fs::create_dir(&points).expect("the test's directory can be written to");
    let env = vec![("FAILPOINTS_DIR", points.display().to_string())];
    cluster.submit(&File { env, ..File::every_record() }).await;
    cluster
        .wait_for_report(NAME, "two executors read", |report| {
            let readers = report.receivers.iter().map(|receiver| &receiver.container_id);
            readers.collect::<BTreeSet<_>>().len() == 2
        })
        .await;

    // One of the two takes it, and can not say how its tasks ended, twice.
    std::fs::write(points.join("end-run"), "2*return").expect("the point can be laid down");
    put(&cluster, "while one fails").await;
    let report = cluster
        .wait_for_report(NAME, "one of them is excluded, and reads nothing", |report| {
            let bad = report.executors.iter().find(|e| !e.excluded_reason.is_empty());
            bad.is_some_and(|bad| {
                let mut readers = report.receivers.iter();
                report.executors.len() == 2
                    && readers.all(|receiver| receiver.container_id != bad.container_id)
            })
        })
        .await;
    let bad = report.executors.iter().find(|e| !e.excluded_reason.is_empty()).unwrap();
    assert!(bad.excluded_reason.contains("2 failures within 10 minutes"), "{bad:?}");
    let shown = cluster.millrace(&["status", NAME]).await.success().stdout;
    let line = format!("{} until ", bad.container_id);
    assert!(shown.contains(&line) && shown.contains("as the failpoint says"), "{shown}");

    put(&cluster, "while one is excluded").await;
    cluster.stop(NAME, &["--drain"]).await;
    cluster.wait_for_no_containers().await;
    checker::check(&Subject::of(&cluster, &File::every_record()).drained()).await.assert_clean();
}
