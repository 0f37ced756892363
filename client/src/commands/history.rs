//! `millrace history APP`: its revisions and the attempts of its driver, each with how it ended.

use millrace_client::view::HistoryView;

use super::master;
use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::{Align, Output, table};
use crate::times::show_time;

pub(super) async fn run(global: &Global, output: &Output, name: &str) -> Outcome {
    let (application, _) = master(global).await?.application(name).await?;
    let view = HistoryView::new(&application);
    output.result(&view, || show(&view))
}

fn time(ms: Option<i64>) -> String {
    ms.map_or_else(|| "-".to_owned(), show_time)
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn show(view: &HistoryView) -> String {
    const REVISIONS: [(&str, Align); 6] = [
        ("REVISION", Align::Right),
        ("STATE", Align::Left),
        ("BY", Align::Left),
        ("SUBMITTED", Align::Left),
        ("ENDED", Align::Left),
        ("REASON", Align::Left),
    ];
    const ATTEMPTS: [(&str, Align); 6] = [
        ("ATTEMPT", Align::Right),
        ("REVISION", Align::Right),
        ("NODE", Align::Left),
        ("STARTED", Align::Left),
        ("ENDED", Align::Left),
        ("REASON", Align::Left),
    ];
    let revisions = view.revisions.iter().map(|revision| {
        vec![
            revision.number.to_string(),
            revision.state.clone(),
            or_dash(revision.submitted_by.as_deref()),
            time(revision.submitted_ms),
            time(revision.ended_ms),
            or_dash(revision.reason.as_deref()),
        ]
    });
    let attempts = view.attempts.iter().map(|attempt| {
        vec![
            attempt.number.to_string(),
            attempt.revision.to_string(),
            or_dash(attempt.node_id.as_deref()),
            time(attempt.started_ms),
            time(attempt.ended_ms),
            or_dash(attempt.end_reason.as_deref()),
        ]
    });
    format!("{}\n\n{}", table(&REVISIONS, revisions).trim_end(), table(&ATTEMPTS, attempts))
}
