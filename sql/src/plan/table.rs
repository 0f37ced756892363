//! A source as a table.
//!
//! Promises: a scan decodes only the columns the query needs. Never does: hold blocks; they are in
//! the session of the batch.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::batch::BatchInputs;
use super::needed::NeededColumns;
use crate::scan::{BatchConstants, BlockScanExec, ScanError, ScanSpec};
use crate::schema::{MetadataColumn, SourceDef};

/// A source with the metadata columns that the query names.
#[derive(Debug)]
pub(crate) struct SourceTable {
    source: SourceDef,
    metadata: Vec<MetadataColumn>,
    schema: SchemaRef,
}

impl SourceTable {
    pub(crate) fn try_new(
        source: SourceDef,
        metadata: Vec<MetadataColumn>,
    ) -> Result<Self, ScanError> {
        let schema = source.table_schema(&metadata)?;
        Ok(Self { source, metadata, schema })
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inputs = state.config().get_extension::<BatchInputs>();
        let projection = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let (scan, batch, partitions) = match &inputs {
            Some(inputs) => (inputs.number_scan(), inputs.constants, inputs.partitions),
            None => {
                let batch = BatchConstants { batch: 0, batch_time_ms: 0 };
                (0, batch, state.config().target_partitions())
            }
        };
        let needed = match state.config().get_extension::<NeededColumns>() {
            Some(all) => all.with(&self.source.name, &projection),
            None => projection.clone(),
        };
        let spec = ScanSpec {
            source: self.source.clone(),
            metadata: self.metadata.clone(),
            projection,
            needed,
            scan,
            batch,
        };
        Ok(Arc::new(BlockScanExec::try_new(Arc::new(spec), vec![Vec::new(); partitions])?))
    }
}
