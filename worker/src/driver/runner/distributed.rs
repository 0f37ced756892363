//! The runner over the distributed query engine.
//!
//! Promises: a run ends within its deadline; when it fails, its tasks have been told to stop.
//! Owned by the driver. Never does: compute; the driver only gathers one row per last task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion_distributed::DistributedExt;
use futures::TryStreamExt;
use futures::future::join_all;
use millrace_common::rpc::{self, Caller};
use millrace_proto::v1::task_service_client::TaskServiceClient;
use millrace_proto::v1::{
    CancelTasksRequest, DeadLetterTarget, EndRunRequest, RunReport, TaskUpload,
};
use millrace_sql::plan::upload::{Upload, UploadPart};
use millrace_sql::plan::{
    BatchInputs, PlannedBatch, PreparedQuery, SinkResult, SinkSpec, TaskTarget,
};
use millrace_sql::scan::BatchConstants;
use millrace_sql::{QueryError, session};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::core::{self, Expectation};
use super::{BatchOutput, BatchPlan, BatchRunner, ExecutorTarget, RunError, RunnerOptions};
use crate::peers::PeerChannels;

/// How long an executor may take to tell of a run's end.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);
/// The same when it has dead letters to upload first; above the uploader's own deadlines.
const REPORT_WITH_UPLOAD_DEADLINE: Duration = Duration::from_secs(180);
/// How long the runner waits for executors to take a cancellation.
const CANCEL_DEADLINE: Duration = Duration::from_secs(1);

/// Runs the batches of one application.
pub struct DistributedRunner {
    query: PreparedQuery,
    options: RunnerOptions,
    controls: Mutex<HashMap<Arc<str>, TaskServiceClient<Caller>>>,
}

/// Executors whose channels are kept; an application has far fewer over its life.
const CONTROLS_MAX: usize = 4096;

impl DistributedRunner {
    /// Prepares the query once for all batches.
    ///
    /// # Errors
    /// [`QueryError`], as at submit time.
    pub async fn prepare(options: RunnerOptions) -> Result<Self, QueryError> {
        // The number of partitions is set anew for every batch.
        let mut state = session::driver(1);
        let peers = PeerChannels::new(options.io.clone(), options.token.clone());
        state.config_mut().set_distributed_channel_resolver(peers);
        let query =
            PreparedQuery::prepare(state, &options.sources, &options.sql, &options.params).await?;
        Ok(Self { query, options, controls: Mutex::default() })
    }

    /// Schema of the result.
    #[must_use]
    pub fn output_schema(&self) -> SchemaRef {
        self.query.output_schema()
    }

