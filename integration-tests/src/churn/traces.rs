//! What a cluster leaves on the machine once everything of it was ended: processes, ports, files,
//! cgroups.
//!
//! Promises: what is looked for is what was seen while the cluster was at work, by process group, by
//! environment, by socket, by worker. Never does: end a process or remove a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::live::{self, Identity};
use crate::processes;

/// What a node keeps of a container that has ended: its logs, how it was started, with which
/// configuration, and how it ended.
const KEPT: [&str; 5] =
    ["stdout.log", "stderr.log", "launch.pb", "configuration.json", "status.pb"];
/// What a node has in its work directory besides.
const LOCK: &str = "lock";
/// Where cgroups are, of both versions.
const CGROUPS: &str = "/sys/fs/cgroup";
/// How deep a worker's cgroups may be below that.
const CGROUPS_DEPTH: usize = 8;

/// What was seen while the cluster was at work.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// First processes of process groups, by number of the group.
    groups: BTreeMap<u32, Identity>,
    /// Listening sockets, by number, with their port and whose they were.
    sockets: BTreeMap<u64, (u16, String)>,
}

impl Traces {
    /// Remembers processes of the cluster, by who they are.
    pub fn saw(&mut self, processes: impl IntoIterator<Item = (Identity, String)>) {
        let ports: BTreeMap<u64, u16> =
            live::listening_sockets().into_iter().map(|(port, inode)| (inode, port)).collect();
        for (identity, who) in processes {
            if identity.group == identity.pid {
                self.groups.insert(identity.group, identity);
            }
            for inode in live::sockets_of(identity.pid) {
                if let Some(port) = ports.get(&inode) {
                    self.sockets.entry(inode).or_insert_with(|| (*port, who.clone()));
                }
            }
        }
    }

    /// How many ports were seen.
    #[must_use]
    pub fn num_ports(&self) -> usize {
        self.sockets.len()
    }

    /// Sockets that were seen and still listen.
    #[must_use]
    pub fn ports_left(&self) -> Vec<String> {
        let open = live::listening_sockets();
        let left = open.iter().filter_map(|(port, inode)| {
            let (_, who) = self.sockets.get(inode)?;
            Some(format!("port {port} of {who} is open"))
        });
        left.collect()
    }

    /// Processes of a group that was seen, and those whose environment is that of a container of
    /// this cluster: `endpoint` is where its AWS is, and nobody else's.
    #[must_use]
    pub fn processes_left(&self, endpoint: &str) -> Vec<String> {
        let left = live::everybody().into_iter().filter_map(|pid| {
            let identity = live::identity(pid)?;
            let environment = processes::environment(pid).unwrap_or_default();
            let is_named = environment.contains_key("MILLRACE_CONTAINER_ID")
                && environment.get("AWS_ENDPOINT_URL").is_some_and(|url| url == endpoint);
            let how = match (is_named, self.is_of_group(identity)) {
                (true, _) => "environment",
                (false, true) => "process group",
                (false, false) => return None,
            };
            let arguments = processes::arguments(pid).unwrap_or_default();
            let words: Vec<_> = arguments.iter().map(|w| String::from_utf8_lossy(w)).collect();
            Some(format!("process {pid} is left by its {how}: {}", words.join(" ")))
        });
        left.collect()
    }

    /// A group's number is given again only when the group is empty, and then to a new first process.
    fn is_of_group(&self, process: Identity) -> bool {
        let Some(first) = self.groups.get(&process.group) else { return false };
        live::identity(process.group).is_none_or(|now| now == *first)
            && process.started >= first.started
    }
}

/// Files in the work directory of a node, all of whose containers have ended, that it does not keep;
/// and more containers than it keeps.
#[must_use]
pub fn files_left(work_dir: &Path, kept_max: usize) -> Vec<String> {
    let mut left = Vec::new();
    let mut num_kept = 0;
    for entry in entries(work_dir) {
        match name(&entry) {
            "containers" => {
                for container in entries(&entry) {
                    num_kept += 1;
                    left.extend(entries(&container).into_iter().filter(|file| !is_kept(file)));
                }
            }
            LOCK => {}
            _ => left.push(entry),
        }
    }
    let mut left: Vec<String> =
        left.iter().map(|path| format!("{} is left", path.display())).collect();
    if num_kept > kept_max {
        left.push(format!("{} keeps {num_kept} containers of {kept_max}", work_dir.display()));
    }
    left
}

fn is_kept(file: &Path) -> bool {
    KEPT.contains(&name(file)) && file.is_file()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Cgroups that these workers made.
#[must_use]
pub fn cgroups_left(workers: &BTreeSet<u32>) -> Vec<String> {
    let mut left = Vec::new();
    let mut open = vec![(PathBuf::from(CGROUPS), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in entries(&directory) {
            let is_directory = entry.symlink_metadata().is_ok_and(|found| found.is_dir());
            if !is_directory {
                continue;
            }
            let owner = name(&entry).strip_prefix("millrace.").and_then(|n| n.split('.').next());
            if owner.and_then(|pid| pid.parse().ok()).is_some_and(|pid| workers.contains(&pid)) {
                left.push(format!("cgroup {} is left", entry.display()));
            } else if depth < CGROUPS_DEPTH {
                open.push((entry, depth + 1));
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::eventually::{PATIENCE, blocking};

    #[test]
    fn a_process_that_left_its_environment_is_found_by_its_group() {
        let mut command = std::process::Command::new("/bin/sh");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        // The second process outlives the first, in its group, and with another environment.
        let mut first = command.args(["-c", "env -i sleep 600 & read line"]);
        first = first.stdin(std::process::Stdio::piped());
        let mut first = first.spawn().unwrap();
        let pid = first.id();
        let others = || {
            let all = live::everybody().into_iter().filter_map(live::identity);
            all.filter(|one| one.group == pid && one.pid != pid).collect::<Vec<_>>()
        };
        assert!(blocking(PATIENCE, || !others().is_empty()));
        let mut traces = Traces::default();
        traces.saw([(live::identity(pid).unwrap(), "sh".to_owned())]);
        drop(first.stdin.take());
        first.wait().unwrap();
        let left = traces.processes_left("http://nowhere");
        assert!(left.len() == 1 && left[0].contains("process group: "), "{left:?}");
        others().into_iter().for_each(|one| processes::kill_by_id(one.pid));
        assert!(blocking(PATIENCE, || traces.processes_left("http://nowhere").is_empty()));
    }

    #[test]
    fn a_port_is_left_until_it_is_closed() {
        let mut traces = Traces::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = live::identity(std::process::id()).unwrap();
        traces.saw([(own, "this test".to_owned())]);
        let port = listener.local_addr().unwrap().port();
        let said = format!("port {port} of this test is open");
        assert!(traces.ports_left().contains(&said));
        drop(listener);
        assert!(!traces.ports_left().contains(&said));
    }

    #[test]
    fn only_what_a_node_keeps_is_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let container = directory.path().join("containers/a-a1-driver");
        std::fs::create_dir_all(&container).unwrap();
        std::fs::write(directory.path().join("lock"), "").unwrap();
        for file in KEPT {
            std::fs::write(container.join(file), "").unwrap();
        }
        assert_eq!(files_left(directory.path(), 1), [""; 0]);
        assert_eq!(files_left(directory.path(), 0).len(), 1, "more than it keeps");
        std::fs::create_dir(container.join("tmp")).unwrap();
        std::fs::write(directory.path().join("probe"), "").unwrap();
        assert_eq!(files_left(directory.path(), 1).len(), 2);
    }
}
