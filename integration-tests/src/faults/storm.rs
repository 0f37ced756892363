//! Row 40, the storm: random faults every few seconds on one cluster, by a seed, some of them on top
//! of one another; at the end everything is healed, drained and judged.
//!
//! Promises: the same seed draws the same faults in the same order; what was thrown and when is
//! written down as it happens, and printed with the seed when the storm does not end clean.
//! Never does: throw a fault whose outcome is not promised, as a loss beyond the retention.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_proto::v1::ContainerKind;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Mutex;

use super::control::Rule;
use super::fault::{Victim, Weather};
use super::inject;
use super::run::{Judgement, Outcome, Verdict, copy_logs, guarded, stopped_and_judged};
use super::scene::{EVERY_RECORD_SHUFFLED, Scene};
use super::stage::Stage;
use crate::eventually::attempt;
use crate::{processes, reshard};

/// The bound: seconds from the last fault's end until the lag is below two batches for good.
const BOUND_SECONDS: u64 = 30;
/// How long the lag must be small for the storm to be over.
const CALM: Duration = Duration::from_secs(3);
/// How long it is waited for beyond the bound, to say how late it was.
const BEYOND: Duration = Duration::from_secs(90);
/// From one fault to the next, in milliseconds.
const BETWEEN: Range<u64> = 3_000..10_000;
/// The same in a harsh storm, in which an application may not get to a commit between two faults.
const BETWEEN_HARSH: Range<u64> = 300..2_500;
/// So that it is not given up for that.
const PATIENT_MASTER: (&str, &str) = ("MILLRACE_MASTER_ATTEMPT_FAILURES_MAX", "1000");
/// With more workers down there would be no room for the application.
const WORKERS_DOWN_MAX: usize = 2;
/// Open shards of the stream, at least and at most.
const SHARDS: RangeInclusive<usize> = 3..=7;
/// Denied calls are tried again each minute, so these come early or not at all.
const DENIED_PAUSE: Duration = Duration::from_secs(75);

/// A fault as the storm draws it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gust {
    Kill(Victim),
    Freeze(Victim, Duration),
    KillWorker(Victim, Duration),
    MasterDown(Duration),
    Abort(String),
    Weather(Weather, Duration),
    Split(usize),
    Merge,
}

/// What passes by itself.
#[derive(Debug)]
enum Undo {
    Thaw(u32),
    StartWorker(usize),
    StartMaster,
    Remove(Vec<Rule>),
}

/// Draws the next fault. Every draw takes the same numbers from the seed, whatever it becomes.
fn draw(rng: &mut ChaCha8Rng) -> Gust {
    let (kind, which, millis) = (
        rng.random_range(0..100),
        rng.random_range(0..1_000_usize),
        rng.random_range(0..1_000_u64),
    );
    let between = |from: u64, to: u64| Duration::from_millis(from + millis * (to - from) / 1_000);
    match kind {
        0..12 => Gust::Kill(Victim::Executor),
        12..18 => Gust::Kill(Victim::AllExecutors),
        18..30 => Gust::Kill(Victim::Driver),
        30..36 => Gust::KillWorker(Victim::Worker, between(1_000, 8_000)),
        36..42 => Gust::KillWorker(Victim::DriversWorker, between(1_000, 8_000)),
        42..48 => Gust::Freeze(Victim::Driver, between(500, 12_000)),
        48..56 => Gust::Freeze(Victim::Executor, between(500, 8_000)),
        56..61 => Gust::MasterDown(between(500, 10_000)),
        61..79 => {
            let edge = if which.is_multiple_of(2) { "before" } else { "after" };
            Gust::Abort(format!("k{}-{edge}", which / 2 % 9))
        }
        79..93 => Gust::Weather(Weather::ALL[which % Weather::ALL.len()], between(3_000, 12_000)),
        93..97 => Gust::Split(which),
        _ => Gust::Merge,
    }
}

/// A storm at work.
struct Storm<'a, 'b> {
    scene: &'a mut Scene<'b>,
    began: Instant,
    ends: Instant,
    undo: Vec<(Instant, Undo)>,
    history: Arc<std::sync::Mutex<Vec<String>>>,
    /// The weathers that stand.
    standing: Vec<Weather>,
    between: Range<u64>,
}

