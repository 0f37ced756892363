//! Fault rules and the control endpoint, through the clients they strike.

mod common;

use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_s3::primitives::ByteStream;
use common::{Clients, start};
use millrace_emulator::{Config, Handle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHARD: &str = "shardId-000000000000";

async fn with_stream() -> (Handle, Clients) {
    let (handle, clients) = start(Config { limited: false, ..Config::default() }).await;
    clients
        .kinesis
        .create_stream()
        .stream_name("logs")
        .shard_count(1)
        .send()
        .await
        .expect("create");
    clients.s3.create_bucket().bucket("results").send().await.expect("bucket");
    (handle, clients)
}

/// One request to the control endpoint: status line and body.
async fn control(handle: &Handle, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(handle.addr()).await.expect("connect");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        handle.addr(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).expect("a body");
    (status, body)
}

async fn rule(handle: &Handle, rule: &str) {
    let (status, body) = control(handle, "POST", "/-/faults", rule).await;
    assert_eq!(status, 200, "{body}");
}

async fn put(clients: &Clients) -> Result<String, Option<String>> {
    let put = clients.kinesis.put_record().stream_name("logs").partition_key("k");
    match put.data(Blob::new("x")).send().await {
        Ok(answer) => Ok(answer.sequence_number().to_owned()),
        Err(error) => Err(error.code().map(str::to_owned)),
    }
}

async fn count(clients: &Clients) -> usize {
    let call = clients.kinesis.get_shard_iterator().stream_name("logs").shard_id(SHARD);
    let call = call.shard_iterator_type(ShardIteratorType::TrimHorizon);
    let next = call.send().await.expect("iterator").shard_iterator.expect("iterator");
    let page = clients.kinesis.get_records().shard_iterator(next).send().await.expect("records");
    page.records().len()
}

#[tokio::test]
async fn health_and_unknown_paths() {
    let (handle, _) = with_stream().await;
    assert_eq!(control(&handle, "GET", "/-/healthz", "").await, (200, "ok\n".to_owned()));
    assert_eq!(control(&handle, "GET", "/-/nothing", "").await.0, 404);
    assert_eq!(control(&handle, "POST", "/-/faults", "{\"service\":\"sqs\"}").await.0, 400);
    handle.stop().await;
}

#[tokio::test]
async fn a_failed_call_is_not_applied_and_a_lost_answer_is() {
    let (handle, clients) = with_stream().await;
    let fail = r#"{"service":"kinesis","operation":"PutRecord","times":1,"contains":"logs",
        "action":{"type":"fail","status":500,"code":"InternalFailureException"}}"#;
    rule(&handle, fail).await;
    assert_eq!(put(&clients).await, Err(Some("InternalFailureException".to_owned())));
    assert_eq!(count(&clients).await, 0);

    let lose = r#"{"service":"kinesis","operation":"PutRecord","times":1,
        "action":{"type":"lose_answer"}}"#;
    rule(&handle, lose).await;
    assert_eq!(put(&clients).await, Err(None), "the connection is closed without an answer");
    assert_eq!(count(&clients).await, 1);
    put(&clients).await.expect("the rule struck once");
    let (_, rules) = control(&handle, "GET", "/-/faults", "").await;
    assert!(rules.contains("\"num_struck\":1"), "{rules}");
    assert_eq!(control(&handle, "DELETE", "/-/faults", "").await.0, 200);
    assert_eq!(control(&handle, "GET", "/-/faults", "").await.1, "[]");
    handle.stop().await;
}

#[tokio::test]
async fn calls_are_applied_twice_or_late() {
    let (handle, clients) = with_stream().await;
    let twice = r#"{"service":"kinesis","operation":"PutRecord","times":1,
        "action":{"type":"apply_twice"}}"#;
    rule(&handle, twice).await;
    put(&clients).await.expect("the first answer comes");
    assert_eq!(count(&clients).await, 2);
    let late = r#"{"service":"kinesis","operation":"PutRecord","times":1,
        "action":{"type":"apply_late","ms":50}}"#;
    rule(&handle, late).await;
    assert_eq!(put(&clients).await, Err(None));
    common::eventually("the call is applied", || async {
        (count(&clients).await == 3).then_some(())
    })
    .await;
    handle.stop().await;
}

