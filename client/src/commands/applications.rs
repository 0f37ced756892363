//! `millrace list`: the applications of the cluster.

use millrace_client::view::ApplicationView;

use super::master;
use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::{Align, Output, table};
use crate::times::{show_span, show_time};

pub(super) async fn run(global: &Global, output: &Output) -> Outcome {
    let applications = master(global).await?.applications().await?;
    let mut views: Vec<_> =
        applications.iter().map(|application| ApplicationView::new(application, &[])).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    output.result(&views, || {
        if views.is_empty() {
            output.say("no application was submitted yet");
            return String::new();
        }
        show(&views)
    })
}

fn show(views: &[ApplicationView]) -> String {
    const COLUMNS: [(&str, Align); 7] = [
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("ATTEMPT", Align::Right),
        ("EXECUTORS", Align::Right),
        ("BATCH", Align::Right),
        ("LAG", Align::Right),
        ("SUBMITTED", Align::Left),
    ];
    table(
        &COLUMNS,
        views.iter().map(|view| {
            vec![
                view.name.clone(),
                view.state.clone(),
                view.attempt.map_or_else(|| "-".to_owned(), |n| n.to_string()),
                view.num_executors.to_string(),
                view.batch.map_or_else(|| "-".to_owned(), |n| n.to_string()),
                view.millis_behind_latest.map_or_else(|| "-".to_owned(), show_span),
                view.submitted_ms.map_or_else(|| "-".to_owned(), show_time),
            ]
        }),
    )
}
