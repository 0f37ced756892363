//! `millrace why APP`: the one cause why an application waits, is slow or has failed, and what mends
//! it.

use std::fmt::Write as _;

use millrace_client::view::{CauseView, WhyView};

use super::master;
use crate::arguments::Global;
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, name: &str) -> Outcome {
    let answer = master(global).await?.why(name).await?;
    let view = WhyView::new(name, &answer);
    output.result(&view, || show(&view))
}

/// The cause in one line, the facts that it rests on, and what mends it in one line.
fn show(view: &WhyView) -> String {
    let mut text = match (&view.cause, view.standing.as_str()) {
        (Some(cause), standing) => format!("{} is {standing}: {}\n", view.name, line(cause)),
        (None, "ended") => format!("{} has ended as it was asked to\n", view.name),
        (None, _) => format!("{} runs and keeps up\n", view.name),
    };
    let width = view.links.iter().map(|link| link.name.len()).max().unwrap_or(0);
    for link in &view.links {
        let mark = if link.holds { ' ' } else { '!' };
        writeln!(text, "{mark} {:width$}  {}", link.name, link.says).ok();
    }
    if let Some(cause) = &view.cause {
        writeln!(text, "next: {}", cause.next).ok();
    }
    for other in &view.others {
        writeln!(text, "also: {}\n      next: {}", line(other), other.next).ok();
    }
    text
}

fn line(cause: &CauseView) -> String {
    let code = cause.code.as_deref().map(|code| format!(", {code}")).unwrap_or_default();
    format!("{} ({}{code})", cause.what, cause.kind)
}
