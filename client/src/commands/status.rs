//! `millrace status APP`: everything about one application on one screen.

use std::fmt::Write as _;

use millrace_client::view::{ApplicationView, ExecutorView, ReceiverView, ReplayView};
use millrace_common::id::DEFAULT_QUEUE;
use millrace_common::resources::ByteSize;

use super::master;
use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::{Align, Output, fields, table};
use crate::times::{show_span, show_time, show_time_ms};

/// Shards named per receiver before the rest is only counted.
const SHARDS_SHOWN: usize = 4;

pub(super) async fn run(global: &Global, output: &Output, name: &str) -> Outcome {
    let (application, containers) = master(global).await?.application(name).await?;
    let view = ApplicationView::new(&application, &containers);
    output.result(&view, || show(&view))
}

/// The screen for people.
fn show(view: &ApplicationView) -> String {
    let mut rows = vec![("application", view.name.clone()), ("state", state(view))];
    if let Some(failure) = &view.failure {
        rows.push(("failure", format!("{} {}", failure.code, failure.message)));
        rows.push(("next", failure.next.clone()));
    }
    if let Some(replay) = &view.replay {
        rows.push(("replay", range(replay)));
    }
    rows.push(("attempt", attempt(view)));
    rows.push(("driver", driver(view)));
    if view.queue != DEFAULT_QUEUE {
        rows.push(("queue", view.queue.clone()));
    }
    rows.extend(view.doing.iter().map(|doing| ("doing", doing.clone())));
    if !view.has_ended() {
        rows.push(("executors", executors_asked_for(view)));
    }
    for change in view.scaling.iter().flat_map(|scaling| &scaling.decisions) {
        let at = change.at_ms.map(show_time).unwrap_or_default();
        rows.push(("scaled", format!("{at} {} -> {}: {}", change.from, change.to, change.reason)));
    }
    if !view.has_ended() {
        rows.extend(input_and_cores(view));
    }
    rows.push(("batch", batch(view)));
    rows.push((
        "totals",
        format!(
            "{} records, {} rows, {} bad records",
            view.records_total, view.rows_total, view.bad_records_total
        ),
    ));
    for bad in &view.bad_records {
        let text = format!("{} in {}/{}", bad.num_records, bad.source, bad.shard_id);
        rows.push(("bad records", text));
    }
    if view.out_of_range_total > 0 {
        rows.push(("out of range", format!("{} KPL user records", view.out_of_range_total)));
    }
    for gap in &view.gaps {
        let text = format!("{} in {}/{}: {}", gap.num_gaps, gap.source, gap.shard_id, gap.last);
        rows.push(("lost", text));
    }
    for executor in &view.executors {
        if let Some(reason) = &executor.spill_refused {
            let (id, num) = (&executor.container_id, executor.num_spills_refused);
            rows.push(("spill refused", format!("{num} times on {id}: {reason}")));
        }
    }
    rows.extend(excluded(view).map(|text| ("excluded", text)));
    if let Some(degraded) = &view.degraded {
        rows.push(("degraded", degraded.clone()));
    }
    let mut text = fields(&rows);
    if !view.executors.is_empty() {
        write!(text, "\n{}\n", executors(&view.executors)).ok();
    }
    if !view.receivers.is_empty() {
        write!(text, "\n{}\n", receivers(&view.receivers)).ok();
    }
    text
}

