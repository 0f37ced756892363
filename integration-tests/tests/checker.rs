//! The checker on a real run: what an application wrote passes, and each thing that is then changed
//! by hand in S3, in DynamoDB or in the truth breaks exactly the invariants that it must.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_s3::primitives::ByteStream;
use millrace_common::table;
use millrace_integration_tests::aggregate::{self, User};
use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, Invariant, Report, Subject, Watcher};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::command::{self, binary};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::objects;
use millrace_integration_tests::processes::Process;
use millrace_proto::v1::ApplicationState;

use Invariant::{I1, I2, I3, I4};

const BUCKET: &str = "results";
const RUN: &str = "00000000-0000-4000-8000-000000000000";

/// An application that has written every record and was drained, and the checker's view of it.
struct Drained {
    cluster: Cluster,
    subject: Subject,
}

impl Drained {
    async fn new() -> Self {
        let nodes = [NodeSize { cores: 3, memory: "2GiB" }];
        let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
        cluster.aws.create_stream("lines", 2).await;
        cluster.aws.create_bucket(BUCKET).await;
        let file = File::every_record();
        let subject = Subject::of(&cluster, &file);
        let watcher = Watcher::start(&subject);
        put(&cluster, 0..200).await;
        cluster.submit(&file).await;
        cluster.wait_for_state(file.name, ApplicationState::Running).await;
        put(&cluster, 200..400).await;
        cluster.wait_for_batch(file.name, 1).await;
        put(&cluster, 400..600).await;
        put_aggregate(&cluster).await;
        cluster.stop(file.name, &["--drain"]).await;
        cluster.wait_for_no_containers().await;
        let subject = subject.drained().watched(watcher.stop().await.unwrap());
        Self { cluster, subject }
    }

    /// Asserts that exactly these invariants are broken, and that the first finding of the first
    /// says all of `names`.
    async fn breaks(&self, subject: &Subject, broken: &[Invariant], names: &[&str]) {
        says(&checker::check(subject).await, broken, names);
    }

    /// What was seen while `change` was made to the application that has ended.
    async fn watching(&self, change: impl AsyncFnOnce()) -> Subject {
        let unwatched = Subject { observations: None, ..self.subject.clone() };
        let watcher = Watcher::start(&unwatched);
        watcher.catches_up().await;
        change().await;
        watcher.catches_up().await;
        unwatched.watched(watcher.stop().await.unwrap())
    }

    async fn put(&self, key: &str, body: &[u8]) {
        let put = self.cluster.aws.endpoint.s3().put_object().bucket(BUCKET).key(key);
        put.body(ByteStream::from(body.to_vec())).send().await.unwrap();
    }

    async fn delete(&self, key: &str) {
        let delete = self.cluster.aws.endpoint.s3().delete_object();
        delete.bucket(BUCKET).key(key).send().await.unwrap();
    }

    async fn set_epoch(&self, epoch: u64) {
        let name = self.subject.application.parse().unwrap();
        let update = self.cluster.aws.endpoint.dynamodb().update_item();
        update
            .table_name(&self.subject.table)
            .key(table::PK, AttributeValue::S(table::application_pk(&name)))
            .key(table::SK, AttributeValue::S(table::HEAD_SK.to_owned()))
            .update_expression("SET #epoch = :epoch")
            .expression_attribute_names("#epoch", table::HEAD_EPOCH)
            .expression_attribute_values(":epoch", AttributeValue::N(epoch.to_string()))
            .send()
            .await
            .unwrap();
    }

    /// Runs `millrace-check` with this command and more `flags`.
    async fn program(&self, what: &str, flags: &[&str]) -> command::Output {
        let Subject { endpoint, application, bucket, prefix, .. } = &self.subject;
        let mut environment = command::base_environment();
        environment.extend(endpoint.environment());
        let sink = format!("s3://{bucket}/{prefix}");
        let mut arguments = vec![what, application, "--sink", &sink];
        arguments.extend(flags);
        command::run(&binary("millrace-check"), &arguments, &environment, PATIENCE).await
    }
}

fn says(report: &Report, broken: &[Invariant], names: &[&str]) {
    assert_eq!(report.broken(), broken, "{report}");
    let first = report.verdict(broken[0]).findings[0].to_string();
    for name in names {
        assert!(first.contains(name), "{first:?} does not say {name:?}");
    }
}

async fn put(cluster: &Cluster, numbers: std::ops::Range<u32>) {
    let lines: Vec<String> = numbers.map(|n| format!("line {n} \u{fc}")).collect();
    cluster.aws.put_lines("lines", &lines).await;
}

/// One KPL record of three user records, written from the format's description: two of the first
/// shard, and one that its producer has to send again, since its hash key is another shard's.
async fn put_aggregate(cluster: &Cluster) {
    let user = |hash_key, data| User { key: "key", hash_key: Some(hash_key), data };
    let aggregate =
        aggregate::of(&[user(0, b"first"), user(1, b"\xff\x00"), user(u128::MAX, b"last")]);
    let put = cluster.aws.endpoint.kinesis().put_record().stream_name("lines");
    let put = put.partition_key("key").explicit_hash_key("0").data(Blob::new(aggregate));
    put.send().await.unwrap();
}

