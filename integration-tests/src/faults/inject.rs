//! Does to a running application what a row says, and undoes what passes by itself.
//!
//! Promises: a fault that can not be injected fails the row; none is taken for injected that was
//! not. Owned by the runner and by the storm.
//! Never does: look at how well the application takes it; that is the evidence's.

use std::time::{Duration, Instant};

use aws_sdk_kinesis::types::ShardIteratorType;
use millrace_proto::v1::{ApplicationState, ContainerKind};
use serde_json::{Value, json};

use super::control::Rule;
use super::proxy::Mode;
use super::rows::{Fault, Line, Victim, Weather};
use super::scene::{Live, Scene};
use crate::checker::Subject;
use crate::eventually::{PATIENCE, within};
use crate::{processes, reshard};

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
        Fault::MasterDown { seconds } => master_down(scene, Duration::from_secs(seconds)).await,
        Fault::Weather { weather, seconds } => {
            under(scene, weather, Duration::from_secs(seconds)).await
        }
        Fault::Reshard => split_and_merge(scene).await,
        Fault::Trim => trim(scene).await,
        Fault::Network { line, mode, seconds } => {
            network(scene, line, mode, Duration::from_secs(seconds)).await
        }
        Fault::Partition { seconds } => partition(scene, Duration::from_secs(seconds)).await,
        Fault::Clock => clocks(scene).await,
        Fault::None => panic!("there is nothing to inject"),
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

async fn master_down(scene: &mut Scene<'_>, time: Duration) -> Injected {
    let before = scene.live().await;
    let injected = Injected::now(Vec::new());
    scene.stage.cluster.master.kill();
    tokio::time::sleep(time).await;
    let started = Instant::now();
    scene.stage.cluster.restart_master().await;
    let num_nodes = scene.stage.cluster.workers.len();
    scene.stage.cluster.wait_for_nodes(num_nodes).await;
    within(PATIENCE, "the containers are known again", async || {
        let after = scene.live().await;
        if after.len() >= before.len() { Ok(()) } else { Err(format!("{after:?}")) }
    })
    .await;
    let control = started.elapsed().as_secs_f64();
    let injected = injected.healed().note(format!("control after {control:.1} s (bound 5 s)"));
    if control > 5.0 { injected.note("CONTROL LATE") } else { injected }
}

/// The rules of a weather for this application. Producer, reader and checker are spared.
#[must_use]
pub fn rules(weather: Weather, application: &str, seed: u64) -> Vec<Rule> {
    let fail = |status: u16, code: &str| json!({"type": "fail", "status": status, "code": code, "message": "injected"});
    let throttle = || json!({"type": "throttle"});
    let uploads = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"];
    let head = format!("application#{application}");
    let commit = |id: &str, action: Value| {
        let rule = Rule::new(id, "dynamodb", "UpdateItem", action).times(1);
        rule.containing("commit_id")
    };
    let complete = |id: &str, action: Value| {
        let rule = Rule::new(id, "s3", "CompleteMultipartUpload", action).times(1);
        rule.containing("-t0-")
    };
    match weather {
        Weather::S3SlowDown => uploads
            .map(|call| Rule::new(&format!("s3-slow-{call}"), "s3", call, throttle()))
            .map(|rule| rule.by_chance(0.5, seed))
            .to_vec(),
        Weather::CompletedAndUnknown => vec![
            complete("complete-lost", json!({"type": "lose_answer"})),
            complete("complete-unknown", fail(404, "NoSuchUpload")),
        ],
        Weather::ErrorInside200 => vec![complete("complete-error", fail(200, "InternalError"))],
        Weather::DynamoThrottled => ["UpdateItem", "GetItem", "Query"]
            .map(|call| Rule::new(&format!("dynamo-{call}"), "dynamodb", call, throttle()))
            .map(|rule| rule.containing(&head))
            .to_vec(),
        Weather::KinesisMoods => vec![
            Rule::new("kinesis-throttle", "kinesis", "GetRecords", throttle()).by_chance(0.5, seed),
            Rule::new("kinesis-empty", "kinesis", "GetRecords", json!({"type": "empty_page"}))
                .by_chance(0.5, seed + 1),
        ],
        Weather::CommitAnswerLost => vec![commit("commit-lost", json!({"type": "lose_answer"}))],
        Weather::CommitLateAndTwice => vec![
            commit("commit-late", json!({"type": "apply_late", "ms": 30_000})),
            commit("commit-twice", json!({"type": "apply_twice"})),
        ],
        Weather::CredentialsExpired => {
            let mut rules = uploads
                .map(|call| Rule::new(&format!("expired-{call}"), "s3", call, Value::Null))
                .map(|rule| Rule { action: fail(403, "ExpiredToken"), ..rule })
                .to_vec();
            rules.extend(["UpdateItem", "GetItem"].map(|call| {
                let action = fail(400, "ExpiredTokenException");
                let rule = Rule::new(&format!("expired-{call}"), "dynamodb", call, action);
                rule.containing(&head)
            }));
            rules.extend(["GetRecords", "GetShardIterator", "ListShards"].map(|call| {
                let action = fail(400, "ExpiredTokenException");
                Rule::new(&format!("expired-{call}"), "kinesis", call, action)
            }));
            rules
        }
    }
}

