//! Record by record: the application writes the name and a hash of every record, and the checker
//! holds the whole of its output against the stream. Also when shards split and merge under it, and
//! when it is stopped meanwhile; and when records are KPL aggregates.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::StreamStatus;
use millrace_integration_tests::aggregate::{self, User};
use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, OutOfRange, Subject, Watcher};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::counting::Load;
use millrace_integration_tests::faults::control::Control;
use millrace_integration_tests::{ministack, reshard};
use millrace_proto::v1::ApplicationState;

const NAME: &str = "every-record";
const STREAM: &str = "lines";

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

#[tokio::test]
async fn a_stream_that_is_scaled_at_the_start_and_under_load_loses_and_doubles_nothing() {
    const LONG: Duration = Duration::from_secs(3600);
    let (cluster, watcher) = start(&Judge::Emulator).await;
    let control = Control::of(&cluster.aws.endpoint);
    put(&cluster, "before").await;
    // A reshard is in flight when the application starts, and stays so while it reads.
    control.set_transition(LONG).await;
    reshard::scale(&cluster.aws, STREAM, 6).await;
    cluster.submit(&File::every_record()).await;
    put(&cluster, "in flight").await;
    cluster.wait_for_batch(NAME, 1).await;
    let kinesis = cluster.aws.endpoint.kinesis();
    let summary = kinesis.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
    let status = &summary.stream_description_summary().unwrap().stream_status;
    assert_eq!(*status, StreamStatus::Updating);
    control.set_transition(Duration::from_millis(300)).await;
    control.advance_clock(LONG).await;

    let load = Load::start(cluster.aws.endpoint.clone());
    for target in [3, 5, 4, 8] {
        cluster.aws.stream_is_active(STREAM).await;
        let report = cluster.wait_for_report(NAME, "it reads", |report| report.batch > 0).await;
        reshard::scale(&cluster.aws, STREAM, target).await;
        // Parents are being read while their children fill.
        cluster.wait_for_batch(NAME, report.batch + 1).await;
    }
    assert!(load.end().await > 0);
    let listed = kinesis.list_shards().stream_name(STREAM).send().await.unwrap();
    assert!(listed.shards().len() > 4 + 6 + 3, "generations: {}", listed.shards().len());
    all_records_stand_once(&cluster, watcher).await;
}

/// Aggregates into every shard: of each, one user record is another shard's, one is where its key's
/// MD5 puts it, and two are at the ends of the shard's range; and one whose sum is wrong.
async fn put_aggregates(cluster: &Cluster, num_rounds: usize) {
    let kinesis = cluster.aws.endpoint.kinesis();
    let shards = reshard::open_shards(&cluster.aws, STREAM).await;
    for round in 0..num_rounds {
        for (index, shard) in shards.iter().enumerate() {
            let key = format!("key {round}/{index}");
            let foreign = shards[(index + 1) % shards.len()].start;
            let of = |what: &str| format!("{what} of {key} \u{fc}").into_bytes();
            let payloads = ["first", "foreign", "by its key", "last"].map(of);
            let places = [Some(shard.start), Some(foreign), None, Some(shard.end)];
            let users: Vec<User<'_>> = std::iter::zip(places, &payloads)
                .map(|(hash_key, data)| User { key: &key, hash_key, data })
                .collect();
            let mut raw = aggregate::of(&users);
            if round == 0 {
                *raw.last_mut().unwrap() ^= 1;
            }
            let put = kinesis.put_record().stream_name(STREAM).partition_key(&key);
            let put = put.explicit_hash_key(shard.start.to_string()).data(Blob::new(raw));
            put.send().await.expect("the aggregate is put");
        }
    }
}

#[tokio::test]
async fn aggregates_stand_as_their_user_records_whatever_becomes_of_those_out_of_range() {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 3, memory: "2GiB" }]).await;
    cluster.aws.create_stream(STREAM, 4).await;
    cluster.aws.create_bucket("results").await;
    put_aggregates(&cluster, 20).await;
    put(&cluster, "plain").await;
    for (file, out_of_range) in [
        (File::every_record(), OutOfRange::Dropped),
        (
            File {
                name: "delivers",
                path: "s3://results/delivers/",
                source: "out_of_range = \"deliver\"",
                ..File::every_record()
            },
            OutOfRange::Delivered,
        ),
    ] {
        let subject = Subject { out_of_range: OutOfRange::Dropped, ..Subject::of(&cluster, &file) };
        let truth = subject.truth().await.expect("the stream can be read");
        let records = truth.streams.values().flat_map(|stream| stream.shards.values());
        let records: Vec<_> = records.flat_map(|shard| shard.records.values()).collect();
        assert_eq!(records.len(), 4 * 19 * 4 + 4 + 250, "user records, broken ones, plain ones");
        let num_foreign = records.iter().filter(|record| !record.is_expected).count() as u64;
        assert!(num_foreign > 4 * 19, "by their keys some more are another shard's");

        cluster.submit(&file).await;
        let read = records.len() as u64;
        let is_read = |records_total| match out_of_range {
            OutOfRange::Dropped => records_total == read - num_foreign,
            OutOfRange::Delivered => records_total == read,
        };
        let counted = cluster
            .wait_for_report(file.name, "all is read", |report| is_read(report.records_total))
            .await;
        assert_eq!(counted.out_of_range_total, num_foreign, "{}", file.name);
        cluster.stop(file.name, &["--drain"]).await;
        cluster.wait_for_no_containers().await;
        let subject = Subject { out_of_range, ..Subject::of(&cluster, &file) }.drained();
        checker::check(&subject).await.assert_clean();
    }
}
