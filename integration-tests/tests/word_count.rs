//! The main path: real log lines go through Kinesis, three workers and several batches into S3, and
//! every word is there as often as another program counts it. Stopped and submitted again, nothing
//! is lost and nothing stands twice, and what was visible stays.

use std::path::{Path, PathBuf};

use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, Subject, Watcher};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::words::{assert_equal, reference};
use millrace_integration_tests::{dataset, ministack, objects};
use millrace_proto::v1::ApplicationState;

const STREAM: &str = "lines";
const BUCKET: &str = "results";
const PREFIX: &str = "word-count/";

#[tokio::test]
async fn every_word_of_real_lines_is_counted_once_on_the_emulator() {
    let test = "word count on the emulator";
    let Some(files) = dataset::loghub(test) else { return };
    count_stop_and_count_on(&Judge::Emulator, &files).await;
}

#[tokio::test]
async fn every_word_of_real_lines_is_counted_once_on_ministack() {
    let test = "word count on ministack";
    let Some(files) = dataset::loghub(test) else { return };
    let Some(python) = ministack::python(test) else { return };
    count_stop_and_count_on(&Judge::Ministack(python), &files).await;
}

async fn count_stop_and_count_on(judge: &Judge, files: &[PathBuf]) {
    let cluster = Cluster::start(judge, &[NodeSize { cores: 2, memory: "2GiB" }; 3]).await;
    cluster.aws.create_bucket(BUCKET).await;
    let application = File { executors: 3, ..File::default() };
    let watcher = Watcher::start(&Subject::of(&cluster, &application));

    // One file is there before the start, the others come while batches are cut.
    produce(&cluster, &files[0]).await;
    cluster.submit(&application).await;
    cluster.wait_for_state(application.name, ApplicationState::Running).await;
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            produce(&cluster, file).await;
        }
        // So that there are as many batches as files, at least.
        let total = reference(&files[..=index]).await.values().sum();
        cluster.wait_for_words(application.name, BUCKET, PREFIX, total).await;
    }
    cluster.stop(application.name, &[]).await;
    let expected = reference(files).await;
    let first = objects::json_lines(&cluster.aws.endpoint, BUCKET, PREFIX).await;
    assert_equal(&objects::word_counts(&first), &expected);
    let batches = cluster.batches(application.name).await;
    assert!(batches.len() >= files.len(), "several batches: {batches:?}");
    let num_records: u64 = batches.iter().map(|batch| batch.num_records).sum();
    assert_eq!(num_records as usize, files.len() * dataset::LINES_PER_FILE);
    cluster.wait_for_no_containers().await;

    // More lines come while nothing runs; the next attempt goes on where the head stands.
    let more = [files[0].clone(), files[3].clone()];
    for file in &more {
        produce(&cluster, file).await;
    }
    cluster.submit(&application).await;
    let expected = reference(&[files, &more].concat()).await;
    let total = expected.values().sum();
    cluster.wait_for_words(application.name, BUCKET, PREFIX, total).await;
    cluster.stop(application.name, &["--drain"]).await;
    let all = objects::json_lines(&cluster.aws.endpoint, BUCKET, PREFIX).await;
    assert_equal(&objects::word_counts(&all), &expected);
    cluster.wait_for_no_containers().await;
    let seen = watcher.stop().await.expect("the watcher saw the end");
    let subject = Subject::of(&cluster, &application).drained().watched(seen);
    checker::check(&subject).await.assert_clean();
}

async fn produce(cluster: &Cluster, file: &Path) {
    let file = file.display().to_string();
    // At this pace a file takes longer than a batch interval, so that several batches are cut.
    let pace = ["--rate", "1500"];
    let arguments = ["produce", "--stream", STREAM, "--file", &file, "--create-shards", "8"];
    let arguments = [&arguments[..], &pace].concat();
    let _ = cluster.millrace(&arguments).await.success();
}
