//! Records out of the ordinary, under whole applications: of every size, and such that no schema
//! takes. Each policy does what it says, every good record counts once, and what is bad is counted,
//! named, or kept byte by byte.

use std::collections::BTreeMap;

use aws_sdk_kinesis::primitives::Blob;
use millrace_integration_tests::aggregate::{self, User};
use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::lines::{application, failed, rows_are, written};
use millrace_integration_tests::{objects, truth};
use millrace_proto::v1::DriverReport;

/// Per batch, so that batches add up.
const COUNT: &str = "SELECT count(*) AS rows, count(name) AS names, sum(n) AS total FROM logs";
/// User records of the largest aggregate.
const MANY: usize = 100_000;
/// Its own records alone.
const NUM_GOOD: usize = 50;

async fn cluster_with_stream(num_shards: u8) -> Cluster {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 3, memory: "3GiB" }]).await;
    cluster.aws.create_stream("lines", num_shards).await;
    cluster.aws.create_bucket("results").await;
    cluster
}

fn file(name: &'static str, path: &'static str, source: &'static str, sink: &'static str) -> File {
    File { name, format: "json", sql: COUNT, path, source, sink, ..File::default() }
}

/// Records that are no JSON object of the schema, each for another reason; all differ.
fn bad_records() -> Vec<Vec<u8>> {
    let deep = |open: &str, close: &str| open.repeat(10_000) + &close.repeat(10_000);
    let mut aggregate = aggregate::of(&[User { key: "k", hash_key: None, data: b"{\"n\": 1}" }]);
    *aggregate.last_mut().expect("an aggregate has a sum") ^= 1;
    vec![
        b"\xff\xfe not UTF-8".to_vec(),
        b"{\"name\": \"\xc3\x28\"}".to_vec(),
        b"not JSON".to_vec(),
        Vec::new(),
        b"{\"n\": 1".to_vec(),
        b"{\"n\": 2147483648}".to_vec(),
        b"{\"n\": 1e400}".to_vec(),
        b"{\"n\": \"twelve\"}".to_vec(),
        format!("{{\"n\": 1, \"name\": {}}}", deep("[", "]")).into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        vec![b'x'; (1 << 20) - 16],
        aggregate,
    ]
}

async fn put(cluster: &Cluster, stream: &str, record: Vec<u8>) {
    let size = record.len();
    let kinesis = cluster.aws.endpoint.kinesis();
    within(PATIENCE, &format!("a record of {size} bytes is put"), async || {
        let put = kinesis.put_record().stream_name(stream).partition_key("k");
        let put = put.data(Blob::new(record.clone())).send().await;
        put.map(|_| ()).map_err(|error| format!("{error:?}"))
    })
    .await;
}

async fn put_good(cluster: &Cluster, stream: &str) {
    let lines: Vec<String> =
        (0..NUM_GOOD).map(|n| format!("{{\"n\": {n}, \"name\": \"record {n}\"}}")).collect();
    cluster.aws.put_lines(stream, &lines).await;
}

/// Good ones, bad ones, an aggregate with one bad user record in it, and one of very many.
async fn put_all(cluster: &Cluster) -> (usize, Vec<Vec<u8>>) {
    put_good(cluster, "lines").await;
    let mut bad = bad_records();
    for record in &bad {
        put(cluster, "lines", record.clone()).await;
    }
    let user = |data| User { key: "k", hash_key: None, data };
    let mixed = aggregate::of(&[
        user(b"{\"n\": 1000}"),
        user(b"{\"name\": \"no number\"}"),
        user(b"bad within"),
        user(b"{\"n\": 2000}"),
    ]);
    put(cluster, "lines", mixed).await;
    bad.push(b"bad within".to_vec());
    put(cluster, "lines", aggregate::of(&vec![user(b"{}"); MANY])).await;
    (NUM_GOOD + 3 + MANY, bad)
}

/// Every good record has counted once.
async fn good_ones_stand_once(cluster: &Cluster, prefix: &str, num_good: usize) {
    let objects = objects::json_lines(&cluster.aws.endpoint, "results", prefix).await;
    let sum = |name: &str| {
        let rows = objects.iter().flat_map(|object| &object.rows);
        rows.filter_map(|row| row[name].as_u64()).sum::<u64>()
    };
    let total = (0..NUM_GOOD as u64).sum::<u64>() + 3000;
    let expected = (num_good as u64, NUM_GOOD as u64 + 1, total);
    assert_eq!((sum("rows"), sum("names"), sum("total")), expected, "{prefix}");
}

#[tokio::test]
async fn bad_records_are_kept_or_skipped_and_counted_either_way() {
    // One shard, whose keys are all in its range.
    let cluster = cluster_with_stream(1).await;
    let (num_good, bad) = put_all(&cluster).await;
    let schema = "schema = { n = \"int\", name = \"string\" }\n";
    let letters = "dead_letter_path = \"s3://results/letters/\"";
    for (name, path, policy, sink) in [
        ("keeps", "s3://results/keeps/", "dead_letter", letters),
        ("skips", "s3://results/skips/", "skip", ""),
    ] {
        let source = format!("{schema}on_bad_record = \"{policy}\"");
        let text = file(name, path, "SOURCE", sink).toml().replace("SOURCE", &source);
        let _ = cluster.millrace(&["submit", &cluster.write("bad.toml", &text)]).await.success();
        let all = (num_good + bad.len()) as u64;
        let report = cluster
            .wait_for_report(name, "all is read", |report| report.records_total >= all)
            .await;
        assert_eq!((report.records_total, report.bad_records_total), (all, bad.len() as u64));
        let [of_shard] = &report.bad_records[..] else { panic!("one shard: {report:?}") };
        assert_eq!((of_shard.source.as_str(), of_shard.num_records), ("logs", bad.len() as u64));
        let status = cluster.millrace(&["status", name]).await.success();
        let line = format!("{} in logs/{}", bad.len(), of_shard.shard_id);
        assert!(status.stdout.contains(&line), "{status}");
        cluster.stop(name, &["--drain"]).await;
        good_ones_stand_once(&cluster, &format!("{name}/"), num_good).await;
    }
    letters_are(&cluster, bad).await;
}

