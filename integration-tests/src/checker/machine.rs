//! What is left on the machine: processes, listening ports, temporary files.
//!
//! Never does: end a process or remove a file.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::processes;

/// How long a port may take to refuse a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Directories of a container that hold nothing once it has ended.
const EMPTY_DIRECTORIES: [&str; 2] = ["blocks", "queries"];
/// Endings of files that are on their way to another name.
const TEMPORARY: [&str; 3] = ["tmp", "part", "partial"];

/// Where a cluster lives.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The directory that all its processes name in their arguments, and that holds their files.
    pub directory: PathBuf,
    /// Processes that may still live: the judge, and master and workers while they are wanted.
    pub wanted: BTreeSet<u32>,
    /// Where something listened that must have ended.
    pub ports: Vec<SocketAddr>,
}

/// What is left of a cluster that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Live processes, with their arguments.
    pub processes: Vec<(u32, String)>,
    /// Ports that still take connections.
    pub ports: Vec<SocketAddr>,
    /// Files that should be gone.
    pub files: Vec<PathBuf>,
}

impl Machine {
    /// Looks at the process table, the ports and the directory.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        let mut pids = processes::naming(&self.directory);
        pids.retain(|pid| !self.wanted.contains(pid));
        let described = |pid: u32| {
            let arguments = processes::arguments(pid).unwrap_or_default();
            let words = arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned());
            (pid, words.collect::<Vec<_>>().join(" "))
        };
        let listens = |port: &&SocketAddr| TcpStream::connect_timeout(port, CONNECT).is_ok();
        let mut files = Vec::new();
        temporary_files(&self.directory, false, &mut files);
        Leftovers {
            processes: pids.into_iter().map(described).collect(),
            ports: self.ports.iter().filter(listens).copied().collect(),
            files,
        }
    }
}

/// Every file below a directory that must be empty, and every temporary one elsewhere.
fn temporary_files(directory: &Path, must_be_empty: bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let is_scratch = path.file_name().is_some_and(|name| {
                let below_container = directory.parent().is_some_and(|p| p.ends_with("containers"));
                below_container && EMPTY_DIRECTORIES.iter().any(|empty| name == *empty)
            });
            // The judge's own state is not the cluster's.
            if path.file_name().is_none_or(|name| name != "emulator") {
                temporary_files(&path, must_be_empty || is_scratch, found);
            }
        } else {
            let ending = path.extension().and_then(|ending| ending.to_str());
            if must_be_empty || ending.is_some_and(|ending| TEMPORARY.contains(&ending)) {
                found.push(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_left_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let container = directory.path().join("node-1/containers/c-1");
        std::fs::create_dir_all(container.join("blocks")).unwrap();
        std::fs::write(container.join("stderr.log"), "a log stays").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut machine = Machine {
            directory: directory.path().to_owned(),
            ports: vec![listener.local_addr().unwrap()],
            ..Machine::default()
        };
        assert_eq!(machine.leftovers().files, Vec::<PathBuf>::new());
        std::fs::write(container.join("blocks/7.arrow"), "").unwrap();
        std::fs::write(directory.path().join("port.tmp"), "").unwrap();
        let left = machine.leftovers();
        assert_eq!((left.ports.len(), left.files.len(), left.processes.len()), (1, 2, 0));
        drop(listener);
        machine.ports.push("127.0.0.1:1".parse().unwrap());
        assert_eq!(machine.leftovers().ports, []);
    }
}
