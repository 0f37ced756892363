//! The life of an executor process: set up, act on the driver's commands, end.
//!
//! Promises: whatever ends (session, server, a receiver that can not be kept alive, a signal) ends
//! the process with one reason. Owned by [`super::main`].

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_common::aws::{AwsSettings, Clients};
use millrace_common::resources::ByteSize;
use millrace_common::{Code, Error, rpc, shutdown};
use millrace_proto::v1::{
    self, ExecutorHeartbeat, ExecutorRegister, LaunchContext, executor_command, executor_message,
};
use millrace_sql::scan::block::BlockId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::service::RoutesBuilder;

use super::block_store::{BlockStore, Budgets};
use super::compute::ComputePool;
use super::receiver::host::ReceiverHost;
use super::receiver::kinesis::SdkKinesis;
use super::receiver::pace::Paces;
use super::receiver::reread::reread;
use super::receiver::shared::{BlockNames, Outbox, Shared, Tempo, source_rules};
use super::session::core::GRACE;
use super::session::{Session, SessionEvent};
use super::sink::S3Store;
use super::task::{TaskOptions, Tasks};

/// Messages to the driver that may wait: a second's worth of a busy executor. What does not fit is
/// said again later.
const OUTBOX_MAX: usize = 256;
/// Commands that may wait for this loop; the session stops reading when there are more.
const EVENTS_MAX: usize = 256;
/// Blocks that are read again at once: each holds room that receivers wait for.
const REREADS_MAX: usize = 4;
/// Share of the container's memory that queries may hold; blocks have 30 %, the rest is for answers
/// in flight, parts of uploads and the process itself.
const QUERY_MEMORY_PERCENT: u64 = 40;
/// How often receivers are looked after.
const TEND_EVERY: Duration = Duration::from_millis(200);

/// Runs until the driver ends the executor.
pub(super) async fn run(launch: LaunchContext) -> Result<(), Error> {
    let clients = clients(&launch).await?;
    let sources = source_rules(launch.spec.as_ref().unwrap_or(&v1::ApplicationSpec::default()));
    let store = open_store(&launch, sources.values().any(|rules| rules.may_spill))?;
    let cores = usize::try_from(launch.resources.unwrap_or_default().cores).unwrap_or(1);
    let pool = Arc::new(
        ComputePool::start(cores)
            .map_err(|error| Error::internal("no compute threads").caused_by(error))?,
    );
    let tasks = tasks(&launch, &clients, &pool, &store)?;
    let (mut server, address) = serve(&launch.host, &tasks).await?;
    let signal = shutdown::on_signal()
        .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;

    let (outbox, outbox_inbox) = mpsc::channel(OUTBOX_MAX);
    let (events_out, mut events) = mpsc::channel(EVENTS_MAX);
    let tempo = tempo();
    let shared = Arc::new(Shared {
        kinesis: Arc::new(SdkKinesis::new(clients.kinesis)),
        store: store.clone(),
        outbox: Outbox::new(outbox),
        names: BlockNames::new(launch.container_id.as_str()),
        paces: Paces::new(tempo.call_interval),
        limits: tempo.limits,
        sources,
        io: Handle::current(),
        books: Mutex::default(),
    });
    let session = Session {
        driver: launch.driver_address.clone(),
        grace: GRACE,
        register: register(&launch, &address, Arc::clone(&shared)),
        heartbeat: heartbeat(store, pool),
        outbox: outbox_inbox,
        events: events_out,
    };
    // Its end is heard through the events.
    session
        .start()
        .map_err(|error| Error::internal("no session thread can be started").caused_by(error))?;
    tracing::info!(container = %launch.container_id, %address, cores, "executor started");

    let mut executor = Executor::new(shared, tasks);
    let mut tend = tokio::time::interval(TEND_EVERY);
    let end = loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(SessionEvent::Registered) => executor.host.reconnected(),
                Some(SessionEvent::Command(executor_command::Body::Stop(stop))) => {
                    tracing::info!(reason = %stop.reason, "the driver ends this executor");
                    break Ok(());
                }
                Some(SessionEvent::Command(command)) => executor.perform(command),
                Some(SessionEvent::Ended(error)) => break Err(error),
                None => break Err(Error::internal("the session's thread died")),
            },
            _ = tend.tick() => if let Err(error) = executor.host.tend() {
                break Err(error);
            },
            Some(done) = executor.rereads.join_next() => executor.reread_ended(done),
            ended = &mut server => break Err(server_error(ended)),
            () = signal.cancelled() => {
                tracing::info!("told to end by a signal");
                break Ok(());
            }
        }
    };
    executor.host.stop();
    executor.tasks.cancel_all();
    server.abort();
    end
}

