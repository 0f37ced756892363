//! `millrace`: the command line of a Millrace cluster.
//!
//! Promises: data on standard output, talk on standard error, exit codes as in `docs/cli.md`; an
//! error is two lines (`error[MRnnnn]: ...` and `next: ...`), or one JSON object with `--json`.
//! Never does: panic at bad input, or leave a process behind that `millrace local down` would not
//! find.

mod arguments;
mod commands;
mod ended;
mod from_json;
mod output;
mod times;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use millrace_common::error::{Code, Error};

use crate::arguments::Arguments;
use crate::ended::{Ended, Exit};
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let output = Output::new(arguments.global.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let defect = Error::internal("the runtime can not be started").caused_by(error);
            return output.ended(&Ended::from(defect));
        }
    };
    let outcome = runtime.block_on(commands::run(arguments, &output));
    // Blocking threads (a reader that waits for standard input) must not hold up the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Exit::Done.into(),
        Err(ended) => output.ended(&ended),
    }
}

/// Help and version go to standard output; a wrong command line to standard error, as an object for
/// programs.
fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked && std::env::args_os().any(|argument| argument == "--json") {
        let refused = Error::new(Code::InvalidValue, what_is_wrong(error), "see `millrace --help`");
        return Output::new(true).ended(&Ended::Error(refused, Exit::Usage));
    }
    // Nothing is left to be done when the terminal itself is gone.
    error.print().ok();
    if asked { Exit::Done.into() } else { Exit::Usage.into() }
}

/// The complaint about a command line, without the usage below it.
fn what_is_wrong(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "the command line lacks a command or its arguments".to_owned();
    }
    let text = error.to_string();
    let end = text.find("\nUsage:").or_else(|| text.find("\nFor more information"));
    let text = &text[..end.unwrap_or(text.len())];
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}
