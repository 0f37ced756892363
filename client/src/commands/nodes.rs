//! `millrace nodes`, `millrace node drain` and `millrace node undrain`: the nodes of the cluster,
//! what is left on them, and their administration.
//!
//! Promises: `drain` returns when nothing runs on the node any more (with `--no-wait`: when the
//! master has taken the order), and says meanwhile what it waits for.

use millrace_client::view::NodeView;
use millrace_common::error::{Code, Error};
use millrace_common::resources::ByteSize;
use millrace_proto::v1;
use serde_json::json;

use super::master;
use super::wait::{Away, POLL};
use crate::arguments::{Drain, Global};
use crate::ended::Outcome;
use crate::output::{Align, Output, table};
use crate::times::show_time;

pub(super) async fn run(global: &Global, output: &Output) -> Outcome {
    let nodes = master(global).await?.nodes().await?;
    let mut views: Vec<_> = nodes.iter().map(NodeView::new).collect();
    views.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    output.result(&views, || {
        if views.is_empty() {
            output.say("no node has registered with this master yet");
            return String::new();
        }
        show(&views)
    })
}

pub(super) async fn drain(global: &Global, output: &Output, command: &Drain) -> Outcome {
    let client = master(global).await?;
    let name = &command.node;
    let mut node = client.drain(name, command.deadline).await?;
    let spinner = output.spinner(&format!("draining {name}"));
    let (mut away, mut told) = (Away::default(), String::new());
    while !command.no_wait && node.state() != v1::NodeState::Drained {
        tokio::time::sleep(POLL).await;
        let Some(nodes) = away.notice(client.nodes().await, output)? else { continue };
        node = nodes.into_iter().find(|node| node.node_id == *name).ok_or_else(|| {
            Error::new(
                Code::UnknownNode,
                format!("node {name} has left the cluster and is not drained any more"),
                "see `millrace nodes`",
            )
        })?;
        if node.state() == v1::NodeState::Lost {
            // Its worker was ended, or died: nothing runs there.
            break;
        }
        if node.reason != told && !node.reason.is_empty() {
            output.say(&format!("{name}: {}", node.reason));
            told.clone_from(&node.reason);
        }
    }
    spinner.finish_and_clear();
    let view = NodeView::new(&node);
    output.result(&view, || format!("{name} {}", view.state))
}

pub(super) async fn undrain(global: &Global, output: &Output, name: &str) -> Outcome {
    master(global).await?.undrain(name).await?;
    output.result(&json!({ "node_id": name }), || format!("{name} takes containers again"))
}

fn show(views: &[NodeView]) -> String {
    const COLUMNS: [(&str, Align); 9] = [
        ("NODE", Align::Left),
        ("HOST", Align::Left),
        ("STATE", Align::Left),
        ("CORES", Align::Right),
        ("MEMORY", Align::Right),
        ("CONTAINERS", Align::Right),
        ("HEARTBEAT", Align::Left),
        ("LABELS", Align::Left),
        ("WHY", Align::Left),
    ];
    let bytes = ByteSize::bytes;
    table(
        &COLUMNS,
        views.iter().map(|view| {
            vec![
                view.node_id.clone(),
                view.host.clone(),
                view.state.clone(),
                format!("{}/{}", view.cores_used, view.cores),
                format!("{}/{}", bytes(view.memory_used_bytes), bytes(view.memory_bytes)),
                view.num_containers.to_string(),
                view.last_heartbeat_ms.map_or_else(|| "-".to_owned(), show_time),
                labels(view),
                why(view),
            ]
        }),
    )
}

/// Its labels as a worker is given them.
fn labels(view: &NodeView) -> String {
    let label = |(name, value): (&String, &String)| match value.as_str() {
        "true" => name.clone(),
        _ => format!("{name}={value}"),
    };
    let labels: Vec<String> = view.labels.iter().map(label).collect();
    if labels.is_empty() { "-".to_owned() } else { labels.join(",") }
}

/// Why the node is not simply alive: its trouble, and what a move off it waits for.
fn why(view: &NodeView) -> String {
    let since = view.unhealthy_since_ms.map(|at| format!(", since {}", show_time(at)));
    let trouble = view.unhealthy.as_ref().map(|text| text.clone() + &since.unwrap_or_default());
    let waits = Some(view.reason.clone()).filter(|reason| !reason.is_empty());
    trouble.into_iter().chain(waits).collect::<Vec<_>>().join("; ")
}
