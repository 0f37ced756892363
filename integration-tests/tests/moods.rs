//! Kinesis in its moods, under whole applications: streams made again, records of
//! every size, more shards than a page lists, iterators that expire, equal shard ids in two streams,
//! and where reading begins.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::primitives::{Blob, DateTime, DateTimeFormat};
use millrace_common::table::DEFAULT_TABLE;
use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::head;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::Control;
use millrace_integration_tests::lines::{
    NAME, application, failed, numbered, objects, rows_are, written,
};
use millrace_integration_tests::{processes, reshard};
use millrace_proto::v1::ContainerKind;

async fn start(num_shards: u8) -> Cluster {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 3, memory: "3GiB" }]).await;
    if num_shards > 0 {
        cluster.aws.create_stream("lines", num_shards).await;
    }
    cluster.aws.create_bucket("results").await;
    cluster
}

#[tokio::test]
async fn a_stream_made_again_is_another_stream() {
    let cluster = start(1).await;
    cluster.aws.put_lines("lines", &numbered("old", 20)).await;
    cluster.submit(&application()).await;
    rows_are(&cluster, 20).await;

    let kinesis = cluster.aws.endpoint.kinesis();
    kinesis.delete_stream().stream_name("lines").send().await.expect("the stream is deleted");
    within(PATIENCE, "the stream is gone", async || {
        match kinesis.describe_stream_summary().stream_name("lines").send().await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
        }
    })
    .await;
    cluster.aws.create_stream("lines", 1).await;
    cluster.aws.put_lines("lines", &numbered("new", 20)).await;
    // By the reader that finds nothing, or by the listing that finds another: what comes first.
    let failure = failed(&cluster, NAME).await.failure.expect("a failure");
    assert!(["MR3002", "MR4009"].contains(&failure.code.as_str()), "{failure:?}");

    // A start finds the other stream too, and reads nothing of it under old positions.
    cluster.submit(&application()).await;
    let failure = failed(&cluster, NAME).await.failure.expect("a failure");
    assert_eq!(failure.code, "MR4009", "{failure:?}");
    let _ = cluster.millrace(&["reset", "records", "--to", "earliest", "--yes"]).await.success();
    cluster.submit(&application()).await;
    rows_are(&cluster, 40).await;
    cluster.stop("records", &["--drain"]).await;
    let seen = written(&cluster).await;
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (40, 40), "each record of both streams once");
}

#[tokio::test]
async fn records_of_every_size_pass() {
    let cluster = start(1).await;
    let kinesis = cluster.aws.endpoint.kinesis();
    let summary = kinesis.describe_stream_summary().stream_name("lines").send().await.unwrap();
    let arn = summary.stream_description_summary().unwrap().stream_arn().to_owned();
    raise_record_size(&cluster, &arn).await;
    // The last one is empty: the position is behind it all the same.
    let mut sizes = vec![0, 1, (1 << 20) - 10, 1 << 20, (10 << 20) - 16, 0];
    for size in &sizes {
        put_record_of(&cluster, *size).await;
    }
    let sql = "SELECT _shard_id AS shard, _sequence_number AS seq, \
               CAST(octet_length(line) AS string) AS data FROM logs";
    let file = File { sql, executor_memory: "1GiB", executors: 1, ..application() };
    cluster.submit(&file).await;
    rows_are(&cluster, sizes.len()).await;
    cluster.stop("records", &[]).await;
    put_record_of(&cluster, 2).await;
    sizes.push(2);
    cluster.submit(&file).await;
    rows_are(&cluster, sizes.len()).await;
    cluster.stop("records", &[]).await;
    let mut seen: Vec<usize> =
        written(&cluster).await.iter().map(|length| length.parse().unwrap()).collect();
    seen.sort_unstable();
    sizes.sort_unstable();
    assert_eq!(seen, sizes);
}

/// Puts a record of so many bytes, once the shard takes it.
async fn put_record_of(cluster: &Cluster, size: usize) {
    let kinesis = cluster.aws.endpoint.kinesis();
    within(PATIENCE, &format!("a record of {size} bytes is put"), async || {
        let put = kinesis.put_record().stream_name("lines").partition_key("k");
        let put = put.data(Blob::new(vec![b'x'; size])).send().await;
        put.map(|_| ()).map_err(|error| format!("{error:?}"))
    })
    .await;
}