async fn clients(launch: &LaunchContext) -> Result<Clients, Error> {
    let aws = launch.spec.as_ref().and_then(|spec| spec.aws.clone()).unwrap_or_default();
    Clients::load(&AwsSettings {
        region: Some(aws.region).filter(|text| !text.is_empty()),
        endpoint: Some(aws.endpoint).filter(|text| !text.is_empty()),
    })
    .await
}

fn open_store(launch: &LaunchContext, spills: bool) -> Result<BlockStore, Error> {
    let memory = ByteSize::bytes(launch.resources.unwrap_or_default().memory_bytes);
    let budgets = Budgets::of_container(memory, spills);
    BlockStore::open(Path::new(&launch.work_dir).join("blocks"), budgets)
}

/// The engine's part. Queries may hold [`QUERY_MEMORY_PERCENT`] of the container's memory and spill
/// what is above.
fn tasks(
    launch: &LaunchContext,
    clients: &Clients,
    pool: &Arc<ComputePool>,
    store: &BlockStore,
) -> Result<Tasks, Error> {
    let spill_dir = Path::new(&launch.work_dir).join("queries");
    std::fs::create_dir_all(&spill_dir).map_err(|error| {
        Error::new(
            Code::DirectoryUnusable,
            format!("{} can not be made", spill_dir.display()),
            "make the work directory writable, or choose another --work-dir",
        )
        .caused_by(error)
    })?;
    let memory = launch.resources.unwrap_or_default().memory_bytes / 100 * QUERY_MEMORY_PERCENT;
    Tasks::new(TaskOptions {
        io: Handle::current(),
        pool: Arc::clone(pool),
        arbiter: actix::System::current().arbiter().clone(),
        blocks: Arc::new(store.clone()),
        store: Arc::new(S3Store::new(clients.clone())),
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        spill_dir,
    })
    .map_err(|error| Error::internal("the engine can not be set up").caused_by(error))
}

type Server = JoinHandle<Result<(), tonic::transport::Error>>;

/// The executor's own server: what the driver and other executors ask of its tasks.
async fn serve(host: &str, tasks: &Tasks) -> Result<(Server, String), Error> {
    let (incoming, address) = rpc::bind(&format!("{host}:0")).await?;
    let mut routes = RoutesBuilder::default();
    tasks.add_services(&mut routes);
    let server = rpc::server().add_routes(routes.routes()).serve_with_incoming(incoming);
    // The host's name as the node gave it: others may not reach what it resolves to here.
    Ok((tokio::spawn(server), format!("{host}:{}", address.port())))
}

/// The parts that commands act on.
struct Executor {
    host: ReceiverHost,
    shared: Arc<Shared>,
    tasks: Tasks,
    rereads: JoinSet<()>,
    /// Re-reads that wait for one of [`REREADS_MAX`] to end; at most one per block of a batch.
    waiting: Vec<v1::RereadBlock>,
}

impl Executor {
    fn new(shared: Arc<Shared>, tasks: Tasks) -> Self {
        Self {
            host: ReceiverHost::new(Arc::clone(&shared)),
            shared,
            tasks,
            rereads: JoinSet::new(),
            waiting: Vec::new(),
        }
    }

