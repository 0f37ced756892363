//! Says loudly that a test did not run, and why.
//!
//! A skipped test passes, so it must not be quiet: the line goes to standard error and, where
//! `MILLRACE_SKIPPED` names a file, into that file, from which `test.sh` prints a summary.

use std::io::Write as _;

/// Notes that `test` is skipped because of `reason`.
pub fn note(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    let Some(path) = std::env::var_os("MILLRACE_SKIPPED") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| writeln!(file, "SKIPPED {test}: {reason}"));
    if let Err(error) = written {
        eprintln!("the note of a skipped test could not be written: {error}");
    }
}
