//! Containers that a worker before this one left when it died.
//!
//! Promises: none of them lives when this node offers what they held. They end by themselves when
//! their node dies; one that is slow at it, or stopped, is killed with its process group.
//! Owned by the start of a node, which holds the lock of the work directory: no other worker can own
//! what is found. Never does: touch a process that was not started from a file in that directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::launch;

/// Between two looks at the process table.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long killed processes may take to be gone: those that wait for a disk that hangs never are.
const DEADLINE: Duration = Duration::from_secs(5);

/// Ends every container that was started from the work directory `root`, and waits for that.
pub(super) async fn end(root: &Path) {
    let gone = async {
        loop {
            let left = find(root);
            if left.is_empty() {
                return;
            }
            for pid in left {
                match killpg(pid, Signal::SIGKILL) {
                    Ok(()) => tracing::info!(%pid, "a container outlived its worker: killed"),
                    // It ended by itself meanwhile.
                    Err(Errno::ESRCH) => {}
                    Err(error) => tracing::warn!(%pid, %error, "a container can not be killed"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(DEADLINE, gone).await.is_err() {
        tracing::error!("containers of a worker before this one do not end");
    }
}

/// Processes of containers, each the first of its group.
fn find(root: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_left = |pid: &i32| {
        // One that has ended and was not waited for has no arguments any more.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_container(root, &arguments)
    };
    pids.filter(is_left).map(Pid::from_raw).collect()
}

/// True for the arguments of a container in this work directory, each ended by a zero byte.
fn is_container(root: &Path, arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
    let (role, flag, file) = (arguments.next(), arguments.next(), arguments.next());
    let is_role = matches!(role, Some(b"driver" | b"executor")) && flag == Some(b"--launch");
    let file = file.and_then(|file| std::str::from_utf8(file).ok()).map(Path::new);
    let container = file.filter(|file| file.ends_with(launch::FILE)).and_then(Path::parent);
    is_role && container.and_then(Path::parent) == Some(root.join("containers").as_path())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Far above what a test needs.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn only_containers_of_this_directory_are_meant() {
        let root = Path::new("/var/lib/millrace");
        let of = |text: &str| is_container(root, text.replace(' ', "\0").as_bytes());
        let launch = "w driver --launch /var/lib/millrace/containers/a-a1-driver/launch.pb -- x";
        assert!(of(launch) && of(&launch.replace("driver --", "executor --")));
        assert!(!of(&launch.replace("millrace/c", "millrace/2/c")));
        assert!(!of(&launch.replace("launch.pb", "other.pb")));
        assert!(!of("w node --work-dir /var/lib/millrace"));
        assert!(!of(&launch.replace("--launch", "--log")) && !of(""));
    }

    #[tokio::test]
    async fn one_that_is_stopped_is_gone_with_its_group() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("containers/a-a1-e1/launch.pb");
        // A shell with the arguments of a container: it has a child in its group, and is stopped.
        fs::write(root.path().join("executor"), "sleep 600 & kill -STOP $$").unwrap();
        let mut shell = Command::new("/bin/sh");
        let shell = shell.args(["executor", "--launch"]).arg(file).current_dir(root.path());
        let mut shell = shell.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let group = Pid::from_raw(i32::try_from(shell.id()).unwrap());
        let stat = format!("/proc/{group}/stat");
        let is_stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
        let stopped = async {
            while !is_stopped() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stopped).await.expect("the shell stops itself");
        assert!(find(root.path()).contains(&group));
        let mut output = shell.stdout.take().unwrap();
        // Whoever starts it waits for it, here as in init.
        let waited = tokio::task::spawn_blocking(move || shell.wait().unwrap());
        end(root.path()).await;
        assert!(!waited.await.unwrap().success());
        // It ends when nobody of the group is left who could write.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
