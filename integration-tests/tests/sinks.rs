//! Every format of the sink, with compression and partitions, read back by the names of the keys:
//! several applications share one stream and one cluster, and each writes all rows.

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::objects;
use millrace_proto::v1::ApplicationState;

const NUM_LINES: usize = 200;
const ROWS: &str = "SELECT line, split_part(line, ' ', 1) AS kind FROM logs";

#[tokio::test]
async fn every_format_holds_all_rows() {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 8, memory: "8GiB" }]).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    let lines: Vec<String> =
        (0..NUM_LINES).map(|i| format!("{} {i}, \"quoted\"", ["a", "b/c"][i % 2])).collect();
    cluster.aws.put_lines("lines", &lines).await;

    let sink =
        |name, path, sink| File { name, path, sink, sql: ROWS, executors: 1, ..File::default() };
    let files = [
        sink("as-json", "s3://results/json/", "compression = \"gzip\"\npartition_by = [\"kind\"]"),
        sink("as-csv", "s3://results/csv/", "format = \"csv\"\ncompression = \"zstd\""),
        sink("as-parquet", "s3://results/parquet/", "format = \"parquet\""),
    ];
    for file in &files {
        cluster.submit(file).await;
        cluster.wait_for_state(file.name, ApplicationState::Running).await;
        within(PATIENCE, &format!("{} has committed all", file.name), async || {
            let batches = cluster.batches(file.name).await;
            let rows: u64 = batches.iter().map(|batch| batch.num_rows).sum();
            if rows == NUM_LINES as u64 { Ok(()) } else { Err(format!("{rows} rows: {batches:?}")) }
        })
        .await;
        cluster.stop(file.name, &[]).await;
    }
    json_is_partitioned_and_compressed(&cluster, &lines).await;
    csv_has_a_header_and_quotes(&cluster).await;
    parquet_files_are_whole(&cluster).await;
}

/// Hive style: the column is in the key and not in the row; what a key can not hold is escaped.
async fn json_is_partitioned_and_compressed(cluster: &Cluster, lines: &[String]) {
    let mut found = Vec::new();
    for object in objects::json_lines(&cluster.aws.endpoint, "results", "json/").await {
        assert!(object.key.ends_with(".gz"), "{}", object.key);
        let partition = object.key.split('/').nth(1).expect("a partition");
        for row in &object.rows {
            assert_eq!(row.as_object().map(serde_json::Map::len), Some(1), "{row}");
            let line = row["line"].as_str().expect("a line").to_owned();
            let kind = if line.starts_with('a') { "kind=a" } else { "kind=b%2Fc" };
            assert_eq!(partition, kind);
            found.push(line);
        }
    }
    found.sort();
    let mut expected = lines.to_vec();
    expected.sort();
    assert_eq!(found, expected);
}

async fn csv_has_a_header_and_quotes(cluster: &Cluster) {
    let mut rows = 0;
    for key in objects::keys(&cluster.aws.endpoint, "results", "csv/").await {
        assert!(key.ends_with(".zst"), "{key}");
        let bytes = objects::bytes(&cluster.aws.endpoint, "results", &key).await;
        let text = String::from_utf8(bytes).expect("CSV is UTF-8");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("line,kind"), "{key}");
        for line in lines {
            assert!(line.contains(", \"\"quoted\"\"\","), "{line}");
            rows += 1;
        }
    }
    assert_eq!(rows, NUM_LINES);
}

async fn parquet_files_are_whole(cluster: &Cluster) {
    let keys = objects::keys(&cluster.aws.endpoint, "results", "parquet/").await;
    assert!(!keys.is_empty());
    for key in keys {
        let bytes = objects::bytes(&cluster.aws.endpoint, "results", &key).await;
        assert!(key.ends_with(".parquet"), "{key}");
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{key}");
    }
}
