//! Record by record: the application writes the name and a hash of every record, and the checker
//! holds the whole of its output against the stream. Also when shards split and merge under it, and
//! when it is stopped meanwhile.

use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, Subject, Watcher};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::{ministack, reshard};
use millrace_proto::v1::ApplicationState;

const NAME: &str = "every-record";

async fn start(judge: &Judge) -> (Cluster, Watcher) {
    let cluster = Cluster::start(judge, &[NodeSize { cores: 3, memory: "2GiB" }]).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let watcher = Watcher::start(&Subject::of(&cluster, &File::every_record()));
    (cluster, watcher)
}

/// Lines that differ, so that a changed one would show.
async fn put(cluster: &Cluster, what: &str) {
    let lines: Vec<String> = (0..250).map(|i| format!("{what} {i} \u{fc}")).collect();
    cluster.aws.put_lines("lines", &lines).await;
}

/// Drains the application and judges all that it wrote.
async fn all_records_stand_once(cluster: &Cluster, watcher: Watcher) {
    cluster.wait_for_state(NAME, ApplicationState::Running).await;
    cluster.stop(NAME, &["--drain"]).await;
    cluster.wait_for_no_containers().await;
    let seen = watcher.stop().await.expect("the watcher saw the end");
    let subject = Subject::of(cluster, &File::every_record()).drained().watched(seen);
    checker::check(&subject).await.assert_clean();
}

async fn counts_each_record_once(judge: &Judge) {
    let (cluster, watcher) = start(judge).await;
    put(&cluster, "before").await;
    cluster.submit(&File::every_record()).await;
    cluster.wait_for_state(NAME, ApplicationState::Running).await;
    put(&cluster, "while running").await;
    all_records_stand_once(&cluster, watcher).await;
}

#[tokio::test]
async fn every_record_stands_once_on_the_emulator() {
    counts_each_record_once(&Judge::Emulator).await;
}

#[tokio::test]
async fn every_record_stands_once_on_ministack() {
    let Some(python) = ministack::python("record by record on ministack") else { return };
    counts_each_record_once(&Judge::Ministack(python)).await;
}

#[tokio::test]
async fn shards_that_split_and_merge_lose_and_double_nothing() {
    let (cluster, watcher) = start(&Judge::Emulator).await;
    put(&cluster, "before").await;
    cluster.submit(&File::every_record()).await;
    cluster.wait_for_state(NAME, ApplicationState::Running).await;

    reshard::split(&cluster.aws, "lines", 0).await;
    put(&cluster, "after a split").await;
    reshard::merge(&cluster.aws, "lines", 1).await;
    put(&cluster, "after a merge").await;

    // Once more while nothing runs.
    cluster.stop(NAME, &[]).await;
    put(&cluster, "while stopped").await;
    reshard::split(&cluster.aws, "lines", 1).await;
    put(&cluster, "after a split while stopped").await;
    cluster.submit(&File::every_record()).await;
    all_records_stand_once(&cluster, watcher).await;
}
