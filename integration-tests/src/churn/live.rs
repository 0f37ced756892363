//! The processes of containers, as the process table shows them.
//!
//! Promises: those of one answer were all alive at one instant: each is looked at a second time, after
//! all have been found. Never does: ask the master or a node.

use std::collections::BTreeSet;
use std::path::Path;

use super::census::Live;
use crate::processes;

/// A process that can not be taken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// When it was started, in ticks since the machine was.
    pub started: u64,
    /// Its process group.
    pub group: u32,
}

/// Who has this number now; none when nobody has, or only one that has ended and was not waited for.
#[must_use]
pub fn identity(pid: u32) -> Option<Identity> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &stat)
}

fn parse(pid: u32, stat: &str) -> Option<Identity> {
    // The name in parentheses may hold anything, also parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let is_over = matches!(fields.first(), Some(&("Z" | "X" | "x")) | None);
    let (group, started) = (fields.get(2)?.parse().ok()?, fields.get(19)?.parse().ok()?);
    (!is_over).then_some(Identity { pid, started, group })
}

/// Every live process on the machine.
#[must_use]
pub fn everybody() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The live containers of the cluster in `directory`.
#[must_use]
pub fn containers(directory: &Path) -> Vec<(Identity, Live)> {
    let found = everybody().into_iter().filter_map(|pid| {
        let identity = identity(pid)?;
        let arguments = processes::arguments(pid).ok()?;
        container(directory, pid, &arguments).map(|live| (identity, live))
    });
    let mut found: Vec<_> = found.collect();
    found.retain(|(seen, _)| identity(seen.pid).as_ref() == Some(seen));
    found
}

/// The container that a process is by its arguments:
/// `millrace-worker driver --launch <directory>/<node>/containers/<id>/launch.pb ...`.
fn container(directory: &Path, pid: u32, arguments: &[Vec<u8>]) -> Option<Live> {
    let text = |index: usize| std::str::from_utf8(arguments.get(index)?).ok();
    let is_driver = match text(1)? {
        "driver" => true,
        "executor" => false,
        _ => return None,
    };
    let path = Path::new(text(3)?).strip_prefix(directory).ok()?;
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let [node, "containers", container, "launch.pb"] = parts[..] else { return None };
    Some(Live { pid, node: node.to_owned(), container: container.to_owned(), is_driver })
}

/// Numbers of the sockets on which processes listen, by port, for one network namespace.
fn listening(table: &str) -> Vec<(u16, u64)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        (*fields.get(3)? == "0A").then_some((port, inode))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Every listening socket of this machine: port and number, which is never given twice.
#[must_use]
pub fn listening_sockets() -> BTreeSet<(u16, u64)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| listening(table)).collect()
}

/// Numbers of the sockets that a process holds.
#[must_use]
pub fn sockets_of(pid: u32) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let number = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_one_that_is_over_is_nobody() {
        let numbers = "1 44 44 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0";
        let stat = |state: &str| format!("9 (a) b) {state} {numbers}");
        let live = parse(9, &stat("S"));
        assert_eq!(live, Some(Identity { pid: 9, started: 777, group: 44 }));
        assert_eq!(parse(9, &stat("Z")), None);
        let own = identity(std::process::id()).unwrap();
        assert!(own.started > 0 && own.group > 0, "{own:?}");
    }

    #[test]
    fn a_container_is_known_by_its_arguments() {
        let words = |text: &str| -> Vec<Vec<u8>> {
            text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
        };
        let of = |text: &str| container(Path::new("/t/x"), 5, &words(text));
        let launch = "w executor --launch /t/x/node-3/containers/churn-01-a2-e1/launch.pb --";
        let found = of(launch).unwrap();
        assert_eq!((found.node.as_str(), found.container.as_str()), ("node-3", "churn-01-a2-e1"));
        assert!(!found.is_driver);
        assert_eq!(of(&launch.replace("/t/x", "/t/y")), None);
        assert_eq!(of("w node --work-dir /t/x/node-3"), None);
    }

    #[test]
    fn a_port_is_seen_with_the_process_that_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = listening_sockets();
        let own = sockets_of(std::process::id());
        let found = sockets.iter().find(|(one, inode)| *one == port && own.contains(inode));
        let found = *found.unwrap();
        drop(listener);
        assert!(!listening_sockets().contains(&found));
    }
}