#[tokio::test]
async fn a_real_run_passes_and_each_mutation_of_it_is_found() {
    let drained = Drained::new().await;
    let subject = &drained.subject;
    let report = checker::check(subject).await;
    report.assert_clean();
    let seen = &report.verdict(I1).seen;
    assert_eq!(seen, "602 rows of 602 committed of 603 records", "one is out of its shard's range");

    let aws = &drained.cluster.aws.endpoint;
    let key = objects::keys(aws, BUCKET, &subject.prefix).await.remove(0);
    let whole = objects::bytes(aws, BUCKET, &key).await;
    let first_row = String::from_utf8(whole.clone()).unwrap().lines().next().unwrap().to_owned();
    let row: serde_json::Value = serde_json::from_str(&first_row).unwrap();
    let record = format!("{} {}.0", row["shard"].as_str().unwrap(), row["seq"].as_str().unwrap());
    let names = [record.as_str(), "batch ", "task ", "epoch 1", &key];

    // Something is missing.
    drained.delete(&key).await;
    drained.breaks(subject, &[I1, I2], &["lost", "committed by "]).await;
    drained.put(&key, &whole[first_row.len() + 1..]).await;
    drained.breaks(subject, &[I1, I2], &["lost", &record, "committed by "]).await;

    // Something is there that must not be.
    drained.put(&key, &whole).await;
    checker::check(subject).await.assert_clean();
    let run = key.len() - RUN.len() - ".json".len();
    let copy = format!("{}{RUN}.json", &key[..run]);
    drained.put(&copy, &whole).await;
    drained.breaks(subject, &[I1, I2], &["doubled", "batch ", "task ", "epoch 1", &copy]).await;
    drained.delete(&copy).await;
    let uncommitted = format!("{}every-record-e1-b999-t0-{RUN}.json", subject.prefix);
    let seen = drained.watching(async || drained.put(&uncommitted, b"").await).await;
    drained.breaks(&seen, &[I2, I4], &["uncommitted", "batch 999, task 0, epoch 1"]).await;
    drained.delete(&uncommitted).await;

    // Something is another.
    let sum = row["sha256"].as_str().unwrap();
    let other: String = sum.chars().rev().collect();
    let swapped = String::from_utf8(whole.clone()).unwrap().replace(sum, &other);
    drained.put(&key, swapped.as_bytes()).await;
    drained.breaks(subject, &[I1], &[&["changed", sum, &other], &names[..]].concat()).await;
    let seen = drained.watching(async || drained.put(&key, &whole).await).await;
    drained.breaks(&seen, &[I4], &["ETag changed", "task ", "epoch 1", &key]).await;
    let seen = drained.watching(async || drained.set_epoch(0).await).await;
    drained.breaks(&seen, &[I3], &["epoch fell", "from 1 to 0"]).await;
    drained.set_epoch(1).await;

    // The truth itself.
    let mut facts = subject.facts().await.unwrap();
    let shard = row["shard"].as_str().unwrap();
    let place = (row["seq"].as_str().unwrap().parse().unwrap(), 0);
    let stream = facts.truth.streams.get_mut("logs").unwrap();
    stream.shards.get_mut(shard).unwrap().records.remove(&place).unwrap();
    says(&facts.judge(), &[I1], &[&["invented"], &names[..]].concat());

    the_program_says_the_same(&drained, &key).await;
}

/// `millrace-check` watches, passes what is right, and fails when the object is deleted.
async fn the_program_says_the_same(drained: &Drained, key: &str) {
    let file = drained.cluster.path().join("watched").display().to_string();
    let flags = ["watch", "every-record", "--sink", "s3://results/every-record/", "--out", &file];
    let (program, environment) =
        (binary("millrace-check"), drained.cluster.aws.endpoint.environment());
    let directory = drained.cluster.path();
    let mut watching = Process::spawn("watch", &program, &flags, &environment, directory);
    within(PATIENCE, "the program has seen all", async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        if text.ends_with('\n') { Ok(()) } else { Err(text) }
    })
    .await;
    assert!(watching.terminate(PATIENCE).await.success());
    let watched = ["--source", "logs=lines", "--watched", &file];
    let passed = drained.program("check", &watched).await.success();
    assert!(passed.stdout.contains("I4  visible stays visible      holds   "), "{passed}");
    let passed = drained.program("check", &["--source", "logs=lines", "--drained"]).await.success();
    assert!(passed.stdout.contains("I1  each record exactly once   holds"), "{passed}");
    drained.delete(key).await;
    let failed = drained.program("check", &["--source", "logs=lines", "--json"]).await;
    assert_eq!(
        (failed.code, &failed.json()["verdicts"][0]["findings"][0]["what"]),
        (1, &"lost".into())
    );
    let unreadable = drained.program("check", &["--source", "logs=no-such-stream"]).await;
    assert_eq!(unreadable.code, 2, "{unreadable}");
}
