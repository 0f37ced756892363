//! Kinesis in its moods, under whole applications: streams made again, more shards than a page
//! lists, iterators that expire, equal shard ids in two streams, sources that come and go.

use std::collections::{BTreeMap, BTreeSet};

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::Control;
use millrace_integration_tests::lines::{
    NAME, application, failed, numbered, objects, rows_are, written,
};

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
