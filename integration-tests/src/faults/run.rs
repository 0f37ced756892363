//! Runs one row: an application under load, the fault, the recovery, the evidence, the verdict on
//! its output.
//!
//! Promises: whatever goes wrong on the way becomes the row's verdict, with the logs of all
//! processes kept; a row that was not run never counts as kept. Owned by the program and by tests.
//! Never does: stop at the first row that fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::{LocalSet, spawn_local};

use super::disk::Disk;
use super::evidence;
use super::fault::Fault;
use super::inject::{EXECUTOR_MEMORY, Injected, inject};
use super::rows::{Bound, From, Needs, Row, row};
use super::scene::Scene;
use super::stage::Stage;
use crate::checker::{Invariant, Report, Subject};
use crate::eventually::attempt;

/// How long after a fault the lag is watched at least: a loss that nobody noticed shows by then.
const WATCHED: Duration = Duration::from_secs(5);
/// How long the lag must be small for the recovery to be over.
const CALM: Duration = Duration::from_secs(3);
/// How long a recovery is waited for beyond its bound, to say how late it was.
const BEYOND: Duration = Duration::from_secs(60);

/// What a process says when it meets a defect of its own.
const DEFECTS: [&str; 3] = ["panicked at", "MR9001", "defect: "];

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing lost, nothing doubled, everything seen, within the bound.
    Kept,
    /// Nothing lost, nothing doubled, but later than the bound, or not as it must be seen.
    Weak,
    /// A record was lost or doubled, or the application did not come back.
    Broken,
    /// It could not run here.
    Skipped,
}

/// What a row showed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its number.
    pub row: u32,
    /// What happened.
    pub name: String,
    /// Seconds until the lag was below two batches for good; none when it was not measured.
    pub recovery_seconds: Option<f64>,
    /// The bound on that.
    pub bound_seconds: Option<u64>,
    /// Records that are lost; none when not judged.
    pub lost: Option<usize>,
    /// Records that stand more than once, or that nobody put.
    pub duplicate: Option<usize>,
    /// True when everything that must be seen was.
    pub seen: bool,
    /// How it ended.
    pub verdict: Verdict,
    /// Everything else a reader should know.
    pub notes: Vec<String>,
}

impl Outcome {
    /// A storm that has not ended clean yet.
    #[must_use]
    pub fn of_storm(seed: u64, bound_seconds: u64) -> Self {
        Self {
            row: 40,
            name: format!("storm of seed {seed}"),
            recovery_seconds: None,
            bound_seconds: Some(bound_seconds),
            lost: None,
            duplicate: None,
            seen: false,
            verdict: Verdict::Broken,
            notes: Vec::new(),
        }
    }

    fn not_run(row: &Row, verdict: Verdict, note: String) -> Self {
        Self {
            row: row.number,
            name: row.name.to_owned(),
            recovery_seconds: None,
            bound_seconds: row.bound.map(|bound| bound.seconds),
            lost: None,
            duplicate: None,
            seen: false,
            verdict,
            notes: vec![note],
        }
    }
}

/// What the checker says, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Records that no object holds; of very many, the first ones.
    pub lost: usize,
    /// Records that stand more than once, or differ, or were never put.
    pub duplicate: usize,
    /// Findings about anything else.
    pub others: usize,
    /// The first findings, in words.
    pub first: Vec<String>,
    /// Number of records in the stream.
    pub num_records: usize,
}

impl Judgement {
    fn of(report: &Report, num_records: usize) -> Self {
        let records = report.verdict(Invariant::I1);
        let lost = records.findings.iter().filter(|finding| finding.what == "lost").count();
        let findings = report.verdicts.iter().flat_map(|verdict| {
            let first = verdict.findings.iter().take(3);
            first.map(|finding| format!("{:?} {finding}", verdict.invariant))
        });
        let all: usize = report.verdicts.iter().map(|verdict| verdict.num_findings).sum();
        Self {
            lost,
            duplicate: records.num_findings - lost,
            others: all - records.num_findings,
            first: findings.collect(),
            num_records,
        }
    }

    /// True when nothing at all is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicate + self.others == 0
    }
}

