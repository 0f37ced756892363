//! The node's shell: one loop that owns the core, the stream to the master and the processes.
//!
//! Each process has a task of its own that tells the loop how it ended. The loop ends only when it
//! is told to, and then not before every process has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use millrace_common::access::{self, Token};
use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};
use millrace_common::id::ContainerId;
use millrace_common::masters::Masters;
use millrace_common::random;
use millrace_common::resources::Resources;
use millrace_common::retry::Backoff;
use millrace_common::secrets;
use millrace_proto::v1::{
    ContainerExit, ContainerStatus, LaunchContext, LogChunk, NodeCommand, NodeHeartbeat,
    NodeMessage, NodeRegister, ReadLogChunk, node_command, node_message,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::cgroup::Cgroups;
use super::core::{Core, Effect};
use super::disk::Disk;
use super::disk::core::Terms as DiskTerms;
use super::session::Session;
use super::work_dir::WorkDir;
use super::{address, launcher, logs, orphans, resources, storage};
use crate::config::WorkerConfig;

/// Ends and pieces of logs that may wait for the loop; their tasks wait when it is full.
const EVENTS_CAPACITY: usize = 256;
/// Heartbeats before the master has said how often it wants them.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);
/// Between tries to reach the master: short, for the node has nothing else to do.
const RECONNECT: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };
/// How long the master may take to end its side of the stream when the node leaves.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// Looks at the disk are at least so far apart.
const DISK_CHECK_MIN: Duration = Duration::from_millis(100);
/// How long the loop waits beyond the grace time for processes that were killed.
const KILLED_DEADLINE: Duration = Duration::from_secs(5);

enum Event {
    Ended(ContainerId, ContainerExit),
    Log(LogChunk),
}

