//! The last node of every batch: writes its input and answers with one row per task.
//!
//! Promises: all input partitions are read to their end before the row is given; the row tells of
//! every upload. Never does: the writing itself, which is the executor's [`SinkRuntime`].

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use datafusion_distributed::DistributedTaskContext;
use futures::stream;
use serde::{Deserialize, Serialize};

use super::upload::Upload;

/// File format of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkFormat {
    /// One JSON object per line.
    Json,
    /// A header line, then one line per row.
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// Compression of a whole file; only for the text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What a task needs to know to write its part of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSpec {
    /// The application's name, part of every key.
    pub application: String,
    /// The attempt's epoch, part of every key.
    pub epoch: u64,
    /// The batch, part of every key.
    pub batch: u64,
    /// The run, a UUID as text, part of every key.
    pub run: String,
    /// Bucket of the results.
    pub bucket: String,
    /// Prefix of the results, without a slash at either end; may be empty.
    pub prefix: String,
    /// Region of the bucket; empty for the process's own.
    pub region: String,
    /// File format.
    pub format: SinkFormat,
    /// Compression of the text formats.
    pub compression: Compression,
    /// Columns that become directories, in order, and are left out of the files.
    pub partition_by: Vec<String>,
    /// How many files a task may have open at once.
    pub max_open_partitions: usize,
    /// Tasks that may write at most; 0 for as many as the plan has.
    pub files_per_batch: usize,
}

/// What a task wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkResult {
    /// Number of the task within the last stage.
    pub task: usize,
    /// One per file; empty when there were no rows.
    pub uploads: Vec<Upload>,
    /// Rows written.
    pub rows: u64,
    /// Bytes uploaded.
    pub bytes: u64,
    /// The longest time that one of its files was with the object store, in milliseconds.
    pub store_ms: u64,
}

/// The executor's side of the sink, put into the session that executes a task.
#[async_trait]
pub trait SinkWriter: fmt::Debug + Send + Sync + 'static {
    /// Reads all inputs to their end and uploads them.
    ///
    /// # Errors
    /// The first error of an input, or a [`crate::fault::Fault::Sink`].
    async fn write(
        &self,
        spec: Arc<SinkSpec>,
        task: usize,
        inputs: Vec<SendableRecordBatchStream>,
    ) -> Result<SinkResult>;
}

/// How the session of a task holds its [`SinkWriter`].
#[derive(Debug, Clone)]
pub struct SinkRuntime(pub Arc<dyn SinkWriter>);

/// Writes its input; one row of output.
#[derive(Debug)]
pub struct SinkExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<SinkSpec>,
    properties: Arc<PlanProperties>,
}

impl SinkExec {
    /// Name of the only column: a [`SinkResult`] as JSON.
    pub const COLUMN: &'static str = "result";
    /// Name of the node, which is the head of every task of the last stage and of no other.
    pub const NAME: &'static str = "SinkExec";

    /// A sink for all partitions of `input`.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<SinkSpec>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Self::output_schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, spec, properties: Arc::new(properties) }
    }

    /// Where the result goes.
    #[must_use]
    pub fn spec(&self) -> &Arc<SinkSpec> {
        &self.spec
    }

    fn output_schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new(Self::COLUMN, DataType::Utf8, false)]))
    }
}

impl DisplayAs for SinkExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SinkExec: s3://{}/{}", self.spec.bucket, self.spec.prefix)
    }
}

impl ExecutionPlan for SinkExec {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, Arc::clone(&self.spec)))),
            _ => internal_err!("a sink has one child"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("the sink has no partition {partition}");
        }
        let Some(runtime) = context.session_config().get_extension::<SinkRuntime>() else {
            return internal_err!("a sink runs only on an executor");
        };
        let task = DistributedTaskContext::from_ctx(&context).task_index;
        let partitions = self.input.output_partitioning().partition_count();
        let inputs = (0..partitions)
            .map(|partition| self.input.execute(partition, Arc::clone(&context)))
            .collect::<Result<Vec<_>>>()?;
        let spec = Arc::clone(&self.spec);
        let row = async move {
            let result = runtime.0.write(spec, task, inputs).await?;
            let json = serde_json::to_string(&result)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            let column = Arc::new(StringArray::from(vec![json]));
            Ok(RecordBatch::try_new(Self::output_schema(), vec![column])?)
        };
        let rows = stream::once(row);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Self::output_schema(), rows)))
    }
}
