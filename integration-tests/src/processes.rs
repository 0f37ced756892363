//! Processes of a test: each is started here, logged to a file, and ended by its id and waited for
//! before the test ends. Reads of `/proc` show what really runs, and with which environment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::base_environment;
use crate::eventually::{PATIENCE, within};

/// Lines of a log that a failing test shows.
const TAIL_LINES: usize = 40;

/// A process that lives at most as long as its test.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `binary`; its output goes to `<directory>/<name>.log`. Its environment is PATH, HOME
    /// and `environment`, nothing else.
    ///
    /// # Panics
    /// When it can not be started.
    pub fn spawn<S: AsRef<OsStr>>(
        name: &str,
        binary: &Path,
        arguments: &[S],
        environment: &[(String, String)],
        directory: &Path,
    ) -> Self {
        let log = directory.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = Command::new(binary)
            .args(arguments)
            .env_clear()
            .envs(base_environment())
            .envs(environment.iter().cloned())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file handle can be doubled"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{} can not be started: {error}", binary.display()));
        Self { name: name.to_owned(), log, child }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True when it has ended.
    ///
    /// # Panics
    /// When the operating system does not say.
    pub fn has_ended(&mut self) -> bool {
        let state = self.child.try_wait();
        state.unwrap_or_else(|error| panic!("{}: {error}", self.name)).is_some()
    }

    /// How it has ended; none while it runs.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn exit(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asserts that it has not ended.
    ///
    /// # Panics
    /// When it has.
    pub fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} has ended with {status}\n{}", self.name, tail(&self.log));
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(nix_pid(self.pid()), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Asks it to end by SIGTERM and waits for that.
    ///
    /// # Panics
    /// When it has not ended after `deadline`.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let name = self.name.clone();
        within(deadline, &format!("{name} ends after SIGTERM"), async || {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            ended.ok_or_else(|| "it runs".to_owned())
        })
        .await
    }

    /// Ends it by SIGKILL and waits for that.
    ///
    /// # Panics
    /// When the operating system refuses.
    pub fn kill(&mut self) {
        self.child.kill().unwrap_or_else(|error| panic!("SIGKILL to {}: {error}", self.name));
        self.child.wait().unwrap_or_else(|error| panic!("waiting for {}: {error}", self.name));
    }

    /// The whole log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended already, which is all that is wanted here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ({})\n{}", self.name, self.log.display(), tail(&self.log));
        }
    }
}

/// The last lines of a file, for people.
#[must_use]
pub fn tail(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Waits until `process` has written the address it listens on to `file`.
///
/// # Panics
/// When it ends first, or does not come up.
pub async fn port_of(process: &mut Process, file: &Path) -> SocketAddr {
    within(PATIENCE, &format!("{} is up", file.display()), async || {
        process.assert_running();
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|error| format!("{text:?}: {error}"))
    })
    .await
}

/// A port that was free a moment ago, for programs that can not tell which one they took.
///
/// # Panics
/// When the machine has none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// The environment with which the process was started.
///
/// # Errors
/// When the process is gone.
pub fn environment(pid: u32) -> std::io::Result<BTreeMap<String, String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The arguments with which the process was started, byte for byte, its own name first.
///
/// # Errors
/// When the process is gone.
pub fn arguments(pid: u32) -> std::io::Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Ok(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// The addresses of IPv4 on which the process takes TCP connections, in order.
///
/// # Errors
/// When the process is gone.
pub fn listening(pid: u32) -> std::io::Result<Vec<SocketAddr>> {
    let mut sockets = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile listens no more.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let name = target.to_string_lossy().into_owned();
        let inode = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        sockets.extend(inode.map(str::to_owned));
    }
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let mut found: Vec<SocketAddr> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.get(3) == Some(&LISTENS))
        .filter(|columns| columns.get(9).is_some_and(|inode| sockets.contains(*inode)))
        .filter_map(|columns| socket_address(columns[1]))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The state of a socket that takes connections, in the kernel's table.
