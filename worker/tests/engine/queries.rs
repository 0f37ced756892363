//! Queries over blocks of two executors, against results worked out by hand.

use std::collections::BTreeMap;

use millrace_sql::plan::{Compression, SinkFormat};
use millrace_sql::schema::BadRecordPolicy;
use millrace_worker::driver::runner::{DistributedRunner, RunError};

use crate::cluster::{Behaviour, Cluster, options, records, runner, source};

async fn two_executors() -> Cluster {
    executors(&[2, 1]).await
}

async fn executors(cores: &[usize]) -> Cluster {
    let mut cluster = Cluster::start(cores).await;
    cluster.put(0, "logs", &records(0, 1_000, 10), Behaviour::Good);
    cluster.put(0, "logs", &records(1_000, 500, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(1_500, 500, 10), Behaviour::Good);
    cluster.put(1, "users", &records(0, 10, 100), Behaviour::Good);
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_distributed_group_by_counts_every_record_once() {
    for cores in [[2, 1], [1, 1], [1, 3]] {
        group_by_counts_every_record_once(&cores).await;
    }
}

async fn group_by_counts_every_record_once(cores: &[usize]) {
    let mut cluster = executors(cores).await;
    let runner = runner("SELECT k, count(*) AS n, sum(v) AS total FROM logs GROUP BY k").await;
    let output = cluster.run(&runner).await.unwrap();
    assert_eq!(output.sources["logs"].records, 2_000);
    assert_eq!(output.rows, 10);
    let found: BTreeMap<u64, (u64, u64)> = cluster
        .rows(&output)
        .iter()
        .map(|(_, row)| {
            let number = |name: &str| row[name].as_u64().unwrap();
            (number("k"), (number("n"), number("total")))
        })
        .collect();
    let expected: BTreeMap<u64, (u64, u64)> =
        (0..10).map(|k| (k, (200, (0..200).map(|i| i * 10 + k).sum()))).collect();
    assert_eq!(found, expected);
    for upload in &output.uploads {
        assert!(upload.key.starts_with("out/app-e1-b1-t"), "{}", upload.key);
        assert_eq!(upload.parts.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_query_runs_on_executors() {
    every_kind_of_query_runs_on(&[2, 1]).await;
    every_kind_of_query_runs_on(&[1, 1]).await;
}

async fn every_kind_of_query_runs_on(cores: &[usize]) {
    let mut cluster = executors(cores).await;
    for (sql, expected) in [
        ("SELECT v FROM logs WHERE v < 3", vec!["0", "1", "2"]),
        ("SELECT count(*) AS n FROM logs", vec!["2000"]),
        ("SELECT v FROM logs ORDER BY v DESC LIMIT 2", vec!["1999", "1998"]),
        ("SELECT v FROM logs WHERE v < 0", vec![]),
        ("SELECT l.v FROM logs l JOIN users u ON l.v = u.v WHERE u.v > 7", vec!["8", "9"]),
        (
            "SELECT l.v FROM logs l WHERE l.v < 12 AND l.v NOT IN (SELECT v FROM users)",
            vec!["10", "11"],
        ),
        (
            "SELECT u.v FROM users u FULL JOIN logs l ON l.v < u.v AND l.v > 100 WHERE u.v > 8",
            vec!["9"],
        ),
        (
            "SELECT v FROM (SELECT v, row_number() OVER (PARTITION BY k ORDER BY v) AS r FROM logs) \
             WHERE r = 200 AND v < 1993",
            vec!["1990", "1991", "1992"],
        ),
        ("SELECT sum(v) OVER () AS t FROM users LIMIT 1", vec!["45"]),
        (
            "SELECT v FROM users UNION ALL SELECT v FROM logs WHERE v = 77",
            (0..10).map(|_| "").collect(),
        ),
        ("SELECT DISTINCT _batch_id FROM logs", vec!["*"]),
        ("SELECT count(DISTINCT _sequence_number) AS n FROM logs", vec!["2000"]),
        ("SELECT count(*) AS n FROM logs WHERE now() = _batch_time", vec!["2000"]),
    ] {
        let runner = runner(sql).await;
        let output = cluster.run(&runner).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut found: Vec<String> = cluster
            .rows(&output)
            .iter()
            .map(|(_, row)| row.as_object().unwrap().values().next().unwrap().to_string())
            .collect();
        match sql {
            union if union.contains("UNION") => assert_eq!(found.len(), 11, "{sql}"),
            batch if batch.contains("DISTINCT _batch_id") => assert_eq!(found.len(), 1, "{sql}"),
            ordered if ordered.contains("ORDER BY v DESC") => assert_eq!(found, expected, "{sql}"),
            _ => {
                let mut expected = expected;
                expected.sort_unstable();
                found.sort_unstable();
                assert_eq!(found, expected, "{sql}");
            }
        }
        assert_eq!(output.rows as usize, cluster.rows(&output).len());
        assert_eq!(output.uploads.is_empty(), output.rows == 0, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_files_are_written_than_wanted() {
    let mut cluster = two_executors().await;
    let columns = [("k", "long"), ("v", "long")];
    for sql in ["SELECT k, v FROM logs", "SELECT k, count(*) AS n FROM logs GROUP BY k"] {
        let logs = source("logs", &columns, BadRecordPolicy::Fail);
        let users = source("users", &columns, BadRecordPolicy::Fail);
        let mut options = options(vec![logs, users], sql);
        options.sink.files_per_batch = 1;
        let runner = DistributedRunner::prepare(options).await.unwrap();
        let output = cluster.run(&runner).await.unwrap();
        assert_eq!(output.uploads.len(), 1, "{sql}");
        assert_eq!(output.sources["logs"].records, 2_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_executor_with_one_core_runs_everything_itself() {
    let mut cluster = Cluster::start(&[1]).await;
    cluster.put(0, "logs", &records(0, 100, 3), Behaviour::Good);
    for (sql, rows) in [
        ("SELECT k, count(*) AS n FROM logs GROUP BY k", 3),
        ("SELECT v FROM logs ORDER BY v LIMIT 5", 5),
        ("SELECT v FROM logs", 100),
    ] {
        let runner = runner(sql).await;
        let output = cluster.run(&runner).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(output.rows, rows, "{sql}");
        assert!(output.num_tasks >= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_follow_the_policy() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    let mut bad = records(0, 10, 3);
    bad[4] = r#"{"k":"not a number","v":4}"#.to_owned();
    bad[7] = "[".repeat(10_000);
    cluster.put(0, "logs", &bad, Behaviour::Good);
    cluster.put(1, "logs", &records(10, 10, 3), Behaviour::Good);
    let sql = "SELECT a.k, a.v, b.v AS w FROM logs a JOIN logs b ON a.v = b.v AND a.k = b.k";
    let columns = [("k", "long"), ("v", "long")];

    let fail = source("logs", &columns, BadRecordPolicy::Fail);
    let runner = DistributedRunner::prepare(options(vec![fail], sql)).await.unwrap();
    let error = cluster.run(&runner).await.unwrap_err();
    let RunError::BadRecord { place, .. } = error else { panic!("{error:?}") };
    assert_eq!((&*place.source, &*place.shard), ("logs", "shardId-000000000000"));
    assert!(["4", "7"].contains(&place.sequence_number.as_str()), "{place:?}");

    let skip = source("logs", &columns, BadRecordPolicy::Skip);
    let runner = DistributedRunner::prepare(options(vec![skip], sql)).await.unwrap();
    let output = cluster.run(&runner).await.unwrap();
    let counts = &output.sources["logs"];
    assert_eq!((counts.records, counts.bad_records, output.rows), (20, 2, 18));
    assert_eq!(counts.bad_blocks.iter().map(|(_, num)| num).sum::<u64>(), 2, "{counts:?}");

    let letters = source("logs", &columns, BadRecordPolicy::DeadLetter);
    let mut with_path = options(vec![letters], sql);
    with_path.sink.dead_letters = Some(("letters".to_owned(), "bad".to_owned()));
    let runner = DistributedRunner::prepare(with_path).await.unwrap();
    let output = cluster.run(&runner).await.unwrap();
    let letters: Vec<_> = output.uploads.iter().filter(|upload| upload.dead_letters).collect();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].bucket.as_str(), letters[0].rows), ("letters", 2));
    let bytes = cluster.store.bytes(&letters[0].upload_id).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.lines().all(|line| line.contains("\"reason\"")), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_bad_for_every_scan_of_a_query_or_for_none() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    let mut bad = records(0, 10, 3);
    bad[4] = r#"{"k":"not a number","v":4}"#.to_owned();
    cluster.put(0, "logs", &bad, Behaviour::Good);
    let skip = source("logs", &[("k", "long"), ("v", "long")], BadRecordPolicy::Skip);
    // The first scan alone would do without k.
    let sql = "SELECT count(v) AS n FROM logs UNION ALL SELECT count(k) AS n FROM logs";
    let runner = DistributedRunner::prepare(options(vec![skip.clone()], sql)).await.unwrap();
    let output = cluster.run(&runner).await.unwrap();
    let counts: Vec<u64> =
        cluster.rows(&output).iter().map(|(_, row)| row["n"].as_u64().unwrap()).collect();
    assert_eq!(counts, [9, 9]);
    assert_eq!(output.sources["logs"].bad_records, 1);
    // And a query that never looks at k has no bad record.
    let sql = "SELECT count(v) AS n FROM logs UNION ALL SELECT sum(v) AS n FROM logs";
    let runner = DistributedRunner::prepare(options(vec![skip], sql)).await.unwrap();
    assert_eq!(cluster.run(&runner).await.unwrap().sources["logs"].bad_records, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_partitioned_and_compressed() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 40, 4), Behaviour::Good);
    cluster.put(1, "logs", &records(40, 40, 4), Behaviour::Good);
    let columns = [("k", "long"), ("v", "long")];
    for (format, compression, extension) in [
        (SinkFormat::Json, Compression::Gzip, "json.gz"),
        (SinkFormat::Csv, Compression::Zstd, "csv.zst"),
        (SinkFormat::Csv, Compression::None, "csv"),
        (SinkFormat::Parquet, Compression::None, "parquet"),
    ] {
        let logs = source("logs", &columns, BadRecordPolicy::Fail);
        let mut options = options(vec![logs], "SELECT k, v FROM logs");
        options.sink.partition_by = vec!["k".to_owned()];
        options.sink.format = format;
        options.sink.compression = compression;
        let runner = DistributedRunner::prepare(options).await.unwrap();
        let output = cluster.run(&runner).await.unwrap();
        assert_eq!(output.rows, 80);
        assert_eq!(output.uploads.len(), 8, "two tasks, four directories");
        for upload in &output.uploads {
            assert!(upload.key.starts_with("out/k="), "{}", upload.key);
            assert!(upload.key.ends_with(extension), "{}", upload.key);
            let bytes = cluster.store.bytes(&upload.upload_id).unwrap();
            let text = match (format, compression) {
                (SinkFormat::Parquet, _) => {
                    assert_eq!(&bytes[..4], b"PAR1");
                    assert_eq!(&bytes[bytes.len() - 4..], b"PAR1");
                    continue;
                }
                (_, Compression::Gzip) => {
                    std::io::read_to_string(flate2::read::GzDecoder::new(&bytes[..])).unwrap()
                }
                (_, Compression::Zstd) => {
                    String::from_utf8(zstd::decode_all(&bytes[..]).unwrap()).unwrap()
                }
                (_, Compression::None) => String::from_utf8(bytes).unwrap(),
            };
            let header = usize::from(format == SinkFormat::Csv);
            assert_eq!(text.lines().count(), 10 + header, "{text}");
            assert!(!text.contains("\"k\""), "{text}");
        }
    }
    let mut options =
        options(vec![source("logs", &columns, BadRecordPolicy::Fail)], "SELECT k, v FROM logs");
    options.sink.partition_by = vec!["v".to_owned()];
    let runner = DistributedRunner::prepare(options).await.unwrap();
    let error = cluster.run(&runner).await.unwrap_err();
    let RunError::Sink { retryable: false, code, .. } = error else { panic!("{error:?}") };
    assert_eq!(code, "too-many-partitions");
}
