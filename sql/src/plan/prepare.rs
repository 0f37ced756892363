//! A query made ready once, and planned for batch after batch.
//!
//! Promises: `now()` and its like are the batch's time, so that a run that is repeated computes the
//! same. Never does: keep anything of a batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::temporal_conversions::timestamp_ms_to_datetime;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion_distributed::{DistributedExt, DistributedLeafExec};

use super::batch::{BatchInputs, Targets};
use super::distribute;
use super::needed::NeededColumns;
use super::table::SourceTable;
use crate::params::{self, Parameters};
use crate::scan::BlockScanExec;
use crate::schema::SourceDef;
use crate::session::RunOptions;
use crate::validate::{self, QueryError};

/// A query over an application's sources, parsed, resolved and optimized.
#[derive(Debug)]
pub struct PreparedQuery {
    state: SessionState,
    /// As resolved; optimized anew per batch when it depends on the time.
    resolved: LogicalPlan,
    /// Optimized once, when nothing in it depends on the batch.
    optimized: Option<LogicalPlan>,
    /// Parameters that it names.
    named: Vec<String>,
}

/// A batch, ready to be executed by the driver.
#[derive(Debug)]
pub struct PlannedBatch {
    /// Give its only partition the context below and read it to the end: one row per task of the
    /// last stage, a [`super::SinkResult`] each.
    pub plan: Arc<dyn ExecutionPlan>,
    /// What the plan is executed with.
    pub context: Arc<TaskContext>,
    /// Source of every scan in the plan, by number of the scan: each must report every block of it.
    pub scans: BTreeMap<u32, String>,
    /// Tasks over all stages, all on executors.
    pub num_tasks: usize,
    /// Tasks of the last stage, numbered from 0.
    pub num_last_tasks: usize,
    /// True when a correct plan may leave blocks half read: it has a limit or a join.
    pub may_stop_early: bool,
}

impl PreparedQuery {
    /// Prepares `sql` in a session from [`crate::session`].
    ///
    /// # Errors
    /// [`QueryError`] says what is wrong with the query, where, and what would fit.
    pub async fn prepare(
        mut state: SessionState,
        sources: &[SourceDef],
        sql: &str,
        params: &Parameters,
    ) -> Result<Self, QueryError> {
        let statement = validate::parse(&state, sources, sql)?;
        for source in sources {
            let metadata = validate::metadata_named(sql);
            let table = SourceTable::try_new(source.clone(), metadata)
                .map_err(|error| QueryError::source_definition(&error))?;
            let schema = state
                .schema_for_ref(TableReference::bare(source.name.as_str()))
                .map_err(|error| QueryError::from_engine(&error, sources))?;
            schema
                .register_table(source.name.clone(), Arc::new(table) as Arc<dyn TableProvider>)
                .map_err(|error| QueryError::from_engine(&error, sources))?;
        }
        state.mark_start_execution();
        let refuse = |error| QueryError::from_engine(&error, sources);
        let resolved = state.statement_to_plan(statement).await.map_err(refuse)?;
        let named = params::named_in(&resolved).map_err(refuse)?;
        if let Some(name) = named.iter().find(|name| !params.has(name)) {
            return Err(QueryError::unknown_parameter(name, params));
        }
        let resolved = params.bind(resolved).map_err(refuse)?;
        let optimized = state.optimize(&resolved).map_err(refuse)?;
        let fixed = !depends_on_time(&resolved).map_err(refuse)?;
        Ok(Self { state, resolved, optimized: fixed.then_some(optimized), named })
    }

    /// What the query needs of each source.
    pub(crate) fn needed(&self) -> Result<NeededColumns> {
        match &self.optimized {
            Some(optimized) => NeededColumns::of(optimized),
            None => NeededColumns::of(&self.state.optimize(&self.resolved)?),
        }
    }

    /// True when the query names this parameter.
    pub(crate) fn names_parameter(&self, name: &str) -> bool {
        self.named.iter().any(|named| named == name)
    }

