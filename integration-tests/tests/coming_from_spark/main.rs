//! docs/coming-from-spark.md is true: every command that it shows is run, one after another in one
//! shell, against a cluster that its own first command starts, and prints what stands there.
//!
//! `MILLRACE_BLESS=1` writes what was printed into the document where it differs.

// The whole crate is tests; clippy only knows the test functions.
#![allow(clippy::unwrap_used)]

mod document;
mod placeholders;
mod shell;

use std::path::Path;
use std::time::{Duration, Instant};

use document::{Command, Part};
use millrace_integration_tests::dataset::repository_root;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::processes;
use placeholders::{normal, shown};
use shell::Shell;

/// How long a state that was waited for may take to become the one that is shown.
const SETTLES: Duration = Duration::from_secs(30);
/// Between two runs of a command that is waited for.
const BETWEEN: Duration = Duration::from_millis(200);

/// Ends what a failing test leaves behind.
struct Leftovers<'a>(&'a Path);

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        processes::naming(self.0).into_iter().for_each(processes::kill_by_id);
    }
}

fn blessing() -> bool {
    std::env::var_os("MILLRACE_BLESS").is_some()
}

/// Runs a command; again and again while it does not print what it is waited for, and then until it
/// prints what the document shows, or, when that is to be written, the same as before.
async fn run(
    shell: &mut Shell,
    command: &Command,
    until: Option<&str>,
    directory: &Path,
) -> String {
    let started = Instant::now();
    let mut had_it = None;
    let mut expected = normal(&command.output);
    loop {
        let (code, output) = shell.run(&command.line).await;
        let output = shown(&output, directory);
        if until.is_none_or(|until| output.contains(until)) {
            assert_eq!(code, 0, "`{}`: {output}", command.line);
            let since = *had_it.get_or_insert_with(Instant::now);
            let is = normal(&output);
            if until.is_none() || is == expected || since.elapsed() > SETTLES {
                return output;
            }
            if blessing() {
                expected = is;
            }
        }
        let hangs = started.elapsed() > PATIENCE;
        assert!(!hangs, "`{}` does not print {until:?}: {output}", command.line);
        tokio::time::sleep(BETWEEN).await;
    }
}

#[tokio::test]
async fn every_command_prints_what_the_document_shows() {
    let path = repository_root().join("docs/coming-from-spark.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut parts = document::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let idle = document::sections_without_a_command(&parts);
    assert!(idle.is_empty(), "nothing is run in {idle:?}");

    let directory = tempfile::tempdir().unwrap();
    // Links in the path would make it look otherwise where it is printed.
    let directory = directory.path().canonicalize().unwrap();
    let _leftovers = Leftovers(&directory);
    let mut shell = Shell::start(&directory);
    let (mut differ, mut num_run) = (Vec::new(), 0);
    for part in &mut parts {
        match part {
            Part::Prose(_) => {}
            Part::File { name, text } => std::fs::write(directory.join(name), text).unwrap(),
            Part::Console { until, commands, line } => {
                for command in commands {
                    let output = run(&mut shell, command, until.as_deref(), &directory).await;
                    num_run += 1;
                    let (is, stands) = (normal(&output), normal(&command.output));
                    if is != stands {
                        let what = &command.line;
                        differ.push(format!("line {line}: $ {what}\nprints\n{is}not\n{stands}"));
                        command.output = output;
                    }
                }
            }
        }
    }
    shell.end().await;
    assert_eq!(num_run, text.matches("\n$ ").count(), "each command is run once");
    within(PATIENCE, "nothing is left running", async || {
        match processes::naming(&directory).as_slice() {
            [] => Ok(()),
            pids => Err(format!("{pids:?}")),
        }
    })
    .await;
    if blessing() {
        std::fs::write(&path, document::print(&parts)).unwrap();
        return;
    }
    assert!(differ.is_empty(), "run this with MILLRACE_BLESS=1:\n{}", differ.join("\n"));
}
