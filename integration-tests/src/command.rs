//! Runs one command to its end, with a deadline, and keeps what it said.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How a command ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; -1 when a signal ended the command.
    pub code: i32,
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

impl Output {
    /// The output of a command that must succeed.
    ///
    /// # Panics
    /// When the exit code is not 0.
    #[must_use]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not one JSON document.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {self}"))
    }

    /// Asserts what every refusal promises: an exit code that is not 0, the stable code, one line
    /// that holds each of `names`, the next move, and no trace of a panic.
    ///
    /// # Panics
    /// When any of these does not hold.
    pub fn assert_refused(&self, code: &str, names: &[&str]) {
        assert!(self.code > 0, "refused with an exit code: {self}");
        let line = self.stderr.lines().find(|line| line.contains(code));
        let line = line.unwrap_or_else(|| panic!("no line with {code}: {self}"));
        for name in names {
            assert!(line.contains(name), "the line does not name {name:?}: {self}");
        }
        assert!(self.stderr.contains("next:"), "no next move: {self}");
        assert!(!self.stderr.contains("panicked at"), "a panic: {self}");
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr, took } = self;
        write!(f, "`{command}` ended with {code} after {took:?}\n--- stdout\n{stdout}")?;
        write!(f, "--- stderr\n{stderr}---")
    }
}

/// Runs `program` with `arguments` in exactly `environment`, with no standard input.
///
/// # Panics
/// When it can not be started, or has not ended after `deadline` (it is killed then).
pub async fn run<S: AsRef<OsStr>>(
    program: &PathBuf,
    arguments: &[S],
    environment: &[(String, String)],
    deadline: Duration,
) -> Output {
    let mut text = program.display().to_string();
    for argument in arguments {
        text.push(' ');
        text.push_str(&argument.as_ref().to_string_lossy());
    }
    let started = Instant::now();
    let running = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(deadline, running)
        .await
        .unwrap_or_else(|_| panic!("`{text}` hangs: not ended after {deadline:?}"))
        .unwrap_or_else(|error| panic!("`{text}` can not be started: {error}"));
    Output {
        command: text,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

/// What every process of a test gets of this one's environment: where programs and the home are.
#[must_use]
pub fn base_environment() -> Vec<(String, String)> {
    let keep = |name: &str| std::env::var(name).ok().map(|value| (name.to_owned(), value));
    ["PATH", "HOME"].into_iter().filter_map(keep).collect()
}

/// The binary `name` of the workspace: in `MILLRACE_BIN_DIR`, or in the target directory of this
/// program, which is a test (in `deps`) or a binary beside the others.
///
/// # Panics
/// When it is not there: the harness builds nothing.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let directory = match std::env::var_os("MILLRACE_BIN_DIR") {
        Some(path) => PathBuf::from(path),
        None => {
            let program = std::env::current_exe().expect("the path of a running program is known");
            let beside = program.parent().expect("a program lies in a directory");
            let is_test = beside.file_name().is_some_and(|name| name == "deps");
            beside.ancestors().nth(usize::from(is_test)).unwrap_or(beside).to_owned()
        }
    };
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is absent: run `cargo build --workspace --bins` first",
        path.display()
    );
    path
}
