//! `millrace replay`: a past range of a stream that was split and merged meanwhile is computed into
//! another place while the application itself goes on, exactly, also when the replay's driver is
//! killed; and what can not be replayed is refused before anything starts.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use millrace_common::table::DEFAULT_TABLE;
use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::head;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::command::Output;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::Control;
use millrace_integration_tests::lines::{NAME, STREAM, application, numbered, rows_are};
use millrace_integration_tests::truth::{self, RecordKey};
use millrace_integration_tests::{lines, objects, reshard};
use millrace_proto::v1::ApplicationState;

const MINUTE: Duration = Duration::from_secs(60);

/// A cluster on which the application runs, and how far Kinesis is ahead of it.
struct Scene {
    cluster: Cluster,
    control: Control,
    ahead: Duration,
    file: String,
    num_lines: usize,
}

impl Scene {
    async fn start() -> Self {
        let cluster =
            Cluster::start(&Judge::Emulator, &[NodeSize { cores: 5, memory: "4GiB" }]).await;
        cluster.aws.create_stream(STREAM, 2).await;
        cluster.aws.create_bucket("results").await;
        let control = Control::of(&cluster.aws.endpoint);
        let application = File { executors: 1, ..application() };
        cluster.submit(&application).await;
        let file = cluster.write("again.toml", &application.toml());
        Self { cluster, control, ahead: Duration::ZERO, file, num_lines: 0 }
    }

    async fn put(&mut self, what: &str, num: usize) {
        self.cluster.aws.put_lines(STREAM, &numbered(what, num)).await;
        self.num_lines += num;
    }

    /// Time passes for Kinesis; its time afterwards, as a command line names it.
    async fn pass(&mut self, time: Duration) -> String {
        self.control.advance_clock(time).await;
        self.ahead += time;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + self.ahead;
        let now_ms = i64::try_from(now.as_millis()).unwrap();
        DateTime::from_millis(now_ms).fmt(DateTimeFormat::DateTimeWithOffset).unwrap()
    }

    async fn replay(&self, from: &str, to: &str, path: &str, flags: &[&str]) -> Output {
        let arguments = ["replay", &self.file, "--from", from, "--to", to, "--path", path];
        self.cluster.millrace(&[&arguments, flags].concat()).await
    }

    /// What the stream holds of these lines.
    async fn truth(&self, of: &[&str]) -> BTreeMap<RecordKey, String> {
        let mut truth = truth::records(&self.cluster.aws.endpoint, STREAM).await;
        truth.retain(|_, line| of.iter().any(|what| line.starts_with(what)));
        truth
    }

    /// The rows below a prefix are these lines, each once; gives their objects' keys.
    async fn assert_exact(&self, prefix: &str, of: &[&str]) -> BTreeSet<String> {
        let found = objects::json_lines(&self.cluster.aws.endpoint, "results", prefix).await;
        truth::assert_each_record_once(&found, &self.truth(of).await);
        objects::assert_each_batch_once(&found);
        found.into_iter().map(|object| object.key).collect()
    }

    /// Kills the driver of a replay once it has committed something.
    async fn kill_driver(&self, name: &str) {
        let first = |report: &millrace_proto::v1::DriverReport| report.batch > 0;
        self.cluster.wait_for_report(name, "a batch is committed", first).await;
        self.cluster.kill_driver(name).await;
        within(PATIENCE, "another attempt has begun", async || {
            let application = self.cluster.application(name).await?;
            let num = application.attempts.len();
            if num > 1 { Ok(()) } else { Err(format!("{num}: {}", application.reason)) }
        })
        .await;
    }

    async fn epoch_and_starts(&self) -> (u64, usize) {
        let dynamodb = self.cluster.aws.endpoint.dynamodb();
        let head = head::read(&dynamodb, DEFAULT_TABLE, NAME).await.expect("the head can be read");
        let attempts = self.cluster.application(NAME).await.unwrap().attempts.len();
        (head.expect("the application has a head").epoch, attempts)
    }
}