/// Runs `row` on the stage in `place`, starting one when there is none, and heals it afterwards.
pub async fn run(place: &Arc<Mutex<Option<Stage>>>, row: &'static Row, logs: &Path) -> Outcome {
    if let Some(reason) = cannot_run(row) {
        return reason;
    }
    let task_place = Arc::clone(place);
    let ran = guarded(async move {
        let mut stage = task_place.lock().await;
        if row.needs == Needs::Standby {
            // The one that runs ends first: one cluster at a time.
            *stage = None;
            *stage = Some(Stage::start_with_standby().await);
        } else if stage.is_none() {
            *stage = Some(Stage::start().await);
        }
        let stage = stage.as_mut().expect("it was just started");
        let clock = row.fault == Fault::Clock;
        if clock {
            let nodes = 1..=stage.cluster.workers.len();
            nodes.for_each(|number| stage.set_clock(&format!("node-{number}"), "+0"));
        }
        let disks = matches!(row.fault, Fault::Disk(_));
        if let Fault::Disk(fault) = row.fault {
            stage.put_on_disks(fault).await;
        }
        let mut scene = Scene::open(stage, &format!("row-{}", row.number), |file| {
            if disks {
                file.executor_memory = EXECUTOR_MEMORY;
            }
            if clock {
                file.env.extend(Stage::clock_environment());
            }
        })
        .await;
        play(&mut scene, row).await
    });
    let ran = Box::pin(ran).await;
    let mut outcome = ran.unwrap_or_else(|why| Outcome::not_run(row, Verdict::Broken, why));
    if outcome.verdict != Verdict::Kept {
        keep_logs(place, row, logs).await;
    }
    if let Err(error) = heal(place, &outcome).await {
        outcome.notes.push(format!("the cluster did not heal: {error}"));
        outcome.verdict = Verdict::Broken;
    }
    outcome
}

fn cannot_run(row: &Row) -> Option<Outcome> {
    let note = match row.needs {
        Needs::Mounts => format!("needs mounts: {}", Disk::why_not_here()?),
        Needs::Root if !is_root() => "needs root".to_owned(),
        Needs::Root if !has_iptables() => "needs iptables".to_owned(),
        Needs::Faketime if !Stage::has_faketime() => {
            "needs libfaketime (package faketime)".to_owned()
        }
        Needs::Nothing | Needs::Root | Needs::Faketime | Needs::Standby => return None,
    };
    Some(Outcome::not_run(row, Verdict::Skipped, note))
}

/// True when this process may do what only root may.
fn is_root() -> bool {
    let own = std::fs::metadata("/proc/self");
    own.is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn has_iptables() -> bool {
    let listed = std::process::Command::new("iptables").args(["-w", "-L", "-n"]).output();
    listed.is_ok_and(|listed| listed.status.success())
}

/// Runs `work` so that a panic in it, as of a state that does not come, is told and nothing more.
///
/// # Errors
/// The text of the panic.
pub async fn guarded<T: 'static>(work: impl Future<Output = T> + 'static) -> Result<T, String> {
    // On this thread: looks at a state borrow what they look at.
    let local = LocalSet::new();
    local.run_until(async { spawn_local(work).await.map_err(panic_text) }).await
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Stops what the row left and heals the stage; a stage that can not be healed is taken down.
async fn heal(place: &Arc<Mutex<Option<Stage>>>, outcome: &Outcome) -> Result<(), String> {
    let mut stage = place.lock().await;
    let is_shared = row(outcome.row).is_none_or(|row| row.needs != Needs::Standby);
    if outcome.verdict == Verdict::Broken || !is_shared {
        *stage = None;
        return Ok(());
    }
    drop(stage);
    let task_place = Arc::clone(place);
    let healed = guarded(async move {
        if let Some(stage) = task_place.lock().await.as_mut() {
            stage.heal().await;
        }
    });
    match healed.await {
        Ok(()) => Ok(()),
        Err(why) => {
            *place.lock().await = None;
            Err(why)
        }
    }
}

/// Copies every log of the cluster beside the table.
async fn keep_logs(place: &Arc<Mutex<Option<Stage>>>, row: &Row, logs: &Path) {
    let stage = place.lock().await;
    let Some(stage) = stage.as_ref() else { return };
    let target = logs.join(format!("row-{}", row.number));
    copy_logs(stage.cluster.path(), &target);
}

/// Copies all `*.log` files below `from`, their paths joined into one name.
pub fn copy_logs(from: &Path, target: &Path) {
    // Logs help people; a full disk must not hide the verdict.
    let _ = std::fs::create_dir_all(target);
    let mut open = vec![from.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                let name = path.strip_prefix(from).unwrap_or(&path);
                let name = name.display().to_string().replace('/', "_");
                let _ = std::fs::copy(&path, target.join(name));
            }
        }
    }
}

async fn play(scene: &mut Scene<'_>, row: &Row) -> Outcome {
    let before = scene.before().await;
    let injected = inject(scene, row.fault).await;
    let ends_application = row.fault == Fault::Trim;
    let recovery = match row.bound {
        Some(bound) => recovered(scene, &injected, bound).await,
        None => Ok(Duration::ZERO),
    };
    let missing = evidence::missing(scene, &before, &injected, row.seen).await;
    let judged = match &recovery {
        Ok(_) if ends_application => stopped_and_judged(scene, false).await,
        Ok(_) => stopped_and_judged(scene, true).await,
        Err(why) => Err(why.clone()),
    };
    conclude(row, injected, recovery, missing, judged)
}