impl Storm<'_, '_> {
    fn tell(&self, what: &str) {
        let line = format!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
        eprintln!("{line}");
        self.history.lock().expect("nobody panics while telling").push(line);
    }

    /// Throws faults until the time is over, undoing in between what passes by itself.
    async fn blow(&mut self, rng: &mut ChaCha8Rng) {
        while Instant::now() < self.ends {
            let gust = draw(rng);
            let next =
                Instant::now() + Duration::from_millis(rng.random_range(self.between.clone()));
            self.throw(gust).await;
            self.pass(next.min(self.ends)).await;
        }
        self.pass(Instant::now()).await;
    }

    /// Waits until `until`, undoing what is due on the way.
    async fn pass(&mut self, until: Instant) {
        loop {
            self.undo.sort_by_key(|(due, _)| *due);
            let due = self.undo.first().map_or(until, |(due, _)| *due).min(until);
            tokio::time::sleep_until(due.into()).await;
            if self.undo.first().is_none_or(|(due, _)| *due > Instant::now()) {
                if Instant::now() >= until {
                    return;
                }
                continue;
            }
            let (_, undo) = self.undo.remove(0);
            self.undo_now(undo).await;
        }
    }

    async fn undo_now(&mut self, undo: Undo) {
        self.tell(&match &undo {
            Undo::Remove(rules) => format!("  rules end: {:?}", names(rules)),
            other => format!("  {other:?}"),
        });
        match undo {
            Undo::Thaw(pid) => self.scene.stage.thaw(pid),
            Undo::StartWorker(index) => self.scene.stage.cluster.restart_worker(index, &[]),
            Undo::StartMaster => self.scene.stage.cluster.restart_master().await,
            Undo::Remove(rules) => {
                self.scene.stage.control.remove(&rules).await;
                self.standing.retain(|weather| {
                    inject::rules(*weather, self.scene.file.name, 0)
                        .iter()
                        .all(|rule| rules.iter().all(|gone| gone.id != rule.id))
                });
            }
        }
    }

    fn later(&mut self, time: Duration, undo: Undo) {
        self.undo.push((Instant::now() + time, undo));
    }

    async fn throw(&mut self, gust: Gust) {
        let text = format!("{gust:?}");
        let outcome = match gust {
            Gust::Kill(victim) => self.kill(victim).await,
            Gust::Freeze(victim, time) => self.freeze(victim, time).await,
            Gust::KillWorker(victim, time) => self.kill_worker(victim, time).await,
            Gust::MasterDown(time) => self.master_down(time),
            Gust::Abort(point) => self.abort(&point),
            Gust::Weather(weather, time) => self.weather(weather, time).await,
            Gust::Split(which) => self.reshard(Some(which)).await,
            Gust::Merge => self.reshard(None).await,
        };
        match outcome {
            Ok(how) => self.tell(&format!("{text} {how}")),
            Err(why) => self.tell(&format!("{text}: not now, {why}")),
        }
    }

    async fn kill(&mut self, victim: Victim) -> Result<String, String> {
        let struck = inject::pick(self.scene, victim).await?;
        struck.iter().for_each(|live| processes::kill_by_id(live.pid));
        Ok(struck.iter().map(|live| live.id.as_str()).collect::<Vec<_>>().join(" "))
    }

    async fn freeze(&mut self, victim: Victim, time: Duration) -> Result<String, String> {
        let struck = inject::pick(self.scene, victim).await?;
        for live in &struck {
            self.scene.stage.freeze(live.pid);
            self.later(time, Undo::Thaw(live.pid));
        }
        Ok(struck.iter().map(|live| live.id.as_str()).collect::<Vec<_>>().join(" "))
    }

