//! Processes by id: starting them detached, telling one from a later one with the same id, ending
//! them.
//!
//! Promises: a process is identified by its id and its start, so that a recycled id is never taken
//! for it; a zombie counts as ended.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millrace_common::error::{Code, Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::record::{Process, unusable};

/// How often a process that shall end is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The program of this name: beside this one, else on the PATH.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside.into_iter().chain(
        std::env::split_paths(&on_path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)),
    );
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::new(
            Code::LocalCluster,
            format!("{name} is neither beside millrace nor on the PATH"),
            "build it with `cargo build --workspace`, or install all of Millrace's programs",
        )
    })
}

/// Starts a program in a process group of its own (Ctrl-C at this terminal does not reach it), its
/// words in `log`.
pub(super) fn start(command: &mut Command, role: &str, log: &Path) -> Result<(Child, Process)> {
    let out = File::create(log).map_err(|error| unusable(log, error))?;
    let err = out.try_clone().map_err(|error| unusable(log, error))?;
    let child =
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn().map_err(
            |error| {
                Error::new(
                    Code::LocalCluster,
                    format!("{role} can not be started: {error}"),
                    format!("see whether {} is a program", command.get_program().display()),
                )
            },
        )?;
    let pid = child.id();
    // It is our child: its id can not be given away before we wait for it.
    let identity = identity(pid).unwrap_or_default();
    let process = Process { role: role.to_owned(), pid, identity, log: log.to_owned() };
    Ok((child, process))
}

/// What tells the living process `pid` from any other, earlier or later; none when it is not there
/// or a zombie.
#[cfg(target_os = "linux")]
pub(super) fn identity(pid: u32) -> Option<String> {
    /// Place of the start time in `/proc/PID/stat`, counted after the name: field 22.
    const START_TIME: usize = 19;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    if matches!(fields.clone().next(), Some("Z" | "X")) {
        return None;
    }
    let start = fields.nth(START_TIME)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{}:{start}", boot.trim()))
}

/// As on Linux, by way of `ps`.
#[cfg(not(target_os = "linux"))]
pub(super) fn identity(pid: u32) -> Option<String> {
    let shown =
        Command::new("ps").args(["-o", "stat=,lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    let (state, start) = text.split_once(char::is_whitespace)?;
    (!state.starts_with('Z')).then(|| start.trim().to_owned())
}

/// Containers whose launch file lies below `root`: ids and identities. Nodes start them, so they
/// are in no record. Empty where there is no `/proc`.
pub(super) fn containers_below(root: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let launch = launch_file(&line)?;
            let identity = launch.starts_with(root).then(|| identity(pid))??;
            let role = launch.parent()?.file_name()?.to_string_lossy().into_owned();
            Some(Process { role, pid, identity, log: launch })
        })
        .collect()
}

/// The value of `--launch` in a command line as `/proc` has it.
fn launch_file(command_line: &[u8]) -> Option<PathBuf> {
    let mut arguments =
        command_line.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument));
    arguments.find(|argument| argument == "--launch")?;
    arguments.next().map(|path| PathBuf::from(path.into_owned()))
}

/// Asks `processes` to end, waits `grace`, then ends what is left. Gives those that had to be
/// killed.
///
/// # Errors
/// When one can not be ended.
pub(super) async fn end(processes: &[Process], grace: Duration) -> Result<Vec<Process>> {
    signal_all(processes, Signal::SIGTERM)?;
    if gone(processes, grace).await {
        return Ok(Vec::new());
    }
    let left: Vec<_> = processes.iter().filter(|process| process.lives()).cloned().collect();
    signal_all(&left, Signal::SIGKILL)?;
    if gone(&left, KILL_DEADLINE).await {
        return Ok(left);
    }
    let stuck: Vec<_> = left.iter().filter(|process| process.lives()).map(|p| p.pid).collect();
    Err(Error::new(
        Code::LocalCluster,
        format!("processes {stuck:?} do not end, not even by SIGKILL"),
        "they wait for a device: see `ps -o pid,stat,wchan`, then run the same command again",
    ))
}

/// How long a process may take to vanish after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until none of `processes` lives; false at the deadline.
pub(super) async fn gone(processes: &[Process], deadline: Duration) -> bool {
    let until = Instant::now() + deadline;
    loop {
        if processes.iter().all(|process| !process.lives()) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn signal_all(processes: &[Process], signal: Signal) -> Result<()> {
    for process in processes.iter().filter(|process| process.lives()) {
        let Ok(pid) = i32::try_from(process.pid) else { continue };
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Error::new(
                    Code::LocalCluster,
                    format!("{} (pid {pid}) can not be ended: {errno}", process.role),
                    "run the command as the user who started the cluster",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(temp: &Path, script: &str) -> (Child, Process) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        start(&mut command, "sleeper", &temp.join("log")).unwrap()
    }

    #[tokio::test]
    async fn a_process_ends_when_asked_and_its_zombie_does_not_count() {
        let temp = tempfile::tempdir().unwrap();
        let (mut child, process) = sleeper(temp.path(), "exec sleep 600");
        assert!(process.lives());
        let killed = end(std::slice::from_ref(&process), Duration::from_secs(10)).await.unwrap();
        assert_eq!(killed, []);
        assert!(!process.lives(), "nobody has waited for it, yet it has ended");
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_does_not_listen_is_killed() {
        let temp = tempfile::tempdir().unwrap();
        let ready = temp.path().join("ready");
        let script = format!("trap '' TERM; : > {}; while :; do sleep 1; done", ready.display());
        let (mut child, process) = sleeper(temp.path(), &script);
        let until = Instant::now() + Duration::from_secs(20);
        while !ready.exists() {
            assert!(Instant::now() < until, "the shell does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let killed = end(std::slice::from_ref(&process), Duration::from_millis(50)).await.unwrap();
        assert_eq!(killed, std::slice::from_ref(&process));
        child.wait().unwrap();
    }

    #[test]
    fn a_recycled_id_is_not_signalled() {
        let own = std::process::id();
        let other = Process {
            role: "x".to_owned(),
            pid: own,
            identity: "another start".to_owned(),
            log: PathBuf::new(),
        };
        signal_all(&[other], Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_container_is_known_by_its_launch_file() {
        let line = b"/bin/millrace-worker\0executor\0--launch\0/d/nodes/n/c/launch.pb\0--\0x\0";
        assert_eq!(launch_file(line), Some(PathBuf::from("/d/nodes/n/c/launch.pb")));
        assert_eq!(launch_file(b"/bin/sh\0-c\0launch"), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = program("millrace-no-such-program").unwrap_err();
        assert!(error.message().contains("millrace-no-such-program"), "{error}");
    }
}