/// The dead letters are these, each once, with its name in the stream and the reason.
async fn letters_are(cluster: &Cluster, bad: Vec<Vec<u8>>) {
    let endpoint = &cluster.aws.endpoint;
    let found = objects::json_lines(endpoint, "results", "letters/").await;
    let mut expected: BTreeMap<Vec<u8>, u64> = bad.into_iter().map(|data| (data, 0)).collect();
    expected.insert(b"bad within".to_vec(), 2);
    let stream = truth::records(endpoint, "lines").await;
    for letter in found.iter().flat_map(|object| &object.rows) {
        let text = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
        let data = base64_simd::STANDARD.decode_to_vec(text("data")).expect("data is base64");
        let sub = expected.remove(&data);
        assert_eq!(
            sub,
            letter["sub_sequence_number"].as_u64(),
            "expected, and once: {letter:.300}"
        );
        assert_eq!(text("source"), "logs");
        assert!(stream.contains_key(&(text("shard_id"), text("sequence_number"))), "{letter:.300}");
        assert!(!text("reason").is_empty() && letter["arrival_ms"].as_i64() > Some(0));
    }
    let missing: Vec<_> = expected.keys().map(|data| String::from_utf8_lossy(data)).collect();
    assert!(missing.is_empty(), "{missing:.200?}");
}

#[tokio::test]
async fn a_bad_record_stops_an_application_that_does_not_say_otherwise_and_is_named() {
    let cluster = cluster_with_stream(2).await;
    put_good(&cluster, "lines").await;
    put(&cluster, "lines", b"not JSON".to_vec()).await;
    let schema = "schema = { n = \"int\", name = \"string\" }";
    cluster.submit(&file("stops", "s3://results/stops/", schema, "")).await;
    let failure = failed(&cluster, "stops").await.failure.expect("a failure");
    let stream = truth::records(&cluster.aws.endpoint, "lines").await;
    let bad = stream.iter().find(|(_, data)| *data == "not JSON");
    let ((shard, number), _) = bad.expect("it is in the stream");
    assert_eq!(failure.code, "MR5002", "{failure:?}");
    assert!(failure.message.contains(shard.as_str()), "{shard}: {failure:?}");
    assert!(failure.message.contains(number.as_str()), "{number}: {failure:?}");
    assert!(failure.next_move.contains("on_bad_record"), "{failure:?}");

    // It goes on when told to, behind what was written.
    let source = "schema = { n = \"int\", name = \"string\" }\non_bad_record = \"skip\"";
    cluster.submit(&file("stops", "s3://results/stops/", source, "")).await;
    let bad = |report: &DriverReport| report.bad_records_total == 1;
    cluster.wait_for_report("stops", "the bad one is counted", bad).await;
    cluster.stop("stops", &["--drain"]).await;
    let objects = objects::json_lines(&cluster.aws.endpoint, "results", "stops/").await;
    let rows = objects.iter().flat_map(|object| &object.rows);
    let rows: u64 = rows.filter_map(|row| row["rows"].as_u64()).sum();
    assert_eq!(rows, NUM_GOOD as u64);
}

#[tokio::test]
async fn records_of_every_size_pass() {
    let cluster = cluster_with_stream(1).await;
    let kinesis = cluster.aws.endpoint.kinesis();
    let summary = kinesis.describe_stream_summary().stream_name("lines").send().await.unwrap();
    let arn = summary.stream_description_summary().unwrap().stream_arn().to_owned();
    raise_record_size(&cluster, &arn).await;
    // The last one is empty: the position is behind it all the same.
    let mut sizes = vec![0, 1, (1 << 20) - 10, 1 << 20, (10 << 20) - 16, 0];
    for size in &sizes {
        put(&cluster, "lines", vec![b'x'; *size]).await;
    }
    let sql = "SELECT _shard_id AS shard, _sequence_number AS seq, \
               CAST(octet_length(line) AS string) AS data FROM logs";
    let file = File { sql, executor_memory: "1GiB", executors: 1, ..application() };
    cluster.submit(&file).await;
    rows_are(&cluster, sizes.len()).await;
    cluster.stop("records", &[]).await;
    put(&cluster, "lines", vec![b'x'; 2]).await;
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

async fn raise_record_size(cluster: &Cluster, arn: &str) {
    let kinesis = cluster.aws.endpoint.kinesis();
    let update = kinesis.update_max_record_size().stream_arn(arn).max_record_size_in_kib(10_240);
    update.send().await.expect("records may have 10 MiB");
    cluster.aws.stream_is_active("lines").await;
}
