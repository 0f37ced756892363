//! `millrace logs APP`: what the containers of an application write.
//!
//! Promises: lines come as they were written, in the order of each container; with more than one
//! container each line names its own.

use std::collections::HashMap;

use futures::StreamExt;
use millrace_proto::v1;
use serde_json::json;

use super::master;
use crate::arguments::{Global, Logs};
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(global: &Global, output: &Output, command: &Logs) -> Outcome {
    let client = master(global).await?;
    let container = command.container.as_deref();
    let mut pieces =
        std::pin::pin!(client.logs(&command.named.name, container, command.follow).await?);
    let mut lines = Lines { named: container.is_none(), ..Lines::default() };
    while let Some(piece) = pieces.next().await {
        write(output, lines.take(&piece?))?;
    }
    write(output, lines.rest())
}

fn write(output: &Output, lines: Vec<Line>) -> Outcome {
    for line in lines {
        if output.json() {
            output.json_line(&json!({
                "container_id": line.container,
                "stream": line.stream,
                "line": line.text,
            }))?;
        } else {
            output.text(&line.for_people())?;
        }
    }
    Ok(())
}

/// A line and where it comes from.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    container: String,
    stream: &'static str,
    text: String,
    named: bool,
}

impl Line {
    fn for_people(&self) -> String {
        if self.named {
            format!("{} | {}\n", self.container, self.text)
        } else {
            format!("{}\n", self.text)
        }
    }
}

/// Joins pieces to whole lines, for each container and stream.
#[derive(Debug, Default)]
struct Lines {
    named: bool,
    open: HashMap<(String, &'static str), Vec<u8>>,
}

impl Lines {
    /// The lines that a piece completes.
    fn take(&mut self, piece: &v1::LogLines) -> Vec<Line> {
        let stream = match piece.stream() {
            v1::LogStream::Stdout => "stdout",
            v1::LogStream::Stderr | v1::LogStream::Unspecified => "stderr",
        };
        let open = self.open.entry((piece.container_id.clone(), stream)).or_default();
        open.extend_from_slice(&piece.data);
        let Some(end) = open.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
        let rest = open.split_off(end + 1);
        let whole = std::mem::replace(open, rest);
        whole[..end]
            .split(|&byte| byte == b'\n')
            .map(|line| Line {
                container: piece.container_id.clone(),
                stream,
                text: String::from_utf8_lossy(line).into_owned(),
                named: self.named,
            })
            .collect()
    }

    /// What was left without a newline.
    fn rest(self) -> Vec<Line> {
        let named = self.named;
        let mut rest: Vec<_> = self
            .open
            .into_iter()
            .filter(|(_, open)| !open.is_empty())
            .map(|((container, stream), open)| Line {
                container,
                stream,
                text: String::from_utf8_lossy(&open).into_owned(),
                named,
            })
            .collect();
        rest.sort_by(|a, b| a.container.cmp(&b.container));
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(container: &str, data: &str) -> v1::LogLines {
        v1::LogLines {
            container_id: container.to_owned(),
            stream: v1::LogStream::Stderr.into(),
            data: data.as_bytes().to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn pieces_of_two_containers_do_not_mix() {
        let mut lines = Lines { named: true, ..Lines::default() };
        let mut seen = Vec::new();
        for (container, data) in [("a", "one\ntw"), ("b", "eins\n"), ("a", "o\n\nthree")] {
            seen.extend(lines.take(&piece(container, data)).iter().map(Line::for_people));
        }
        seen.extend(lines.rest().iter().map(Line::for_people));
        assert_eq!(seen, ["a | one\n", "b | eins\n", "a | two\n", "a | \n", "a | three\n"]);
    }
}
