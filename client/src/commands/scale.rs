//! `millrace scale APP`: the number of executors by hand, and `millrace queues`: the shares of the
//! cluster.
//!
//! Promises: `scale` returns when the master has taken the number; executors that are given up move
//! their shards and blocks first, while the application goes on.

use millrace_client::view::{ApplicationView, QueueView};
use millrace_common::resources::ByteSize;

use super::master;
use crate::arguments::{Global, Scale};
use crate::ended::Outcome;
use crate::output::{Align, Output, table};

pub(super) async fn scale(global: &Global, output: &Output, command: &Scale) -> Outcome {
    let name = &command.named.name;
    let application = master(global).await?.scale(name, command.executors.unwrap_or(0)).await?;
    let view = ApplicationView::new(&application, &[]);
    output.result(&view, || {
        let has = view.num_executors;
        let asked = match view.scaled_to {
            Some(1) => "1 executor is asked for".to_owned(),
            Some(count) => format!("{count} executors are asked for"),
            None => "its file decides about the number of executors again".to_owned(),
        };
        format!("{name}: {asked}; it has {has} now; see `millrace status {name}`")
    })
}

pub(super) async fn queues(global: &Global, output: &Output) -> Outcome {
    let queues = master(global).await?.queues().await?;
    let views: Vec<_> = queues.iter().map(QueueView::new).collect();
    output.result(&views, || show(&views))
}

fn show(views: &[QueueView]) -> String {
    const COLUMNS: [(&str, Align); 7] = [
        ("QUEUE", Align::Left),
        ("GUARANTEE", Align::Left),
        ("CAP", Align::Left),
        ("USED", Align::Left),
        ("APPLICATIONS", Align::Right),
        ("QUEUED", Align::Right),
        ("SUBMIT", Align::Left),
    ];
    let amount = |cores: u32, memory: u64| {
        format!("{cores} cores, {}", ByteSize::mib(memory.div_ceil(1 << 20)))
    };
    let share =
        |percent: f64, cores: u32, memory: u64| format!("{percent}% ({})", amount(cores, memory));
    table(
        &COLUMNS,
        views.iter().map(|view| {
            vec![
                view.name.clone(),
                share(view.guarantee_percent, view.guarantee_cores, view.guarantee_memory_bytes),
                share(view.cap_percent, view.cap_cores, view.cap_memory_bytes),
                amount(view.used_cores, view.used_memory_bytes),
                view.num_applications.to_string(),
                view.num_queued.to_string(),
                view.submit.join(", "),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use millrace_proto::v1;

    use super::*;

    #[test]
    fn a_queue_is_one_line_with_its_shares() {
        let resources = |cores, gib: u64| Some(v1::Resources { cores, memory_bytes: gib << 30 });
        let queue = v1::Queue {
            name: "etl".to_owned(),
            guarantee_bp: 1_250,
            cap_bp: 5_000,
            guarantee: resources(2, 4),
            cap: resources(8, 16),
            used: resources(3, 5),
            submit: vec!["alice".to_owned(), "*".to_owned()],
            num_applications: 2,
            num_queued: 1,
        };
        let text = show(&[QueueView::new(&queue)]);
        assert!(text.contains("12.5% (2 cores, 4GiB)"), "{text}");
        assert!(text.contains("50% (8 cores, 16GiB)"), "{text}");
        assert!(text.contains("alice, *"), "{text}");
    }
}
