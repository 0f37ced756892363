//! What is wrong ends with one clear line and the next move: an exit code that is not 0, a stable
//! code, the thing by its name, and no process that hangs.

// The whole crate is tests; clippy only knows the test functions.
#![allow(clippy::unwrap_used)]

mod configuration;
mod network;
mod nodes;

use std::net::TcpListener;
use std::time::Duration;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_integration_tests::emulator;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::{Control, Rule};
use millrace_integration_tests::lines;
use millrace_proto::v1::{Application, Failure};
use serde_json::{Value, json};

/// A refusal that needs no cluster to work it out.
const AT_ONCE: Duration = Duration::from_secs(20);

async fn explain(text: &str) -> Output {
    let directory = tempfile::tempdir().expect("the temporary directory can be written to");
    let file = directory.path().join("application.toml");
    std::fs::write(&file, text).expect("the temporary directory can be written to");
    let arguments = ["explain".as_ref(), file.as_os_str()];
    run(&binary("millrace"), &arguments, &base_environment(), AT_ONCE).await
}

#[tokio::test]
async fn a_good_file_is_explained_without_a_cluster() {
    let output = explain(&File::default().toml()).await.success();
    assert!(output.stdout.contains("Aggregate"), "{output}");
}

#[tokio::test]
async fn a_file_that_does_not_parse_is_refused_with_line_and_column() {
    let text = File::default().toml().replace("[batch]", "[batch");
    let line = text.lines().position(|line| line == "[batch").unwrap() + 1;
    explain(&text).await.assert_refused("MR1001", &[&format!("application.toml:{line}:")]);
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_the_nearest_one() {
    let text = File::default().toml().replace("interval =", "intervall =");
    explain(&text).await.assert_refused("MR1002", &["intervall"]);
    let output = explain(&text).await;
    assert!(output.stderr.contains("`interval`"), "the nearest key: {output}");
}

#[tokio::test]
async fn an_interval_of_zero_is_refused() {
    let text = File { interval: "0s", ..File::default() }.toml();
    explain(&text).await.assert_refused("MR1003", &["interval"]);
}

#[tokio::test]
async fn a_prefix_that_climbs_out_is_refused() {
    let text = File { path: "s3://results/../other/", ..File::default() }.toml();
    explain(&text).await.assert_refused("MR1003", &["s3://results/../other/"]);
}

#[tokio::test]
async fn an_unknown_column_is_refused_with_candidates() {
    let text = File { sql: "SELECT lien FROM logs", ..File::default() }.toml();
    let output = explain(&text).await;
    output.assert_refused("MR1004", &["lien"]);
    assert!(output.stderr.contains("line"), "the candidates: {output}");
}

#[tokio::test]
async fn sql_that_does_not_parse_is_refused() {
    let text = File { sql: "SELEKT line FROM logs", ..File::default() }.toml();
    explain(&text).await.assert_refused("MR1005", &["SELEKT"]);
}

#[tokio::test]
async fn a_query_that_does_not_fit_its_types_is_refused() {
    let text = File { sql: "SELECT sum(line) AS n FROM logs", ..File::default() }.toml();
    explain(&text).await.assert_refused("MR1006", &["sum"]);
}

#[tokio::test]
async fn a_source_that_the_query_never_names_is_pointed_out() {
    let more = "[source.unused]\ntype = \"kinesis\"\nstream = \"s\"\nformat = \"text\"\n\n[query]";
    let output = explain(&File::default().toml().replace("[query]", more)).await.success();
    assert!(output.stderr.contains("never names source unused"), "{output}");
    assert!(!explain(&File::default().toml()).await.stderr.contains("warning"), "{output}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let arguments = ["explain", "/nowhere/application.toml"];
    let output = run(&binary("millrace"), &arguments, &base_environment(), AT_ONCE).await;
    output.assert_refused("MR6005", &["/nowhere/application.toml"]);
}

#[tokio::test]
async fn a_master_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let arguments = ["--master", &format!("http://{address}"), "list"];
    let output = run(&binary("millrace"), &arguments, &base_environment(), AT_ONCE).await;
    output.assert_refused("MR2001", &[&address]);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let arguments = ["--listen", &address, "--data-dir", data.to_str().unwrap()];
    let emulator = binary("millrace-emulator");
    let output = run(&emulator, &arguments, &base_environment(), AT_ONCE).await;
    output.assert_refused("MR6001", &[&address]);

    let aws = emulator::start(directory.path()).await;
    let mut environment = base_environment();
    environment.extend(aws.endpoint.environment());
    let arguments = ["--listen", &address, "--cluster", "test"];
    let output = run(&binary("millrace-master"), &arguments, &environment, AT_ONCE).await;
    output.assert_refused("MR6001", &[&address]);
}

#[tokio::test]
async fn a_master_without_its_table_says_how_to_make_it() {
    let directory = tempfile::tempdir().unwrap();
    let aws = emulator::start(directory.path()).await;
    let mut environment = base_environment();
    environment.extend(aws.endpoint.environment());
    let arguments = ["--listen", "127.0.0.1:0", "--cluster", "test", "--table", "absent"];
    let output = run(&binary("millrace-master"), &arguments, &environment, AT_ONCE).await;
    output.assert_refused("MR3001", &["absent"]);
    assert!(output.stderr.contains("millrace init"), "the next move: {output}");
}

#[tokio::test]
async fn a_missing_stream_ends_the_application_with_its_name() {
    let cluster = small_cluster().await;
    cluster.aws.create_bucket("results").await;
    let file = File { stream: "no-such-stream", ..File::default() };
    ends_with(&cluster, &file, "MR3002", "no-such-stream").await;
}

#[tokio::test]
async fn a_missing_bucket_ends_the_application_with_its_name() {
    let cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.put_lines("lines", &["a b".to_owned()]).await;
    let file = File { path: "s3://no-such-bucket/out/", ..File::default() };
    ends_with(&cluster, &file, "MR3003", "no-such-bucket").await;
}

#[tokio::test]
async fn a_bucket_of_another_region_is_found_there() {
    let cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 1).await;
    cluster.aws.create_bucket_in("far-away", "eu-west-1").await;
    cluster.aws.put_lines("lines", &["a b".to_owned()]).await;
    let file = File { path: "s3://far-away/out/", ..File::default() };
    cluster.submit(&file).await;
    cluster.wait_for_batch(file.name, 1).await;
    cluster.stop(file.name, &[]).await;
    let there = aws_sdk_s3::config::Region::new("eu-west-1");
    let there = cluster.aws.endpoint.s3().config().to_builder().region(there).build();
    let there = aws_sdk_s3::Client::from_conf(there);
    let listed = there.list_objects_v2().bucket("far-away").prefix("out/").send().await.unwrap();
    assert!(!listed.contents().is_empty(), "{listed:?}");
}

