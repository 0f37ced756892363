//! docs/coming-from-spark.md as a test reads it: files, commands, what each is shown to print, and
//! the text around them, so that it can be written again with other outputs.
//!
//! Fences and what they hold: `toml NAME` a file; `console` commands that are run, each behind `$ `,
//! and their output; `text` what there is in Spark, which nobody runs here. Before a `console` fence
//! may stand `<!-- until: TEXT -->`: its one command is run again until its output holds that text.

use std::fmt::Write as _;

/// One part of the document, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Lines that are kept as they are, fences of `text` included.
    Prose(String),
    /// A file of this name.
    File { name: String, text: String },
    /// Commands.
    Console { until: Option<String>, commands: Vec<Command>, line: usize },
}

/// One command and what the document shows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// As it is typed; with line breaks where a line ends with a backslash.
    pub(crate) line: String,
    /// Its output, each line with its end.
    pub(crate) output: String,
}

const UNTIL: &str = "<!-- until: ";

/// Reads the document.
///
/// # Errors
/// What is no part of this form, with its line.
pub(crate) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut prose = String::new();
    let mut until = None;
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        if let Some(rest) = line.strip_prefix(UNTIL) {
            let waited =
                rest.strip_suffix(" -->").ok_or(format!("line {number}: no end of a comment"))?;
            until = Some(waited.to_owned());
        }
        let Some(info) = line.strip_prefix("```") else {
            prose.push_str(line);
            prose.push('\n');
            continue;
        };
        let mut body = String::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, line)) => writeln!(body, "{line}").expect("a string takes all text"),
                None => return Err(format!("line {number}: a fence without an end")),
            }
        }
        let words: Vec<&str> = info.split(' ').collect();
        let part = match words.as_slice() {
            ["text"] if body.lines().any(is_ours) => {
                return Err(format!("line {number}: a command of ours that is not run"));
            }
            ["text"] => {
                write!(prose, "```text\n{body}```\n").expect("a string takes all text");
                continue;
            }
            ["toml", name] => Part::File { name: (*name).to_owned(), text: body },
            ["console"] => {
                let commands = commands(&body, number)?;
                if until.is_some() && commands.len() != 1 {
                    return Err(format!("line {number}: one command can be waited for"));
                }
                Part::Console { until: until.take(), commands, line: number }
            }
            _ => return Err(format!("line {number}: nobody runs a fence of {info:?}")),
        };
        parts.push(Part::Prose(std::mem::take(&mut prose)));
        parts.push(part);
        if until.is_some() {
            return Err(format!("line {number}: only commands are waited for"));
        }
    }
    parts.push(Part::Prose(prose));
    Ok(parts)
}

/// A line that runs one of our programs.
fn is_ours(line: &str) -> bool {
    line.trim_start_matches(['$', ' ']).starts_with("millrace")
}

fn commands(body: &str, number: usize) -> Result<Vec<Command>, String> {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for line in body.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (_, Some(last)) if goes_on => {
                last.line.push('\n');
                last.line.push_str(line);
            }
            (Some(command), _) => {
                commands.push(Command { line: command.to_owned(), output: String::new() });
            }
            (None, Some(last)) => {
                last.output.push_str(line);
                last.output.push('\n');
                continue;
            }
            (None, None) => return Err(format!("line {number}: output without a command")),
        }
        goes_on = line.ends_with('\\');
    }
    if commands.is_empty() { Err(format!("line {number}: no command")) } else { Ok(commands) }
}

/// The document's text again.
pub(crate) fn print(parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Prose(prose) => text.push_str(prose),
            Part::File { name, text: file } => {
                write!(text, "```toml {name}\n{file}```\n").expect("a string takes all text");
            }
            Part::Console { commands, .. } => {
                text.push_str("```console\n");
                for command in commands {
                    write!(text, "$ {}\n{}", command.line, command.output)
                        .expect("a string takes all text");
                }
                text.push_str("```\n");
            }
        }
    }
    text
}

/// The sections, by their headings, in which no command is run.
pub(crate) fn sections_without_a_command(parts: &[Part]) -> Vec<String> {
    let mut sections: Vec<(String, bool)> = Vec::new();
    for part in parts {
        match part {
            Part::Prose(prose) => {
                let headings = prose.lines().filter_map(|line| line.strip_prefix("## "));
                sections.extend(headings.map(|heading| (heading.to_owned(), false)));
            }
            Part::Console { .. } => {
                if let Some((_, has_command)) = sections.last_mut() {
                    *has_command = true;
                }
            }
            Part::File { .. } => {}
        }
    }
    sections.into_iter().filter(|(_, has)| !has).map(|(heading, _)| heading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# One\n\n## First\n\n```toml a.toml\nx = 1\n```\n\n```console\n$ echo a\na\n\n$ echo \\\n  b\nb\n```\nmore\n\n## Second\n\n```text\nspark-submit\n```\n\n<!-- until: done -->\n```console\n$ look\ndone\n```\n";

    #[test]
    fn what_is_read_is_written_again() {
        let parts = parse(TEXT).unwrap();
        assert_eq!(print(&parts), TEXT);
        let Part::Console { until, commands, line } = &parts[3] else { panic!("{parts:?}") };
        assert_eq!((until, *line), (&None, 9));
        let lines: Vec<_> = commands.iter().map(|c| (c.line.as_str(), c.output.as_str())).collect();
        assert_eq!(lines, [("echo a", "a\n\n"), ("echo \\\n  b", "b\n")]);
        let Part::Console { until, .. } = &parts[5] else { panic!("{parts:?}") };
        assert_eq!(until.as_deref(), Some("done"));
        assert_eq!(sections_without_a_command(&parts), Vec::<String>::new());
    }

    #[test]
    fn what_nobody_would_run_is_refused() {
        for (text, why) in [
            ("```sh\nls\n```\n", "nobody runs"),
            ("```text\n$ millrace list\n```\n", "not run"),
            ("```console\nout\n```\n", "without a command"),
            ("```console\n```\n", "no command"),
            ("```console\n$ a\n", "without an end"),
            ("<!-- until: x -->\n```console\n$ a\n$ b\n```\n", "one command"),
            ("<!-- until: x -->\n```toml a\n```\n", "only commands"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why) && error.starts_with("line "), "{text}: {error}");
        }
        let parts = parse("## A\n\n## B\n```console\n$ a\n```\n").unwrap();
        assert_eq!(sections_without_a_command(&parts), ["A"]);
    }
}
