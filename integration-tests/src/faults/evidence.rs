//! Looks for what a row says must be seen.
//!
//! Promises: each piece is looked for until it is there or the deadline has passed, and what is
//! missing is said. Owned by the runner. Never does: change anything.

use std::time::Duration;

use millrace_common::clock::SystemClock;
use millrace_common::resources::ByteSize;
use millrace_proto::v1::{self, ApplicationState, ContainerKind};

use super::inject::Injected;
use super::rows::Evidence;
use super::scene::{Before, Scene};
use crate::eventually::{PATIENCE, attempt};
use crate::processes;

/// A batch's time differs from ours by more than this when its driver's clock is off.
const CLOCK_OFF_MS: u64 = 3_600_000;

/// A lag that only back-pressure explains.
const SLOWER: Duration = Duration::from_secs(5);

/// How long after the recovery evidence may take to show.
const TO_SHOW: Duration = Duration::from_secs(15);

/// What is missing of `wanted`; nothing when all of it was seen.
pub async fn missing(
    scene: &Scene<'_>,
    before: &Before,
    injected: &Injected,
    wanted: &[Evidence],
) -> Vec<String> {
    let mut missing = Vec::new();
    for evidence in wanted {
        let seen =
            attempt(TO_SHOW.min(PATIENCE), async || look(scene, before, injected, *evidence).await);
        if let Err(why) = seen.await {
            missing.push(format!("{evidence:?}: {why}"));
        }
    }
    missing
}

async fn look(
    scene: &Scene<'_>,
    before: &Before,
    injected: &Injected,
    evidence: Evidence,
) -> Result<(), String> {
    match evidence {
        Evidence::Attempts(more) => {
            let num = scene.num_attempts().await;
            demand(num >= before.num_attempts + more, || format!("{num} attempts"))
        }
        Evidence::NoNewAttempt => {
            let num = scene.num_attempts().await;
            demand(num == before.num_attempts, || format!("{num} attempts"))
        }
        Evidence::RunAgain => {
            let batches = batches(scene).await?;
            let again = batches.iter().any(|batch| batch.num_runs > 1);
            demand(again, || format!("{} batches of one run", batches.len()))
        }
        Evidence::NoRunAgain => {
            let batches = batches(scene).await?;
            let again = batches.iter().filter(|batch| batch.num_runs > 1).count();
            demand(again == 0, || format!("{again} batches were run again"))
        }
        Evidence::OnlyDrained => only_drained(scene).await,
        Evidence::Replaced => {
            let live = scene.live().await;
            let struck = live.iter().any(|one| injected.victims.iter().any(|v| v.id == one.id));
            let enough = live.len() >= before.live.len();
            demand(!struck && enough, || format!("{live:?}"))
        }
        Evidence::ShardsMoved => shards_moved(scene).await,
        Evidence::NodeLost => masters_log(scene, before, "node lost"),
        Evidence::NodeLostOnce => node_lost_once(scene, before),
        Evidence::Slower => {
            let lag = scene.load.flow.lock().worst_since(injected.began);
            demand(lag > SLOWER, || format!("{lag:?} behind at most"))
        }
        Evidence::MemoryBounded => memory_bounded(scene, injected),
        Evidence::MasterLog(text) => masters_log(scene, before, text),
        Evidence::ClockOff => {
            let now = SystemClock::shared().now_ms();
            let batches = batches(scene).await?;
            let off = batches.iter().any(|batch| batch.cut_ms.abs_diff(now) > CLOCK_OFF_MS);
            demand(off, || format!("{} batches with the right time", batches.len()))
        }
        Evidence::SameContainers => {
            let live = scene.live().await;
            let same = before.live.iter().all(|one| live.contains(one));
            demand(same, || format!("{live:?} for {:?}", before.live))
        }
        Evidence::CommittedMeanwhile => {
            demand(injected.num_visible_meanwhile > 0, || "nothing became visible".to_owned())
        }
        Evidence::DriverLog(text) => {
            let logs = scene.logs(Some(ContainerKind::Driver));
            let said = logs.values().any(|log| log.contains(text));
            demand(said, || format!("{text:?} is in none of {:?}", logs.keys()))
        }
        Evidence::Struck(rule) => struck(injected, rule),
        Evidence::SpillRefused => {
            demand(injected.num_spills_refused > 0, || "no executor says so".to_owned())
        }
        Evidence::Degraded => demand(injected.degraded, || "no report said so".to_owned()),
        Evidence::ZombieGone => {
            let alive = injected.victims.iter().any(|v| processes::resident_bytes(v.pid).is_ok());
            demand(!alive, || "the frozen driver runs".to_owned())
        }
        Evidence::ReadAgain => {
            let logs = scene.logs(Some(ContainerKind::Executor));
            let said = logs.values().any(|log| log.contains("a lost block was read again"));
            demand(said, || "no executor says so".to_owned())
        }
        Evidence::FailedNamingShard(code) => failed_naming_shard(scene, code).await,
    }
}

