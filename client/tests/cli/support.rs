//! Runs the real `millrace` with a deadline and keeps what it said.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

/// No command of these tests may take longer, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Exit code; none when a signal ended the command.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Said {
    /// Asserts a refusal: exit code, the two lines, no panic; gives the line of the cause.
    #[track_caller]
    pub(crate) fn refused(&self, exit: i32, code: &str) -> &str {
        assert_eq!(self.code, Some(exit), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        let lines: Vec<_> = self.err.lines().collect();
        let start = format!("error[{code}]: ");
        let at = lines.iter().position(|line| line.starts_with(&start));
        let at = at.unwrap_or_else(|| panic!("no line starts with {start:?}: {self:?}"));
        assert!(lines.get(at + 1).is_some_and(|line| line.starts_with("next: ")), "{self:?}");
        assert_eq!(lines.len(), at + 2, "nothing comes after the next move: {self:?}");
        lines[at]
    }

    /// Asserts success; gives standard output.
    #[track_caller]
    pub(crate) fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.out
    }

    /// Asserts success; gives standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.done()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An address on which nobody listens, and what keeps others from taking it.
pub(crate) fn nobody() -> (TcpSocket, String) {
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    (silent, address)
}

/// The `millrace` of this build.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_millrace"))
}

/// Runs `millrace` without a terminal and with nothing of this environment.
pub(crate) async fn millrace<S: AsRef<OsStr>>(arguments: &[S]) -> Said {
    run(&program(), arguments, &[]).await
}

/// Runs a program in exactly this environment.
pub(crate) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    environment: &[(&str, &str)],
) -> Said {
    let started = Instant::now();
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, output).await.expect("it ends").expect("it starts");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}