    fn inputs(&self, plan: &BatchPlan) -> Result<BatchInputs, RunError> {
        let refuse = |detail: String| RunError::Plan { detail };
        let targets = plan.executors.iter().map(|target| {
            let url = Url::parse(&target.url)
                .map_err(|error| refuse(format!("{} is no URL: {error}", target.url)))?;
            Ok(TaskTarget { url })
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let partitions = core::partitions(plan.executors.iter().map(|target| target.cores));
        let spread = |source: &super::SourceInput| {
            let blocks = core::spread(&source.blocks, plan.executors.len(), partitions);
            (source.source.to_string(), blocks)
        };
        let sources = plan.sources.iter().map(spread).collect();
        let constants = BatchConstants { batch: plan.batch, batch_time_ms: plan.batch_time_ms };
        let sink = Arc::new(self.sink(plan));
        Ok(BatchInputs::new(plan.run, constants, targets, partitions, sources, sink))
    }

    fn sink(&self, plan: &BatchPlan) -> SinkSpec {
        let settings = self.options.sink.clone();
        SinkSpec {
            application: self.options.application.clone(),
            epoch: plan.epoch,
            batch: plan.batch,
            run: plan.run.to_string(),
            bucket: settings.bucket,
            prefix: settings.prefix,
            region: settings.region,
            format: settings.format,
            compression: settings.compression,
            partition_by: settings.partition_by,
            max_open_partitions: settings.max_open_partitions,
            files_per_batch: settings.files_per_batch,
        }
    }

    /// Plans, executes and checks; says nothing to the executors when it fails.
    async fn attempt(&self, plan: &BatchPlan) -> Result<BatchOutput, RunError> {
        let started = Instant::now();
        let refuse = |error: datafusion::error::DataFusionError| RunError::Plan {
            detail: error.strip_backtrace(),
        };
        core::check(plan)?;
        let planned = self.query.plan(self.inputs(plan)?).await.map_err(refuse)?;
        let planning = started.elapsed();
        let results =
            execute(&planned).await.map_err(|error| core::classify(&error.to_string(), plan))?;
        let reports = self.reports(plan).await?;
        let expected = Expectation {
            plan,
            scans: &planned.scans,
            num_tasks: planned.num_tasks,
            num_last_tasks: planned.num_last_tasks,
            may_stop_early: planned.may_stop_early,
        };
        let sources = core::judge(&expected, &reports, &results)?;
        let mut output = BatchOutput {
            sources,
            num_tasks: planned.num_tasks,
            planning,
            ..BatchOutput::default()
        };
        for result in results {
            output.rows += result.rows;
            output.bytes += result.bytes;
            output.uploads.extend(result.uploads);
            output.with_store = output.with_store.max(Duration::from_millis(result.store_ms));
        }
        for report in reports {
            if !report.dead_letter_error.is_empty() {
                return Err(RunError::Sink {
                    retryable: true,
                    code: "dead-letters".to_owned(),
                    detail: report.dead_letter_error,
                    next_move: String::new(),
                });
            }
            output.uploads.extend(report.dead_letters.into_iter().map(dead_letters));
        }
        output.elapsed = started.elapsed();
        Ok(output)
    }

    async fn reports(&self, plan: &BatchPlan) -> Result<Vec<RunReport>, RunError> {
        let target = self.options.sink.dead_letters.as_ref();
        let deadline = if target.is_some() { REPORT_WITH_UPLOAD_DEADLINE } else { REPORT_DEADLINE };
        let asked = (0_u32..).zip(&plan.executors).map(|(number, executor)| {
            let dead_letters = target.map(|(bucket, prefix)| DeadLetterTarget {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                region: self.options.sink.dead_letter_region.clone(),
                application: self.options.application.clone(),
                epoch: plan.epoch,
                batch: plan.batch,
                executor: number,
            });
            let request = EndRunRequest { run_id: plan.run.to_string(), dead_letters };
            async move {
                let suspect = |detail: String| RunError::ExecutorSuspected {
                    executor: Arc::clone(&executor.container),
                    detail,
                };
                let mut control = self.control(executor)?;
                match tokio::time::timeout(deadline, control.end_run(request)).await {
                    Ok(Ok(report)) => Ok(report.into_inner()),
                    Ok(Err(status)) => Err(suspect(status.to_string())),
                    Err(_) => Err(suspect(format!("no report within {deadline:?}"))),
                }
            }
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Tells every executor to stop the run; those that cannot be told find out by themselves.
    async fn cancel(&self, plan: &BatchPlan) {
        let told = plan.executors.iter().map(|executor| async move {
            let request = CancelTasksRequest { run_id: plan.run.to_string() };
            let answer = match self.control(executor) {
                Ok(mut control) => control.cancel_tasks(request).await.map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = answer {
                tracing::warn!(run = %plan.run, executor = %executor.container, error, "not told to stop");
            }
        });
        if tokio::time::timeout(CANCEL_DEADLINE, join_all(told)).await.is_err() {
            tracing::warn!(run = %plan.run, "an executor does not answer to a cancellation");
        }
    }

    fn control(&self, executor: &ExecutorTarget) -> Result<TaskServiceClient<Caller>, RunError> {
        // Each use leaves the map whole.
        let mut controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(control) = controls.get(&executor.url) {
            return Ok(control.clone());
        }
        if controls.len() >= CONTROLS_MAX {
            controls.clear();
        }
        let _on_io = self.options.io.enter();
        let channel = rpc::connect_lazy(executor.url.trim_end_matches('/'))
            .map_err(|error| RunError::Plan { detail: error.to_string() })?;
        let caller = Caller::new(channel, self.options.token.as_ref());
        let control =
            TaskServiceClient::new(caller).max_decoding_message_size(rpc::MESSAGE_BYTES_MAX);
        controls.insert(Arc::clone(&executor.url), control.clone());
        Ok(control)
    }
}

#[async_trait]
impl BatchRunner for DistributedRunner {
    async fn run(
        &self,
        plan: BatchPlan,
        cancel: CancellationToken,
    ) -> Result<BatchOutput, RunError> {
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RunError::Cancelled),
            ended = tokio::time::timeout(plan.deadline, self.attempt(&plan)) => {
                ended.unwrap_or(Err(RunError::Deadline { limit: plan.deadline }))
            }
        };
        if ended.is_err() {
            self.cancel(&plan).await;
        }
        ended
    }
}

/// Gathers the row of every task of the last stage.
async fn execute(planned: &PlannedBatch) -> datafusion::error::Result<Vec<SinkResult>> {
    let rows = planned.plan.execute(0, Arc::clone(&planned.context))?;
    let batches: Vec<_> = rows.try_collect().await?;
    let mut results = Vec::new();
    for batch in &batches {
        for json in batch.column(0).as_string::<i32>().iter().flatten() {
            let result = serde_json::from_str(json)
                .map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)))?;
            results.push(result);
        }
    }
    Ok(results)
}

fn dead_letters(upload: TaskUpload) -> Upload {
    Upload {
        bucket: upload.bucket,
        region: upload.region,
        key: upload.key,
        upload_id: upload.upload_id,
        parts: upload
            .parts
            .into_iter()
            .map(|part| UploadPart { number: part.number, etag: part.etag, crc32c: part.crc32c })
            .collect(),
        token: upload.token,
        created_ms: upload.created_ms,
        rows: upload.rows,
        bytes: upload.bytes,
        dead_letters: true,
    }
}