#[tokio::test]
async fn iterators_are_made_to_expire_and_records_to_be_trimmed() {
    let (handle, clients) = with_stream().await;
    put(&clients).await.expect("put");
    let second = put(&clients).await.expect("put");
    let call = clients.kinesis.get_shard_iterator().stream_name("logs").shard_id(SHARD);
    let call = call.shard_iterator_type(ShardIteratorType::TrimHorizon);
    let next = call.send().await.expect("iterator").shard_iterator.expect("iterator");
    assert_eq!(control(&handle, "POST", "/-/kinesis/expire-iterators", "").await.0, 200);
    let expired = clients.kinesis.get_records().shard_iterator(next).send().await;
    assert!(expired.expect_err("expired").into_service_error().is_expired_iterator_exception());
    let trim = format!(r#"{{"stream":"logs","shard":"{SHARD}","keep_from":"{second}"}}"#);
    assert_eq!(control(&handle, "POST", "/-/kinesis/trim", &trim).await.0, 200);
    assert_eq!(count(&clients).await, 1);
    let empty = r#"{"service":"kinesis","operation":"GetRecords","times":1,
        "action":{"type":"empty_page"}}"#;
    rule(&handle, empty).await;
    assert_eq!((count(&clients).await, count(&clients).await), (0, 1));
    handle.stop().await;
}

#[tokio::test]
async fn kinesis_answers_with_the_time_that_it_was_moved_to() {
    let (handle, _) = with_stream().await;
    let date = async || {
        let request = r#"{"StreamName":"logs"}"#;
        let mut stream = tokio::net::TcpStream::connect(handle.addr()).await.expect("connect");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nX-Amz-Target: \
             Kinesis_20131202.ListShards\r\nContent-Length: {}\r\n\r\n{request}",
            handle.addr(),
            request.len()
        );
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let dates: Vec<&str> = answer
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("date: "))
            .map(|line| &line["date: ".len()..])
            .collect();
        let [date] = dates[..] else { panic!("one date: {answer}") };
        aws_sdk_kinesis::primitives::DateTime::from_str(
            date,
            aws_sdk_kinesis::primitives::DateTimeFormat::HttpDate,
        )
        .expect("a date")
        .secs()
    };
    let before = date().await;
    let day = r#"{"ms": 86400000}"#;
    assert_eq!(control(&handle, "POST", "/-/kinesis/advance-clock", day).await.0, 200);
    let moved = date().await - before;
    assert!((86_400..86_460).contains(&moved), "{moved} s");
    assert_eq!(control(&handle, "POST", "/-/kinesis/transition", "{}").await.0, 400);
    handle.stop().await;
}

#[tokio::test]
async fn s3_and_dynamodb_are_struck_in_their_own_form() {
    let (handle, clients) = with_stream().await;
    let throttle = r#"[{"service":"s3","operation":"PutObject","contains":"/results/k","times":1,
            "action":{"type":"throttle"}},
        {"service":"dynamodb","action":{"type":"throttle"},"times":1},
        {"service":"s3","operation":"PutObject","skip":1,"times":1,
            "action":{"type":"lose_answer"}}]"#;
    rule(&handle, throttle).await;
    let put = || {
        let body = ByteStream::from_static(b"x");
        clients.s3.put_object().bucket("results").key("k").body(body).send()
    };
    let refused = put().await.expect_err("throttled");
    assert_eq!(refused.code(), Some("SlowDown"));
    put().await.expect("let through by skip");
    assert_eq!(put().await.expect_err("lost").code(), None);
    put().await.expect("no rule is left");
    let refused = clients.dynamodb.list_tables().send().await.expect_err("throttled");
    assert_eq!(refused.code(), Some("ProvisionedThroughputExceededException"));
    handle.stop().await;
}

#[tokio::test]
async fn an_error_in_a_200_answer_to_complete_is_seen_as_an_error() {
    let (handle, clients) = with_stream().await;
    let fail = r#"{"service":"s3","operation":"CompleteMultipartUpload","times":1,
        "action":{"type":"fail","status":200,"code":"InternalError"}}"#;
    rule(&handle, fail).await;
    let upload = clients.s3.create_multipart_upload().bucket("results").key("k").send().await;
    let id = upload.expect("upload").upload_id.expect("id");
    let complete = clients.s3.complete_multipart_upload().bucket("results").key("k").upload_id(id);
    let refused = complete.send().await.expect_err("an error body");
    assert_eq!(refused.code(), Some("InternalError"));
    handle.stop().await;
}
