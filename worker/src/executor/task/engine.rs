//! The query engine's worker service, set up for an executor.
//!
//! Promises: its handlers run on the compute threads, so that plans are created and polled there
//! while connections stay on the I/O runtime; every stage is under a [`TaskRootExec`].
//! Never does: trust a run that was cancelled.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion_distributed::{
    DistributedExt, DistributedTaskContext, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse,
    WorkerQueryContext, WorkerSessionBuilder,
};
use futures::future::BoxFuture;
use millrace_sql::fault::Fault;
use millrace_sql::plan::SinkRuntime;
use millrace_sql::scan::{BlockRead, RejectedRecord, ScanObserver, ScanRuntime};
use millrace_sql::session::{self, RunOptions};
use tonic::server::NamedService;
use tower::Service;

use super::Executor;
use super::core::TaskEvent;
use super::root::TaskRootExec;
use super::runs::Runs;
use crate::executor::compute::ComputePool;

/// Makes the session of each task.
pub(super) struct TaskSessions {
    pub(super) executor: Arc<Executor>,
}

#[async_trait]
impl WorkerSessionBuilder for TaskSessions {
    async fn build_session_state(&self, context: WorkerQueryContext) -> Result<SessionState> {
        let WorkerQueryContext { builder, headers } = context;
        let mut builder = session::task(builder, &headers)?;
        let config = builder.config().get_or_insert_default();
        let run = match config.options().extensions.get::<RunOptions>() {
            Some(options) if !options.run.is_empty() => options.run.clone(),
            _ => return Err(DataFusionError::Plan("a plan came without a run".to_owned())),
        };
        let executor = Arc::clone(&self.executor);
        if executor.runs.token(&run, executor.pool.panics()).is_cancelled() {
            return Err(Fault::Cancelled.into_error());
        }
        config.set_extension(Arc::new(SinkRuntime(Arc::clone(&executor.sink))));
        let slot =
            Arc::new(TaskSlot { run, executor: Arc::clone(&executor), task: Default::default() });
        let observer: Arc<dyn ScanObserver> = Arc::clone(&slot) as _;
        let blocks = Arc::clone(&executor.blocks);
        config.set_extension(Arc::new(ScanRuntime { blocks, observer }));
        Ok(builder
            .with_distributed_channel_resolver(executor.peers.clone())
            .with_distributed_worker_plan_rewrite_handler(
                move |event: WorkerPlanRewriteEvent<'_>| Ok(slot.begin(event)),
            )
            .build())
    }
}

/// The task a session belongs to, known once its plan is.
struct TaskSlot {
    run: String,
    executor: Arc<Executor>,
    task: std::sync::OnceLock<super::actor::TaskHandle>,
}

impl std::fmt::Debug for TaskSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskSlot").field("run", &self.run).finish_non_exhaustive()
    }
}

impl TaskSlot {
    /// Starts the task's actor and puts its root on the plan.
    fn begin(&self, event: WorkerPlanRewriteEvent<'_>) -> WorkerPlanRewriteEventResponse {
        let plan = event.plan;
        let number = event
            .session_config
            .get_extension::<DistributedTaskContext>()
            .map_or(0, |context| context.task_index);
        let Executor { runs, arbiter, pool, .. } = &*self.executor;
        let task = self.task.get_or_init(|| {
            // The engine puts its repartitioning above the root of the task and takes it off the
            // plan to do so; what stands below is what the task is about.
            let partitions = head_input(&plan).output_partitioning().partition_count();
            let stage = plan.name().to_owned();
            runs.begin(&self.run, arbiter, stage, number, partitions, pool.panics())
        });
        WorkerPlanRewriteEventResponse::new(put_root(plan, task.clone()))
    }
}

type Plan = Arc<dyn ExecutionPlan>;

/// The plan without the head that the engine takes off again before it runs the task.
fn head_input(plan: &Plan) -> &Plan {
    use datafusion::physical_plan::repartition::RepartitionExec;
    use datafusion_distributed::BroadcastExec;

    match plan.children().first() {
        Some(input) if plan.is::<RepartitionExec>() || plan.is::<BroadcastExec>() => input,
        _ => plan,
    }
}

/// Puts the root below the engine's head, or on top where there is none.
fn put_root(plan: Plan, task: super::actor::TaskHandle) -> Plan {
    let inside = Arc::clone(head_input(&plan));
    let headless = Arc::ptr_eq(&inside, &plan);
    let root: Plan = Arc::new(TaskRootExec::new(inside, task));
    if headless {
        return root;
    }
    // The head only repeats the engine's request and comes back with it; see `ProducerHead`.
    let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.replace_children(vec![Arc::clone(&root)], recompute).unwrap_or(root)
}

impl ScanObserver for TaskSlot {
    fn block_read(&self, read: BlockRead) {
        if let Some(task) = self.task.get() {
            task.tell(TaskEvent::BlockRead(read));
        }
    }

    fn record_rejected(&self, record: RejectedRecord) {
        let runs: &Runs = &self.executor.runs;
        if !runs.keep_rejected(&self.run, record)
            && let Some(task) = self.task.get()
        {
            task.tell(TaskEvent::Failed("there is no room for more dead letters".to_owned()));
        }
    }
}

/// A gRPC service whose handlers run on the compute threads.
#[derive(Clone)]
pub(super) struct OnCompute<S> {
    pub(super) inner: S,
    pub(super) pool: Arc<ComputePool>,
}

impl<S: NamedService> NamedService for OnCompute<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, Request> Service<Request> for OnCompute<S>
where
    S: Service<Request, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let handler = AbortOnDrop(self.pool.spawn(self.inner.call(request)));
        Box::pin(async move {
            let mut handler = handler;
            match (&mut handler.0).await {
                Ok(response) => response,
                Err(error) => {
                    Ok(tonic::Status::internal(format!("the handler ended: {error}")).into_http())
                }
            }
        })
    }
}

/// Stops a handler whose caller is gone.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
