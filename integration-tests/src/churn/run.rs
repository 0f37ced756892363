//! One churn from its first submission to the last look at the machine.
//!
//! Promises: whatever goes wrong on the way becomes a finding, with the seed, the history and the
//! logs of all processes kept. Owned by the program and by a test.
//! Never does: pass over what could not be looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use millrace_proto::v1;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::cast::{BUCKET, Cast, NUM_SHARDS, Role, Size};
use super::census::Figures;
use super::play::{History, Player, has_ended, node_name};
use super::traces;
use super::watch::{Observer, SharedBoard, insist, is_at_work};
use super::wishes::Wish;
use crate::aws::Endpoint;
use crate::checker::{Invariant, Subject, Watcher, head};
use crate::cluster::{Cluster, Judge};
use crate::eventually::{PATIENCE, attempt};
use crate::faults::run::{copy_logs, defects_in, guarded};
use crate::processes;

/// The master's part of the profile: nodes are lost soon, and no application is given up because too
/// many of its containers were killed.
const MASTER: [(&str, &str); 7] = [
    ("MILLRACE_MASTER_HEARTBEAT_INTERVAL", "1s"),
    ("MILLRACE_MASTER_SUSPECT_AFTER", "5s"),
    ("MILLRACE_MASTER_LOST_AFTER", "10s"),
    ("MILLRACE_MASTER_ADOPT_TIMEOUT", "10s"),
    ("MILLRACE_MASTER_ATTEMPT_FAILURES_MAX", "1000"),
    // There is one master, and a machine that may be busy with sixty processes and their tests.
    ("MILLRACE_MASTER_LEADER_STEP_DOWN_AFTER", "20s"),
    ("MILLRACE_MASTER_LEADER_TAKE_OVER_AFTER", "30s"),
];
/// How many ended containers a worker keeps.
const KEPT_CONTAINERS: usize = 40;
/// The workers' part.
pub(super) const WORKER: [(&str, &str); 2] =
    [("MILLRACE_WORKER_SHUTDOWN_GRACE", "3s"), ("MILLRACE_WORKER_KEPT_CONTAINERS", "40")];
/// How long everybody may take to be at work again, and then to make progress.
const TO_SETTLE: Duration = Duration::from_secs(180);
/// How long everything may take to drain.
const TO_DRAIN: Duration = Duration::from_secs(180);
/// How long what a dead process held may take to go.
const TO_VANISH: Duration = Duration::from_secs(10);
/// Between two puts, each to the next of the streams.
const PUT_EVERY: Duration = Duration::from_millis(100);
/// Records of one put.
const RECORDS_PER_PUT: usize = 3;
/// Findings about one application's output that are kept.
const FINDINGS_OF_ONE: usize = 3;

/// What kind of churn is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Forecast {
    /// What it is drawn from.
    pub seed: u64,
    /// How long acts are drawn.
    pub time: Duration,
    /// How large it is.
    pub size: Size,
}

/// How a churn ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was looked at, in words.
    pub figures: Vec<String>,
    /// What is wrong; nothing when it ended clean.
    pub findings: Vec<String>,
}

impl Report {
    /// True when nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_clean() { "kept" } else { "BROKEN" };
        writeln!(f, "churn of seed {}: {word}", self.seed)?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "  {figure}"))?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  WRONG {finding}"))
    }
}

/// Runs a churn on a cluster of its own; history and logs go to `out`.
pub async fn run(forecast: Forecast, out: &Path) -> Report {
    let seed = forecast.seed;
    let cast = Arc::new(Cast::of(forecast.size));
    let board = SharedBoard::new(&cast);
    let history = History::default();
    let place = Arc::new(tokio::sync::Mutex::new(None::<Cluster>));
    let ran = {
        let (place, cast) = (Arc::clone(&place), Arc::clone(&cast));
        let (board, history) = (board.clone(), Arc::clone(&history));
        guarded(async move {
            let mut place = place.lock().await;
            let setting = Cast::queue_setting();
            let queues = [("MILLRACE_MASTER_QUEUE", setting.as_str())];
            let environment: Vec<_> = MASTER.iter().chain(&queues).copied().collect();
            let cluster = Cluster::start_with(&Judge::Emulator, &[], &environment).await;
            let cluster = place.insert(cluster);
            played(cluster, &cast, &board, history, forecast).await
        })
    };
    let mut figures = Box::pin(ran).await.unwrap_or_else(|why| {
        board.found(why);
        Vec::new()
    });
    let report = {
        let board = board.lock();
        figures.insert(0, described(&board.census.figures()));
        Report { seed, figures, findings: board.census.findings().to_vec() }
    };
    keep(&report, &history, place.lock().await.as_ref(), out);
    report
}

