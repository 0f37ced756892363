//! Lines that are bad, and packets that do not pass.
//!
//! Owned by [`super`]; the stage undoes what is left.

use std::time::{Duration, Instant};

use millrace_proto::v1::ContainerKind;

use super::{Injected, LOOK_EVERY, index_of, is_degraded_within, victims};
use crate::faults::fault::{Line, Victim};
use crate::faults::proxy::Mode;
use crate::faults::scene::Scene;
use crate::processes;

/// 1 Mbit/s.
const NARROW_BYTES_PER_SECOND: u32 = 125_000;
/// Bytes of a record with which 60 of them a second are three times too much for such a line.
const WIDE_RECORD_BYTES: usize = 4_000;

pub(super) async fn line(
    scene: &mut Scene<'_>,
    which: Line,
    mode: Mode,
    time: Duration,
) -> Injected {
    let mut injected = Injected::now(Vec::new());
    scene.stage.set(which, mode);
    injected.degraded = is_degraded_within(scene, time).await;
    scene.stage.set(which, Mode::Open);
    if scene.stage.cluster.master.has_ended() {
        scene.stage.cluster.restart_master().await;
        injected = injected.note("the master had ended and was started again");
    }
    injected.healed()
}

/// What a worker under an executor says to its master is lost.
pub(super) async fn one_way(scene: &mut Scene<'_>, time: Duration) -> Injected {
    let struck = victims(scene, Victim::Worker).await;
    let index = index_of(&struck[0].node);
    let injected = Injected::now(struck);
    scene.stage.set_detour(index, Mode::Deaf);
    tokio::time::sleep(time).await;
    scene.stage.set_detour(index, Mode::Open);
    injected.healed()
}

/// The load grows beyond what the line to AWS can carry.
pub(super) async fn narrow(scene: &mut Scene<'_>, time: Duration) -> Injected {
    let mut injected = Injected::now(Vec::new());
    let mode = Mode::Narrow { bytes_per_second: NARROW_BYTES_PER_SECOND };
    scene.stage.set(Line::ApplicationToAws, mode);
    scene.load.widen(WIDE_RECORD_BYTES);
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        let live = scene.live().await;
        let executors = live.iter().filter(|live| live.kind == ContainerKind::Executor);
        // One that has just ended has no size.
        let largest = executors.filter_map(|live| processes::resident_bytes(live.pid).ok()).max();
        injected.resident_bytes_max = injected.resident_bytes_max.max(largest.unwrap_or(0));
    }
    let lag = scene.load.flow.lock().lag();
    scene.load.widen(0);
    scene.stage.set(Line::ApplicationToAws, Mode::Open);
    let mib = injected.resident_bytes_max >> 20;
    injected.healed().note(format!("{lag:?} behind at the end, an executor at most {mib} MiB"))
}

/// Drops what goes to and from the driver's port. The driver's own calls go out from other ports.
pub(super) async fn partition(scene: &mut Scene<'_>, time: Duration) -> Injected {
    let port = drivers_port(scene).expect("the driver's log names its address");
    let injected = Injected::now(Vec::new());
    scene.stage.block(port).expect("packets can be dropped");
    tokio::time::sleep(time).await;
    scene.stage.unblock();
    injected.healed()
}

/// The port that the newest driver listens on, from its log.
fn drivers_port(scene: &Scene<'_>) -> Option<u16> {
    let logs = scene.logs(Some(ContainerKind::Driver));
    let (_, log) = logs.last_key_value()?;
    let text = log.lines().find(|line| line.contains("driver of "))?;
    let digits = text.split("127.0.0.1:").nth(1)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}
