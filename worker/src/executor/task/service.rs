//! What the driver's runner asks of an executor, beside the engine's own service.
//!
//! Promises: the report of a run's end tells of every task the executor was given for it.
//! Never does: compute.

use millrace_proto::v1::task_service_server::TaskService as TaskServiceRpc;
use millrace_proto::v1::{
    BlockRead, CancelTasksReply, CancelTasksRequest, EndRunRequest, RunReport, TaskReport,
    TaskState as TaskStateMessage,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

use super::Executor;
use super::core::TaskState;
use super::dead_letters;

/// The service of one executor.
pub(super) struct Control {
    pub(super) executor: Arc<Executor>,
}

#[tonic::async_trait]
impl TaskServiceRpc for Control {
    async fn end_run(
        &self,
        request: Request<EndRunRequest>,
    ) -> Result<Response<RunReport>, Status> {
        failpoint()?;
        let request = request.into_inner();
        let executor = &self.executor;
        let Some(run) = executor.runs.take(&request.run_id) else {
            return Ok(Response::new(RunReport::default()));
        };
        let mut report = RunReport {
            panicked: executor.pool.panics() != run.panics_before,
            ..RunReport::default()
        };
        for named in &run.tasks {
            let (state, reads) = named.handle.report().await;
            let (state, detail) = message(state);
            report.tasks.push(TaskReport {
                stage: named.stage.clone(),
                task: u32::try_from(named.task).unwrap_or(u32::MAX),
                state: state.into(),
                detail,
                blocks: reads
                    .into_iter()
                    .map(|read| BlockRead {
                        scan: read.scan,
                        block_id: read.block.to_string(),
                        num_read: read.num_read,
                        num_bad: read.num_bad,
                    })
                    .collect(),
            });
        }
        if let Some(target) = request.dead_letters {
            let written =
                dead_letters::write(&*executor.store, target, &request.run_id, run.rejected).await;
            match written {
                Ok(upload) => report.dead_letters = upload.into_iter().collect(),
                Err(error) => report.dead_letter_error = error.to_string(),
            }
        } else if !run.rejected.is_empty() {
            report.dead_letter_error =
                "records were rejected, but the sink names no dead_letter_path".to_owned();
        }
        Ok(Response::new(report))
    }

    async fn cancel_tasks(
        &self,
        request: Request<CancelTasksRequest>,
    ) -> Result<Response<CancelTasksReply>, Status> {
        let panics = self.executor.pool.panics();
        let num_tasks = self.executor.runs.cancel(&request.into_inner().run_id, panics);
        let num_tasks = u32::try_from(num_tasks).unwrap_or(u32::MAX);
        Ok(Response::new(CancelTasksReply { num_tasks }))
    }
}

/// With the feature `failpoints`, the failpoint `end-run`: `2*return` lets two reports fail.
fn failpoint() -> Result<(), Status> {
    #[cfg(feature = "failpoints")]
    {
        crate::failpoints::take("end-run").map_err(Status::internal)?;
        fail::fail_point!("end-run", |_| Err(Status::unavailable("as the failpoint says")));
    }
    Ok(())
}

fn message(state: TaskState) -> (TaskStateMessage, String) {
    match state {
        TaskState::Running => (TaskStateMessage::Running, String::new()),
        TaskState::Ended => (TaskStateMessage::Ended, String::new()),
        TaskState::Dropped => (TaskStateMessage::Dropped, String::new()),
        TaskState::Failed(detail) => (TaskStateMessage::Failed, detail),
        TaskState::Cancelled => (TaskStateMessage::Cancelled, String::new()),
    }
}
