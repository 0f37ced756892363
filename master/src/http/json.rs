//! The shapes of `/api/v1`: names as in the protocol, enumerations without their prefix.

use std::collections::BTreeMap;

use millrace_proto::v1;
use serde_json::{Value, json};

use crate::application::state_name;

fn resources(resources: Option<&v1::Resources>) -> Value {
    let resources = resources.copied().unwrap_or_default();
    json!({ "cores": resources.cores, "memory_bytes": resources.memory_bytes })
}

fn failure(failure: Option<&v1::Failure>) -> Value {
    failure.map_or(Value::Null, |failure| {
        json!({
            "code": failure.code,
            "message": failure.message,
            "next_move": failure.next_move,
        })
    })
}

pub(super) fn node(node: &v1::Node) -> Value {
    json!({
        "node_id": node.node_id,
        "host": node.host,
        "state": node.state().as_str_name().trim_start_matches("NODE_STATE_"),
        "offered": resources(node.offered.as_ref()),
        "used": resources(node.used.as_ref()),
        "num_containers": node.num_containers,
        "last_heartbeat_ms": node.last_heartbeat_ms,
        "version": node.version,
        "pid": node.pid,
        "reason": node.reason,
        "drain_deadline_ms": node.drain_deadline_ms,
        "unhealthy": node.unhealthy,
        "unhealthy_since_ms": node.unhealthy_since_ms,
        "labels": node.labels.iter().collect::<BTreeMap<_, _>>(),
    })
}

fn attempt(attempt: &v1::Attempt) -> Value {
    json!({
        "number": attempt.number,
        "epoch": attempt.epoch,
        "container_id": attempt.container_id,
        "node_id": attempt.node_id,
        "started_ms": attempt.started_ms,
        "ended_ms": attempt.ended_ms,
        "end_reason": attempt.end_reason,
        "revision": attempt.revision,
    })
}

fn revision(revision: &v1::Revision) -> Value {
    json!({
        "number": revision.number,
        "state": revision.state().as_str_name().trim_start_matches("REVISION_STATE_"),
        "reason": revision.reason,
        "failure": failure(revision.failure.as_ref()),
        "submitted_ms": revision.submitted_ms,
        "submitted_by": revision.submitted_by,
        "ended_ms": revision.ended_ms,
        "request_id": revision.request_id,
        "spec_hash": revision.spec_hash,
    })
}

fn executor(executor: &v1::ExecutorReport) -> Value {
    json!({
        "container_id": executor.container_id,
        "node_id": executor.node_id,
        "address": executor.address,
        "cores": executor.cores,
        "cores_busy": executor.cores_busy,
        "block_bytes": executor.block_bytes,
        "block_bytes_budget": executor.block_bytes_budget,
        "num_receivers": executor.num_receivers,
        "rss_bytes": executor.rss_bytes,
        "spill_refused": executor.spill_refused,
        "num_spills_refused": executor.num_spills_refused,
        "excluded_reason": executor.excluded_reason,
        "excluded_until_ms": executor.excluded_until_ms,
    })
}

fn receiver(receiver: &v1::ReceiverReport) -> Value {
    json!({
        "receiver_id": receiver.receiver_id,
        "container_id": receiver.container_id,
        "source": receiver.source,
        "shards": receiver.shards,
    })
}

fn gap(gap: &v1::GapReport) -> Value {
    json!({
        "source": gap.source,
        "shard_id": gap.shard_id,
        "num_gaps": gap.num_gaps,
        "last": gap.last,
    })
}

fn bad_records(bad: &v1::BadRecordsReport) -> Value {
    json!({
        "source": bad.source,
        "shard_id": bad.shard_id,
        "num_records": bad.num_records,
    })
}

