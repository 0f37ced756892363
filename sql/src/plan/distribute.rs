//! How a plan is spread over executors.
//!
//! Promises: task n runs on target n, so that every scan finds its blocks on its own executor; a
//! plan that would need a scan elsewhere is refused here and planned anew with the scan apart.
//! Never does: look at the contents of blocks.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, plan_err};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedConfig, DistributedExec,
    DistributedLeafExec, NetworkBoundaryExt, NetworkCoalesceExec, RouteTasksEvent,
    RouteTasksEventResponse, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse, Stage,
};

use super::batch::BatchInputs;
use super::sink::SinkExec;
use crate::scan::BlockScanExec;

/// In the error of a plan whose scans must be put into stages of their own.
const SCAN_APART: &str = "a scan must run in a stage of its own";

/// Settings of the engine's planner.
pub(crate) fn configure(config: &mut SessionConfig) {
    if let Some(engine) = config.options_mut().extensions.get_mut::<DistributedConfig>() {
        // Ends of tasks are reported by our own service; the engine's metrics would be carried twice.
        engine.collect_metrics = false;
        // Every task of a union reads its share of every input: blocks are where they are.
        engine.children_isolator_unions = false;
        engine.compression = "lz4".to_owned();
        engine.cardinality_task_count_factor = 1.0;
    }
}

/// As many tasks as there are targets for a stage with a scan; for the stage with the sink no more
/// than there may be files.
pub(crate) fn desired_task_count(
    event: DesiredTaskCountEvent<'_>,
) -> Option<Result<DesiredTaskCountEventResponse>> {
    let inputs = event.session_config.get_extension::<BatchInputs>()?;
    if event.plan.is::<BlockScanExec>() {
        return Some(Ok(DesiredTaskCountEventResponse::desired(inputs.targets.len())));
    }
    let sink = event.plan.downcast_ref::<SinkExec>()?;
    let files = sink.spec().files_per_batch;
    (files > 0).then(|| Ok(DesiredTaskCountEventResponse::maximum(files)))
}

/// One scan per target, each with its own blocks.
pub(crate) fn scale_up_scan(
    event: ScaleUpLeafNodeEvent<'_>,
) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let scan = event.plan.downcast_ref::<BlockScanExec>()?;
    let inputs = event.session_config.get_extension::<BatchInputs>()?;
    Some(scale_up(event.plan, scan, &inputs, event.task_count))
}

fn scale_up(
    plan: &Arc<dyn ExecutionPlan>,
    scan: &BlockScanExec,
    inputs: &BatchInputs,
    tasks: usize,
) -> Result<ScaleUpLeafNodeEventResponse> {
    if tasks != inputs.targets.len() {
        return plan_err!("{SCAN_APART}");
    }
    let blocks = inputs.sources.get(&scan.spec().source.name);
    let variants = (0..tasks).map(|task| {
        let partitions = match blocks.and_then(|blocks| blocks.get(task)) {
            Some(partitions) if partitions.len() == inputs.partitions => partitions.clone(),
            Some(partitions) => {
                return plan_err!(
                    "target {task} has {} partitions of {} in {}",
                    partitions.len(),
                    inputs.partitions,
                    scan.spec().source.name
                );
            }
            None => vec![Vec::new(); inputs.partitions],
        };
        let variant = BlockScanExec::try_new(Arc::clone(scan.spec()), partitions)?;
        Ok(Arc::new(variant) as Arc<dyn ExecutionPlan>)
    });
    let variants = variants.collect::<Result<Vec<_>>>()?;
    let leaf = DistributedLeafExec::try_new(Arc::clone(plan), variants)?;
    Ok(ScaleUpLeafNodeEventResponse::new(Arc::new(leaf)))
}

/// Whether the plan is to be made again with [`BatchInputs::isolated`].
pub(crate) fn wants_scans_apart(error: &DataFusionError) -> bool {
    error.to_string().contains(SCAN_APART)
}

