//! Days pass for Kinesis: an idle shard's position outlives the record that it names, and what
//! expired unread is told, shard by shard, or counted where the application goes on. And what came
//! before an application began stays unread. A shard that expires while it is read is a loss, and no
//! sign that its stream is gone.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_kinesis::primitives::{Blob, DateTime, DateTimeFormat};
use millrace_common::table::DEFAULT_TABLE;
use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::head::{self, SeenHead};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::{Control, Rule};
use millrace_integration_tests::lines::{
    NAME, STREAM, application, failed, numbered, rows_are, written,
};
use millrace_integration_tests::{objects, reshard, truth};
use millrace_proto::v1::GapReport;
use serde_json::json;

const HOUR: Duration = Duration::from_secs(3600);
/// How old a position of an idle shard may be, against its hour between renewals: what is read
/// after time has jumped is new at once.
const FRESH_MS: i64 = 10 * 60 * 1000;

/// A cluster, and how far Kinesis is ahead of it.
struct Scene {
    cluster: Cluster,
    control: Control,
    ahead: Duration,
}

impl Scene {
    async fn start() -> Self {
        Self::with(NodeSize { cores: 3, memory: "2GiB" }, 2).await
    }

    async fn with(node: NodeSize, num_shards: u8) -> Self {
        let cluster = Cluster::start(&Judge::Emulator, &[node]).await;
        cluster.aws.create_stream(STREAM, num_shards).await;
        cluster.aws.create_bucket("results").await;
        let control = Control::of(&cluster.aws.endpoint);
        Self { cluster, control, ahead: Duration::ZERO }
    }

    async fn pass(&mut self, time: Duration) {
        self.control.advance_clock(time).await;
        self.ahead += time;
    }