fn report(report: &v1::DriverReport) -> Value {
    json!({
        "batch": report.batch,
        "last_commit_ms": report.last_commit_ms,
        "executors": report.executors.iter().map(executor).collect::<Vec<_>>(),
        "receivers": report.receivers.iter().map(receiver).collect::<Vec<_>>(),
        "num_shards": report.num_shards,
        "millis_behind_latest": report.millis_behind_latest,
        "task_cores_total": report.task_cores_total,
        "task_cores_busy": report.task_cores_busy,
        "records_total": report.records_total,
        "rows_total": report.rows_total,
        "bad_records_total": report.bad_records_total,
        "bad_records": report.bad_records.iter().map(bad_records).collect::<Vec<_>>(),
        "degraded": report.degraded,
        "num_batches_in_flight": report.num_batches_in_flight,
        "buffered_bytes": report.buffered_bytes,
        "out_of_range_total": report.out_of_range_total,
        "gaps": report.gaps.iter().map(gap).collect::<Vec<_>>(),
        "scaling": report.scaling.as_ref().map_or(Value::Null, scaling),
        "replay": report.replay.as_ref().map_or(Value::Null, replay),
        "doing": report.doing,
    })
}

fn replay(replay: &v1::ReplayReport) -> Value {
    json!({
        "num_shards": replay.num_shards,
        "num_shards_done": replay.num_shards_done,
        "num_records": replay.num_records,
        "num_rows": replay.num_rows,
        "num_files": replay.num_files,
    })
}

fn scaling(scaling: &v1::ScalingReport) -> Value {
    let decision = |decision: &v1::ScalingDecision| {
        json!({
            "at_ms": decision.at_ms,
            "from": decision.from,
            "to": decision.to,
            "reason": decision.reason,
        })
    };
    json!({
        "target": scaling.target,
        "min": scaling.min,
        "max": scaling.max,
        "reason": scaling.reason,
        "decisions": scaling.decisions.iter().map(decision).collect::<Vec<_>>(),
    })
}

fn exclusion(exclusion: &v1::NodeExclusion) -> Value {
    json!({
        "node_id": exclusion.node_id,
        "reason": exclusion.reason,
        "until_ms": exclusion.until_ms,
    })
}

pub(super) fn application(application: &v1::Application) -> Value {
    json!({
        "name": application.name,
        "state": state_name(application.state()),
        "reason": application.reason,
        "failure": failure(application.failure.as_ref()),
        "submitted_ms": application.submitted_ms,
        "changed_ms": application.changed_ms,
        "attempts": application.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "num_executors": application.num_executors,
        "queue": application.spec.as_ref().map(|spec| &spec.queue),
        "scaled_to": application.scaled_to,
        "excluded_nodes": application.excluded_nodes.iter().map(exclusion).collect::<Vec<_>>(),
        "owner": application.owner,
        "revision": application.revision,
        "revisions": application.revisions.iter().map(revision).collect::<Vec<_>>(),
        "report": application.report.as_ref().map_or(Value::Null, report),
    })
}

pub(super) fn container_status(status: &v1::ContainerStatus) -> Value {
    let exit = status.exit.as_ref().map_or(Value::Null, |exit| {
        json!({
            "code": exit.code,
            "signal": exit.signal,
            "reason": exit.reason,
            "requested": exit.requested,
            "stderr_tail": exit.stderr_tail,
        })
    });
    json!({
        "container_id": status.container_id,
        "application": status.application,
        "attempt": status.attempt,
        "kind": status.kind().as_str_name().trim_start_matches("CONTAINER_KIND_"),
        "state": status.state().as_str_name().trim_start_matches("CONTAINER_STATE_"),
        "resources": resources(status.resources.as_ref()),
        "pid": status.pid,
        "started_ms": status.started_ms,
        "ended_ms": status.ended_ms,
        "exit": exit,
        "work_dir": status.work_dir,
    })
}

pub(super) fn container(container: &v1::Container) -> Value {
    let mut value = container_status(&container.status.clone().unwrap_or_default());
    value["node_id"] = json!(container.node_id);
    value["host"] = json!(container.host);
    value
}

pub(super) fn batch(batch: &v1::Batch) -> Value {
    json!({
        "number": batch.number,
        "epoch": batch.epoch,
        "cut_ms": batch.cut_ms,
        "committed_ms": batch.committed_ms,
        "published_ms": batch.published_ms,
        "num_records": batch.num_records,
        "num_bytes": batch.num_bytes,
        "num_rows": batch.num_rows,
        "num_files": batch.num_files,
        "num_blocks": batch.num_blocks,
        "num_tasks": batch.num_tasks,
        "num_runs": batch.num_runs,
        "num_bad_records": batch.num_bad_records,
        "recovered": batch.recovered,
        "files": batch.files,
    })
}
