//! Does to a running application what a row says, and undoes what passes by itself.
//!
//! Promises: a fault that can not be injected fails the row; none is taken for injected that was
//! not. Owned by the runner and by the storm.
//! Never does: look at how well the application takes it; that is the evidence's.

mod disk;
mod masters;
mod memory;
mod network;
mod stream;
mod weather;

use std::time::{Duration, Instant};

use millrace_proto::v1::ContainerKind;
use serde_json::json;

pub use self::disk::EXECUTOR_MEMORY;
pub use self::weather::rules;

use super::control::Rule;
use super::fault::{Fault, Victim};
use super::scene::{Live, Scene};
use crate::eventually::{PATIENCE, within};
use crate::processes;

/// How long an upload is held up so that a fault falls into it.
const UPLOAD_HELD: u64 = 700;

/// Between two looks at an application under a fault.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What was done.
#[derive(Clone, Debug)]
pub struct Injected {
    /// When the fault began; for one that comes twice, the later.
    pub began: Instant,
    /// When it was over.
    pub healed: Instant,
    /// Whose containers were struck.
    pub victims: Vec<Live>,
    /// Recoveries that were waited for on the way.
    pub recoveries: Vec<Duration>,
    /// True when the application was shown as degraded meanwhile.
    pub degraded: bool,
    /// Most bytes that an executor held resident; 0 when not looked at.
    pub resident_bytes_max: u64,
    /// Spills that executors say were refused.
    pub num_spills_refused: u64,
    /// Records that became visible while the master was down.
    pub num_visible_meanwhile: usize,
    /// What a reader of the table should know.
    pub notes: Vec<String>,
}

impl Injected {
    fn now(victims: Vec<Live>) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            healed: now,
            victims,
            recoveries: Vec::new(),
            degraded: false,
            resident_bytes_max: 0,
            num_spills_refused: 0,
            num_visible_meanwhile: 0,
            notes: Vec::new(),
        }
    }

    fn healed(mut self) -> Self {
        self.healed = Instant::now();
        self
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}
/// Injects `fault` and returns when it is over.
///
/// # Panics
/// When that is not possible.
pub async fn inject(scene: &mut Scene<'_>, fault: Fault) -> Injected {
    match fault {
        Fault::Kill { victim, in_upload } => {
            if in_upload {
                an_upload_runs(scene).await;
            }
            kill(scene, victim).await
        }
        Fault::Freeze { victim, seconds, in_upload } => {
            if in_upload {
                an_upload_runs(scene).await;
            }
            freeze(scene, victim, Duration::from_secs(seconds)).await
        }
        Fault::Abort { step } => abort_around(scene, step).await,
        Fault::MasterDown { seconds } => masters::down(scene, Duration::from_secs(seconds)).await,
        Fault::Weather { weather, seconds } => {
            weather::under(scene, weather, Duration::from_secs(seconds)).await
        }
        Fault::Reshard => stream::split_and_merge(scene).await,
        Fault::Trim => stream::trim(scene).await,
        Fault::Network { line, mode, seconds } => {
            network::line(scene, line, mode, Duration::from_secs(seconds)).await
        }
        Fault::Memory => memory::eaten(scene).await,
        Fault::OneWay { seconds } => network::one_way(scene, Duration::from_secs(seconds)).await,
        Fault::Narrow { seconds } => network::narrow(scene, Duration::from_secs(seconds)).await,
        Fault::Partition { seconds } => {
            network::partition(scene, Duration::from_secs(seconds)).await
        }
        Fault::Clock => clocks(scene).await,
        Fault::LeaderKilled => masters::leader_killed(scene).await,
        Fault::Drain { seconds } => masters::drain(scene, Duration::from_secs(seconds)).await,
        Fault::Roll => masters::roll(scene).await,
        Fault::Disk(fault) => disk::fail(scene, fault).await,
    }
}

/// The live containers that `victim` means, once there is one.
async fn victims(scene: &Scene<'_>, victim: Victim) -> Vec<Live> {
    within(PATIENCE, &format!("{victim:?} is there"), async || pick(scene, victim).await).await
}

/// The live containers that `victim` means now.
///
/// # Errors
/// What lives when there is none.
pub async fn pick(scene: &Scene<'_>, victim: Victim) -> Result<Vec<Live>, String> {
    let live = scene.live().await;
    let driver = live.iter().find(|live| live.kind == ContainerKind::Driver);
    let drivers_node = driver.map(|driver| driver.node.clone()).unwrap_or_default();
    let executors = live.iter().filter(|live| live.kind == ContainerKind::Executor);
    let found: Vec<Live> = match victim {
        Victim::Driver => driver.into_iter().cloned().collect(),
        Victim::AllExecutors => executors.cloned().collect(),
        Victim::Executor => executors.take(1).cloned().collect(),
        Victim::Worker => {
            let node = executors.map(|live| &live.node).find(|node| **node != drivers_node);
            live.iter().filter(|live| Some(&live.node) == node).cloned().collect()
        }
        Victim::DriversWorker => {
            live.iter().filter(|live| live.node == drivers_node).cloned().collect()
        }
    };
    if found.is_empty() { Err(format!("{live:?}")) } else { Ok(found) }
}