    async fn kill_worker(&mut self, victim: Victim, time: Duration) -> Result<String, String> {
        let workers = &mut self.scene.stage.cluster.workers;
        let down = workers.iter_mut().map(|worker| usize::from(worker.has_ended())).sum::<usize>();
        if down >= WORKERS_DOWN_MAX {
            return Err(format!("{down} workers are down"));
        }
        let struck = inject::pick(self.scene, victim).await?;
        let index = inject::index_of(&struck[0].node);
        let worker = &mut self.scene.stage.cluster.workers[index];
        if worker.has_ended() {
            return Err(format!("{} is down", struck[0].node));
        }
        worker.kill();
        self.later(time, Undo::StartWorker(index));
        Ok(struck[0].node.clone())
    }

    fn master_down(&mut self, time: Duration) -> Result<String, String> {
        if self.scene.stage.cluster.master.has_ended() {
            return Err("it is down".to_owned());
        }
        self.scene.stage.cluster.master.kill();
        self.later(time, Undo::StartMaster);
        Ok(String::new())
    }

    fn abort(&mut self, point: &str) -> Result<String, String> {
        if self.scene.stage.lies(point) {
            return Err("it lies there".to_owned());
        }
        self.scene.stage.lay(point);
        Ok(String::new())
    }

    async fn weather(&mut self, weather: Weather, time: Duration) -> Result<String, String> {
        let is_late = Instant::now() + time + DENIED_PAUSE > self.ends;
        if weather == Weather::CredentialsExpired && is_late {
            return Err("it would outlast the storm".to_owned());
        }
        if self.standing.contains(&weather) {
            return Err("it stands".to_owned());
        }
        let rules = inject::rules(weather, self.scene.file.name, time.as_secs());
        self.scene.stage.control.add(&rules).await;
        if weather == Weather::KinesisMoods {
            self.scene.stage.control.expire_iterators().await;
        }
        self.standing.push(weather);
        self.later(time, Undo::Remove(rules));
        Ok(String::new())
    }

    async fn reshard(&mut self, split: Option<usize>) -> Result<String, String> {
        let num = self.scene.open_shards().await.len();
        match split {
            Some(_) if num >= *SHARDS.end() => Err(format!("{num} shards")),
            None if num <= *SHARDS.start() => Err(format!("{num} shards")),
            Some(which) => {
                reshard::split(&self.scene.stage.cluster.aws, self.scene.file.stream, which).await;
                Ok(format!("{num} shards before"))
            }
            None => {
                reshard::merge(&self.scene.stage.cluster.aws, self.scene.file.stream, 0).await;
                Ok(format!("{num} shards before"))
            }
        }
    }
}

fn names(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.id.as_str()).collect()
}

/// What a storm is like.
#[derive(Clone, Copy, Debug)]
pub struct Forecast {
    /// Decides what is thrown and when; an odd one also sends every record through a shuffle.
    pub seed: u64,
    /// How long.
    pub time: Duration,
    /// Faults come faster than an application may be able to commit.
    pub is_harsh: bool,
}

/// Blows and judges; the logs and the history are kept in `out`.
pub async fn run(forecast: Forecast, out: &Path) -> Outcome {
    let seed = forecast.seed;
    let place = Arc::new(Mutex::new(None::<Stage>));
    let history = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (task_place, task_history) = (Arc::clone(&place), Arc::clone(&history));
    let ran = guarded(async move {
        let mut stage = task_place.lock().await;
        let extra: &[_] = if forecast.is_harsh { &[PATIENT_MASTER] } else { &[] };
        let stage = stage.insert(Stage::start_with(extra).await);
        let mut scene = Scene::open(stage, "storm", |file| {
            if seed % 2 == 1 {
                file.sql = EVERY_RECORD_SHUFFLED;
            }
        })
        .await;
        weathered(&mut scene, forecast, task_history).await
    });
    let mut outcome = Outcome::of_storm(seed, BOUND_SECONDS);
    match Box::pin(ran).await {
        Ok(Ok(end)) => end.fill(&mut outcome),
        Ok(Err(why)) | Err(why) => outcome.notes.push(why),
    }
    let history = history.lock().expect("nobody panics while telling").join("\n");
    if outcome.verdict != Verdict::Kept {
        eprintln!("storm of seed {seed} did not end clean; what was thrown:\n{history}");
    }
    let target = out.join(format!("storm-{seed}"));
    if let Some(stage) = place.lock().await.as_ref() {
        copy_logs(stage.cluster.path(), &target);
        let written = std::fs::write(target.join("history.txt"), &history);
        written.unwrap_or_else(|error| eprintln!("the history can not be kept: {error}"));
    }
    outcome
}