const LISTENS: &str = "0A";

/// `0100007F:1F90` is 127.0.0.1:8080.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_le_bytes();
    Some(SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?)))
}

/// Resident memory of the process.
///
/// # Errors
/// When the process is gone.
pub fn resident_bytes(pid: u32) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| std::io::Error::other("no VmRSS: a zombie"))
}

/// What the process takes of the machine's memory: its own pages, and its part of those that it shares
/// with others, as the program's text.
///
/// # Errors
/// When the process is gone.
pub fn proportional_bytes(pid: u32) -> std::io::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| std::io::Error::other("no Pss: a zombie"))
}

/// Ids of all live processes that name `directory` in their arguments: those of one test, since
/// every test has a directory of its own.
#[must_use]
pub fn naming(directory: &Path) -> Vec<u32> {
    let needle = directory.as_os_str().as_encoded_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
    .collect()
}

/// Ends a process by SIGKILL; one that is gone already is fine.
pub fn kill_by_id(pid: u32) {
    // The only other error would be a foreign process, which no test starts.
    let _ = kill(nix_pid(pid), Signal::SIGKILL);
}

/// Freezes a process by SIGSTOP: its connections stay open and nothing answers on them.
///
/// # Panics
/// When there is no such process.
pub fn freeze_by_id(pid: u32) {
    kill(nix_pid(pid), Signal::SIGSTOP).expect("the process is there to be frozen");
}

/// Lets a frozen process go on; one that is gone is fine.
pub fn thaw_by_id(pid: u32) {
    let _ = kill(nix_pid(pid), Signal::SIGCONT);
}

fn nix_pid(pid: u32) -> Pid {
    assert!(pid > 0, "process id 0 means this test's own process group");
    Pid::from_raw(i32::try_from(pid).expect("a process id is below 2^22"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Process {
        let environment = [("COLOUR".to_owned(), "blue = green".to_owned())];
        let script = format!("# {}\nexec sleep 600", directory.display());
        let arguments = ["-c", &script, "", "a b"];
        Process::spawn("sh", Path::new("/bin/sh"), &arguments, &environment, directory)
    }

    #[tokio::test]
    async fn a_process_is_seen_as_it_was_started_and_is_gone_after_drop() {
        let directory = tempfile::tempdir().unwrap();
        let process = sleeper(directory.path());
        let pid = process.pid();
        within(PATIENCE, "the shell has become sleep", async || {
            let arguments = arguments(pid).map_err(|error| error.to_string())?;
            if arguments == [b"sleep".to_vec(), b"600".to_vec()] {
                Ok(())
            } else {
                Err(format!("{arguments:?}"))
            }
        })
        .await;
        assert_eq!(environment(pid).unwrap()["COLOUR"], "blue = green");
        assert!(resident_bytes(pid).unwrap() > 0);
        drop(process);
        assert!(environment(pid).is_err());
    }

    #[test]
    fn ports_are_found_by_the_process_that_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = std::process::id();
        assert!(listening(own).unwrap().contains(&address));
        drop(listener);
        assert!(!listening(own).unwrap().contains(&address));
        assert_eq!(socket_address("0100007F:1F90"), "127.0.0.1:8080".parse().ok());
    }

    #[tokio::test]
    async fn processes_are_found_by_the_directory_they_name() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(naming(directory.path()), Vec::<u32>::new());
        let script = format!("sleep 600; : {}", directory.path().display());
        let arguments = ["-c", &script];
        let mut process =
            Process::spawn("sh", Path::new("/bin/sh"), &arguments, &[], directory.path());
        let pid = process.pid();
        within(PATIENCE, "the shell runs", async || {
            let found = naming(directory.path());
            if found.contains(&pid) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        process.kill();
        assert_eq!(naming(directory.path()), Vec::<u32>::new());
    }
}
