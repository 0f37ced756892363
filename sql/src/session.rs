//! The one place where an engine session is made, for client, driver and executor alike.
//!
//! Promises: all three plan and compute with the same settings and functions, in UTC.
//! Never does: give a session access to files, networks or environment variables.

use std::sync::Arc;

use datafusion::common::extensions_options;
use datafusion::config::ConfigExtension;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt};

use crate::plan::codec::NodeCodec;
use crate::plan::distribute;
use crate::plan::planner::SinkPlanner;

/// Rows a scan decodes at a time, and the engine's batch size.
pub const ROWS_PER_BATCH: usize = 8192;

extensions_options! {
    /// What the tasks of a run are told beside their plan. It travels in request headers.
    pub struct RunOptions {
        /// Name of the run, a UUID; empty outside of a run.
        pub run: String, default = String::new()
    }
}

impl ConfigExtension for RunOptions {
    const PREFIX: &'static str = "millrace";
}

/// Settings that plans and tasks share.
#[must_use]
pub fn config(target_partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(target_partitions.max(1))
        .with_batch_size(ROWS_PER_BATCH)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(true);
    let options = config.options_mut();
    options.execution.time_zone = Some("+00:00".to_owned());
    // A recursive query would read the blocks of a batch more than once.
    options.execution.enable_recursive_ctes = false;
    options.execution.collect_statistics = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Dynamic filters connect nodes that end up in different processes.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    config
}

/// A session that plans and explains on its own, without a cluster.
#[must_use]
pub fn local(target_partitions: usize) -> SessionState {
    SessionStateBuilder::new()
        .with_default_features()
        .with_config(config(target_partitions))
        .with_runtime_env(Arc::new(RuntimeEnv::default()))
        .build()
}

/// A session that plans batches for executors. What differs from batch to batch is added to a copy
/// of it by [`crate::plan::PreparedQuery`].
#[must_use]
pub fn driver(target_partitions: usize) -> SessionState {
    let mut builder = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config(target_partitions))
        .with_runtime_env(Arc::new(RuntimeEnv::default()))
        .with_query_planner(Arc::new(SinkPlanner))
        .with_distributed_planner()
        .with_distributed_user_codec(NodeCodec)
        .with_distributed_option_extension(RunOptions::default())
        .with_distributed_desired_task_count_handler(distribute::desired_task_count)
        .with_distributed_scale_up_leaf_node_handler(distribute::scale_up_scan)
        .with_distributed_route_tasks_handler(distribute::route_tasks);
    distribute::configure(builder.config().get_or_insert_default());
    builder.build()
}

/// Adds to the session of a task what every task needs; the executor adds its own extensions.
///
/// # Errors
/// When the headers hold options that do not parse.
pub fn task(
    mut builder: SessionStateBuilder,
    headers: &http::HeaderMap,
) -> datafusion::common::Result<SessionStateBuilder> {
    let task_config = builder.config().get_or_insert_default();
    let shared = config(task_config.target_partitions());
    let options = task_config.options_mut();
    options.execution.time_zone = shared.options().execution.time_zone.clone();
    options.execution.batch_size = shared.options().execution.batch_size;
    options.optimizer = shared.options().optimizer.clone();
    builder
        .with_distributed_user_codec(NodeCodec)
        .with_distributed_option_extension_from_headers::<RunOptions>(headers)
}
