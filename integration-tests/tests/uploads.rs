//! Open uploads, made by real drivers that died or stalled: what a commit names stays, what none can
//! ever name is aborted on demand, and every word stands once afterwards.
//!
//! The worker must be built with its feature `failpoints`, as `test.sh` does.
#![cfg(feature = "failpoints")]

use std::collections::BTreeMap;

use aws_sdk_kinesis::types::ShardIteratorType;
use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::objects;
use millrace_integration_tests::words::{Counts, assert_equal};
use serde_json::Value;

/// An upload of another application below the same prefix.
const FOREIGN: &str = "word-count/other-e1-b1-t0-67e55044-10b1-426f-9247-bb680e5fe0c8.json";

/// A healthy application with a failpoint in its driver.
fn failing(points: &str) -> File {
    File { env: vec![("FAILPOINTS", points.to_owned())], ..File::default() }
}

async fn listed(cluster: &Cluster, name: &str) -> Vec<Value> {
    let output = cluster.millrace(&["uploads", "list", name, "--json"]).await.success();
    output.json().as_array().expect("a list").clone()
}

fn num(uploads: &[Value], fate: &str) -> usize {
    uploads.iter().filter(|upload| upload["fate"] == fate).count()
}

async fn open_keys(cluster: &Cluster) -> Vec<String> {
    let s3 = cluster.aws.endpoint.s3();
    let answer = s3.list_multipart_uploads().bucket("results").send().await;
    let answer = answer.expect("the bucket is there");
    answer.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)).collect()
}

#[tokio::test]
async fn only_what_no_commit_can_name_is_aborted() {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 4, memory: "4GiB" }]).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let s3 = cluster.aws.endpoint.s3();
    s3.create_multipart_upload().bucket("results").key(FOREIGN).send().await.unwrap();
    let lines: Vec<String> = (0..200).map(|i| format!("a b{}", i % 10)).collect();
    cluster.aws.put_lines("lines", &lines).await;

    // A driver that dies after its tasks and before its commit leaves uploads that nobody names.
    let name = File::default().name;
    cluster.submit(&failing("k3-after=return")).await;
    within(PATIENCE, "a driver has aborted", async || {
        let application = cluster.application(name).await?;
        let aborted = application.attempts.iter().any(|a| a.end_reason.contains("signal 6"));
        if aborted { Ok(()) } else { Err(format!("{:?}", application.attempts)) }
    })
    .await;
    let _ = cluster.millrace(&["kill", name]).await.success();
    cluster.wait_for_no_containers().await;
    let left = listed(&cluster, name).await;
    assert!(num(&left, "pending") == 0 && !left.is_empty(), "{left:?}");
    // The head's own epoch might yet commit this batch, as far as anybody can tell.
    assert!(num(&left, "young") > 0, "{left:?}");

    // The next driver commits and stalls before it completes: its uploads must stay.
    cluster.submit(&failing("k6-before=sleep(600000)")).await;
    let open = within(PATIENCE, "uploads are pending", async || {
        let open = listed(&cluster, name).await;
        if num(&open, "pending") > 0 { Ok(open) } else { Err(format!("{open:?}")) }
    })
    .await;
    let num_orphans = num(&open, "orphan");
    assert!(num_orphans >= left.len(), "{left:?} are orphans now: {open:?}");
    let before = open_keys(&cluster).await;
    let unsure = cluster.millrace(&["uploads", "gc", name]).await;
    unsure.assert_refused("MR6007", &["uploads"]);
    let dry = cluster.millrace(&["uploads", "gc", name, "--dry-run", "--json"]).await.success();
    assert_eq!(dry.json()["num_orphans"], num_orphans, "{dry}");
    assert_eq!(dry.json()["num_aborted"], 0, "{dry}");
    assert_eq!(open_keys(&cluster).await, before, "a dry run changes nothing");
    let done = cluster.millrace(&["uploads", "gc", name, "--yes", "--json"]).await.success();
    assert_eq!(done.json()["num_aborted"], num_orphans, "{done}");
    let after = listed(&cluster, name).await;
    assert_eq!(num(&after, "orphan"), 0, "{after:?}");
    assert_eq!(num(&after, "pending"), num(&open, "pending"), "{after:?}");
    assert!(open_keys(&cluster).await.contains(&FOREIGN.to_owned()), "not ours to abort");

    // What was committed is completed by the next driver: nothing was taken from it.
    let _ = cluster.millrace(&["kill", name]).await.success();
    cluster.wait_for_no_containers().await;
    cluster.submit(&File::default()).await;
    cluster.wait_for_words(name, "results", "word-count/", 400).await;
    cluster.stop(name, &[]).await;
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    let mut expected = Counts::from([("a".to_owned(), 200)]);
    expected.extend((0..10).map(|i| (format!("b{i}"), 20)));
    assert_equal(&objects::word_counts(&found), &expected);
    cluster.wait_for_no_containers().await;
    its_positions_are_the_ends_of_the_shards(&cluster, name).await;
}

/// What is committed up to is the last record of each shard, as Kinesis numbers it.
async fn its_positions_are_the_ends_of_the_shards(cluster: &Cluster, name: &str) {
    let kinesis = cluster.aws.endpoint.kinesis();
    let listed = kinesis.list_shards().stream_name("lines").send().await.expect("it is there");
    let mut ends = BTreeMap::new();
    for shard in listed.shards() {
        let from = ShardIteratorType::TrimHorizon;
        let iterator = kinesis.get_shard_iterator().stream_name("lines");
        let iterator = iterator.shard_id(shard.shard_id()).shard_iterator_type(from).send().await;
        let iterator = iterator.expect("an iterator").shard_iterator.expect("its text");
        let answer = kinesis.get_records().shard_iterator(iterator).send().await;
        let answer = answer.expect("its records");
        assert_eq!(answer.millis_behind_latest, Some(0), "one answer holds the shard");
        let last = answer.records.last().map(|record| record.sequence_number.clone());
        ends.insert(shard.shard_id.clone(), last);
    }
    assert!(ends.len() == 4 && ends.values().all(Option::is_some), "{ends:?}");
    let shown = cluster.millrace(&["positions", name, "--json"]).await.success().json();
    let shards = shown["shards"].as_array().expect("a list");
    let found = shards.iter().map(|shard| {
        assert_eq!((&shard["source"], &shard["ended"]), (&"logs".into(), &false.into()), "{shown}");
        let sequence = shard["sequence_number"].as_str().map(str::to_owned);
        (shard["shard_id"].as_str().expect("its id").to_owned(), sequence)
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), ends, "{shown}");
    assert!(shown["batch"].as_u64() > Some(0), "{shown}");
    let table = cluster.millrace(&["positions", name]).await.success().stdout;
    for end in ends.into_values().flatten() {
        assert!(table.contains(&end), "{end} in {table}");
    }
}