/// The index among the cluster's workers of a node.
///
/// # Panics
/// When the harness did not name it.
#[must_use]
pub fn index_of(node: &str) -> usize {
    let number = node.trim_start_matches("node-").parse::<usize>();
    number.expect("nodes are numbered from 1") - 1
}

async fn kill(scene: &mut Scene<'_>, victim: Victim) -> Injected {
    let struck = victims(scene, victim).await;
    let injected = Injected::now(struck);
    match victim {
        Victim::Worker | Victim::DriversWorker => {
            let node = injected.victims[0].node.clone();
            scene.stage.cluster.workers[index_of(&node)].kill();
            injected.note(format!("{node} killed"))
        }
        Victim::Executor | Victim::AllExecutors | Victim::Driver => {
            injected.victims.iter().for_each(|live| processes::kill_by_id(live.pid));
            injected
        }
    }
}

async fn freeze(scene: &mut Scene<'_>, victim: Victim, time: Duration) -> Injected {
    let struck = victims(scene, victim).await;
    let injected = Injected::now(struck);
    for live in &injected.victims {
        scene.stage.freeze(live.pid);
    }
    tokio::time::sleep(time).await;
    for live in &injected.victims {
        scene.stage.thaw(live.pid);
    }
    injected.healed()
}

/// Returns while an upload of a part is being held up at S3.
async fn an_upload_runs(scene: &Scene<'_>) {
    let action = json!({"type": "delay", "ms": UPLOAD_HELD});
    let rule = Rule::new("hold-upload", "s3", "UploadPart", action).times(2);
    let control = &scene.stage.control;
    control.add(&[rule]).await;
    within(PATIENCE, "a part is uploaded", async || {
        match control.num_struck("hold-upload").await {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

/// The driver aborts before the step and, once the application keeps up again, after it.
async fn abort_around(scene: &mut Scene<'_>, step: &str) -> Injected {
    let mut recoveries = Vec::new();
    let mut began = Instant::now();
    for edge in ["before", "after"] {
        let point = format!("{step}-{edge}");
        began = abort_at(scene, &point).await;
        // The recovery from the last abort is the runner's to measure.
        if edge == "before" {
            settle(scene, began).await;
            recoveries.push(scene.load.flow.lock().recovery_since(began));
        }
    }
    Injected { recoveries, began, healed: began, ..Injected::now(Vec::new()) }
}

/// Lays the failpoint down and returns when a driver has aborted at it.
async fn abort_at(scene: &mut Scene<'_>, point: &str) -> Instant {
    scene.stage.lay(point);
    if point.starts_with("k0") || point.starts_with("k1") {
        // Only a start passes these.
        let _ = kill(scene, Victim::Driver).await;
    }
    within(PATIENCE, &format!("a driver aborts at {point}"), async || {
        if scene.stage.lies(point) { Err(scene.state().await) } else { Ok(Instant::now()) }
    })
    .await
}

/// Waits until the lag is small again, for long enough to know that it had risen.
async fn settle(scene: &Scene<'_>, began: Instant) {
    within(PATIENCE, "the application keeps up again", async || {
        let now = Instant::now();
        let calm = scene.load.flow.lock().is_steady(now, Duration::from_secs(2));
        let rested = now.duration_since(began) > Duration::from_secs(5);
        if rested && calm { Ok(()) } else { Err(scene.state().await) }
    })
    .await;
}

/// Lets the time pass; true when the application was shown as degraded meanwhile.
async fn is_degraded_within(scene: &Scene<'_>, time: Duration) -> bool {
    let until = Instant::now() + time;
    let mut degraded = false;
    while Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        degraded |= scene.report().await.is_some_and(|report| !report.degraded.is_empty());
    }
    degraded
}

/// The driver's node has a clock that is ahead, then one that is behind, then one that is fast.
async fn clocks(scene: &mut Scene<'_>) -> Injected {
    let node = victims(scene, Victim::Driver).await[0].node.clone();
    let mut recoveries = Vec::new();
    let mut injected = Injected::now(Vec::new());
    for clock in ["+2h", "-10m", "+0 x1.05"] {
        injected.began = Instant::now();
        scene.stage.set_clock(&node, clock);
        settle(scene, injected.began).await;
        recoveries.push(scene.load.flow.lock().recovery_since(injected.began));
    }
    scene.stage.set_clock(&node, "+0");
    Injected { recoveries, ..injected.healed() }
}
