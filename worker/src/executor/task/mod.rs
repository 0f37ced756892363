//! Tasks on an executor: the engine's part of every batch.
//!
//! Promises: tasks compute on the compute threads only; every task has an owner that hears of its
//! end; a cancelled run stops here, whatever its driver or its peers do.
//! Owned by the executor's main, which mounts the services and lends the blocks.
//! Never does: commit, complete or abort an upload, or read from Kinesis.

mod actor;
mod core;
mod dead_letters;
mod engine;
mod root;
mod runs;
mod service;

use std::path::PathBuf;
use std::sync::Arc;

use actix::ArbiterHandle;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_distributed::Worker;
use millrace_common::access::Token;
use millrace_common::rpc;
use millrace_proto::v1::task_service_server::TaskServiceServer;
use millrace_sql::plan::SinkWriter;
use millrace_sql::scan::block::BlockSource;
use tokio::runtime::Handle;
use tonic::service::RoutesBuilder;

use self::runs::Runs;
use crate::executor::compute::ComputePool;
use crate::executor::sink::{S3Sink, UploadStore};
use crate::peers::PeerChannels;

/// What the tasks of an executor need from it.
#[derive(Debug, Clone)]
pub struct TaskOptions {
    /// The runtime of connections and AWS calls.
    pub io: Handle,
    /// The compute threads.
    pub pool: Arc<ComputePool>,
    /// Where the tasks' actors live.
    pub arbiter: ArbiterHandle,
    /// The executor's blocks.
    pub blocks: Arc<dyn BlockSource>,
    /// Where results are uploaded to.
    pub store: Arc<dyn UploadStore>,
    /// Bytes that queries may hold in memory before they spill.
    pub memory_bytes: usize,
    /// Where they spill to; must exist.
    pub spill_dir: PathBuf,
    /// What other executors are shown.
    pub token: Option<Token>,
}

/// The tasks of one executor. Cloning shares them.
#[derive(Clone)]
pub struct Tasks {
    executor: Arc<Executor>,
    worker: Worker,
}

/// What every task of an executor shares.
pub(crate) struct Executor {
    runs: Runs,
    pool: Arc<ComputePool>,
    arbiter: ArbiterHandle,
    blocks: Arc<dyn BlockSource>,
    store: Arc<dyn UploadStore>,
    sink: Arc<dyn SinkWriter>,
    peers: PeerChannels,
}

impl Tasks {
    /// Ready to take plans.
    ///
    /// # Errors
    /// When the engine cannot use the spill directory.
    pub fn new(options: TaskOptions) -> datafusion::error::Result<Self> {
        let runtime = memory(&options)?;
        let executor = Arc::new(Executor {
            runs: Runs::default(),
            pool: Arc::clone(&options.pool),
            arbiter: options.arbiter,
            blocks: options.blocks,
            sink: Arc::new(S3Sink::new(Arc::clone(&options.store), options.io.clone())),
            store: options.store,
            peers: PeerChannels::new(options.io, options.token),
        });
        let sessions = engine::TaskSessions { executor: Arc::clone(&executor) };
        let worker = Worker::from_session_builder(sessions).with_runtime_env(runtime);
        Ok(Self { executor, worker })
    }

    /// Adds the tasks' gRPC services to those of the executor's server, which must have the
    /// keep-alive of `millrace_common::rpc::server`.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        let inner = self.worker.clone().into_worker_server();
        // It believes any length by default.
        let inner = inner.max_decoding_message_size(rpc::MESSAGE_BYTES_MAX);
        routes.add_service(engine::OnCompute { inner, pool: Arc::clone(&self.executor.pool) });
        let control = service::Control { executor: Arc::clone(&self.executor) };
        routes.add_service(TaskServiceServer::new(control));
    }

    /// Stops every task of a run, those that arrive later included; gives the number of tasks.
    pub fn cancel(&self, run: &str) -> usize {
        self.executor.runs.cancel(run, self.executor.pool.panics())
    }

    /// Stops every task, as when the driver is gone.
    pub fn cancel_all(&self) {
        self.executor.runs.cancel_all();
    }

    /// Runs and tasks that are remembered, for people.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.executor.runs.counts()
    }
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// A bounded pool that spills.
fn memory(options: &TaskOptions) -> datafusion::error::Result<Arc<RuntimeEnv>> {
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_bytes)))
        .with_temp_file_path(&options.spill_dir)
        .build_arc()
}