/// Runs the node until `shutdown`; `program` is what containers are started from.
///
/// # Errors
/// [`Code::DirectoryUnusable`], [`Code::ConfigurationValue`], or [`Code::NodeRefused`] and what
/// there is to say of its token when the master does not let this node in.
pub async fn run(
    mut config: WorkerConfig,
    program: PathBuf,
    clock: SharedClock,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let offered = resources::offer(&config)?;
    let work_dir = Arc::new(WorkDir::open(&config.work_dir)?);
    let core = take_up(&config, offered, &work_dir).await;
    let mut disk = watch_disk(&config, &work_dir, &clock)?;
    disk.first().await;
    let mut masters = Masters::parse(&config.master)?;
    if config.host == address::AUTO {
        tokio::select! {
            host = find_host(&mut masters) => config.host = host,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    let token = config.token_file.as_deref().map(access::read_token).transpose()?;
    let node_id = config.node_id.clone().unwrap_or_else(host_name);
    let host = config.host.as_str();
    tracing::info!(node = node_id, host, %offered, master = config.master, "node starts");
    let (tell, events) = mpsc::channel(EVENTS_CAPACITY);
    let terms = launcher::Terms {
        log_max: config.log_max,
        container_disk: config.container_disk,
        cgroups: Cgroups::find(),
    };
    let node = Node {
        node_id,
        instance_id: random::uuid().to_string(),
        config,
        program,
        clock,
        core,
        work_dir,
        disk,
        terms,
        tell,
        kill_switches: BTreeMap::new(),
        masters,
        token,
        was_let_in: false,
        session: None,
        unsent: BTreeSet::new(),
        num_heartbeats: 0,
        heartbeat_interval: HEARTBEAT_DEFAULT,
    };
    node.run(events, shutdown).await
}

/// What workers before this one left: their containers end before this node offers their room, and
/// keep their logs.
async fn take_up(config: &WorkerConfig, offered: Resources, work_dir: &WorkDir) -> Core {
    orphans::end(work_dir.root()).await;
    let mut core = Core::new(offered, config.kept_containers.try_into().unwrap_or(usize::MAX));
    let ended = work_dir.ended();
    let ids = ended.iter().map(|status| ContainerId::new(status.container_id.clone()));
    storage::clear(ids.map(|id| work_dir.container(&id)).collect()).await;
    ended.into_iter().for_each(|status| core.keep(status));
    core
}

fn watch_disk(
    config: &WorkerConfig,
    work_dir: &WorkDir,
    clock: &SharedClock,
) -> Result<Disk, Error> {
    let directory = work_dir.root().to_owned();
    let terms = DiskTerms {
        directory: directory.display().to_string(),
        min_free: config.min_free_disk,
        recover_after: config.disk_recover_after,
    };
    // Nothing can be looked at without a pause.
    let period = config.disk_check_interval.max(DISK_CHECK_MIN);
    Disk::watch(directory, terms, period, Arc::clone(clock))
}

/// The address of this host as its masters see it; tries until there is one, as before names are
/// known or the network is up.
async fn find_host(masters: &mut Masters) -> String {
    loop {
        match address::toward(masters.current()).await {
            Ok(host) => return host,
            Err(error) => {
                let delay = masters.failed(None, RECONNECT, random::unit());
                tracing::warn!(%error, ?delay, "no way to the master");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|| "node".to_owned())
}

struct Node {
    node_id: String,
    instance_id: String,
    config: WorkerConfig,
    program: PathBuf,
    clock: SharedClock,
    core: Core,
    work_dir: Arc<WorkDir>,
    disk: Disk,
    terms: launcher::Terms,
    tell: mpsc::Sender<Event>,
    kill_switches: BTreeMap<ContainerId, watch::Sender<Option<Duration>>>,
    masters: Masters,
    token: Option<Token>,
    was_let_in: bool,
    session: Option<Session>,
    /// Containers whose news the master has not been sent.
    unsent: BTreeSet<ContainerId>,
    num_heartbeats: u64,
    heartbeat_interval: Duration,
}

impl Node {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let effects = self.core.prune();
        self.perform(effects);
        self.disk_changed();
        let mut connecting = Some(self.connect(Duration::ZERO));
        let mut heartbeat = interval(self.heartbeat_interval);
        loop {
            let beat = self.heartbeat_interval;
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = events.recv() => self.event(event),
                Some(outcome) = OptionFuture::from(connecting.as_mut()) => {
                    connecting = None;
                    match outcome {
                        Ok(session) => self.connected(session),
                        Err(error) if self.is_final(error.code()) => {
                            self.end(&mut events).await;
                            return Err(error);
                        }
                        Err(error) => {
                            let random = random::unit();
                            let delay = self.masters.failed(error.leader(), RECONNECT, random);
                            tracing::warn!(%error, ?delay, "no stream to the master");
                            connecting = Some(self.connect(delay));
                        }
                    }
                }
                command = receive(&mut self.session), if self.session.is_some() => {
                    match command {
                        Some(command) => self.command(command),
                        None => self.session = None,
                    }
                }
                () = self.disk.changed() => {
                    self.disk_changed();
                    // The master hears of it now, and not a heartbeat later.
                    if self.session.is_some() {
                        self.beat();
                    }
                }
                _ = heartbeat.tick(), if self.session.is_some() => self.beat(),
            }
            if self.session.is_none() && connecting.is_none() {
                // The same master first: it may be back at once.
                connecting = Some(self.connect(RECONNECT.random_delay(1)));
            }
            if self.heartbeat_interval != beat {
                heartbeat = interval(self.heartbeat_interval);
            }
        }
        drop(connecting);
        self.end(&mut events).await;
        Ok(())
    }

    /// Opens a stream after a delay, with a registration that tells all there is then.
    fn connect(&mut self, delay: Duration) -> BoxFuture<'static, Result<Session, Error>> {
        let register = NodeRegister {
            node_id: self.node_id.clone(),
            instance_id: self.instance_id.clone(),
            host: self.config.host.clone(),
            offered: Some(self.core.offered().to_proto()),
            containers: self.core.statuses(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            unhealthy: self.disk.trouble().unwrap_or_default().to_owned(),
            recovering: self.disk.is_recovering(),
            labels: self.config.label.to_map(),
        };
        self.unsent.clear();
        let first = self.message(node_message::Body::Register(register));
        let (master, token) = (self.masters.current().to_owned(), self.token.clone());
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            Session::open(master, token, first).await
        })
    }

    /// True when the master will not let this node in later either. One that it has let in before
    /// goes on trying with its token: its containers live, and the secret may be on its way.
    fn is_final(&self, code: Code) -> bool {
        match code {
            Code::NodeRefused => true,
            Code::UnknownToken | Code::TokenExpired | Code::NotAllowed => !self.was_let_in,
            _ => false,
        }
    }

    fn connected(&mut self, session: Session) {
        self.was_let_in = true;
        tracing::info!(node = self.node_id, master = self.masters.current(), "registered");
        self.masters.succeeded();
        self.session = Some(session);
        for id in std::mem::take(&mut self.unsent) {
            if let Some(status) = self.core.status(&id) {
                let status = status.clone();
                self.report(status);
            }
        }
    }

    fn message(&self, body: node_message::Body) -> NodeMessage {
        NodeMessage { term: self.core.term(), body: Some(body) }
    }

    /// False when there is no stream, or none that takes messages any more.
    fn send(&mut self, body: node_message::Body) -> bool {
        let message = self.message(body);
        let is_sent = self.session.as_ref().is_some_and(|session| session.send(message));
        if !is_sent {
            self.session = None;
        }
        is_sent
    }

    fn report(&mut self, status: ContainerStatus) {
        let id = ContainerId::new(status.container_id.clone());
        if !self.send(node_message::Body::Container(status)) {
            self.unsent.insert(id);
        }
    }

    fn beat(&mut self) {
        self.num_heartbeats += 1;
        let memory_used_bytes = self.core.pids().map(resources::resident_bytes).sum();
        let sequence = self.num_heartbeats;
        let unhealthy = self.disk.trouble().unwrap_or_default().to_owned();
        let recovering = self.disk.is_recovering();
        let heartbeat = NodeHeartbeat { sequence, memory_used_bytes, unhealthy, recovering };
        self.send(node_message::Body::Heartbeat(heartbeat));
    }

    /// The disk is, or is no longer, fit for work.
    fn disk_changed(&mut self) {
        let trouble = self.disk.trouble().map(str::to_owned);
        match (&trouble, self.core.trouble()) {
            (Some(trouble), None) => tracing::warn!(trouble, "this node is unhealthy"),
            (None, Some(_)) => tracing::info!("this node is well again"),
            _ => {}
        }
        self.core.set_trouble(trouble);
    }

    fn command(&mut self, command: NodeCommand) {
        let Some(body) = command.body else { return };
        if let node_command::Body::Registered(registered) = &body {
            let wanted = Duration::from_millis(registered.heartbeat_interval_ms);
            if !wanted.is_zero() {
                self.heartbeat_interval = wanted;
            }
        }
        let effects = self.core.command(command.term, body);
        self.perform(effects);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ended(id, exit) => {
                tracing::info!(container = %id, reason = exit.reason, "container ended");
                self.kill_switches.remove(&id);
                let effects = self.core.ended(&id, exit, self.clock.now_ms());
                if let Some(status) = self.core.status(&id)
                    && let Err(error) = self.work_dir.write_status(status)
                {
                    tracing::warn!(container = %id, %error, "its end can not be written down");
                }
                self.perform(effects);
            }
            Event::Log(chunk) => {
                self.send(node_message::Body::LogChunk(chunk));
            }
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(context) => self.start(*context),
                Effect::Kill(id, grace_ms) => {
                    if let Some(switch) = self.kill_switches.get(&id) {
                        switch.send_replace(Some(Duration::from_millis(grace_ms)));
                    }
                }
                Effect::Report(status) => self.report(status),
                Effect::Refuse(refusal) => {
                    tracing::warn!(container = refusal.container_id, refusal.reason, "refused");
                    self.send(node_message::Body::Refused(refusal));
                }
                Effect::ReadLog(request) => self.read_log(request),
                Effect::Remove(id) => self.work_dir.remove(&id),
                Effect::Leave(term) => {
                    let seen = self.core.term();
                    tracing::warn!(term, seen, "a command of an older term is refused");
                    self.session = None;
                }
            }
        }
    }

    fn start(&mut self, mut context: LaunchContext) {
        let id = ContainerId::new(context.container_id.clone());
        let directory = self.work_dir.container(&id);
        context.node_id.clone_from(&self.node_id);
        context.host.clone_from(&self.config.host);
        context.master_address = self.masters.list_after(&context.master_address);
        context.work_dir = directory.display().to_string();
        context.secret_dir = self.config.secret_dir.display().to_string();
        let allowed = self.config.secret_env.as_deref().unwrap_or_default();
        let lent = secrets::lend(allowed, &context, |name| std::env::var(name).ok());
        let now_ms = self.clock.now_ms();
        let started = launcher::start(&self.program, &directory, &context, &self.terms, &lent);
        let effects = match started {
            Ok(process) => {
                tracing::info!(container = %id, pid = process.pid, "container started");
                let (switch, kill) = watch::channel(None);
                self.kill_switches.insert(id.clone(), switch);
                let effects = self.core.started(&id, process.pid, context.work_dir, now_ms);
                let tell = self.tell.clone();
                tokio::spawn(async move {
                    let exit = process.run(kill).await;
                    if tell.send(Event::Ended(id, exit)).await.is_err() {
                        tracing::debug!("a container ended after its node");
                    }
                });
                effects
            }
            Err(error) => {
                let reason = format!("could not be started: {error}");
                tracing::error!(container = %id, reason);
                let exit = ContainerExit { reason, ..Default::default() };
                self.core.ended(&id, exit, now_ms)
            }
        };
        self.perform(effects);
    }

    fn read_log(&self, request: ReadLogChunk) {
        let is_live = self
            .core
            .status(&ContainerId::new(request.container_id.clone()))
            .is_some_and(|status| status.exit.is_none());
        let (work_dir, tell) = (Arc::clone(&self.work_dir), self.tell.clone());
        tokio::task::spawn_blocking(move || {
            let chunk = logs::read(&work_dir, &request, is_live);
            if tell.blocking_send(Event::Log(chunk)).is_err() {
                tracing::debug!("a log was read after the node had ended");
            }
        });
    }

    /// Ends every container and waits for it; then leaves the cluster in order.
    async fn end(mut self, events: &mut mpsc::Receiver<Event>) {
        let grace = self.config.shutdown_grace;
        let effects = self.core.end_all(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        self.perform(effects);
        let all_ended = async {
            while !self.kill_switches.is_empty() {
                match events.recv().await {
                    Some(event) => self.event(event),
                    None => break,
                }
            }
        };
        if tokio::time::timeout(grace + KILLED_DEADLINE, all_ended).await.is_err() {
            tracing::error!("containers are left that could not be killed");
        }
        if let Some(session) = self.session.take() {
            session.close(CLOSE_DEADLINE).await;
        }
    }
}

async fn receive(session: &mut Option<Session>) -> Option<NodeCommand> {
    match session {
        Some(session) => session.receive().await,
        None => None,
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