/// Task n on target n; a stage of one task moves on from batch to batch.
pub(crate) fn route_tasks(event: RouteTasksEvent<'_>) -> Option<Result<RouteTasksEventResponse>> {
    let inputs = event.task_ctx.session_config().get_extension::<BatchInputs>()?;
    let targets = &inputs.targets;
    let first = match event.task_count {
        1 => usize::try_from(inputs.constants.batch % targets.len() as u64).unwrap_or(0),
        _ => 0,
    };
    let urls = (0..event.task_count)
        .map(|task| targets[(first + task) % targets.len()].url.clone())
        .collect();
    Some(Ok(RouteTasksEventResponse::new(urls)))
}

/// Makes sure that the sink is in a stage of its own: the engine would run a last stage of one
/// task on the driver.
pub(crate) fn sink_on_executor(
    plan: Arc<dyn ExecutionPlan>,
    inputs: &BatchInputs,
) -> Result<Arc<dyn ExecutionPlan>> {
    let root = match plan.downcast_ref::<DistributedExec>() {
        Some(distributed) => Arc::clone(only_child(distributed)?),
        // With one executor the engine finds nothing to distribute and leaves the plan as it was.
        None => fill_scans(plan, inputs)?,
    };
    let Some(coalesce) = root.downcast_ref::<CoalescePartitionsExec>() else {
        return plan_err!("the plan of a batch ends in {} and not in its sink", root.name());
    };
    let sink = Arc::clone(coalesce.input());
    if sink.is_network_boundary() {
        return Ok(Arc::new(DistributedExec::new(root)));
    }
    let (query_id, stages) = stages_of(&sink)?;
    let boundary = NetworkCoalesceExec::try_new(sink, 1, 1)?;
    let placed: Arc<dyn ExecutionPlan> = Arc::new(boundary);
    let boundary = placed.as_network_boundary().expect("made as a boundary just now");
    let Stage::Local(mut stage) = boundary.input_stage().clone() else {
        return plan_err!("a new stage is already placed");
    };
    stage.query_id = query_id.unwrap_or(inputs.run);
    stage.num = stages + 1;
    let boundary: Arc<dyn ExecutionPlan> = boundary.with_input_stage(Stage::Local(stage))?;
    Ok(Arc::new(DistributedExec::new(Arc::new(CoalescePartitionsExec::new(boundary)))))
}

/// Gives every scan of an undistributed plan the blocks of the only target.
fn fill_scans(
    plan: Arc<dyn ExecutionPlan>,
    inputs: &BatchInputs,
) -> Result<Arc<dyn ExecutionPlan>> {
    let filled = plan.transform_up(|node| {
        let Some(scan) = node.downcast_ref::<BlockScanExec>() else {
            return Ok(Transformed::no(node));
        };
        Ok(Transformed::yes(scale_up(&node, scan, inputs, 1)?.plan))
    })?;
    Ok(filled.data)
}

fn only_child(plan: &dyn ExecutionPlan) -> Result<&Arc<dyn ExecutionPlan>> {
    match plan.children().first() {
        Some(child) => Ok(*child),
        None => plan_err!("{} has no child", plan.name()),
    }
}

/// The query id of the plan's stages, and the highest stage number.
fn stages_of(plan: &Arc<dyn ExecutionPlan>) -> Result<(Option<uuid::Uuid>, usize)> {
    let (mut query_id, mut highest) = (None, 0);
    plan.apply(|node| {
        if let Some(boundary) = node.as_network_boundary() {
            let stage = boundary.input_stage();
            query_id = Some(stage.query_id());
            highest = highest.max(stage.num());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok((query_id, highest))
}

/// Tasks of the last stage of a distributed plan: those that end in the sink.
pub(crate) fn count_last_tasks(plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let mut tasks = None;
    plan.apply(|node| {
        let Some(boundary) = node.as_network_boundary() else {
            return Ok(TreeNodeRecursion::Continue);
        };
        tasks = Some(boundary.input_stage().task_count());
        Ok(TreeNodeRecursion::Stop)
    })?;
    match tasks {
        Some(tasks) => Ok(tasks),
        None => plan_err!("the plan of a batch has no stage on executors"),
    }
}

/// Tasks over all stages of a distributed plan.
pub(crate) fn count_tasks(plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let mut tasks = 0;
    plan.apply(|node| {
        if let Some(boundary) = node.as_network_boundary() {
            tasks += boundary.input_stage().task_count();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(tasks)
}
