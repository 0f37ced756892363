//! Logs of a process: one line per event on standard error, so that standard output stays for data.
//!
//! `RUST_LOG` filters as usual; `MILLRACE_LOG_FORMAT=json` gives JSON lines. A line that can not be
//! written, as to a full disk, is lost and nothing more: no log ends a process. No line holds a secret
//! that this process has resolved.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::secrets;

/// What is logged when `RUST_LOG` says nothing: ours from info on, others' warnings.
const DEFAULT_FILTER: &str = "warn,millrace=info,millrace_common=info,millrace_master=info,\
                              millrace_worker=info,millrace_sql=info";

/// Starts logging for this process. A second call changes nothing.
pub fn init() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        // Else a line that can not be written is told on standard error, by a macro that panics
        // when that can not be written to.
        .log_internal_errors(false)
        .with_writer(|| Concealing(io::stderr()))
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let json = std::env::var("MILLRACE_LOG_FORMAT").is_ok_and(|format| format == "json");
    let outcome = if json { builder.json().try_init() } else { builder.try_init() };
    if outcome.is_err() {
        tracing::debug!("logging was already started");
    }
}

/// Standard error without secrets. The subscriber writes an event at once, so that no secret is cut
/// in two.
#[derive(Debug)]
struct Concealing(io::Stderr);

impl Write for Concealing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let shown = match std::str::from_utf8(buffer) {
            Ok(text) => secrets::conceal(text),
            Err(_) => Cow::Owned(secrets::conceal(&String::from_utf8_lossy(buffer)).into_owned()),
        };
        self.0.write_all(shown.as_bytes())?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Has panics of this process told without its secrets.
pub fn conceal_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>").to_owned();
        say(&format!("thread '{name}' {panic}"));
    }));
}

/// Says a line on standard error, outside the log. Unlike `eprintln!` it does not panic when that can
/// not be written to.
pub fn say(line: &str) {
    if let Err(error) = writeln!(io::stderr(), "{}", secrets::conceal(line)) {
        tracing::trace!(%error, "standard error can not be written to");
    }
}
