//! A committed batch whose uploads somebody aborts before they are completed: the application stops
//! and says so, `millrace repair` has the batch read again, and every word stands once.
//!
//! The worker must be built with its feature `failpoints`, as `test.sh` does.
#![cfg(feature = "failpoints")]

use millrace_common::head;
use millrace_common::table::DEFAULT_TABLE;
use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::{Control, Rule};
use millrace_integration_tests::objects;
use millrace_integration_tests::words::{Counts, assert_equal};
use millrace_proto::v1::ApplicationState;
use serde_json::json;

const NAME: &str = "word-count";

/// Runs a driver that stalls between its commit and its completes, has `how_many` of its uploads
/// aborted meanwhile, and waits until the application has stopped over it. Gives the number of files
/// of the lost batch.
async fn lose(cluster: &Cluster, how_many: impl Fn(usize) -> usize) -> usize {
    let env = vec![("FAILPOINTS", "k6-before=sleep(20000)".to_owned())];
    cluster.submit(&File { env, ..File::default() }).await;
    let pending: Vec<(String, String)> = within(PATIENCE, "uploads are pending", async || {
        let listed = cluster.millrace(&["uploads", "list", NAME, "--json"]).await.success().json();
        let of = |upload: &serde_json::Value, name: &str| upload[name].as_str().map(str::to_owned);
        let pending: Vec<_> = listed
            .as_array()
            .into_iter()
            .flatten()
            .filter(|upload| upload["fate"] == "pending")
            .filter_map(|upload| Some((of(upload, "path")?, of(upload, "upload_id")?)))
            .collect();
        if pending.is_empty() { Err(listed.to_string()) } else { Ok(pending) }
    })
    .await;
    let s3 = cluster.aws.endpoint.s3();
    for (path, upload_id) in pending.iter().take(how_many(pending.len())) {
        let key = path.strip_prefix("s3://results/").expect("the sink's bucket");
        let abort = s3.abort_multipart_upload().bucket("results").key(key).upload_id(upload_id);
        abort.send().await.expect("the upload is there");
    }
    let application = cluster.wait_for_state(NAME, ApplicationState::Failed).await;
    let failure = application.failure.expect("a failed application says why");
    assert_eq!(failure.code, "MR4005", "{failure:?}");
    assert!(failure.next_move.contains("millrace repair"), "{failure:?}");
    cluster.wait_for_no_containers().await;
    pending.len()
}

/// Runs the healthy application until `total` words stand, and gives all that stand then.
async fn heal(cluster: &Cluster, total: i64) -> Counts {
    cluster.submit(&File::default()).await;
    words_when_stopped(cluster, total).await
}

/// Waits until the running application has written `total` words, stops it, and gives all that stand.
async fn words_when_stopped(cluster: &Cluster, total: i64) -> Counts {
    cluster.wait_for_words(NAME, "results", "word-count/", total).await;
    cluster.stop(NAME, &[]).await;
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    objects::word_counts(&found)
}

async fn put(cluster: &Cluster) {
    let lines: Vec<String> = (0..200).map(|i| format!("a b{}", i % 10)).collect();
    cluster.aws.put_lines("lines", &lines).await;
}

fn expected(rounds: i64) -> Counts {
    let mut counts = Counts::from([("a".to_owned(), 200 * rounds)]);
    counts.extend((0..10).map(|i| (format!("b{i}"), 20 * rounds)));
    counts
}