/// Keeps history and logs, and prints the history of a churn that did not end clean.
fn keep(report: &Report, history: &History, cluster: Option<&Cluster>, out: &Path) {
    let history = history.lock().expect("nobody panics while telling").join("\n");
    if !report.is_clean() {
        eprintln!("churn of seed {} did not end clean; what was done:\n{history}", report.seed);
    }
    let target = out.join(format!("churn-{}", report.seed));
    if let Some(cluster) = cluster {
        copy_logs(cluster.path(), &target);
    }
    let written = std::fs::create_dir_all(&target)
        .and_then(|()| std::fs::write(target.join("history.txt"), &history))
        .and_then(|()| std::fs::write(target.join("report.txt"), report.to_string()));
    written.unwrap_or_else(|error| eprintln!("the history can not be kept: {error}"));
}

fn described(figures: &Figures) -> String {
    let Figures { num_looks, num_scans, num_containers, num_processes_max, .. } = figures;
    let Figures { num_full, num_at_cap, num_attempts, .. } = figures;
    format!(
        "{num_looks} looks at the master, {num_scans} at the process table; {num_containers} \
         containers of {num_attempts} attempts, {num_processes_max} at once; {num_full} times a node \
         full, {num_at_cap} times a queue at its cap"
    )
}

async fn played(
    cluster: &mut Cluster,
    cast: &Cast,
    board: &SharedBoard,
    history: History,
    forecast: Forecast,
) -> Vec<String> {
    for node in &cast.nodes {
        cluster.add_worker(*node, &WORKER);
    }
    cluster.wait_for_nodes(cast.nodes.len()).await;
    cluster.aws.create_bucket(BUCKET).await;
    for stream in &cast.streams {
        cluster.aws.create_stream(stream, NUM_SHARDS).await;
    }
    let producer = Producer::start(&cluster.aws.endpoint, &cast.streams);
    let watched = cast.roles.iter().filter(|role| role.is_watched);
    let watchers: BTreeMap<&str, Watcher> = watched
        .map(|role| (role.file.name, Watcher::start(&Subject::of(cluster, &role.file))))
        .collect();
    let observer = Observer::start(board, cluster.client(), cluster.path());

    let mut player = Player::new(cluster, cast, board.clone(), history);
    player.submit_all().await;
    player.play(&mut ChaCha8Rng::seed_from_u64(forecast.seed), forecast.time).await;
    player.tell("the churn is over: everything is healed");
    player.heal().await;
    let settled = settle(player.cluster, cast, board).await;
    player.tell("everybody is at work");
    producer.stop();
    let drained = drain_all(player.cluster, board).await;
    player.cluster.wait_for_no_containers().await;
    player.tell("everything is stopped");
    observer.stop(board);
    board.lock().census.sweep();
    let num_records = judge_all(player.cluster, cast, board, &drained, watchers).await;
    player.tell("everything is judged");
    let workers = std::mem::take(&mut player.workers);
    let num_acts = player.num_acts;
    let endpoint = cluster.aws.endpoint.url.clone();
    end_cluster(cluster, board).await;
    look_for_traces(cluster, board, &endpoint, &workers).await;
    let ports = board.lock().traces.num_ports();
    vec![
        format!("{num_acts} acts; everybody at work {:.1} s after them", settled.as_secs_f64()),
        format!(
            "{num_records} records judged over {} applications, {} of them drained at the end; \
             {ports} ports seen",
            cast.roles.len(),
            drained.len()
        ),
    ]
}

/// Puts records into all streams, one after the other, until it is stopped.
struct Producer(JoinHandle<()>);

