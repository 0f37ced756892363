//! A simulated world around the commit: a table and a bucket that lose, delay and double, drivers
//! that crash at any await, and zombies that go on.
//!
//! Promises: the same seed gives the same history. After every history each record must be visible
//! exactly once. Seven broken drivers show that the world finds what it must find.
//! Never does: sleep for real; time is virtual.

mod broken;
mod heads;
mod repair;
mod s3;
mod single;
mod time;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio_util::sync::CancellationToken;

use self::broken::Variant;
use self::world::{Finding, World};
use super::{BatchCommit, CommitError, CommitOutcome, Committer, LaunchFacts, RecordCounts};
use crate::driver::head::{PendingUpload, Positions};

/// Longest virtual time until the last driver must have read everything.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);

/// Runs a world of drivers made by `start` to its end and gives what is wrong with it.
fn history<S, F>(seed: u64, big: bool, start: S) -> Vec<Finding>
where
    S: Fn(Arc<World>, u64) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    time::run(async {
        let world = World::new(seed, big);
        let epoch = chaos(&world, &start).await;
        world.calm_down();
        let last = time::spawn(start(world.clone(), epoch + 1));
        if !last.ends_within(PATIENCE).await {
            world.report(Finding::Broken("the last driver never ends".into()));
        }
        // Whatever is still on its way arrives.
        time::sleep(Duration::from_secs(600)).await;
        world.findings()
    })
}

/// Starts drivers and crashes them; some live on beside the next. Gives the last epoch.
async fn chaos<S, F>(world: &Arc<World>, start: &S) -> u64
where
    S: Fn(Arc<World>, u64) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let rounds = world.random(|random| random.random_range(1..6));
    let mut epoch = 0;
    let mut live: Vec<time::Handle> = Vec::new();
    for _ in 0..rounds {
        epoch += world.random(|random| random.random_range(1..3));
        live.push(time::spawn(start(world.clone(), epoch)));
        let until_next = world.random(|random| random.random_range(0..4_000));
        time::sleep(Duration::from_millis(until_next)).await;
        // Three at most: the newest and two zombies.
        while live.len() > 2 || (!live.is_empty() && world.random(|random| random.random_bool(0.5)))
        {
            let at = world.random(|random| random.random_range(0..live.len()));
            live.swap_remove(at).abort();
        }
    }
    if world.random(|random| random.random_bool(0.5)) {
        live.iter().for_each(time::Handle::abort);
    }
    epoch
}

/// A driver as the real one is: everything through the committer.
async fn drive(world: Arc<World>, epoch: u64) {
    match drive_to_the_end(&world, epoch).await {
        Ok(()) | Err(CommitError::Fenced { .. } | CommitError::EpochTooLow { .. }) => {}
        Err(error) => world.report(Finding::Broken(format!("driver of epoch {epoch}: {error}"))),
    }
}

async fn drive_to_the_end(world: &Arc<World>, epoch: u64) -> Result<(), CommitError> {
    let cancel = CancellationToken::new();
    let launch = LaunchFacts {
        application: "sim".parse().unwrap(),
        cluster: "local".into(),
        epoch,
        owner: world.pace().uuid().to_string(),
        head_expected: world.head_exists() && world.random(|random| random.random_bool(0.5)),
    };
    let committer = Committer::with_pace(
        Arc::new(world.heads.clone()),
        Arc::new(world.s3.clone()),
        launch,
        world.pace(),
    );
    let acquired = committer.acquire(world.starts(epoch), &cancel).await?;
    let mut published = committer.recover(acquired, &cancel).await?;
    let mut next = world.run_batch(published.positions(), epoch, published.next_batch()).await;
    while let Some((positions, uploads)) = next {
        let batch = batch_of(world, positions, uploads);
        let committed = match committer.commit(published, batch, &cancel).await? {
            CommitOutcome::Committed(committed) => committed,
            CommitOutcome::RunTooOld(_) => panic!("no run of this world is old"),
        };
        // k8: the tasks of the next batch run during k6, its commit waits for the proof.
        let (positions, number) = (committed.positions().clone(), committed.batch() + 1);
        let (done, run) = tokio::join!(
            committer.publish(committed, &cancel),
            world.run_batch(&positions, epoch, number)
        );
        published = done?;
        next = run;
    }
    Ok(())
}

fn batch_of(world: &World, positions: Positions, uploads: Vec<PendingUpload>) -> BatchCommit {
    BatchCommit {
        positions,
        gaps: BTreeMap::new(),
        uploads,
        state_ptr: world.state_ptr(),
        spec_hash: "spec".into(),
        dropped_sources: [].into(),
        records: RecordCounts { planned: 7, read: 7 },
        run_age: Duration::ZERO,
    }
}

#[test]
fn every_record_is_visible_exactly_once_whatever_happens() {
    for seed in 0..400 {
        let findings = history(seed, false, drive);
        assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    }
}

#[test]
fn heads_in_chunks_are_as_safe() {
    for seed in 0..6 {
        let findings = history(seed, true, drive);
        assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let run = |seed| {
        let trace = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = trace.clone();
        history(seed, false, move |world, epoch| {
            let seen = seen.clone();
            async move {
                drive(world.clone(), epoch).await;
                seen.lock().unwrap().push((epoch, world.trace()));
            }
        });
        let trace = trace.lock().unwrap();
        trace.clone()
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// How many histories a broken driver may pass before the world counts as blind.
const HISTORIES: u64 = 1_000;

/// The first history in which the variant loses or doubles a record.
fn first_found(variant: Variant) -> Option<u64> {
    let found = (0..HISTORIES).find(|seed| {
        let findings = history(*seed, false, |world, epoch| broken::drive(world, epoch, variant));
        findings.iter().any(|finding| matches!(finding, Finding::Lost(_) | Finding::Double(_)))
    });
    println!("{variant:?} is found in history {found:?}");
    found
}

#[test]
fn the_same_driver_written_by_hand_is_found_to_be_right() {
    for seed in 0..200 {
        let findings =
            history(seed, false, |world, epoch| broken::drive(world, epoch, Variant::Sound));
        assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    }
}

#[test]
fn without_the_batch_condition_records_are_lost_or_doubled() {
    assert!(first_found(Variant::NoBatchCondition).is_some());
}

#[test]
fn without_any_condition_records_are_lost_or_doubled() {
    assert!(first_found(Variant::NoCondition).is_some());
}

#[test]
fn without_reading_the_commit_id_back_records_are_lost_or_doubled() {
    assert!(first_found(Variant::NoReadBack).is_some());
}

#[test]
fn aborting_after_a_timed_out_commit_loses_records() {
    assert!(first_found(Variant::AbortAfterTimeout).is_some());
}

#[test]
fn completing_before_the_commit_doubles_records() {
    assert!(first_found(Variant::CompleteFirst).is_some());
}

#[test]
fn completing_first_under_the_batch_number_loses_or_doubles_records() {
    assert!(first_found(Variant::CompleteFirstUnderBatchNumber).is_some());
}

#[test]
fn committing_again_before_the_completes_end_loses_records() {
    assert!(first_found(Variant::NextBeforeCompletesEnd).is_some());
}