/// What is true only while it runs.
fn input_and_cores(view: &ApplicationView) -> [(&'static str, String); 3] {
    let (free, total) = (view.task_cores_free, view.task_cores_total);
    let lag = view.millis_behind_latest.map_or_else(|| "not known yet".to_owned(), show_span);
    [
        ("receivers", format!("{} reading {} shards", view.receivers.len(), view.num_shards)),
        ("task cores", format!("cores free for tasks: {free} of {total}")),
        ("lag", lag),
    ]
}

/// How many there are, how many are asked for, and what speaks for more or fewer.
fn executors_asked_for(view: &ApplicationView) -> String {
    let mut text = view.num_executors.to_string();
    let Some(scaling) = &view.scaling else { return text };
    write!(text, " of {}", scaling.target).ok();
    if view.scaled_to.is_some() {
        text.push_str(", set by hand");
    } else if scaling.min < scaling.max {
        write!(text, " ({} to {}): {}", scaling.min, scaling.max, scaling.reason).ok();
    }
    text
}

/// What a replay computes and how far it is.
fn range(replay: &ReplayView) -> String {
    let (from, to) = (show_time_ms(replay.from_ms), show_time_ms(replay.to_ms));
    let mut text = format!("of {} from {from} to {to}", replay.of);
    if let (Some(shards), Some(done)) = (replay.num_shards, replay.num_shards_done) {
        write!(text, ", {done} of {shards} shards done").ok();
    }
    if let (Some(records), Some(files)) = (replay.num_records, replay.num_files) {
        write!(text, ", {records} records in {files} files").ok();
    }
    text
}

fn state(view: &ApplicationView) -> String {
    let since = view.changed_ms.map(|at| format!(" since {}", show_time(at))).unwrap_or_default();
    if view.reason.is_empty() {
        format!("{}{since}", view.state)
    } else {
        format!("{}{since}: {}", view.state, view.reason)
    }
}

fn attempt(view: &ApplicationView) -> String {
    let Some(last) = view.attempts.iter().max_by_key(|attempt| attempt.number) else {
        return "none yet".to_owned();
    };
    let mut text = format!("{} (epoch {})", last.number, last.epoch);
    if let Some(reason) = &last.end_reason {
        write!(text, ", ended: {reason}").ok();
    }
    let before = view.attempts.iter().filter(|attempt| attempt.number < last.number);
    if let Some(previous) = before.max_by_key(|attempt| attempt.number) {
        let reason = previous.end_reason.as_deref().unwrap_or("not known");
        write!(text, "; attempt {} ended: {reason}", previous.number).ok();
    }
    text
}

fn driver(view: &ApplicationView) -> String {
    let node = view
        .attempts
        .iter()
        .max_by_key(|attempt| attempt.number)
        .and_then(|attempt| attempt.node_id.as_deref());
    match (&view.driver, node) {
        (Some(driver), node) => {
            let node = node.map(|node| format!(" on {node}")).unwrap_or_default();
            let pid = driver.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            format!("{} {}{node}{pid}", driver.container_id, driver.state)
        }
        (None, Some(node)) => format!("on {node}"),
        (None, None) => "not placed".to_owned(),
    }
}

fn batch(view: &ApplicationView) -> String {
    let Some(batch) = view.batch else { return "none yet".to_owned() };
    let mut text = batch.to_string();
    if let Some(at) = view.last_commit_ms {
        write!(text, ", committed {}", show_time(at)).ok();
    }
    if view.num_batches_in_flight > 0 {
        text.push_str(", another in flight");
    }
    text
}

/// Who gets no work for a while, and why.
fn excluded(view: &ApplicationView) -> impl Iterator<Item = String> {
    let until = |at: Option<i64>| at.map(|at| format!(" until {}", show_time(at)));
    let executors = view.executors.iter().filter_map(move |executor| {
        let until = until(executor.excluded_until_ms).unwrap_or_default();
        Some(format!("{}{until}: {}", executor.container_id, executor.excluded_reason.as_ref()?))
    });
    let nodes = view.excluded_nodes.iter().map(move |node| {
        let until = until(node.until_ms).unwrap_or_default();
        format!("node {}{until}: {}", node.node_id, node.reason)
    });
    executors.chain(nodes)
}

fn executors(executors: &[ExecutorView]) -> String {
    const COLUMNS: [(&str, Align); 6] = [
        ("EXECUTOR", Align::Left),
        ("NODE", Align::Left),
        ("CORES BUSY", Align::Right),
        ("RECEIVERS", Align::Right),
        ("BLOCKS", Align::Right),
        ("MEMORY", Align::Right),
    ];
    table(
        &COLUMNS,
        executors.iter().map(|executor| {
            vec![
                executor.container_id.clone(),
                executor.node_id.clone(),
                format!("{}/{}", executor.cores_busy, executor.cores),
                executor.num_receivers.to_string(),
                format!(
                    "{}/{}",
                    whole_mib(executor.block_bytes),
                    whole_mib(executor.block_bytes_budget)
                ),
                whole_mib(executor.rss_bytes).to_string(),
            ]
        }),
    )
}

fn receivers(receivers: &[ReceiverView]) -> String {
    const COLUMNS: [(&str, Align); 5] = [
        ("RECEIVER", Align::Left),
        ("SOURCE", Align::Left),
        ("EXECUTOR", Align::Left),
        ("SHARDS", Align::Right),
        ("WHICH", Align::Left),
    ];
    table(
        &COLUMNS,
        receivers.iter().map(|receiver| {
            let mut which = receiver.shards.iter().take(SHARDS_SHOWN).cloned().collect::<Vec<_>>();
            if receiver.shards.len() > SHARDS_SHOWN {
                which.push(format!("and {} more", receiver.shards.len() - SHARDS_SHOWN));
            }
            vec![
                receiver.receiver_id.clone(),
                receiver.source.clone(),
                receiver.container_id.clone(),
                receiver.num_shards.to_string(),
                which.join(" "),
            ]
        }),
    )
}

/// A size rounded up to whole MiB: exact bytes are in the JSON.
fn whole_mib(bytes: u64) -> ByteSize {
    ByteSize::mib(bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use millrace_proto::v1;

    use super::*;

    #[test]
    fn the_screen_names_reason_cores_and_shards() {
        let application = v1::Application {
            name: "word-count".to_owned(),
            state: v1::ApplicationState::Running.into(),
            num_executors: 16,
            attempts: vec![
                v1::Attempt {
                    number: 1,
                    end_reason: "node-2 was lost".to_owned(),
                    ..Default::default()
                },
                v1::Attempt {
                    number: 2,
                    epoch: 3,
                    node_id: "node-1".to_owned(),
                    ..Default::default()
                },
            ],
            report: Some(v1::DriverReport {
                batch: 12,
                task_cores_total: 32,
                scaling: Some(v1::ScalingReport {
                    target: 16,
                    min: 4,
                    max: 20,
                    reason: "80% busy".to_owned(),
                    decisions: vec![v1::ScalingDecision {
                        at_ms: 1,
                        from: 8,
                        to: 16,
                        reason: "95% busy".to_owned(),
                    }],
                }),
                millis_behind_latest: 400,
                num_shards: 36,
                executors: vec![v1::ExecutorReport {
                    container_id: "word-count-a2-e1".to_owned(),
                    excluded_reason: "2 failures".to_owned(),
                    ..Default::default()
                }],
                receivers: vec![v1::ReceiverReport {
                    receiver_id: "logs/0".to_owned(),
                    source: "logs".to_owned(),
                    shards: (0..6).map(|i| format!("shard-{i}")).collect(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let application = v1::Application {
            excluded_nodes: vec![v1::NodeExclusion {
                node_id: "node-1".to_owned(),
                reason: "4 failures".to_owned(),
                until_ms: 1,
            }],
            ..application
        };
        let stopped = v1::Application {
            state: v1::ApplicationState::Stopped.into(),
            report: Some(v1::DriverReport { batch: 12, records_total: 7, ..Default::default() }),
            ..application.clone()
        };
        let text = show(&ApplicationView::new(&stopped, &[]));
        assert!(text.contains("7 records") && text.contains("12"), "{text}");
        for live in ["lag", "reading", "cores free"] {
            assert!(!text.contains(live), "{live}: {text}");
        }
        let text = show(&ApplicationView::new(&application, &[]));
        assert!(text.contains("cores free for tasks: 32 of 32"), "{text}");
        assert!(text.contains("16 of 16 (4 to 20): 80% busy"), "{text}");
        assert!(text.contains("8 -> 16: 95% busy"), "{text}");
        assert!(text.contains("2 (epoch 3); attempt 1 ended: node-2 was lost"), "{text}");
        assert!(text.contains("1 reading 36 shards"), "{text}");
        assert!(text.contains("shard-3 and 2 more"), "{text}");
        assert!(text.contains("400 ms"), "{text}");
        assert!(text.contains("on node-1"), "{text}");
        assert!(text.contains("word-count-a2-e1: 2 failures"), "{text}");
        assert!(text.contains("node node-1 until "), "{text}");
    }
}
