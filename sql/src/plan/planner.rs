//! Puts the sink on top of a query's physical plan, before it is distributed.
//!
//! Promises: the sink is the only consumer of the query. Never does: change what the query means.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use super::batch::BatchInputs;
use super::sink::SinkExec;
use crate::scan::BlockScanExec;

/// The engine's own planner, then the sink.
#[derive(Debug)]
pub(crate) struct SinkPlanner;

#[async_trait]
impl QueryPlanner for SinkPlanner {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::default();
        let mut plan = planner.create_physical_plan(logical_plan, session).await?;
        let Some(inputs) = session.config().get_extension::<BatchInputs>() else {
            return Ok(plan);
        };
        if inputs.isolate_scans {
            plan = isolate_scans(plan, inputs.partitions)?;
        }
        let sink = Arc::new(SinkExec::new(plan, Arc::clone(&inputs.sink)));
        // The engine makes a stage of what stands below this node.
        Ok(Arc::new(CoalescePartitionsExec::new(sink)))
    }
}

/// Puts every scan into a stage of its own, for plans that must run in one task while their blocks
/// lie on several executors.
fn isolate_scans(
    plan: Arc<dyn ExecutionPlan>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let isolated = plan.transform_up(|node| {
        if !node.is::<BlockScanExec>() {
            return Ok(Transformed::no(node));
        }
        let gathered = Arc::new(CoalescePartitionsExec::new(node));
        let partitioning = Partitioning::RoundRobinBatch(partitions);
        Ok(Transformed::yes(Arc::new(RepartitionExec::try_new(gathered, partitioning)?)))
    })?;
    Ok(isolated.data)
}
