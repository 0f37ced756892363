//! The fault rows that run each time, out of the table that `./test.sh --faults` runs in whole, and
//! the word count over real lines with a fault of each kind on the way.
//!
//! The worker must be built with its feature `failpoints`, as `test.sh` does.
#![cfg(feature = "failpoints")]

use std::path::Path;
use std::sync::Arc;

use millrace_integration_tests::application::File;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::fault::{Fault, Victim, Weather};
use millrace_integration_tests::faults::inject::inject;
use millrace_integration_tests::faults::rows::row;
use millrace_integration_tests::faults::run::{self, Verdict};
use millrace_integration_tests::faults::scene::Scene;
use millrace_integration_tests::faults::stage::{BUCKET, Stage};
use millrace_integration_tests::faults::table;
use millrace_integration_tests::words::{assert_equal, reference};
use millrace_integration_tests::{dataset, objects, reshard};
use millrace_proto::v1::ApplicationState;
use tokio::sync::Mutex;

/// One of each kind, and the two steps between which a commit may be lost or doubled.
const ROWS: [u32; 8] = [1, 2, 3, 4, 11, 12, 18, 26];

#[tokio::test]
async fn the_rows_that_run_each_time_lose_and_double_nothing() {
    let place = Arc::new(Mutex::new(None));
    let logs = tempfile::tempdir().unwrap();
    let mut outcomes = Vec::new();
    for number in ROWS {
        let outcome = run::run(&place, row(number).unwrap(), logs.path()).await;
        println!("{}", table::line(&outcome));
        outcomes.push(outcome);
    }
    // Bounds in seconds are for a machine of one's own: `./test.sh --faults`.
    let bad = outcomes.iter().filter(|one| !one.seen || one.verdict == Verdict::Broken);
    let bad: Vec<_> = bad.cloned().collect();
    assert!(bad.is_empty(), "{}", table::markdown(&bad));
}

#[tokio::test]
async fn words_of_real_lines_are_counted_once_with_a_fault_of_each_kind() {
    let Some(files) = dataset::loghub("word count with faults") else { return };
    let mut stage = Stage::start().await;
    let file = File { executors: 2, env: stage.environment(), ..File::default() };
    stage.cluster.aws.create_stream(file.stream, 4).await;
    stage.cluster.submit(&file).await;
    stage.cluster.wait_for_state(file.name, ApplicationState::Running).await;
    let mut scene = Scene::of(&mut stage, file);

    let seconds = 5;
    let weather = |weather| Fault::Weather { weather, seconds };
    let kill = |victim| Fault::Kill { victim, in_upload: false };
    // While the lines of one file are counted, these happen.
    let faults: [&[Fault]; 5] = [
        &[kill(Victim::Executor), weather(Weather::S3SlowDown)],
        &[kill(Victim::Driver), weather(Weather::KinesisMoods)],
        &[Fault::Freeze { victim: Victim::Driver, seconds, in_upload: false }],
        &[Fault::MasterDown { seconds }, weather(Weather::DynamoThrottled)],
        &[kill(Victim::Worker), kill(Victim::AllExecutors)],
    ];
    for (file, faults) in files.iter().zip(faults) {
        produce(&scene, file).await;
        for fault in faults {
            inject(&mut scene, *fault).await;
            scene.stage.heal().await;
        }
    }
    produce(&scene, &files[0]).await;
    reshard::split(&scene.stage.cluster.aws, scene.file.stream, 1).await;
    scene.stage.lay("k5-after");
    produce(&scene, &files[1]).await;
    within(PATIENCE, "a driver aborts between commit and publication", async || {
        if scene.stage.lies("k5-after") { Err(scene.state().await) } else { Ok(()) }
    })
    .await;
    let files = [&files[..], &files[..2]].concat();

    let expected = reference(&files).await;
    let cluster = &scene.stage.cluster;
    let total = expected.values().sum();
    cluster.wait_for_words(scene.file.name, BUCKET, "word-count/", total).await;
    cluster.stop(scene.file.name, &["--drain"]).await;
    let found = objects::json_lines(&cluster.aws.endpoint, BUCKET, "word-count/").await;
    assert_equal(&objects::word_counts(&found), &expected);
    objects::assert_each_batch_once(&found);
    cluster.wait_for_no_containers().await;
}

async fn produce(scene: &Scene<'_>, file: &Path) {
    let file = file.display().to_string();
    // At this pace a file takes longer than a batch interval, so that several batches are cut.
    let arguments = ["produce", "--stream", scene.file.stream, "--file", &file, "--rate", "1500"];
    let _ = scene.stage.cluster.millrace(&arguments).await.success();
}
