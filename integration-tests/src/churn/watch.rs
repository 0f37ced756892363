//! The observer: looks at the master and at the process table all the time, and has the census judge.
//!
//! Promises: a master that is down by the player's hand is waited for; one that is up and does not
//! answer is a finding. Owned by the run; ends with [`Observer::stop`] or when dropped.
//! Never does: change anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_proto::v1::client_service_client::ClientServiceClient;
use millrace_proto::v1::{self, ApplicationState, ContainerState, NodeState};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

use super::cast::{Cast, Cost};
use super::census::{Census, Held, Look, Seen};
use super::live;
use super::traces::Traces;
use super::wishes::Wishes;
use crate::eventually::{PATIENCE, attempt};

/// Between two looks at the master.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at the process table.
const SCAN_EVERY: Duration = Duration::from_millis(100);
/// Every how many of them sockets are looked at too.
const SOCKETS_EVERY: u64 = 5;
/// How long a master that is up may leave the observer without an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the observer and the player share.
#[derive(Debug)]
pub(super) struct Board {
    /// What was asked of each application.
    pub wishes: Wishes,
    /// What was seen.
    pub census: Census,
    /// For the end.
    pub traces: Traces,
    /// True while the master is meant to be up.
    pub is_master_up: bool,
    /// The master's last answer about each application.
    pub applications: BTreeMap<String, v1::Application>,
}

/// The board, for one look or one note.
#[derive(Clone, Debug)]
pub(super) struct SharedBoard(Arc<Mutex<Board>>);

impl SharedBoard {
    /// An empty one.
    pub(super) fn new(cast: &Cast) -> Self {
        Self(Arc::new(Mutex::new(Board {
            wishes: Wishes::of(cast.roles.iter().map(|role| role.file.name)),
            census: Census::new(cast.offers(), cast.queues()),
            traces: Traces::default(),
            is_master_up: true,
            applications: BTreeMap::new(),
        })))
    }

    /// Locks it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong.
    pub(super) fn found(&self, what: String) {
        self.lock().census.found(what);
    }
}

/// The two tasks that look; dropping it ends them.
#[derive(Debug)]
pub(super) struct Observer(Vec<JoinHandle<()>>);

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Observer {
    /// Starts to look.
    pub(super) fn start(
        board: &SharedBoard,
        client: ClientServiceClient<Channel>,
        directory: &Path,
    ) -> Self {
        let looks = look_on(board.clone(), client);
        let scans = scan_on(board.clone(), directory.to_owned());
        Self(vec![tokio::spawn(looks), tokio::spawn(scans)])
    }

    /// Ends it; a task that ended by itself was no observer.
    pub(super) fn stop(self, board: &SharedBoard) {
        if self.0.iter().any(JoinHandle::is_finished) {
            board.found("the observer has ended before the play".to_owned());
        }
    }
}

async fn look_on(board: SharedBoard, mut client: ClientServiceClient<Channel>) {
    let began = Instant::now();
    let mut answered = Instant::now();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (before, was_up) = {
            let board = board.lock();
            (board.wishes.clone(), board.is_master_up)
        };
        let outcome = ask(&mut client).await;
        let mut board = board.lock();
        match outcome {
            Ok((mut look, applications)) => {
                answered = Instant::now();
                look.at_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let after = board.wishes.clone();
                board.census.look(&look, &before, &after);
                for (name, seen) in &look.applications {
                    // Only what was asked before the look can have been seen by it.
                    if before.get(name) == after.get(name) {
                        board.wishes.seen(name, seen.state);
                    }
                }
                board.applications = applications;
            }
            Err(_) if !(was_up && board.is_master_up) => answered = Instant::now(),
            Err(why) if answered.elapsed() > ANSWER_WITHIN => {
                board.census.found(format!("the master is up and does not answer: {why}"));
                answered = Instant::now();
            }
            Err(_) => {}
        }
    }
}

type Answers = (Look, BTreeMap<String, v1::Application>);