/// The time from the fault, or from its end, until the lag was small for good.
async fn recovered(
    scene: &Scene<'_>,
    injected: &Injected,
    bound: Bound,
) -> Result<Duration, String> {
    let from = match bound.from {
        From::Injection => injected.began,
        From::Healing => injected.healed,
    };
    let calm = attempt(bound.limit() + WATCHED + BEYOND, async || {
        let now = Instant::now();
        let is_calm = scene.load.flow.lock().is_steady(now, CALM);
        if is_calm && now.duration_since(injected.healed) > WATCHED {
            return Ok(());
        }
        let state = scene.state().await;
        Err(format!("{:?} behind; {state}", scene.load.flow.lock().lag()))
    });
    calm.await.map_err(|why| format!("no recovery: {why}"))?;
    let last = scene.load.flow.lock().recovery_since(from);
    Ok(injected.recoveries.iter().copied().fold(last, Duration::max))
}

/// Ends the load and the application and has the checker judge all that was seen and written. One
/// that has ended by itself (`is_drained` false) is judged up to its positions.
///
/// # Errors
/// Why that was not possible.
pub async fn stopped_and_judged(
    scene: &mut Scene<'_>,
    is_drained: bool,
) -> Result<Judgement, String> {
    scene.load.stop_producing();
    let name = scene.file.name;
    if is_drained {
        scene.stage.cluster.stop(name, &["--drain"]).await;
    }
    scene.stage.cluster.wait_for_no_containers().await;
    let watcher = scene.watcher.take().ok_or("nobody watched")?;
    let observations = watcher.stop().await.map_err(|error| error.to_string())?;
    // With the processes that belong there now, those that were started again included.
    let subject = Subject::of(&scene.stage.cluster, &scene.file);
    let subject = Subject { is_drained, earlier: std::mem::take(&mut scene.earlier), ..subject };
    let facts = subject.watched(observations).facts().await.map_err(|error| error.to_string())?;
    let num_records = facts.truth.len();
    let mut judgement = Judgement::of(&facts.judge(), num_records);
    let defects = defects(scene);
    judgement.others += defects.len();
    judgement.first.extend(defects);
    Ok(judgement)
}

/// Lines in which a process of ours says that it has a defect: no fault excuses one.
fn defects(scene: &Scene<'_>) -> Vec<String> {
    let cluster = &scene.stage.cluster;
    let mut logs = scene.logs(None);
    logs.insert("master".to_owned(), cluster.master.log());
    for (index, worker) in cluster.workers.iter().enumerate() {
        logs.insert(format!("node-{}", index + 1), worker.log());
    }
    defects_in(&logs)
}

/// The lines of logs, by whose they are, in which a process says that it has a defect.
#[must_use]
pub fn defects_in(logs: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, log) in logs {
        let lines = log.lines().filter(|line| DEFECTS.iter().any(|text| line.contains(text)));
        found.extend(lines.map(|line| format!("DEFECT {name}: {line}")));
    }
    found
}

fn conclude(
    row: &Row,
    injected: Injected,
    recovery: Result<Duration, String>,
    missing: Vec<String>,
    judged: Result<Judgement, String>,
) -> Outcome {
    let mut notes = injected.notes;
    let late = match (&recovery, row.bound) {
        // A sample may be as late as one look at the bucket takes.
        (Ok(took), Some(bound)) => *took > bound.limit().max(Duration::from_millis(1)),
        (Ok(_), None) => false,
        (Err(_), _) => true,
    } || notes.iter().any(|note| note.contains("LATE"));
    let seen = missing.is_empty();
    notes.extend(missing.into_iter().map(|what| format!("NOT SEEN {what}")));
    let judgement = judged.as_ref().ok().cloned().unwrap_or_default();
    notes.extend(judgement.first.iter().cloned());
    notes.extend(judged.as_ref().err().cloned());
    let exact = judged.is_ok() && judgement.is_clean();
    let verdict = match (exact && recovery.is_ok(), late || !seen) {
        (false, _) => Verdict::Broken,
        (true, true) => Verdict::Weak,
        (true, false) => Verdict::Kept,
    };
    if judged.is_ok() {
        notes.push(format!("{} records", judgement.num_records));
    }
    Outcome {
        row: row.number,
        name: row.name.to_owned(),
        recovery_seconds: recovery.ok().filter(|_| row.bound.is_some()).map(|d| d.as_secs_f64()),
        bound_seconds: row.bound.map(|bound| bound.seconds),
        lost: judged.as_ref().ok().map(|judgement| judgement.lost),
        duplicate: judged.as_ref().ok().map(|judgement| judgement.duplicate),
        seen,
        verdict,
        notes,
    }
}
