//! `millrace nodes`: the nodes of the cluster and what is left on them.

use millrace_client::view::NodeView;
use millrace_common::resources::ByteSize;

use super::master;
use crate::arguments::Global;
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

fn show(views: &[NodeView]) -> String {
    const COLUMNS: [(&str, Align); 7] = [
        ("NODE", Align::Left),
        ("HOST", Align::Left),
        ("STATE", Align::Left),
        ("CORES", Align::Right),
        ("MEMORY", Align::Right),
        ("CONTAINERS", Align::Right),
        ("HEARTBEAT", Align::Left),
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
            ]
        }),
    )
}