    fn perform(&mut self, command: executor_command::Body) {
        use executor_command::Body;
        let outcome = match command {
            Body::Assign(assign) => self.host.assign(assign.assignments),
            Body::Revoke(revoke) => self.host.revoke(revoke.shards),
            Body::Acknowledged(answer) => {
                self.host.acknowledged(answer);
                Ok(())
            }
            Body::Cut(cut) => {
                self.host.cut(cut.cut_id);
                Ok(())
            }
            Body::Release(release) => {
                let ids: Vec<BlockId> = release.block_ids.into_iter().map(BlockId::new).collect();
                self.shared.store.release(&ids);
                Ok(())
            }
            Body::Reread(block) => {
                self.waiting.push(block);
                self.start_rereads();
                Ok(())
            }
            Body::Cancel(cancel) => {
                let num_tasks = self.tasks.cancel(&cancel.run_id);
                tracing::info!(run = %cancel.run_id, num_tasks, "a run is cancelled");
                Ok(())
            }
            // The session keeps these two for itself.
            Body::Registered(_) | Body::Stop(_) => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "a command of the driver makes no sense");
        }
    }

    fn start_rereads(&mut self) {
        while self.rereads.len() < REREADS_MAX {
            let Some(command) = self.waiting.pop() else { return };
            let shared = Arc::clone(&self.shared);
            let block_id =
                command.block.as_ref().map(|block| block.block_id.clone()).unwrap_or_default();
            self.rereads.spawn_on(
                async move {
                    let failure = reread(&shared, command).await.err();
                    if let Some(error) = &failure {
                        tracing::error!(block = %block_id, %error, "a block can not be read again");
                    }
                    let failure = failure.map(|error| error.to_failure());
                    let done = v1::RereadDone { block_id, failure };
                    shared.outbox.send_surely(executor_message::Body::Reread(done)).await;
                },
                &self.shared.io.clone(),
            );
        }
    }

    fn reread_ended(&mut self, done: Result<(), JoinError>) {
        if let Err(error) = done {
            // The driver asks again when no answer comes.
            tracing::error!(%error, "reading a block again failed");
        }
        self.start_rereads();
    }
}

/// `MILLRACE_KINESIS_LIMITS=off` is for emulators that have none; a real stream would throttle.
fn tempo() -> Tempo {
    match std::env::var("MILLRACE_KINESIS_LIMITS").as_deref() {
        Ok("off") => Tempo::UNLIMITED,
        _ => Tempo::KINESIS,
    }
}

fn register(
    launch: &LaunchContext,
    address: &str,
    shared: Arc<Shared>,
) -> Arc<dyn Fn() -> ExecutorRegister + Send + Sync> {
    let budgets = shared.store.budgets();
    let message = ExecutorRegister {
        application: launch.application.clone(),
        attempt: launch.attempt,
        epoch: launch.epoch,
        container_id: launch.container_id.clone(),
        node_id: launch.node_id.clone(),
        address: address.to_owned(),
        cores: launch.resources.unwrap_or_default().cores,
        block_budget_bytes: budgets.memory,
        disk_budget_bytes: budgets.disk,
        pid: std::process::id(),
        held_blocks: Vec::new(),
    };
    // Said at each registration: after a broken session the driver compares.
    Arc::new(move || ExecutorRegister { held_blocks: shared.known_blocks(), ..message.clone() })
}

fn heartbeat(
    store: BlockStore,
    pool: Arc<ComputePool>,
) -> Arc<dyn Fn(u64) -> ExecutorHeartbeat + Send + Sync> {
    let busy = BusyCores::new(pool);
    Arc::new(move |sequence| ExecutorHeartbeat {
        sequence,
        cores_busy: busy.since_last(),
        block_bytes: store.block_bytes(),
        disk_bytes: store.usage().disk_bytes,
        rss_bytes: resident_bytes().unwrap_or(0),
        over_budget: store.is_over_budget(),
    })
}

/// How many compute threads were at work since the last question.
struct BusyCores {
    pool: Arc<ComputePool>,
    begun: Instant,
    asked_ns: AtomicU64,
    busy_ns: AtomicU64,
}

impl BusyCores {
    fn new(pool: Arc<ComputePool>) -> Self {
        Self {
            pool,
            begun: Instant::now(),
            asked_ns: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
        }
    }

    fn since_last(&self) -> u32 {
        let metrics = self.pool.handle().metrics();
        let busy: Duration =
            (0..self.pool.threads()).map(|thread| metrics.worker_total_busy_duration(thread)).sum();
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (busy, now) = (nanos(busy), nanos(self.begun.elapsed()));
        let worked = busy.saturating_sub(self.busy_ns.swap(busy, Ordering::Relaxed));
        let passed = now.saturating_sub(self.asked_ns.swap(now, Ordering::Relaxed)).max(1);
        // Half a core's work and more counts as a core.
        u32::try_from((worked + passed / 2) / passed).unwrap_or(u32::MAX)
    }
}

/// Resident memory of this process; none where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn server_error(ended: Result<Result<(), tonic::transport::Error>, JoinError>) -> Error {
    let error = Error::new(
        Code::Internal,
        "the executor's server ended",
        "report this with the log of the executor",
    );
    match ended {
        Ok(Ok(())) => error,
        Ok(Err(cause)) => error.caused_by(cause),
        Err(cause) => error.caused_by(cause),
    }
}