#[tokio::test]
async fn a_past_range_is_computed_again_beside_the_running_application() {
    let mut scene = Scene::start().await;
    scene.put("before", 40).await;
    let from = scene.pass(10 * MINUTE).await;
    // Four generations of shards within the range, and more behind it.
    scene.put("first", 60).await;
    reshard::split(&scene.cluster.aws, STREAM, 0).await;
    scene.put("second", 60).await;
    reshard::merge(&scene.cluster.aws, STREAM, 0).await;
    scene.put("third", 60).await;
    reshard::split(&scene.cluster.aws, STREAM, 1).await;
    scene.put("fourth", 60).await;
    let to = scene.pass(10 * MINUTE).await;
    scene.put("later", 40).await;
    reshard::split(&scene.cluster.aws, STREAM, 0).await;
    scene.put("latest", 40).await;
    let end = scene.pass(MINUTE).await;
    scene.pass(5 * MINUTE).await;
    rows_are(&scene.cluster, scene.num_lines).await;
    let before = scene.epoch_and_starts().await;

    refused(&scene, &from, &to).await;

    let again = "s3://results/again/";
    let replay = async |flags: &[&str]| scene.replay(&from, &to, again, flags).await;
    let submitted = replay(&["--set", "batch.interval=1s", "--json"]).await.success().json();
    let name = submitted["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("records-replay-"), "{name}");
    scene.kill_driver(&name).await;
    // Whoever asks for the same waits for the same, whatever decides only how fast it is.
    let finished = replay(&["--wait", "--json"]).await.success();
    assert!(finished.stderr.contains("under way already"), "{finished}");
    let finished = finished.json();
    assert_eq!((&finished["name"], &finished["state"]), (&submitted["name"], &"finished".into()));
    let range = ["first", "second", "third", "fourth"];
    let files = scene.assert_exact("again/", &range).await;
    assert_eq!(finished["num_records"], 240, "{finished}");
    assert_eq!((&finished["num_rows"], &finished["num_files"]), (&240.into(), &files.len().into()));
    scene.cluster.wait_for_state(&name, ApplicationState::Finished).await;
    let once_more = replay(&[]).await.success();
    assert!(once_more.stdout.contains("finished: read 240 records from"), "{once_more}");
    assert_eq!(scene.assert_exact("again/", &range).await, files);

    // The range that follows, which ends in the silence of open shards: each record is in one of the
    // two.
    let rest = scene.replay(&to, &end, "s3://results/rest/", &["--wait"]).await.success();
    assert!(rest.stdout.contains("read 80 records"), "{rest}");
    scene.assert_exact("rest/", &["later", "latest"]).await;

    // The application has gone on as if nothing had been.
    assert_eq!(scene.epoch_and_starts().await, before);
    scene.put("live", 40).await;
    rows_are(&scene.cluster, scene.num_lines).await;
    scene.cluster.stop(NAME, &[]).await;
    scene.assert_exact("records/", &[""]).await;
    assert_eq!(lines::written(&scene.cluster).await.len(), scene.num_lines);

    // What the stream lets go of can not be replayed.
    scene.pass(24 * 60 * MINUTE).await;
    let gone = scene.replay(&from, &to, "s3://results/gone/", &[]).await;
    gone.assert_refused("MR2026", &["lines", "24 hours", "since"]);
    scene.cluster.wait_for_no_containers().await;
}

async fn refused(scene: &Scene, from: &str, to: &str) {
    let range = async |from: &str, to: &str, words: &[&str]| {
        let refused = scene.replay(from, to, "s3://results/again/", &[]).await;
        refused.assert_refused("MR2026", words);
    };
    range(to, from, &["holds no time"]).await;
    range(from, from, &["holds no time"]).await;
    range("-1h", "2999-01-01T00:00:00Z", &["future"]).await;
    for path in ["s3://results/records/", "s3://results/records/again/", "s3://results/"] {
        let refused = scene.replay(from, to, path, &[]).await;
        refused.assert_refused("MR2027", &["s3://results/records/"]);
    }
    scene.cluster.aws.put_object("results", "taken/by/another", b"here").await;
    let taken = scene.replay(from, to, "s3://results/taken/", &[]).await;
    taken.assert_refused("MR2027", &["not empty", "taken/by/another"]);
    let unclear = scene.replay("6 hours ago", to, "s3://results/again/", &[]).await;
    assert_eq!(unclear.code, 2, "{unclear}");
}
