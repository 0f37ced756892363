//! `millrace logs APP`: what the containers of an application write.
//!
//! Promises: the lines of each container come whole and in their order, and those of several
//! containers by their time, as far as they were read; each says its time, its level and, with more
//! than one container, whose it is. With `--follow` it goes on when another master takes the lead or
//! the one there is restarts: no line is lost by that, and none comes twice.

mod places;

use std::pin::pin;

use futures::{Stream, StreamExt};
use millrace_common::error::Error;
use millrace_proto::v1;
use serde_json::json;

use self::places::Places;
use super::master;
use super::wait::{Away, POLL};
use crate::arguments::{Global, Logs};
use crate::ended::Outcome;
use crate::output::Output;
use crate::times::show_time_ms;

pub(super) async fn run(global: &Global, output: &Output, command: &Logs) -> Outcome {
    let client = master(global).await?;
    let request = v1::ReadLogsRequest {
        application: command.named.name.clone(),
        container_id: command.container.clone().unwrap_or_default(),
        follow: command.follow,
        since_ms: command.since.unwrap_or(0),
        grep: command.grep.clone().unwrap_or_default(),
        places: Vec::new(),
        stream: v1::LogStream::Unspecified.into(),
    };
    let mut shown = Shown { is_named: command.container.is_none(), places: Places::default() };
    if !command.follow {
        return Ok(shown.all_of(output, client.logs(request).await?).await??);
    }
    let mut away = Away::default();
    loop {
        let opened = client.logs(shown.places.behind(&request)).await;
        if let Some(messages) = away.notice(opened, output)? {
            match shown.all_of(output, messages).await? {
                Ok(()) => return Ok(()),
                Err(error) => drop(away.notice::<()>(Err(error), output)?),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What was shown so far.
struct Shown {
    /// Lines say whose they are.
    is_named: bool,
    places: Places,
}

impl Shown {
    /// Shows lines as they come; the error is that of the stream.
    async fn all_of(
        &mut self,
        output: &Output,
        messages: impl Stream<Item = Result<v1::LogLines, Error>>,
    ) -> Outcome<Result<(), Error>> {
        let mut messages = pin!(messages);
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return Ok(Err(error)),
            };
            for line in &message.lines {
                if output.json() {
                    output.json_line(&for_programs(&message, line))?;
                } else {
                    output.text(&for_people(&message, line, self.is_named))?;
                }
                self.places.note(&message, line);
            }
        }
        Ok(Ok(()))
    }
}

fn level(line: &v1::LogLine) -> Option<&'static str> {
    match line.level() {
        v1::LogLevel::Unspecified => None,
        v1::LogLevel::Trace => Some("trace"),
        v1::LogLevel::Debug => Some("debug"),
        v1::LogLevel::Info => Some("info"),
        v1::LogLevel::Warn => Some("warn"),
        v1::LogLevel::Error => Some("error"),
    }
}

fn for_programs(message: &v1::LogLines, line: &v1::LogLine) -> serde_json::Value {
    let stream = match message.stream() {
        v1::LogStream::Stdout => "stdout",
        v1::LogStream::Stderr | v1::LogStream::Unspecified | v1::LogStream::Configuration => {
            "stderr"
        }
    };
    json!({
        "container_id": message.container_id,
        "node_id": message.node_id,
        "stream": stream,
        "time_ms": line.time_ms,
        "level": level(line),
        "line": String::from_utf8_lossy(&line.text),
    })
}

fn for_people(message: &v1::LogLines, line: &v1::LogLine, is_named: bool) -> String {
    let at = usize::try_from(line.message_at).unwrap_or(0);
    let text = String::from_utf8_lossy(line.text.get(at..).unwrap_or(&line.text));
    let level = level(line).unwrap_or("-").to_uppercase();
    let time = show_time_ms(line.time_ms);
    match is_named {
        true => format!("{time} {level:<5} {} | {text}\n", message.container_id),
        false => format!("{time} {level:<5} {text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_time_level_and_container_once() {
        let message = v1::LogLines {
            container_id: "a-a1-e1".to_owned(),
            stream: v1::LogStream::Stderr.into(),
            ..Default::default()
        };
        let mut line = v1::LogLine {
            time_ms: 1_250,
            text: b"1970-01-01T00:00:01.25Z  WARN late".to_vec(),
            message_at: 30,
            ..Default::default()
        };
        line.set_level(v1::LogLevel::Warn);
        let shown = for_people(&message, &line, true);
        assert_eq!(shown, "1970-01-01T00:00:01.250Z WARN  a-a1-e1 | late\n");
        assert_eq!(for_programs(&message, &line)["level"], "warn");
        assert_eq!(for_programs(&message, &line)["line"], "1970-01-01T00:00:01.25Z  WARN late");
        let bare = v1::LogLine { text: b"x\xff".to_vec(), message_at: 9, ..Default::default() };
        assert_eq!(
            for_people(&message, &bare, false),
            "1970-01-01T00:00:00.000Z -     x\u{fffd}\n"
        );
    }
}
