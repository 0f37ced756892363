//! What the driver says of its application: once a second, and after each batch.
//!
//! Promises: a report is what was true at one moment, never a sum of guesses. Owned by the driver's
//! main. Never does: decide.

use std::collections::BTreeMap;

use millrace_common::clock::Clock;
use millrace_proto::v1;
use millrace_proto::v1::trouble::Kind;

use super::batch::making::Totals;
use super::executors::core::ExecutorView;
use super::receivers::core::{GapView, LateView, Snapshot};

fn gap(view: &GapView) -> v1::GapReport {
    v1::GapReport {
        source: view.source.clone(),
        shard_id: view.shard_id.clone(),
        num_gaps: view.count,
        last: view.last.clone(),
    }
}

fn bad_records(
    ((source, shard_id), num_records): (&(String, String), &u64),
) -> v1::BadRecordsReport {
    let (source, shard_id) = (source.clone(), shard_id.clone());
    v1::BadRecordsReport { source, shard_id, num_records: *num_records }
}

fn late(view: &LateView) -> v1::LateShard {
    v1::LateShard {
        source: view.source.clone(),
        shard_id: view.shard_id.clone(),
        millis_behind_latest: view.millis_behind_latest,
        bytes_per_second: view.bytes_per_second,
        stream: view.stream.clone(),
        split_at: view.split_at.map(|key| key.to_string()).unwrap_or_default(),
    }
}

/// What is not as it should be: the commit before the batch, the batch before the shards.
fn troubles(
    totals: &Totals,
    input: &Snapshot,
    commits_late: Option<&v1::Failure>,
) -> Vec<v1::Trouble> {
    let trouble = |kind: Kind, subject: String, failure: &v1::Failure| v1::Trouble {
        kind: kind.into(),
        subject,
        failure: Some(failure.clone()),
    };
    let commit = commits_late.map(|failure| trouble(Kind::Commit, String::new(), failure));
    let batch = totals.failing.as_ref();
    let batch = batch.map(|(n, failure)| trouble(Kind::Batch, format!("batch {n}"), failure));
    let shards = input.troubles.iter().map(|(shard, failure)| {
        trouble(Kind::Shard, format!("{}/{}", shard.source, shard.shard_id), failure)
    });
    commit.into_iter().chain(batch).chain(shards).collect()
}

/// Puts a report together.
#[must_use]
pub fn report(
    totals: &Totals,
    executors: &[ExecutorView],
    input: &Snapshot,
    commits_late: Option<&v1::Failure>,
    scaling: v1::ScalingReport,
    clock: &dyn Clock,
) -> v1::DriverReport {
    let mut receivers_on = BTreeMap::<&str, u32>::new();
    for receiver in &input.receivers {
        *receivers_on.entry(receiver.container.as_str()).or_default() += 1;
    }
    let executor = |view: &ExecutorView| {
        let registration = &view.registration;
        let container = registration.container.as_str();
        let excluded = view.exclusion.as_ref();
        v1::ExecutorReport {
            container_id: container.to_owned(),
            node_id: registration.node_id.clone(),
            address: registration.address.clone(),
            cores: registration.cores,
            cores_busy: view.heartbeat.cores_busy,
            block_bytes: view.heartbeat.block_bytes.saturating_add(view.heartbeat.disk_bytes),
            block_bytes_budget: registration.budget_bytes,
            num_receivers: receivers_on.get(container).copied().unwrap_or(0),
            rss_bytes: view.heartbeat.rss_bytes,
            spill_refused: view.heartbeat.spill_refused.clone(),
            num_spills_refused: view.heartbeat.num_spills_refused,
            excluded_reason: excluded.map(|e| e.reason.clone()).unwrap_or_default(),
            excluded_until_ms: excluded.map(|e| e.until_ms(clock)).unwrap_or_default(),
            over_budget: view.heartbeat.over_budget,
        }
    };
    let receiver = |view: &super::receivers::core::ReceiverView| v1::ReceiverReport {
        receiver_id: view.receiver.as_str().to_owned(),
        container_id: view.container.as_str().to_owned(),
        source: view.source.clone(),
        shards: view.shards.clone(),
    };
    v1::DriverReport {
        batch: totals.batch,
        last_commit_ms: totals.last_commit_ms,
        executors: executors.iter().map(executor).collect(),
        receivers: input.receivers.iter().map(receiver).collect(),
        num_shards: input.num_shards,
        millis_behind_latest: input.millis_behind_latest.unwrap_or(-1),
        task_cores_total: executors.iter().map(|view| view.registration.cores).sum(),
        task_cores_busy: executors.iter().map(|view| view.heartbeat.cores_busy).sum(),
        records_total: totals.overall.records,
        rows_total: totals.overall.rows,
        bad_records_total: totals.bad_records,
        bad_records: totals.bad_by_shard.iter().map(bad_records).collect(),
        degraded: commits_late
            .or(input.troubles.first().map(|(_, failure)| failure))
            .map(|failure| format!("{} {}", failure.code, failure.message))
            .unwrap_or_default(),
        num_batches_in_flight: u32::from(totals.in_flight),
        buffered_bytes: input.buffered_bytes,
        out_of_range_total: totals.out_of_range_records,
        gaps: input.gaps.iter().map(gap).collect(),
        scaling: Some(scaling),
        troubles: troubles(totals, input, commits_late),
        late_shards: input.late.iter().map(late).collect(),
        replay: input.range.map(|range| v1::ReplayReport {
            num_shards: range.num_shards,
            num_shards_done: range.num_done,
            num_records: totals.overall.records,
            num_rows: totals.overall.rows,
            num_files: totals.overall.files,
        }),
        doing: String::new(),
    }
}