#[tokio::test]
async fn what_s3_does_not_let_a_task_do_ends_the_application_with_the_policy_to_add() {
    let cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 1).await;
    cluster.aws.create_bucket("results").await;
    cluster.aws.put_lines("lines", &["a b".to_owned()]).await;
    let control = Control::of(&cluster.aws.endpoint);
    let key = "arn:aws:kms:us-east-1:000000000000:key/k1";
    let kms = format!(
        "User: arn:aws:iam::000000000000:user/test is not authorized to perform: \
         kms:GenerateDataKey on resource: {key} because no identity-based policy allows it"
    );
    let no_put = r#"{"Action":["s3:PutObject"],"Effect":"Allow","Resource":"arn:aws:s3:::results/word-count/*"}"#;
    let no_key = format!(
        r#"{{"Action":["kms:GenerateDataKey","kms:Decrypt"],"Effect":"Allow","Resource":"{key}"}}"#
    );
    for (name, message, statement) in
        [("no-put", "Access Denied", no_put), ("no-key", kms.as_str(), no_key.as_str())]
    {
        let denied = refusal(403, "AccessDenied", message);
        let rule = Rule::new(name, "s3", "CreateMultipartUpload", denied);
        control.add(std::slice::from_ref(&rule)).await;
        let failure =
            ends_with(&cluster, &File { name, ..File::default() }, "MR3005", "results").await;
        assert!(failure.next_move.contains(statement), "{failure:?}");
        control.remove(&[rule]).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_being_made_or_deleted_is_named_with_its_state() {
    let cluster = small_cluster().await;
    cluster.aws.create_bucket("results").await;
    cluster.aws.create_stream("going", 1).await;
    Control::of(&cluster.aws.endpoint).set_transition(Duration::from_secs(3600)).await;
    let kinesis = cluster.aws.endpoint.kinesis();
    kinesis.create_stream().stream_name("coming").shard_count(1).send().await.unwrap();
    kinesis.delete_stream().stream_name("going").send().await.unwrap();
    for (name, stream, state) in [("a", "coming", "CREATING"), ("b", "going", "DELETING")] {
        let file = File { name, stream, ..File::default() };
        let failure = ends_with(&cluster, &file, "MR3010", stream).await;
        assert!(failure.message.contains(state), "{failure:?}");
    }
}

/// The action of a rule that refuses a call.
fn refusal(status: u16, code: &str, message: &str) -> Value {
    json!({ "type": "fail", "status": status, "code": code, "message": message })
}

#[tokio::test]
async fn what_kinesis_refuses_ends_the_application_with_the_action() {
    let cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 1).await;
    cluster.aws.create_bucket("results").await;
    let control = Control::of(&cluster.aws.endpoint);
    let signature = "Signature expired: 20200101T000000Z is now earlier than 20200101T001500Z";
    for (name, operation, error, message, code) in [
        ("no-right", "ListShards", "AccessDeniedException", "not authorized", "MR3005"),
        ("no-describe", "DescribeStreamSummary", "AccessDeniedException", "no", "MR3005"),
        ("old-token", "ListShards", "ExpiredTokenException", "the token is expired", "MR3006"),
        ("bad-clock", "ListShards", "InvalidSignatureException", signature, "MR3007"),
    ] {
        let rule = Rule::new(name, "kinesis", operation, refusal(400, error, message));
        control.add(std::slice::from_ref(&rule)).await;
        ends_with(&cluster, &File { name, ..File::default() }, code, operation).await;
        control.remove(&[rule]).await;
    }
}