async fn under(scene: &mut Scene<'_>, weather: Weather, time: Duration) -> Injected {
    let rules = rules(weather, scene.file.name, 1);
    let control = scene.stage.control.clone();
    control.add(&rules).await;
    if weather == Weather::KinesisMoods {
        control.expire_iterators().await;
    }
    let mut injected = Injected::now(Vec::new());
    if rules.iter().all(|rule| rule.times.is_some()) {
        // Each strikes one call; the fault is there when the last has.
        for rule in &rules {
            within(PATIENCE, &format!("{} strikes", rule.id), async || {
                let num = control.num_struck(&rule.id).await;
                if num > 0 { Ok(()) } else { Err(scene.state().await) }
            })
            .await;
        }
        injected.began = Instant::now();
    }
    injected.degraded = is_degraded_within(scene, time).await;
    let mut struck = Vec::new();
    for rule in &rules {
        struck.push(format!("{} {}", rule.id, control.num_struck(&rule.id).await));
    }
    control.remove(&rules).await;
    injected.healed().note(format!("struck: {}", struck.join(", ")))
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

async fn network(scene: &mut Scene<'_>, line: Line, mode: Mode, time: Duration) -> Injected {
    let mut injected = Injected::now(Vec::new());
    scene.stage.set(line, mode);
    injected.degraded = is_degraded_within(scene, time).await;
    scene.stage.set(line, Mode::Open);
    if scene.stage.cluster.master.has_ended() {
        scene.stage.cluster.restart_master().await;
        injected = injected.note("the master had ended and was started again");
    }
    injected.healed()
}

/// Drops what goes to and from the driver's port. The driver's own calls go out from other ports.
async fn partition(scene: &mut Scene<'_>, time: Duration) -> Injected {
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

/// Splits and merges three times; the driver is killed in the middle of it.
async fn split_and_merge(scene: &mut Scene<'_>) -> Injected {
    let mut injected = Injected::now(Vec::new());
    for round in 0..3 {
        reshard::split(&scene.stage.cluster.aws, scene.file.stream, round).await;
        if round == 1 {
            injected.victims = kill(scene, Victim::Driver).await.victims;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        reshard::merge(&scene.stage.cluster.aws, scene.file.stream, 0).await;
    }
    injected.healed()
}

/// Stops the application, lets records come that nobody reads, trims one shard past all of them
/// but the newest, and submits again.
async fn trim(scene: &mut Scene<'_>) -> Injected {
    let name = scene.file.name;
    scene.stage.cluster.stop(name, &[]).await;
    let injected = Injected::now(Vec::new());
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.load.stop_producing();
    let shard = scene.open_shards().await.swap_remove(0);
    let newest = newest_record(scene, &shard).await;
    let subject = Subject::of(&scene.stage.cluster, &scene.file);
    scene.earlier = subject.truth().await.expect("the stream can be read");
    scene.stage.control.trim(scene.file.stream, &shard, &newest).await;
    scene.stage.cluster.submit(&scene.file).await;
    within(PATIENCE, "the loss is told", async || {
        let application = scene.stage.cluster.application(name).await?;
        match application.state() {
            ApplicationState::Failed => Ok(()),
            _ => Err(scene.state().await),
        }
    })
    .await;
    injected.healed().note(format!("{shard} trimmed below {newest}"))
}

async fn newest_record(scene: &Scene<'_>, shard: &str) -> String {
    let kinesis = scene.stage.cluster.aws.endpoint.kinesis();
    let iterator = kinesis.get_shard_iterator().stream_name(scene.file.stream).shard_id(shard);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await;
    let mut next = iterator.expect("an iterator is given").shard_iterator;
    let mut newest = None;
    while let Some(iterator) = next {
        let page = kinesis.get_records().shard_iterator(iterator).send().await;
        let page = page.expect("nobody else reads the shard");
        newest = page.records().last().map(|r| r.sequence_number().to_owned()).or(newest);
        let at_end = page.millis_behind_latest() == Some(0);
        next = page.next_shard_iterator.filter(|_| !at_end);
    }
    newest.expect("the shard has records")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_a_weather_have_names_of_their_own_and_spare_the_producer() {
        for weather in Weather::ALL {
            let rules = rules(weather, "row", 1);
            let names: std::collections::BTreeSet<_> = rules.iter().map(|rule| &rule.id).collect();
            assert_eq!(names.len(), rules.len());
            assert!(rules.iter().all(|rule| !rule.operation.starts_with("Put")), "{rules:?}");
        }
    }
}