async fn ask(client: &mut ClientServiceClient<Channel>) -> Result<Answers, tonic::Status> {
    let containers = client.list_containers(v1::ListContainersRequest::default()).await?;
    let nodes = client.list_nodes(v1::ListNodesRequest {}).await?;
    let applications = client.list_applications(v1::ListApplicationsRequest {}).await?;
    let containers = containers.into_inner().containers.into_iter().filter_map(held);
    let nodes = nodes.into_inner().nodes.into_iter().filter(|node| {
        let state = node.state();
        !matches!(state, NodeState::Lost | NodeState::Draining | NodeState::Drained)
    });
    let applications = applications.into_inner().applications;
    let look = Look {
        at_ms: 0,
        counted: nodes.map(|node| node.node_id).collect(),
        containers: containers.collect(),
        applications: applications.iter().map(|one| (one.name.clone(), seen(one))).collect(),
    };
    let by_name = applications.into_iter().map(|one| (one.name.clone(), one));
    Ok((look, by_name.collect()))
}

fn held(container: v1::Container) -> Option<(String, Held)> {
    let status = container.status?;
    let is_live = matches!(status.state(), ContainerState::Granted | ContainerState::Running);
    let granted = status.resources.unwrap_or_default();
    // Rounded up: a byte more than is offered must not vanish.
    let memory_mib = granted.memory_bytes.div_ceil(1 << 20);
    let cost = Cost { cores: granted.cores, memory_mib };
    let (started_ms, ended_ms) = (status.started_ms, status.ended_ms);
    let held = Held { node: container.node_id, cost, is_live, started_ms, ended_ms };
    Some((status.container_id, held))
}

fn seen(application: &v1::Application) -> Seen {
    let attempts = application.attempts.iter();
    let attempts = attempts.map(|one| (one.number, one.epoch, one.ended_ms > 0));
    Seen { state: application.state(), attempts: attempts.collect() }
}

async fn scan_on(board: SharedBoard, directory: PathBuf) {
    let mut ticks = tokio::time::interval(SCAN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        ticks.tick().await;
        let (board, directory) = (board.clone(), directory.clone());
        let scan = move || scan(&board, &directory, number.is_multiple_of(SOCKETS_EVERY));
        if tokio::task::spawn_blocking(scan).await.is_err() {
            // It panicked, and its text is in the log: the end of this task is a finding.
            return;
        }
    }
}

fn scan(board: &SharedBoard, directory: &Path, with_sockets: bool) {
    let before = board.lock().wishes.clone();
    let found = live::containers(directory);
    if with_sockets {
        let mut traces = board.lock().traces.clone();
        traces.saw(found.iter().map(|(identity, one)| (*identity, one.container.clone())));
        board.lock().traces = traces;
    }
    let processes: Vec<_> = found.into_iter().map(|(_, one)| one).collect();
    let mut board = board.lock();
    let after = board.wishes.clone();
    board.census.scan(&processes, &before, &after);
}

/// Asks again while the master does not lead: it may step down and come back when the machine is
/// busy, and refuses what it is asked in between.
///
/// # Errors
/// Any other refusal, or that one for [`PATIENCE`].
pub(super) async fn insist<T>(
    mut call: impl AsyncFnMut() -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, tonic::Status> {
    let answer = attempt(PATIENCE, async || match call().await {
        Err(status) if status.code() == tonic::Code::Unavailable => Err(status),
        decided => Ok(decided),
    });
    answer.await.flatten().map(tonic::Response::into_inner)
}

/// Containers that run, with their processes, as the master tells it.
pub(super) async fn running(
    client: &mut ClientServiceClient<Channel>,
) -> Result<Vec<(String, u32)>, tonic::Status> {
    let all = v1::ListContainersRequest::default();
    let listed = insist(async || client.list_containers(all.clone()).await).await?;
    let running = listed.containers.into_iter().filter_map(|container| {
        let status = container.status?;
        let runs = status.state() == ContainerState::Running && status.pid != 0;
        runs.then_some((status.container_id, status.pid))
    });
    Ok(running.collect())
}

/// What is missing until the application is at work, none when it is.
pub(super) fn is_at_work(application: Option<&v1::Application>) -> Result<(), String> {
    let Some(application) = application else { return Err("the master does not know it".into()) };
    let state = application.state();
    let executors = application.num_executors;
    let why = &application.reason;
    match state {
        ApplicationState::Running if executors > 0 => Ok(()),
        _ => Err(format!("{} with {executors} executors: {why}", state.as_str_name())),
    }
}