#[tokio::test]
async fn a_start_outside_of_what_the_stream_keeps_is_refused() {
    let cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 1).await;
    cluster.aws.create_bucket("results").await;
    let future = File { name: "future", start: "2999-01-01T00:00:00Z", ..File::default() };
    ends_with(&cluster, &future, "MR1003", "2999-01-01").await;
    // Older than the stream, which was just made: everything there is.
    let old = File { start: "2001-01-01T00:00:00Z", ..File::default() };
    cluster.aws.put_lines("lines", &["a b".to_owned()]).await;
    cluster.submit(&old).await;
    cluster.wait_for_words(old.name, "results", "word-count/", 2).await;
    cluster.stop(old.name, &[]).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_named_while_it_is_tried_again() {
    let cluster = small_cluster().await;
    let file = File::default();
    let aws = "[aws]\nendpoint = \"http://127.0.0.1:1\"\n\n[sink]";
    let path = cluster.write("nowhere.toml", &file.toml().replace("[sink]", aws));
    let submitted = cluster.millrace(&["submit", &path]).await;
    if submitted.code != 0 {
        submitted.assert_refused("MR3008", &["127.0.0.1:1"]);
        return;
    }
    within(PATIENCE, "the reason is told", async || {
        let application = cluster.application(file.name).await?;
        let status = cluster.millrace(&["status", file.name]).await;
        if status.stdout.contains("MR3008") { Ok(()) } else { Err(application.reason) }
    })
    .await;
    let _ = cluster.millrace(&["kill", file.name]).await.success();
}

#[tokio::test]
async fn a_name_in_use_is_refused() {
    let cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    let file = File::default();
    cluster.submit(&file).await;
    let path = cluster.write("again.toml", &file.toml());
    cluster.millrace(&["submit", &path]).await.assert_refused("MR2002", &["word-count"]);
    cluster.stop("word-count", &[]).await;
    cluster.millrace(&["status", "nobody"]).await.assert_refused("MR2003", &["nobody"]);
}

#[tokio::test]
async fn executors_beyond_the_cluster_are_refused_with_the_arithmetic() {
    let cluster = small_cluster().await;
    let file = File { executors: 400, ..File::default() };
    let path = cluster.write("large.toml", &file.toml());
    let submitted = cluster.millrace(&["submit", &path]).await;
    submitted.assert_refused("MR2005", &["need 401 cores and 1 node offers 4", "3 fit"]);
    assert_eq!(submitted.code, 3, "{submitted}");
    cluster.application(file.name).await.expect_err("it was never taken");
}

async fn small_cluster() -> Cluster {
    Cluster::start(&Judge::Emulator, &[NodeSize { cores: 4, memory: "2GiB" }]).await
}

/// Submits, either is refused at once or ends as REJECTED or FAILED; either way with `code`, naming
/// `thing`, with a next move, and without a process left. What was said, if it was not refused.
async fn ends_with(cluster: &Cluster, file: &File, code: &str, thing: &str) -> Failure {
    let path = cluster.write("bad.toml", &file.toml());
    let submitted = cluster.millrace(&["submit", &path]).await;
    if submitted.code != 0 {
        submitted.assert_refused(code, &[thing]);
        return Failure::default();
    }
    let ended: Application = lines::failed(cluster, file.name).await;
    let failure = ended.failure.clone().unwrap_or_else(|| panic!("no failure: {ended:?}"));
    assert_eq!(failure.code, code, "{ended:?}");
    assert!(failure.message.contains(thing), "{ended:?}");
    assert!(!failure.next_move.is_empty(), "{ended:?}");
    let status = cluster.millrace(&["status", file.name]).await.success();
    assert!(status.stdout.contains(code) && status.stdout.contains(thing), "{status}");
    failure
}
