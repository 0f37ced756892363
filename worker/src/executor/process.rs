//! The life of an executor: set up, act on the driver's commands, end.
//!
//! Promises: whatever ends (session, server, a receiver that can not be kept alive, a signal) ends
//! the executor with one reason. Owned by [`super::main`].

use std::sync::Arc;
use std::time::Duration;

use millrace_common::access::Token;
use millrace_common::rpc::{self, Guard};
use millrace_common::{Code, Error, shutdown};
use millrace_proto::v1::block_service_server::BlockServiceServer;
use millrace_proto::v1::{
    self, ExecutorHeartbeat, ExecutorRegister, LaunchContext, executor_command, executor_message,
};
use millrace_sql::scan::block::BlockId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use super::block_store::BlockStore;
use super::copies::{BlockServer, Copies};
use super::receiver::host::ReceiverHost;
use super::receiver::pace::Paces;
use super::receiver::reread::reread;
use super::receiver::shared::{BlockNames, Outbox, Shared, source_rules};
use super::session::core::GRACE;
use super::session::{Session, SessionEvent};
use super::world::{Engine, World};

/// Messages to the driver that may wait: a second's worth of a busy executor. What does not fit is
/// said again later.
const OUTBOX_MAX: usize = 256;
/// Commands that may wait for this loop; the session stops reading when there are more.
const EVENTS_MAX: usize = 256;
/// Blocks that are read again at once: each holds room that receivers wait for.
const REREADS_MAX: usize = 4;
/// How often receivers are looked after.
const TEND_EVERY: Duration = Duration::from_millis(200);

/// Runs until the driver ends the executor, or a signal does.
pub(super) async fn run(launch: LaunchContext) -> Result<(), Error> {
    let world = World::real(&launch, actix::System::current().arbiter().clone()).await?;
    let signal = shutdown::on_signal()
        .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;
    live(launch, world, signal).await
}

/// The executor of this container in `world`, until its driver or `kill` ends it. To be called where
/// actors can be started.
///
/// # Errors
/// Whatever ended it, unless its driver or `kill` did.
pub async fn live(
    launch: LaunchContext,
    world: World,
    kill: CancellationToken,
) -> Result<(), Error> {
    let token = crate::launch::token(&launch);
    let (mut server, address) =
        serve(&launch.host, world.engine.as_ref(), &world.store, token.clone()).await?;
    let (outbox, outbox_inbox) = mpsc::channel(OUTBOX_MAX);
    let (events_out, mut events) = mpsc::channel(EVENTS_MAX);
    let shared = Arc::new(Shared {
        kinesis: world.kinesis,
        store: world.store.clone(),
        outbox: Outbox::new(outbox),
        names: BlockNames::new(launch.container_id.as_str()),
        paces: Paces::new(world.tempo.call_interval),
        limits: world.tempo.limits,
        sources: source_rules(launch.spec.as_ref().unwrap_or(&v1::ApplicationSpec::default())),
        io: Handle::current(),
    });
    let session = Session {
        driver: launch.driver_address.clone(),
        token: token.clone(),
        grace: GRACE,
        register: register(&launch, &address, Arc::clone(&shared)),
        heartbeat: heartbeat(world.store, Arc::clone(&world.engine)),
        outbox: outbox_inbox,
        events: events_out,
    };
    // Its end is heard through the events.
    (world.start_session)(session)
        .map_err(|error| Error::internal("the session can not be started").caused_by(error))?;
    tracing::info!(container = %launch.container_id, %address, "executor started");

    let mut executor = Executor::new(shared, world.engine, token);
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
            Some(done) = executor.copies.join_next() => executor.copies.ended(done),
            ended = &mut server => break Err(server_error(ended)),
            () = kill.cancelled() => {
                tracing::info!("told to end");
                break Ok(());
            }
        }
    };
    executor.host.stop();
    executor.engine.cancel_all();
    server.abort();
    end
}

type Server = JoinHandle<Result<(), tonic::transport::Error>>;

/// The executor's own server: what the driver and other executors ask of its tasks and blocks.
async fn serve(
    host: &str,
    engine: &dyn Engine,
    store: &BlockStore,
    token: Option<Token>,
) -> Result<(Server, String), Error> {
    let (incoming, address) = rpc::bind(&format!("{host}:0")).await?;
    let mut routes = RoutesBuilder::default();
    engine.add_services(&mut routes);
    routes.add_service(BlockServiceServer::new(BlockServer::new(store.clone())));
    let server = rpc::server()
        .layer(Guard::new(token))
        .add_routes(routes.routes())
        .serve_with_incoming(incoming);
    // The host's name as the node gave it: others may not reach what it resolves to here.
    Ok((tokio::spawn(server), format!("{host}:{}", address.port())))
}

/// The parts that commands act on.
struct Executor {
    host: ReceiverHost,
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    copies: Copies,
    rereads: JoinSet<()>,
    /// Re-reads that wait for one of [`REREADS_MAX`] to end; at most one per block of a batch.
    waiting: Vec<v1::RereadBlock>,
}

impl Executor {
    fn new(shared: Arc<Shared>, engine: Arc<dyn Engine>, token: Option<Token>) -> Self {
        Self {
            host: ReceiverHost::new(Arc::clone(&shared)),
            copies: Copies::new(Arc::clone(&shared), token),
            shared,
            engine,
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
                self.copies.forget(&ids);
                self.shared.store.release(&ids);
                Ok(())
            }
            Body::Copy(copy) => {
                self.copies.add(copy.copies);
                Ok(())
            }
            Body::Reread(block) => {
                self.waiting.push(block);
                self.start_rereads();
                Ok(())
            }
            Body::Cancel(cancel) => {
                let num_tasks = self.engine.cancel(&cancel.run_id);
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
                    match &failure {
                        Some(error) => {
                            tracing::error!(block = %block_id, %error, "a block can not be read again");
                        }
                        None => tracing::info!(block = %block_id, "a lost block was read again"),
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
    Arc::new(move || ExecutorRegister { held_blocks: shared.held_blocks(), ..message.clone() })
}

fn heartbeat(
    store: BlockStore,
    engine: Arc<dyn Engine>,
) -> Arc<dyn Fn(u64) -> ExecutorHeartbeat + Send + Sync> {
    Arc::new(move |sequence| {
        let busy_millicores = engine.busy_millicores();
        ExecutorHeartbeat {
            sequence,
            // Half a core's work and more counts as a core.
            cores_busy: (busy_millicores + 500) / 1_000,
            busy_millicores,
            block_bytes: store.block_bytes(),
            disk_bytes: store.usage().disk_bytes,
            rss_bytes: resident_bytes().unwrap_or(0),
            over_budget: store.is_over_budget(),
            spill_refused: store.spill_refused().unwrap_or_default(),
            num_spills_refused: store.num_spills_refused(),
        }
    })
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
