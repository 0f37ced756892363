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

fn show(view: &WhyView) -> String {
    let Some(cause) = &view.cause else {
        return match view.standing.as_str() {
            "ended" => format!("{} has ended as it was asked to\n", view.name),
            _ => format!("{} runs and keeps up\n", view.name),
        };
    };
    let mut text = format!("{} is {}: {}\n", view.name, view.standing, line(cause));
    writeln!(text, "next: {}", cause.next).ok();
    for other in &view.others {
        writeln!(text, "also: {}\n      next: {}", line(other), other.next).ok();
    }
    text
}

fn line(cause: &CauseView) -> String {
    let code = cause.code.as_deref().map(|code| format!(", {code}")).unwrap_or_default();
    format!("{} ({}{code})", cause.what, cause.kind)
}