async fn raise_record_size(cluster: &Cluster, arn: &str) {
    let kinesis = cluster.aws.endpoint.kinesis();
    let update = kinesis.update_max_record_size().stream_arn(arn).max_record_size_in_kib(10_240);
    update.send().await.expect("records may have 10 MiB");
    cluster.aws.stream_is_active("lines").await;
}

#[tokio::test]
async fn more_shards_than_a_page_lists_are_all_read() {
    const NUM_SHARDS: usize = 1_020;
    let cluster = start(0).await;
    let kinesis = cluster.aws.endpoint.kinesis();
    let num_shards = i32::try_from(NUM_SHARDS).unwrap();
    let create = kinesis.create_stream().stream_name("lines").shard_count(num_shards);
    create.send().await.expect("the stream is made");
    cluster.aws.stream_is_active("lines").await;
    cluster.aws.put_lines("lines", &numbered("line", 1_000)).await;
    cluster.submit(&File { executor_memory: "1GiB", ..application() }).await;
    rows_are(&cluster, 1_000).await;
    let all = NUM_SHARDS as u64;
    cluster.wait_for_report("records", "all shards", |report| report.num_shards == all).await;
    cluster.stop("records", &[]).await;
    assert_eq!(written(&cluster).await, numbered("line", 1_000));
}

#[tokio::test]
async fn two_streams_with_equal_shard_ids_stay_apart_and_expired_iterators_lose_nothing() {
    let cluster = start(2).await;
    cluster.aws.create_stream("others", 2).await;
    let sql = "SELECT 'logs' AS stream, _shard_id AS shard, line AS data FROM logs UNION ALL \
               SELECT 'more' AS stream, _shard_id AS shard, line AS data FROM more";
    let more = "[source.more]\ntype = \"kinesis\"\nstream = \"others\"\nstart = \"earliest\"\n\
                format = \"text\"\n\n[query]";
    let text = File { sql, ..application() }.toml().replace("[query]", more);
    let path = cluster.write("two.toml", &text);
    let control = Control::of(&cluster.aws.endpoint);
    for round in 0..3 {
        cluster.aws.put_lines("lines", &numbered(&format!("lines {round}"), 100)).await;
        cluster.aws.put_lines("others", &numbered(&format!("others {round}"), 100)).await;
        match round {
            0 => drop(cluster.millrace(&["submit", &path]).await.success()),
            1 => control.expire_iterators().await,
            _ => {
                // Idle first, so that it is an idle shard's iterator that expires.
                rows_are(&cluster, 400).await;
                control.expire_iterators().await;
            }
        }
        rows_are(&cluster, (round + 1) * 200).await;
    }
    cluster.stop("records", &["--drain"]).await;
    let objects = objects(&cluster).await;
    let mut seen = BTreeMap::<String, Vec<String>>::new();
    let mut shards = BTreeMap::<String, BTreeSet<String>>::new();
    for row in objects.iter().flat_map(|object| &object.rows) {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        seen.entry(text("stream")).or_default().push(text("data"));
        shards.entry(text("stream")).or_default().insert(text("shard"));
    }
    assert_eq!(shards["logs"], shards["more"], "the ids of their shards are the same");
    for (source, stream) in [("logs", "lines"), ("more", "others")] {
        let mut expected: Vec<String> =
            (0..3).flat_map(|round| numbered(&format!("{stream} {round}"), 100)).collect();
        expected.sort();
        let mut found = seen.remove(source).unwrap();
        found.sort();
        assert_eq!(found, expected, "{source}");
    }
}

