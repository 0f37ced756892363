//! The computation: it reads the blocks where they are and writes their records out.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use millrace_common::application::ApplicationSpec;
use millrace_common::clock::Clock as _;
use millrace_common::error::Error;
use millrace_sql::plan::upload::Upload as CommittedUpload;
use millrace_sql::scan::block::BlockSource as _;
use millrace_worker::driver::runner::{
    BatchOutput, BatchPlan, BatchRunner, RunError, SourceCounts,
};
use millrace_worker::driver::world::Runners;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::network::SimulatedClock;
use crate::world::{Row, Upload, World};

#[async_trait]
impl Runners for World {
    async fn prepare(&self, _: &ApplicationSpec) -> Result<Arc<dyn BatchRunner>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

impl World {
    async fn compute(&self, plan: &BatchPlan) -> Result<Vec<Row>, RunError> {
        let mut rows = Vec::new();
        for input in plan.sources.iter().flat_map(|source| &source.blocks) {
            let executor = &plan.executors[input.executor].container;
            let (pause, store) = {
                let mut state = self.lock();
                (state.pause(1, 20), state.stores.get(&**executor).cloned())
            };
            sleep(pause).await;
            let Some(store) = store else {
                return Err(RunError::ExecutorSuspected {
                    executor: executor.clone(),
                    detail: "it does not answer".to_owned(),
                });
            };
            let block = store.get(&input.id).await.map_err(|error| RunError::BlockLost {
                block: input.id.clone(),
                executor: executor.clone(),
                detail: error.to_string(),
            })?;
            if block.num_records() as u64 != input.records {
                let detail = format!("{} has {} records", input.id, block.num_records());
                return Err(RunError::Incomplete { detail });
            }
            rows.extend(block.data.iter().flatten().map(row));
        }
        Ok(rows)
    }
}

fn row(data: &[u8]) -> Row {
    let text = std::str::from_utf8(data).expect("the stream writes text");
    let (shard, number) = text.split_once(' ').expect("the stream writes two words");
    Row { shard: shard.to_owned(), number: number.parse().expect("a number") }
}

#[async_trait]
impl BatchRunner for World {
    async fn run(
        &self,
        plan: BatchPlan,
        cancel: CancellationToken,
    ) -> Result<BatchOutput, RunError> {
        let computed = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(RunError::Cancelled),
            computed = self.compute(&plan) => computed,
        };
        let mut rows = computed?;
        let mut state = self.lock();
        if state.trouble_percent > 0 && state.strikes(3) {
            return Err(RunError::Sink {
                retryable: true,
                code: "SlowDown".to_owned(),
                detail: "S3 asks for patience".to_owned(),
                next_move: String::new(),
            });
        }
        let counts = SourceCounts { records: rows.len() as u64, ..SourceCounts::default() };
        // A part of the rows from each of two tasks; a task without rows makes no upload.
        let second = rows.split_off(rows.len() / 2);
        let mut uploads = Vec::new();
        for (task, rows) in [rows, second].into_iter().enumerate().filter(|(_, r)| !r.is_empty()) {
            let key = format!("app-e{}-b{}-t{task}-{}", plan.epoch, plan.batch, plan.run);
            let num_rows = rows.len() as u64;
            let upload = Upload { rows, token: key.clone(), is_complete: false };
            state.uploads.insert(key.clone(), upload);
            uploads.push(CommittedUpload {
                bucket: "results".to_owned(),
                region: String::new(),
                token: key.clone(),
                upload_id: key.clone(),
                key,
                parts: Vec::new(),
                rows: num_rows,
                bytes: num_rows,
                created_ms: SimulatedClock.now_ms(),
                dead_letters: false,
            });
        }
        Ok(BatchOutput {
            rows: counts.records,
            uploads,
            sources: BTreeMap::from([(Arc::from("logs"), counts)]),
            ..BatchOutput::default()
        })
    }
}
