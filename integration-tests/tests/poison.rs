//! A record that makes every run over it fail: the batch is divided until one block is left, what is
//! before it is committed, the application stops and names the shard and the range; corrected, it
//! goes on from there, and every record stands once.

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::{objects, truth};
use millrace_proto::v1::ApplicationState;

const NAME: &str = "word-count";

/// [`truth::RECORDS`], but for one value a division by zero.
const FAILS: &str = "SELECT _shard_id AS shard, _sequence_number AS seq, line AS data, \
    1 / (CASE WHEN line = 'poison' THEN 0 ELSE 1 END) AS one FROM logs";

#[tokio::test]
async fn one_bad_value_stops_the_application_at_its_block_and_nowhere_before() {
    let nodes = [NodeSize { cores: 4, memory: "4GiB" }];
    let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let mut lines: Vec<String> = (0..400).map(|i| format!("line {i}")).collect();
    lines.insert(200, "poison".to_owned());
    cluster.aws.put_lines("lines", &lines).await;

    cluster.submit(&File { sql: FAILS, ..File::default() }).await;
    let application = cluster.wait_for_state(NAME, ApplicationState::Failed).await;
    let truth = truth::records(&cluster.aws.endpoint, "lines").await;
    let ((shard, number), _) = truth.iter().find(|(_, data)| *data == "poison").unwrap();
    let failure = application.failure.expect("a failed application says why");
    assert_eq!(failure.code, "MR4004", "{failure:?}");
    assert!(failure.message.contains(shard.as_str()), "{shard} {number}: {failure:?}");
    for other in truth.keys().map(|(other, _)| other).filter(|other| *other != shard) {
        assert!(!failure.message.contains(other.as_str()), "only its shard is named: {failure:?}");
    }
    assert_eq!(
        application.attempts.len(),
        1,
        "the driver did not fail: {:?}",
        application.attempts
    );
    cluster.wait_for_no_containers().await;

    // Nothing of its block stands, and the corrected query goes on from there.
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    let stands = |data: &str| found.iter().flat_map(|o| &o.rows).any(|row| row["data"] == data);
    assert!(!stands("poison"));
    cluster.submit(&File { sql: truth::RECORDS, ..File::default() }).await;
    within(PATIENCE, "every record is visible", async || {
        let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
        let rows = truth::num_rows(&found);
        if rows >= truth.len() { Ok(()) } else { Err(format!("{rows} of {}", truth.len())) }
    })
    .await;
    cluster.stop(NAME, &[]).await;
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    truth::assert_each_record_once(&found, &truth);
    cluster.wait_for_no_containers().await;
}