#[tokio::test]
async fn a_lost_batch_is_read_again_and_stands_once() {
    let cluster = Cluster::start(&Judge::Emulator, &[NodeSize { cores: 4, memory: "4GiB" }]).await;
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    put(&cluster).await;

    // Every upload of the batch is gone: nothing of it is visible, so that reading it again is exact.
    let num_files = lose(&cluster, |all| all).await;
    let unsure = cluster.millrace(&["repair", NAME]).await;
    unsure.assert_refused("MR6007", &["repairing"]);
    assert!(unsure.stderr.contains("missing") && unsure.stderr.contains("shardId-"), "{unsure}");
    let asked = cluster.millrace(&["repair", NAME, "--yes", "--json"]).await.success();
    let asked = asked.json();
    assert_eq!(asked["choice"], "reread", "{asked}");
    assert_eq!(asked["files"].as_array().map(Vec::len), Some(num_files), "{asked}");
    assert!(asked["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty()), "{asked}");
    assert_equal(&heal(&cluster, 400).await, &expected(1));

    // One of them is gone and the others are visible: reading all of it again would double those.
    let before = objects::keys(&cluster.aws.endpoint, "results", "word-count/").await;
    put(&cluster).await;
    let num_files = lose(&cluster, |_| 1).await;
    assert!(num_files > 1, "the batch has several files");
    let refused = cluster.millrace(&["repair", NAME, "--yes"]).await;
    refused.assert_refused("MR4005", &["visible"]);
    let after = objects::keys(&cluster.aws.endpoint, "results", "word-count/").await;
    let visible: Vec<&String> = after.iter().filter(|key| !before.contains(key)).collect();
    assert_eq!(visible.len(), num_files - 1, "{visible:?}");
    for key in visible {
        let delete = cluster.aws.endpoint.s3().delete_object().bucket("results").key(key);
        delete.send().await.expect("an operator may delete");
    }
    let _ = cluster.millrace(&["repair", NAME, "--yes"]).await.success();
    assert_equal(&heal(&cluster, 800).await, &expected(2));
    let over = cluster.millrace(&["repair", NAME, "--yes"]).await;
    over.assert_refused("MR2004", &[NAME]);
    cluster.wait_for_no_containers().await;

    readers_remove_the_files_of_the_last_batch(&cluster).await;
}

/// Files that were published and that readers have loaded and removed are no loss: the next driver
/// does not look for them, whatever S3 says of their uploads by then.
async fn readers_remove_the_files_of_the_last_batch(cluster: &Cluster) {
    put(cluster).await;
    cluster.submit(&File::default()).await;
    cluster.wait_for_words(NAME, "results", "word-count/", 1_200).await;
    let (name, table) = (NAME.parse().expect("a name"), DEFAULT_TABLE);
    let dynamodb = cluster.aws.endpoint.dynamodb();
    let batch = within(PATIENCE, "the head says that its batch is published", async || {
        let head = head::read(&dynamodb, table, &name).await.map_err(|error| error.to_string())?;
        let head = head.ok_or("there is no head")?;
        assert!(!head.pending.is_empty(), "the last batch has files");
        if head.is_published { Ok(head.batch) } else { Err(format!("batch {}", head.batch)) }
    })
    .await;
    let refused = cluster.millrace(&["repair", NAME, "--yes"]).await;
    refused.assert_refused("MR2004", &["published", "nothing is lost"]);
    for key in objects::keys(&cluster.aws.endpoint, "results", "word-count/").await {
        let delete = cluster.aws.endpoint.s3().delete_object().bucket("results").key(key);
        delete.send().await.expect("a reader may delete");
    }
    // S3 forgets an upload some time after it was completed.
    let forgotten = json!({"type": "fail", "status": 404, "code": "NoSuchUpload", "message": ""});
    let forgotten = Rule::new("forgotten", "s3", "CompleteMultipartUpload", forgotten)
        .containing(&format!("-b{batch}-"));
    let control = Control::of(&cluster.aws.endpoint);
    control.add(std::slice::from_ref(&forgotten)).await;
    let num_attempts = cluster.application(NAME).await.expect("it runs").attempts.len();
    cluster.kill_driver(NAME).await;
    within(PATIENCE, "the next driver is at work", async || {
        let application = cluster.application(NAME).await?;
        let (state, num) = (application.state(), application.attempts.len());
        let is_there = num > num_attempts && state == ApplicationState::Running;
        if is_there { Ok(()) } else { Err(format!("{num} attempts, {state:?}")) }
    })
    .await;
    put(cluster).await;
    assert_equal(&words_when_stopped(cluster, 400).await, &expected(1));
    assert_eq!(control.num_struck(&forgotten.id).await, 0, "nobody asks for its uploads");
    cluster.wait_for_no_containers().await;
}