    /// Schema of the result.
    #[must_use]
    pub fn output_schema(&self) -> SchemaRef {
        Arc::new(self.resolved.schema().as_arrow().clone())
    }

    /// The plan as it was resolved.
    #[must_use]
    pub fn logical_plan(&self) -> &LogicalPlan {
        &self.resolved
    }

    /// The session the query was prepared in.
    #[must_use]
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// Plans one batch.
    ///
    /// # Errors
    /// When the engine cannot plan or distribute it.
    pub async fn plan(&self, inputs: BatchInputs) -> Result<PlannedBatch> {
        let inputs = Arc::new(inputs);
        match self.plan_once(&inputs).await {
            Err(error) if distribute::wants_scans_apart(&error) => {
                self.plan_once(&Arc::new(inputs.isolated())).await
            }
            planned => planned,
        }
    }

    async fn plan_once(&self, inputs: &Arc<BatchInputs>) -> Result<PlannedBatch> {
        let mut state = self.state.clone();
        state.mark_start_execution();
        if let Some(time) = timestamp_ms_to_datetime(inputs.constants.batch_time_ms) {
            state.execution_props_mut().query_execution_start_time = Some(time.and_utc());
        }
        let config = state.config_mut();
        config.options_mut().execution.target_partitions = inputs.partitions;
        config.set_extension(Arc::clone(inputs));
        config.set_distributed_option_extension(RunOptions { run: inputs.run.to_string() });
        let urls = inputs.targets.iter().map(|target| target.url.clone()).collect();
        config.set_distributed_worker_resolver(Targets(urls));
        config.set_distributed_max_tasks_per_stage(inputs.targets.len())?;
        let anew;
        let optimized = match &self.optimized {
            Some(optimized) => optimized,
            None => {
                anew = state.optimize(&self.resolved)?;
                &anew
            }
        };
        state.config_mut().set_extension(Arc::new(NeededColumns::of(optimized)?));
        let planner = Arc::clone(state.query_planner());
        let plan = planner.create_physical_plan(optimized, &state).await?;
        let plan = distribute::sink_on_executor(plan, inputs)?;
        let scans = scans_of(&plan)?;
        if scans.len() != inputs.num_scans() {
            return internal_err!(
                "{} of {} scans were given blocks",
                scans.len(),
                inputs.num_scans()
            );
        }
        Ok(PlannedBatch {
            scans,
            num_tasks: distribute::count_tasks(&plan)?,
            num_last_tasks: distribute::count_last_tasks(&plan)?,
            may_stop_early: may_stop_early(&plan)?,
            context: state.task_ctx(),
            plan,
        })
    }
}

/// Whether an expression of the plan, such as `now()`, is constant for a batch only.
fn depends_on_time(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|root| {
            root.apply(|expression| {
                if let Expr::ScalarFunction(call) = expression {
                    found |= call.func.signature().volatility == Volatility::Stable;
                }
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    Ok(found)
}

/// The source of every scan, by number of the scan.
fn scans_of(plan: &Arc<dyn ExecutionPlan>) -> Result<BTreeMap<u32, String>> {
    let mut scans = BTreeMap::new();
    plan.apply(|node| {
        let original = node.downcast_ref::<DistributedLeafExec>().map(|leaf| leaf.original());
        let scan = original.and_then(|original| original.downcast_ref::<BlockScanExec>());
        if let Some(scan) = scan {
            scans.insert(scan.spec().scan, scan.spec().source.name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}

fn may_stop_early(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| {
        let limits = node.is::<LocalLimitExec>() || node.is::<GlobalLimitExec>();
        let joins = node.is::<HashJoinExec>()
            || node.is::<NestedLoopJoinExec>()
            || node.is::<CrossJoinExec>()
            || node.is::<SortMergeJoinExec>();
        // A sort with a limit reads everything before it gives its first row.
        let fetches = node.fetch().is_some() && !node.is::<SortExec>();
        Ok(limits || joins || fetches)
    })
}