    /// Kinesis' time, Unix milliseconds.
    fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + self.ahead;
        i64::try_from(now.as_millis()).unwrap()
    }

    async fn put(&self, what: &str, num: usize) {
        self.cluster.aws.put_lines(STREAM, &numbered(what, num)).await;
    }

    /// Puts lines into the first shard alone.
    async fn put_into_one(&self, what: &str, num: usize) {
        let kinesis = self.cluster.aws.endpoint.kinesis();
        for line in numbered(what, num) {
            let put = kinesis.put_record().stream_name(STREAM).partition_key("k");
            let put = put.explicit_hash_key("0").data(Blob::new(line));
            put.send().await.expect("the line is put");
        }
    }

    async fn head(&self) -> SeenHead {
        let dynamodb = self.cluster.aws.endpoint.dynamodb();
        let head = head::read(&dynamodb, DEFAULT_TABLE, NAME).await.expect("the head can be read");
        head.expect("there is a head")
    }

    /// Waits until the head knows of every shard that it was empty just now.
    async fn positions_are_fresh(&self) {
        within(PATIENCE, "every position has moved on", async || {
            let head = self.head().await;
            let oldest = head.positions.iter().map(|(_, position)| position.empty_until_ms).min();
            let age_ms = self.now_ms() - oldest.unwrap_or(0);
            if age_ms <= FRESH_MS { Ok(()) } else { Err(format!("{age_ms} ms: {head:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_shard_moves_on_so_that_nothing_of_it_expires() {
    let mut scene = Scene::start().await;
    // One shard holds what will expire, the other never held anything.
    scene.put_into_one("old", 20).await;
    scene.cluster.submit(&application()).await;
    rows_are(&scene.cluster, 20).await;
    for _ in 0..3 {
        scene.pass(23 * HOUR).await;
        scene.positions_are_fresh().await;
    }
    let head = scene.head().await;
    let with_number = head.positions.iter().filter(|(_, position)| position.number.is_some());
    assert_eq!((head.positions.len(), with_number.count()), (2, 1), "{head:?}");

    // The record of the position is long gone, and nothing was lost, also across a stop; and also
    // where Kinesis answers nothing at that record, again and again.
    let stuck = json!({"type": "stuck_iterator"});
    let stuck = Rule::new("stuck", "kinesis", "GetShardIterator", stuck);
    scene.control.add(&[stuck]).await;
    scene.cluster.stop(NAME, &[]).await;
    scene.pass(20 * HOUR).await;
    scene.put_into_one("new", 10).await;
    scene.put("spread", 30).await;
    scene.cluster.submit(&application()).await;
    rows_are(&scene.cluster, 60).await;
    scene.cluster.stop(NAME, &[]).await;
    let mut expected = [numbered("old", 20), numbered("new", 10), numbered("spread", 30)].concat();
    expected.sort();
    assert_eq!(written(&scene.cluster).await, expected);
}

#[tokio::test]
async fn what_expires_unread_is_told_by_shard_or_counted_for_good() {
    let mut scene = Scene::start().await;
    scene.put("old", 20).await;
    scene.cluster.submit(&application()).await;
    rows_are(&scene.cluster, 20).await;
    scene.cluster.stop(NAME, &[]).await;
    let left_at: BTreeMap<String, String> = scene
        .head()
        .await
        .positions
        .iter()
        .map(|(shard, at)| (shard.shard.clone(), at.number.expect("it was read").into()))
        .collect();
    assert_eq!(left_at.len(), 2, "{left_at:?}");
    scene.put("lost", 20).await;
    scene.pass(25 * HOUR).await;
    scene.put("kept", 20).await;

    // By default it is told, with the shard and where the loss begins.
    scene.cluster.submit(&application()).await;
    let failure = failed(&scene.cluster, NAME).await.failure.expect("a failure");
    assert_eq!(failure.code, "MR5001", "{failure:?}");
    let is_named = |(shard, after): (&String, &String)| {
        failure.message.contains(shard) && failure.message.contains(after)
    };
    assert!(left_at.iter().any(is_named), "{failure:?}");
    assert_eq!(written(&scene.cluster).await.len(), 20, "nothing behind the loss is written");
    a_start_that_expired_is_refused(&scene).await;

    // By policy it is counted, and what is behind it is read once.
    let file = File { source: "on_data_loss = \"continue\"", ..application() };
    scene.cluster.submit(&file).await;
    rows_are(&scene.cluster, 40).await;
    gaps_are(&scene.cluster, &left_at).await;

    // The count outlives the attempt, and is not counted again.
    scene.cluster.stop(NAME, &[]).await;
    scene.cluster.submit(&file).await;
    scene.put("more", 10).await;
    rows_are(&scene.cluster, 50).await;
    gaps_are(&scene.cluster, &left_at).await;
    let status = scene.cluster.millrace(&["status", NAME]).await.success();
    for shard in left_at.keys() {
        assert!(status.stdout.contains(&format!("1 in logs/{shard}")), "{status}");
    }
    scene.cluster.stop(NAME, &["--drain"]).await;
    let mut expected = [numbered("old", 20), numbered("kept", 20), numbered("more", 10)].concat();
    expected.sort();
    assert_eq!(written(&scene.cluster).await, expected);
}

#[tokio::test]
async fn a_closed_shard_that_expires_unread_is_a_loss_and_its_stream_is_there() {
    let mut scene = Scene::with(NodeSize { cores: 4, memory: "2GiB" }, 1).await;
    scene.put("old", 20).await;
    let going_on = File { source: "on_data_loss = \"continue\"", executors: 1, ..application() };
    let path = "s3://results/careful/";
    let careful = File { name: "careful", path, executors: 1, ..application() };
    scene.cluster.submit(&going_on).await;
    scene.cluster.submit(&careful).await;
    rows_are(&scene.cluster, 20).await;
    within(PATIENCE, "the careful one has committed", async || {
        match objects::json_lines(&scene.cluster.aws.endpoint, "results", "careful/").await {
            found if truth::num_rows(&found) == 20 => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    let head = scene.head().await;
    let left_at = head.positions.iter().map(|(shard, at)| {
        (shard.shard.clone(), at.number.map(String::from).expect("it was read"))
    });
    let left_at: BTreeMap<String, String> = left_at.collect();
    assert_eq!(left_at.len(), 1, "{left_at:?}");

    // Nothing is read while the shard is closed, and until it is gone with what it held.
    let silence = Rule::new("silence", "kinesis", "GetRecords", json!({"type": "throttle"}));
    scene.control.add(std::slice::from_ref(&silence)).await;
    scene.put("lost", 20).await;
    reshard::split(&scene.cluster.aws, STREAM, 0).await;
    scene.pass(25 * HOUR).await;
    scene.put("kept", 20).await;
    scene.control.remove(&[silence]).await;

    // By policy the children are read, within the same attempt.
    rows_are(&scene.cluster, 40).await;
    gaps_are(&scene.cluster, &left_at).await;
    let attempts = scene.cluster.application(NAME).await.expect("it is known").attempts;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    scene.cluster.stop(NAME, &["--drain"]).await;
    let mut expected = [numbered("old", 20), numbered("kept", 20)].concat();
    expected.sort();
    assert_eq!(written(&scene.cluster).await, expected);
    let head = scene.head().await;
    let mut left = head.positions.iter().filter(|(shard, _)| left_at.contains_key(&shard.shard));
    assert!(left.all(|(_, position)| position.ended), "{head:?}");

    // By default the shard is named, and where the loss begins.
    let failure = failed(&scene.cluster, careful.name).await.failure.expect("a failure");
    assert_eq!(failure.code, "MR5001", "{failure:?}");
    let is_named = |(shard, after): (&String, &String)| {
        failure.message.contains(shard) && failure.message.contains(after)
    };
    assert!(left_at.iter().all(is_named), "{failure:?}");
}

/// Waits until one gap is reported for each shard, which names where it begins.
async fn gaps_are(cluster: &Cluster, left_at: &BTreeMap<String, String>) {
    let is_one = |gap: &GapReport| {
        let after = left_at.get(&gap.shard_id).map(|number| format!("after {number}"));
        gap.num_gaps == 1 && after.is_some_and(|after| gap.last.contains(&after))
    };
    let look = |gaps: &[GapReport]| gaps.len() == left_at.len() && gaps.iter().all(is_one);
    cluster.wait_for_report(NAME, "one gap in each shard", |report| look(&report.gaps)).await;
}

/// A first start at a time that the stream has let go of is refused, and named with the retention.
async fn a_start_that_expired_is_refused(scene: &Scene) {
    let start = DateTime::from_millis(scene.now_ms() - 24 * 3_600_000 - 1_800_000);
    let start = start.fmt(DateTimeFormat::DateTime).unwrap();
    let file = File { name: "too-late", ..application() };
    let text = file.toml().replace("start = \"earliest\"", &format!("start = \"{start}\""));
    let path = scene.cluster.write("too-late.toml", &text);
    let _ = scene.cluster.millrace(&["submit", &path]).await.success();
    let failure = failed(&scene.cluster, file.name).await.failure.expect("a failure");
    assert_eq!(failure.code, "MR1003", "{failure:?}");
    assert!(failure.message.contains("keeps records for 24 hours only"), "{failure:?}");
}

/// Waits until the application's first k0 has fixed where it begins.
async fn is_begun(cluster: &Cluster) {
    let dynamodb = cluster.aws.endpoint.dynamodb();
    within(PATIENCE, "the start is fixed", async || {
        match head::read(&dynamodb, DEFAULT_TABLE, NAME).await {
            Ok(Some(head)) if !head.starts.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn latest_and_a_time_are_fixed_by_the_first_start_and_hold_for_the_shards_to_come() {
    let mut scene = Scene::start().await;
    scene.put("ancient", 20).await;
    reshard::split(&scene.cluster.aws, STREAM, 0).await;
    scene.put("old", 20).await;
    scene.pass(2 * HOUR).await;
    let an_hour_ago = scene.now_ms() - 3_600_000;
    let cluster = &scene.cluster;

    // What comes after the first k0 counts, although the driver dies before it has read any of it,
    // and although some of it comes into a shard that is made later.
    let latest = File { start: "latest", interval: "4s", ..application() };
    cluster.submit(&latest).await;
    is_begun(cluster).await;
    scene.put("first", 20).await;
    cluster.kill_driver(NAME).await;
    reshard::split(&cluster.aws, STREAM, 1).await;
    scene.put("second", 20).await;
    rows_are(cluster, 40).await;
    cluster.stop(NAME, &["--drain"]).await;
    let mut expected = [numbered("first", 20), numbered("second", 20)].concat();
    expected.sort();
    assert_eq!(written(cluster).await, expected);

    // From an hour ago on, after a reset: the same records once more, and none before.
    let start = DateTime::from_millis(an_hour_ago).fmt(DateTimeFormat::DateTime).unwrap();
    let _ = cluster.millrace(&["reset", NAME, "--to", &start, "--yes"]).await.success();
    cluster.submit(&application()).await;
    rows_are(cluster, 80).await;
    cluster.stop(NAME, &["--drain"]).await;
    let mut twice = [expected.clone(), expected].concat();
    twice.sort();
    assert_eq!(written(cluster).await, twice);
}
