//! Record by record: the application writes the name and a hash of every record, and the checker
//! holds the whole of its output against the stream. Also when shards split and merge under it, and
//! when it is stopped meanwhile.

use millrace_integration_tests::application::File;
use millrace_integration_tests::aws::Aws;
use millrace_integration_tests::checker::{self, Subject, Watcher};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::ministack;
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

    split(&cluster.aws, 0).await;
    put(&cluster, "after a split").await;
    merge(&cluster.aws).await;
    put(&cluster, "after a merge").await;

    // Once more while nothing runs.
    cluster.stop(NAME, &[]).await;
    put(&cluster, "while stopped").await;
    split(&cluster.aws, 1).await;
    put(&cluster, "after a split while stopped").await;
    cluster.submit(&File::every_record()).await;
    all_records_stand_once(&cluster, watcher).await;
}

/// Open shards with their hash ranges, in the order of the ranges.
async fn open_shards(aws: &Aws) -> Vec<(String, u128, u128)> {
    let answer = aws.endpoint.kinesis().list_shards().stream_name("lines").send().await;
    let answer = answer.expect("shards are listed");
    let open = answer.shards().iter().filter(|shard| {
        let range = shard.sequence_number_range();
        range.is_some_and(|range| range.ending_sequence_number().is_none())
    });
    let mut shards: Vec<_> = open
        .filter_map(|shard| {
            let range = shard.hash_key_range()?;
            let (start, end) = (range.starting_hash_key(), range.ending_hash_key());
            Some((shard.shard_id().to_owned(), start.parse().ok()?, end.parse().ok()?))
        })
        .collect();
    shards.sort_by_key(|shard| shard.1);
    shards
}

async fn split(aws: &Aws, index: usize) {
    let before = open_shards(aws).await;
    let (shard, start, end) = before[index].clone();
    let split = aws.endpoint.kinesis().split_shard().stream_name("lines").shard_to_split(shard);
    let middle = start + (end - start) / 2;
    split.new_starting_hash_key(middle.to_string()).send().await.expect("a shard can be split");
    num_open_shards_is(aws, before.len() + 1).await;
    aws.stream_is_active("lines").await;
}

async fn merge(aws: &Aws) {
    let before = open_shards(aws).await;
    let merge = aws.endpoint.kinesis().merge_shards().stream_name("lines");
    let merge = merge.shard_to_merge(&before[1].0).adjacent_shard_to_merge(&before[2].0);
    merge.send().await.expect("neighbours can be merged");
    num_open_shards_is(aws, before.len() - 1).await;
    aws.stream_is_active("lines").await;
}

async fn num_open_shards_is(aws: &Aws, num: usize) {
    within(PATIENCE, &format!("{num} open shards"), async || match open_shards(aws).await.len() {
        found if found == num => Ok(()),
        found => Err(format!("{found}")),
    })
    .await;
}
