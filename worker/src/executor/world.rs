//! Everything outside the process that an executor touches, behind traits, so that a whole executor
//! can run in a simulation.
//!
//! Promises: the real ones are made in one place. Never does: decide.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use actix::ArbiterHandle;
use millrace_common::application::ApplicationSpec;
use millrace_common::aws::{Clients, StreamClients};
use millrace_common::budget::QUERIES_PERCENT;
use millrace_common::resources::ByteSize;
use millrace_common::{Code, Error};
use millrace_proto::v1::{self, LaunchContext};
use tokio::runtime::Handle;
use tonic::service::RoutesBuilder;

use super::block_store::{BlockStore, Budgets};
use super::busy::BusyMeter;
use super::compute::ComputePool;
use super::receiver::kinesis::{Kinesis, SdkKinesis};
use super::receiver::shared::{Tempo, source_rules};
use super::session::Session;
use super::sink::S3Store;
use super::task::{TaskOptions, Tasks};

/// What computes.
pub trait Engine: Send + Sync + 'static {
    /// Adds what the driver and other executors call.
    fn add_services(&self, routes: &mut RoutesBuilder);

    /// Ends the tasks of a run; how many there were.
    fn cancel(&self, run: &str) -> usize;

    /// Ends all tasks.
    fn cancel_all(&self);

    /// Compute threads at work since the last question, on average, in thousandths.
    fn busy_millicores(&self) -> u32;
}

/// What the executor touches.
#[derive(Clone)]
pub struct World {
    /// Kinesis.
    pub kinesis: Arc<dyn Kinesis>,
    /// How fast it may be read.
    pub tempo: Tempo,
    /// Memory and disk for blocks.
    pub store: BlockStore,
    /// DataFusion and S3.
    pub engine: Arc<dyn Engine>,
    /// Starts the session with the driver; its end is heard through its events.
    pub start_session: fn(Session) -> std::io::Result<()>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("tempo", &self.tempo).finish_non_exhaustive()
    }
}

impl World {
    /// The real world of a container; its task actors live on `arbiter`.
    ///
    /// # Errors
    /// When no AWS region is set, the work directory can not be used, or no thread can be started.
    pub async fn real(launch: &LaunchContext, arbiter: ArbiterHandle) -> Result<Self, Error> {
        let (clients, streams) = clients(launch).await?;
        let store = open_store(launch)?;
        let cores = usize::try_from(launch.resources.unwrap_or_default().cores).unwrap_or(1);
        let pool = Arc::new(
            ComputePool::start(cores)
                .map_err(|error| Error::internal("no compute threads").caused_by(error))?,
        );
        let tasks = tasks(launch, &clients, &pool, &store, arbiter)?;
        Ok(Self {
            kinesis: Arc::new(SdkKinesis::new(streams)),
            tempo: tempo(),
            store,
            engine: Arc::new(RealEngine { tasks, busy: BusyMeter::new(pool) }),
            start_session: |session| session.start().map(drop),
        })
    }
}

async fn clients(launch: &LaunchContext) -> Result<(Clients, StreamClients), Error> {
    let message = launch.spec.as_ref().ok_or_else(|| Error::internal("no application to run"))?;
    let spec = ApplicationSpec::from_proto(message)?;
    let clients = Clients::load(&spec.aws).await?;
    let streams = StreamClients::load(&spec, &clients).await?;
    Ok((clients, streams))
}

fn open_store(launch: &LaunchContext) -> Result<BlockStore, Error> {
    let sources = source_rules(launch.spec.as_ref().unwrap_or(&v1::ApplicationSpec::default()));
    let spills = sources.values().any(|rules| rules.may_spill);
    let memory = ByteSize::bytes(launch.resources.unwrap_or_default().memory_bytes);
    let budgets = Budgets::of_container(memory, spills);
    BlockStore::open(Path::new(&launch.work_dir).join("blocks"), budgets)
}

/// The engine's part. Queries may hold [`QUERIES_PERCENT`] of the container's memory and spill
/// what is above.
fn tasks(
    launch: &LaunchContext,
    clients: &Clients,
    pool: &Arc<ComputePool>,
    store: &BlockStore,
    arbiter: ArbiterHandle,
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
    let memory = launch.resources.unwrap_or_default().memory_bytes / 100 * QUERIES_PERCENT;
    Tasks::new(TaskOptions {
        io: Handle::current(),
        pool: Arc::clone(pool),
        arbiter,
        blocks: Arc::new(store.clone()),
        store: Arc::new(S3Store::new(clients.clone())),
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        spill_dir,
        token: crate::launch::token(launch),
    })
    .map_err(|error| Error::internal("the engine can not be set up").caused_by(error))
}

/// `MILLRACE_KINESIS_LIMITS=off` is for emulators that have none; a real stream would throttle.
fn tempo() -> Tempo {
    match std::env::var("MILLRACE_KINESIS_LIMITS").as_deref() {
        Ok("off") => Tempo::UNLIMITED,
        _ => Tempo::KINESIS,
    }
}

struct RealEngine {
    tasks: Tasks,
    busy: BusyMeter,
}

impl Engine for RealEngine {
    fn add_services(&self, routes: &mut RoutesBuilder) {
        self.tasks.add_services(routes);
    }

    fn cancel(&self, run: &str) -> usize {
        self.tasks.cancel(run)
    }

    fn cancel_all(&self) {
        self.tasks.cancel_all();
    }

    fn busy_millicores(&self) -> u32 {
        self.busy.millicores()
    }
}