async fn only_drained(scene: &Scene<'_>) -> Result<(), String> {
    let attempts = scene.stage.cluster.application(scene.file.name).await?.attempts;
    let ended = attempts.iter().filter(|attempt| attempt.ended_ms > 0);
    let other: Vec<_> = ended.filter(|one| !one.end_reason.contains("was to be emptied")).collect();
    demand(other.is_empty(), || format!("{other:?}"))
}

fn memory_bounded(scene: &Scene<'_>, injected: &Injected) -> Result<(), String> {
    let allowed: ByteSize = scene.file.executor_memory.parse().map_err(|e| format!("{e}"))?;
    let held = injected.resident_bytes_max;
    demand(held > 0 && held <= allowed.as_u64(), || format!("{held} bytes of {allowed}"))
}

fn struck(injected: &Injected, rule: &str) -> Result<(), String> {
    let text = format!("{rule} ");
    let found = injected.notes.iter().filter_map(|note| note.split(&text).nth(1)).next();
    let num = found.and_then(|rest| rest.split(',').next()?.trim().parse::<u64>().ok());
    demand(num.is_some_and(|num| num > 0), || format!("{:?}", injected.notes))
}

fn node_lost_once(scene: &Scene<'_>, before: &Before) -> Result<(), String> {
    let log = scene.stage.cluster.master.log();
    let since = log.get(before.master_log_bytes..).unwrap_or_default();
    let num = since.matches("node lost").count();
    demand(num == 1, || format!("nodes were lost {num} times"))
}

fn masters_log(scene: &Scene<'_>, before: &Before, text: &str) -> Result<(), String> {
    let log = scene.stage.cluster.master.log();
    let since = log.get(before.master_log_bytes..).unwrap_or_default();
    demand(since.contains(text), || format!("the master's log does not say {text:?}"))
}

fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

async fn batches(scene: &Scene<'_>) -> Result<Vec<v1::Batch>, String> {
    let request = v1::ListBatchesRequest { name: scene.file.name.to_owned(), limit: 1_000 };
    let answer = scene.stage.cluster.client().list_batches(request).await;
    answer.map(|answer| answer.into_inner().batches).map_err(|status| status.to_string())
}

/// Every open shard is read by a receiver on a live executor.
async fn shards_moved(scene: &Scene<'_>) -> Result<(), String> {
    let live = scene.live().await;
    let report = scene.report().await.ok_or("no report")?;
    let open = scene.open_shards().await;
    let is_live = |id: &str| live.iter().any(|one| one.id == id);
    let read: Vec<&String> = (report.receivers.iter())
        .filter(|receiver| is_live(&receiver.container_id))
        .flat_map(|receiver| &receiver.shards)
        .collect();
    let unread: Vec<&String> = open.iter().filter(|shard| !read.contains(shard)).collect();
    demand(unread.is_empty(), || format!("{unread:?} are read by no live executor"))
}

async fn failed_naming_shard(scene: &Scene<'_>, code: &str) -> Result<(), String> {
    let application = scene.stage.cluster.application(scene.file.name).await?;
    let failure = application.failure.clone().unwrap_or_default();
    let failed = application.state() == ApplicationState::Failed && failure.code == code;
    demand(failed && failure.message.contains("shardId-"), || format!("{failure:?}"))
}
