//! The one place that writes: data to standard output, talk to standard error.
//!
//! Promises: with `--json` standard output holds JSON and nothing else, and an error is one JSON
//! object on standard error; tables have no colours and no borders, so that they can be cut with
//! ordinary tools; progress is drawn only on a terminal.
//! Owned by `main`; every command borrows it.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millrace_common::error::Error;
use serde::Serialize;

use crate::ended::{Ended, Exit, Outcome};

/// How often a progress line moves by itself.
const PROGRESS_TICK: Duration = Duration::from_millis(120);

/// Where a command's words go.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// For programs when `json`, else for people.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// True when programs read.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// The result of a command: `value` for programs, `text` for people.
    pub(crate) fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        if self.json { self.json_line(value) } else { self.text(&text()) }
    }

    /// One JSON document on a line of its own.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Outcome {
        let mut line = serde_json::to_vec(value)
            .map_err(|error| Error::internal("an answer is not JSON").caused_by(error))?;
        line.push(b'\n');
        self.bytes(&line)
    }

    /// One JSON document for people and programs alike, over several lines.
    pub(crate) fn json_document(&self, value: &serde_json::Value) -> Outcome {
        self.text(&format!("{value:#}"))
    }

    /// Text for people; a final newline is added where it is missing.
    pub(crate) fn text(&self, text: &str) -> Outcome {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.bytes(format!("{text}{end}").as_bytes())
    }

    /// Data as it is.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Ended::OutputClosed)
            }
            Err(error) => {
                Err(Error::internal("standard output can not be written").caused_by(error).into())
            }
        }
    }

    /// Talk: what is going on, what was noticed. Never data.
    pub(crate) fn say(&self, text: &str) {
        // When standard error is closed there is nobody to tell.
        writeln!(std::io::stderr().lock(), "{text}").ok();
    }

    /// Talk that the user should not miss.
    pub(crate) fn warn(&self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    /// A spinner with a message; nothing unless standard error is a terminal.
    pub(crate) fn spinner(&self, message: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.draw_target());
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(message.to_owned());
        if !bar.is_hidden() {
            bar.enable_steady_tick(PROGRESS_TICK);
        }
        bar
    }

    /// A bar towards `total`, or a count when the total is not known; nothing unless standard
    /// error is a terminal.
    pub(crate) fn progress(&self, total: Option<u64>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(total, self.draw_target());
        let template = match total {
            Some(_) => "{bar:30} {human_pos}/{human_len} {per_sec} {msg}",
            None => "{spinner} {human_pos} {per_sec} {msg}",
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar
    }

    fn draw_target(&self) -> ProgressDrawTarget {
        if self.json || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        }
    }

    /// Says why a command ended, and gives the exit code.
    pub(crate) fn ended(&self, ended: &Ended) -> ExitCode {
        let (error, exit) = match ended {
            Ended::Error(error, exit) => (error, *exit),
            Ended::OutputClosed => return Exit::Done.into(),
        };
        self.say(&if self.json { error_json(error, exit) } else { error_text(error) });
        exit.into()
    }
}

/// An error with its causes, for people: two lines.
fn error_text(error: &Error) -> String {
    let failure = error.to_failure();
    format!(
        "error[{}]: {}\nnext: {}",
        failure.code,
        one_line(&failure.message),
        one_line(&failure.next_move)
    )
}

/// An error as one JSON object.
fn error_json(error: &Error, exit: Exit) -> String {
    let failure = error.to_failure();
    serde_json::json!({
        "code": failure.code,
        "message": failure.message,
        "next": failure.next_move,
        "exit_code": exit as u8,
    })
    .to_string()
}

/// Text from elsewhere may hold newlines; an error keeps to one line each.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// A number of things: `1 record`, `2 records`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(number: N, one: &str) -> String {
    let end = if number == N::from(1) { "" } else { "s" };
    format!("{number} {one}{end}")
}

/// How a column of a table is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// An aligned table without borders: a header line and one line per row, two spaces in between.
pub(crate) fn table(
    columns: &[(&str, Align)],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(columns.iter().map(|(title, _)| Cell::new(title)));
    for row in rows {
        table.add_row(row);
    }
    for (index, (_, align)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
    }
    table.trim_fmt()
}

/// Aligned `name  value` lines, as `millrace status` shows them.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use millrace_common::error::Code;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_ends_lines_without_spaces() {
        let text = table(
            &[("NAME", Align::Left), ("BATCH", Align::Right)],
            [
                vec!["word-count".to_owned(), "7".to_owned()],
                vec!["x".to_owned(), "1200".to_owned()],
            ],
        );
        assert_eq!(text, "NAME        BATCH\nword-count      7\nx            1200");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1_u64, "record"), "1 record");
        assert_eq!(counted(0_usize, "upload"), "0 uploads");
    }

    #[test]
    fn an_error_is_two_lines_whatever_is_in_it() {
        let error = Error::new(Code::FileSyntax, "line 3:\n  key = \n", "close the string");
        assert_eq!(error_text(&error), "error[MR1001]: line 3:; key =\nnext: close the string");
    }

    #[test]
    fn an_error_as_json_has_its_exit_code() {
        let error = Error::new(Code::DoesNotFit, "too large", "ask for less");
        let json: serde_json::Value =
            serde_json::from_str(&error_json(&error, Exit::DoesNotFit)).unwrap();
        assert_eq!(json["code"], "MR2005");
        assert_eq!(json["exit_code"], 3);
        assert_eq!(json["next"], "ask for less");
    }
}
