//! The leaf of every plan: reads the blocks of one source.
//!
//! Promises: every record of every block in a partition is decoded once, in the order of the list;
//! what was read is reported block by block, even when the reader is dropped on the way.
//! Never does: choose where it runs; the runner routes each task to the executor with its blocks.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use serde::{Deserialize, Serialize};

use super::block::BlockId;
use super::metadata::BatchConstants;
use super::runtime::ScanRuntime;
use super::stream;
use crate::schema::{MetadataColumn, SchemaError, SourceDef};

/// A scan as it is planned: what to read from each record, but not which records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSpec {
    /// The source.
    pub source: SourceDef,
    /// Metadata columns of the table, after the declared ones.
    pub metadata: Vec<MetadataColumn>,
    /// Columns of the output, as places in the table's schema.
    pub projection: Vec<usize>,
    /// Columns that any scan of the source needs, those of this one among them. All are decoded, so
    /// that a record is bad for every scan of a query or for none.
    pub needed: Vec<usize>,
    /// Number of the scan within the plan.
    pub scan: u32,
    /// The batch.
    pub batch: BatchConstants,
}

impl ScanSpec {
    /// Schema of the output.
    ///
    /// # Errors
    /// When the source's columns are none, or the projection points outside of them.
    pub fn output_schema(&self) -> Result<SchemaRef, ScanError> {
        let table = self.source.table_schema(&self.metadata)?;
        let projected = table.project(&self.projection).map_err(ScanError::Projection)?;
        Ok(Arc::new(Schema::new(projected.fields)))
    }
}

/// Why a scan cannot be made of its description.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The source's columns are none.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The projection does not fit the table.
    #[error("the projection does not fit the table: {0}")]
    Projection(arrow::error::ArrowError),
}

impl From<ScanError> for datafusion::error::DataFusionError {
    fn from(error: ScanError) -> Self {
        Self::External(Box::new(error))
    }
}

/// The blocks that one partition of a task reads.
pub type PartitionBlocks = Vec<BlockId>;

/// Reads blocks of one source; one instance is the scan of one task.
#[derive(Debug)]
pub struct BlockScanExec {
    spec: Arc<ScanSpec>,
    partitions: Arc<Vec<PartitionBlocks>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BlockScanExec {
    /// A scan with one output partition per list of blocks.
    ///
    /// # Errors
    /// As [`ScanSpec::output_schema`].
    pub fn try_new(spec: Arc<ScanSpec>, partitions: Vec<PartitionBlocks>) -> Result<Self> {
        let schema = spec.output_schema()?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            spec,
            partitions: Arc::new(partitions),
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// What is read from each record.
    #[must_use]
    pub fn spec(&self) -> &Arc<ScanSpec> {
        &self.spec
    }

    /// Blocks by partition.
    #[must_use]
    pub fn partitions(&self) -> &[PartitionBlocks] {
        &self.partitions
    }
}

impl DisplayAs for BlockScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> =
            self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "BlockScanExec: source={}, columns=[{}], partitions={}",
            self.spec.source.name,
            columns.join(", "),
            self.partitions.len()
        )
    }
}

impl ExecutionPlan for BlockScanExec {
    fn name(&self) -> &'static str {
        "BlockScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a scan has no children") }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(blocks) = self.partitions.get(partition) else {
            return internal_err!("the scan has no partition {partition}");
        };
        let Some(runtime) = context.session_config().get_extension::<ScanRuntime>() else {
            return internal_err!("a scan runs only on an executor");
        };
        let reader = stream::Reader {
            spec: Arc::clone(&self.spec),
            schema: Arc::clone(&self.schema),
            blocks: blocks.clone(),
            runtime,
            rows_max: context.session_config().batch_size(),
        };
        stream::read(reader)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