/// How a storm ended that could be judged.
struct End {
    recovery: Duration,
    judged: Judgement,
    notes: Vec<String>,
}

impl End {
    fn fill(self, outcome: &mut Outcome) {
        let exact = self.judged.is_clean();
        let late = self.recovery > Duration::from_secs(BOUND_SECONDS);
        outcome.recovery_seconds = Some(self.recovery.as_secs_f64());
        outcome.lost = Some(self.judged.lost);
        outcome.duplicate = Some(self.judged.duplicate);
        outcome.seen = true;
        outcome.notes.extend(self.notes);
        outcome.notes.extend(self.judged.first);
        outcome.verdict = match (exact, late) {
            (false, _) => Verdict::Broken,
            (true, true) => Verdict::Weak,
            (true, false) => Verdict::Kept,
        };
    }
}

async fn weathered(
    scene: &mut Scene<'_>,
    forecast: Forecast,
    history: Arc<std::sync::Mutex<Vec<String>>>,
) -> Result<End, String> {
    let Forecast { seed, time, is_harsh } = forecast;
    let between = if is_harsh { BETWEEN_HARSH } else { BETWEEN };
    let began = Instant::now();
    let mut storm = Storm {
        scene,
        began,
        ends: began + time,
        undo: Vec::new(),
        history,
        standing: Vec::new(),
        between,
    };
    storm.blow(&mut ChaCha8Rng::seed_from_u64(seed)).await;
    storm.tell("the storm is over: everything is healed");
    let num_faults = storm.history.lock().expect("nobody panics while telling").len();
    scene.stage.heal().await;
    let healed = Instant::now();
    let calm = attempt(Duration::from_secs(BOUND_SECONDS) + BEYOND, async || {
        let is_calm = scene.load.flow.lock().is_steady(Instant::now(), CALM);
        if is_calm && scene.live().await.iter().any(|live| live.kind == ContainerKind::Driver) {
            return Ok(());
        }
        let state = scene.state().await;
        Err(format!("{:?} behind; {state}", scene.load.flow.lock().lag()))
    });
    calm.await.map_err(|why| format!("no recovery: {why}"))?;
    let recovery = scene.load.flow.lock().recovery_since(healed);
    let attempts = scene.num_attempts().await;
    let judged = stopped_and_judged(scene, true).await?;
    let notes = vec![
        format!("seed {seed}, {num_faults} events, {attempts} attempts"),
        format!("{} records", judged.num_records),
    ];
    Ok(End { recovery, judged, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_gusts(seed: u64) -> Vec<Gust> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..300).map(|_| draw(&mut rng)).collect()
    }

    #[test]
    fn a_seed_draws_the_same_faults_and_another_one_others() {
        assert_eq!(first_gusts(7), first_gusts(7));
        assert_ne!(first_gusts(7), first_gusts(8));
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let gusts = first_gusts(1);
        let has = |what: fn(&Gust) -> bool| gusts.iter().any(what);
        assert!(has(|gust| matches!(gust, Gust::Kill(Victim::AllExecutors))));
        assert!(has(|gust| matches!(gust, Gust::Freeze(Victim::Driver, _))));
        assert!(has(|gust| matches!(gust, Gust::KillWorker(Victim::DriversWorker, _))));
        assert!(has(|gust| matches!(gust, Gust::MasterDown(_))));
        assert!(has(|gust| matches!(gust, Gust::Split(_))));
        assert!(has(|gust| matches!(gust, Gust::Merge)));
        for step in 0..9 {
            let point = format!("k{step}-");
            let laid = gusts.iter().any(|g| matches!(g, Gust::Abort(p) if p.starts_with(&point)));
            assert!(laid, "{point}");
        }
    }
}