#[tokio::test]
async fn sources_come_and_go_when_an_application_is_submitted_anew() {
    let cluster = start(1).await;
    cluster.aws.create_stream("others", 1).await;
    let source = |name: &str, stream: &str| {
        format!(
            "[source.{name}]\ntype = \"kinesis\"\nstream = \"{stream}\"\nstart = \"earliest\"\n\
             format = \"text\"\n\n"
        )
    };
    let file = |sources: &[String], sql: &'static str| {
        let text = File { sql, ..application() }.toml();
        let (head, tail) = text.split_once("[source.logs]").unwrap();
        let (_, tail) = tail.split_once("[query]").unwrap();
        cluster.write("anew.toml", &format!("{head}{}[query]{tail}", sources.concat()))
    };
    const ONE: &str = "SELECT line AS data FROM logs";
    const BOTH: &str = "SELECT line AS data FROM logs UNION ALL SELECT line AS data FROM more";
    cluster.aws.put_lines("lines", &numbered("lines", 10)).await;
    cluster.aws.put_lines("others", &numbered("others", 10)).await;
    let path = file(&[source("logs", "lines")], ONE);
    let _ = cluster.millrace(&["submit", &path]).await.success();
    rows_are(&cluster, 10).await;
    cluster.stop("records", &[]).await;

    // One comes.
    let path = file(&[source("logs", "lines"), source("more", "others")], BOTH);
    let _ = cluster.millrace(&["submit", &path]).await.success();
    rows_are(&cluster, 20).await;
    cluster.stop("records", &[]).await;

    // One goes, and the other reads on under its name: only when that is meant.
    cluster.aws.put_lines("others", &numbered("more of the others", 10)).await;
    let path = file(&[source("more", "others")], "SELECT line AS data FROM more");
    let _ = cluster.millrace(&["submit", &path]).await.success();
    let failure = failed(&cluster, NAME).await.failure.expect("a failure");
    assert_eq!(failure.code, "MR4009", "{failure:?}");
    assert!(failure.next_move.contains("--drop-source logs"), "{failure:?}");
    let _ = cluster.millrace(&["submit", &path, "--drop-source", "logs"]).await.success();
    rows_are(&cluster, 30).await;
    cluster.stop("records", &[]).await;

    // One is re-pointed, and begins there.
    let path = file(&[source("more", "lines")], "SELECT line AS data FROM more");
    let _ = cluster.millrace(&["submit", &path, "--drop-source", "more"]).await.success();
    rows_are(&cluster, 40).await;
    cluster.stop("records", &["--drain"]).await;
    let mut expected =
        [numbered("lines", 10), numbered("lines", 10), numbered("others", 10)].concat();
    expected.extend(numbered("more of the others", 10));
    expected.sort();
    assert_eq!(written(&cluster).await, expected);
}

/// Waits until the application's first k0 has fixed where it begins.
async fn is_begun(cluster: &Cluster) {
    let dynamodb = cluster.aws.endpoint.dynamodb();
    within(PATIENCE, "the start is fixed", async || {
        match head::read(&dynamodb, DEFAULT_TABLE, NAME).await {
            Ok(Some(head)) if !head.starts.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn latest_and_a_time_are_fixed_by_the_first_start_and_hold_for_the_shards_to_come() {
    let cluster = start(2).await;
    let control = Control::of(&cluster.aws.endpoint);
    let put = async |what: &str| cluster.aws.put_lines("lines", &numbered(what, 20)).await;
    put("ancient").await;
    reshard::split(&cluster.aws, "lines", 0).await;
    put("old").await;
    control.advance_clock(Duration::from_secs(7200)).await;
    let ahead = SystemTime::now() + Duration::from_secs(7200);

    // What comes after the first k0 counts, although the driver dies before it has read any of it,
    // and although some of it comes into a shard that is made later.
    let latest = File { start: "latest", interval: "4s", ..application() };
    cluster.submit(&latest).await;
    is_begun(&cluster).await;
    put("first").await;
    let containers = cluster.containers(NAME).await;
    let drivers = containers.into_iter().filter_map(|container| container.status);
    for driver in drivers.filter(|status| status.kind() == ContainerKind::Driver) {
        processes::kill_by_id(driver.pid);
    }
    reshard::split(&cluster.aws, "lines", 1).await;
    put("second").await;
    rows_are(&cluster, 40).await;
    cluster.stop(NAME, &["--drain"]).await;
    let mut expected = [numbered("first", 20), numbered("second", 20)].concat();
    expected.sort();
    assert_eq!(written(&cluster).await, expected);

    // From an hour ago on, after a reset: the same records once more, and none before.
    let start = DateTime::from(ahead - Duration::from_secs(3600));
    let start = start.fmt(DateTimeFormat::DateTime).unwrap();
    let _ = cluster.millrace(&["reset", NAME, "--to", &start, "--yes"]).await.success();
    cluster.submit(&application()).await;
    rows_are(&cluster, 80).await;
    cluster.stop(NAME, &["--drain"]).await;
    let mut twice = [expected.clone(), expected].concat();
    twice.sort();
    assert_eq!(written(&cluster).await, twice);
}