impl Producer {
    fn start(aws: &Endpoint, streams: &[&'static str]) -> Self {
        Self(tokio::spawn(produce(aws.clone(), streams.to_vec())))
    }

    /// A put that is on its way may still be applied: the stream itself is the truth.
    fn stop(self) {
        drop(self);
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn produce(aws: Endpoint, streams: Vec<&'static str>) {
    let kinesis = aws.kinesis();
    let mut ticks = tokio::time::interval(PUT_EVERY);
    for (number, stream) in streams.iter().cycle().enumerate() {
        ticks.tick().await;
        let entries = (0..RECORDS_PER_PUT).map(|index| {
            let key = (number * RECORDS_PER_PUT + index).to_string();
            PutRecordsRequestEntry::builder()
                .data(Blob::new(format!("record {key} of {stream}")))
                .partition_key(key)
                .build()
                .expect("key and data are set")
        });
        let put = kinesis.put_records().stream_name(*stream).set_records(Some(entries.collect()));
        if let Err(error) = put.send().await {
            eprintln!("a put into {stream} was refused: {error:?}");
        }
    }
}

/// Gives every application back to its file, and waits until each is at work and its head has moved.
async fn settle(cluster: &Cluster, cast: &Cast, board: &SharedBoard) -> Duration {
    let began = Instant::now();
    let names = board.lock().wishes.with(Wish::Run);
    for name in &names {
        let request = v1::ScaleApplicationRequest { name: name.clone(), executors: 0 };
        if let Err(status) =
            insist(async || cluster.client().scale_application(request.clone()).await).await
        {
            board.found(format!("scale {name} back: {status}"));
        }
    }
    let dynamodb = cluster.aws.endpoint.dynamodb();
    let batch = async |name: &String| {
        let read = head::read(&dynamodb, millrace_common::table::DEFAULT_TABLE, name).await;
        read.map(|head| head.map_or(0, |head| head.batch)).map_err(|error| error.to_string())
    };
    let mut before = BTreeMap::new();
    for name in &names {
        before.insert(name, batch(name).await.unwrap_or_default());
    }
    let mut waiting: Vec<&String> = names.iter().collect();
    let settled = attempt(TO_SETTLE, async || {
        let applications = board.lock().applications.clone();
        let mut missing = Vec::new();
        for name in std::mem::take(&mut waiting) {
            let mut state = is_at_work(applications.get(name));
            if state.is_ok() {
                let now = batch(name).await?;
                // The first new one may have been cut before.
                let has_moved = now >= before[name] + 2;
                state = if has_moved { Ok(()) } else { Err(format!("at batch {now} still")) };
            }
            if let Err(why) = state {
                missing.push(format!("{name}: {why}"));
                waiting.push(name);
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    });
    if let Err(missing) = settled.await {
        let num = cast.roles.len();
        board.found(format!("of {num} applications these are not at work again: {missing}"));
    }
    began.elapsed()
}

/// Drains and stops whoever runs, and waits until all have stopped.
async fn drain_all(cluster: &Cluster, board: &SharedBoard) -> Vec<String> {
    let names = board.lock().wishes.with(Wish::Run);
    for name in &names {
        board.lock().wishes.set(name, Wish::Asking);
        let request =
            v1::StopApplicationRequest { name: name.clone(), drain: true, deadline_ms: 0 };
        match insist(async || cluster.client().stop_application(request.clone()).await).await {
            Ok(_) => board.lock().wishes.set(name, Wish::Ending),
            Err(status) if has_ended(&status) => board.lock().wishes.set(name, Wish::Ending),
            Err(status) => board.found(format!("drain {name}: {status}")),
        }
    }
    let ended = attempt(TO_DRAIN, async || {
        let board = board.lock();
        let open = [board.wishes.with(Wish::Asking), board.wishes.with(Wish::Ending)].concat();
        let tell = |name: &String| {
            let application = board.applications.get(name);
            let state = application.map_or("unknown", |one| one.state().as_str_name());
            format!("{name}: {state} {}", application.map_or("", |one| &one.reason))
        };
        let open: Vec<String> = open.iter().map(tell).collect();
        if open.is_empty() { Ok(()) } else { Err(open.join("; ")) }
    });
    if let Err(open) = ended.await {
        board.found(format!("these do not stop: {open}"));
    }
    names
}

/// Has the checker judge what every application wrote; how many records that were.
async fn judge_all(
    cluster: &Cluster,
    cast: &Cast,
    board: &SharedBoard,
    drained: &[String],
    mut watchers: BTreeMap<&str, Watcher>,
) -> usize {
    let mut num_records = 0;
    for role in &cast.roles {
        let name = role.file.name;
        let is_drained = drained.iter().any(|one| one == name);
        let watcher = watchers.remove(name);
        match judged(cluster, role, is_drained, watcher).await {
            Ok((num, findings)) => {
                num_records += num;
                findings.into_iter().for_each(|what| board.found(format!("{name}: {what}")));
            }
            Err(why) => board.found(format!("{name} can not be judged: {why}")),
        }
    }
    num_records
}

async fn judged(
    cluster: &Cluster,
    role: &Role,
    is_drained: bool,
    watcher: Option<Watcher>,
) -> Result<(usize, Vec<String>), String> {
    let mut subject = Subject { is_drained, ..Subject::of(cluster, &role.file) };
    if let Some(watcher) = watcher {
        subject.observations = Some(watcher.stop().await.map_err(|error| error.to_string())?);
    }
    let facts = subject.facts().await.map_err(|error| error.to_string())?;
    if facts.objects.is_empty() && facts.head.is_none() {
        // Ended before its first batch: there is nothing to be judged.
        return Ok((0, Vec::new()));
    }
    let report = facts.judge();
    let broken = report.verdicts.iter().filter(|verdict| verdict.num_findings > 0);
    let findings = broken.flat_map(|verdict| {
        let of_all = verdict.num_findings;
        let first = verdict.findings.iter().take(FINDINGS_OF_ONE);
        first.map(move |finding| format!("{:?} {finding} ({of_all})", verdict.invariant))
    });
    debug_assert_eq!(report.verdicts.len(), Invariant::ALL.len());
    let num_rows = facts.objects.iter().map(|object| object.rows.len()).sum();
    Ok((num_rows, findings.collect()))
}

/// Asks workers and master to end; each has to, by itself and in order.
async fn end_cluster(cluster: &mut Cluster, board: &SharedBoard) {
    for (index, worker) in cluster.workers.iter_mut().enumerate() {
        let status = worker.terminate(PATIENCE).await;
        if !status.success() {
            board.found(format!("{} ends with {status}", node_name(index)));
        }
    }
    board.lock().is_master_up = false;
    let status = cluster.master.terminate(PATIENCE).await;
    if !status.success() {
        board.found(format!("the master ends with {status}"));
    }
}

/// What is left when only the judge's AWS runs.
async fn look_for_traces(
    cluster: &Cluster,
    board: &SharedBoard,
    endpoint: &str,
    workers: &std::collections::BTreeSet<u32>,
) {
    let seen = board.lock().traces.clone();
    let left = attempt(TO_VANISH, async || {
        let mut left = seen.processes_left(endpoint);
        left.extend(seen.ports_left());
        left.extend(traces::cgroups_left(workers));
        for index in 0..cluster.workers.len() {
            let work_dir = cluster.path().join(node_name(index));
            left.extend(traces::files_left(&work_dir, KEPT_CONTAINERS));
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    for what in left.await.err().unwrap_or_default() {
        board.found(what);
    }
    let mut logs = BTreeMap::from([("master".to_owned(), cluster.master.log())]);
    for (index, worker) in cluster.workers.iter().enumerate() {
        logs.insert(node_name(index), worker.log());
        let containers = cluster.path().join(node_name(index)).join("containers");
        for entry in std::fs::read_dir(containers).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path().join("stderr.log"));
            logs.insert(entry.file_name().to_string_lossy().into_owned(), log.unwrap_or_default());
        }
    }
    defects_in(&logs).into_iter().for_each(|defect| board.found(defect));
    let named = processes::naming(cluster.path());
    let own = cluster.aws.process().pid();
    for pid in named.into_iter().filter(|pid| *pid != own) {
        board.found(format!("process {pid} names the cluster's directory and lives"));
    }
}
