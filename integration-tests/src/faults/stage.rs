//! A cluster in the test profile on which rows are run one after the other: 1 s batches, heartbeats
//! of 0.5 s, a node lost after 3 s.
//!
//! Promises: after [`Stage::heal`] nothing of a fault is left: no rule, no failpoint, no frozen
//! process, and every process runs again. Owned by the runner.
//! Never does: judge.

use std::path::{Path, PathBuf};

use super::control::Control;
use super::disk::Disk;
use super::fault::{DiskFault, Line};
use super::proxy::{Mode, Proxy};
use crate::cluster::{Cluster, Judge, NodeSize};
use crate::eventually::PATIENCE;
use crate::processes;

/// Four nodes: with one of them lost there is still room for everything.
const NODES: [NodeSize; 4] = [NodeSize { cores: 2, memory: "2GiB" }; 4];

/// The test profile's part that the master reads.
const MASTER: [(&str, &str); 4] = [
    ("MILLRACE_MASTER_HEARTBEAT_INTERVAL", "500ms"),
    ("MILLRACE_MASTER_SUSPECT_AFTER", "1500ms"),
    ("MILLRACE_MASTER_LOST_AFTER", "3s"),
    ("MILLRACE_MASTER_ADOPT_TIMEOUT", "4s"),
];

/// Leadership in the test profile: a standby takes over within the bound of 6 s.
const LEADERSHIP: [(&str, &str); 3] = [
    ("MILLRACE_MASTER_LEADER_RENEW_INTERVAL", "500ms"),
    ("MILLRACE_MASTER_LEADER_STEP_DOWN_AFTER", "2s"),
    ("MILLRACE_MASTER_LEADER_TAKE_OVER_AFTER", "3s"),
];

/// How nodes on small disks watch them.
const DISK_WATCH: [(&str, &str); 3] = [
    ("MILLRACE_WORKER_MIN_FREE_DISK", "4MiB"),
    ("MILLRACE_WORKER_DISK_CHECK_INTERVAL", "1s"),
    ("MILLRACE_WORKER_DISK_RECOVER_AFTER", "3s"),
];

/// By which the SDK finds DynamoDB alone.
const DYNAMODB: &str = "AWS_ENDPOINT_URL_DYNAMODB";

/// libfaketime as Debian and Ubuntu install it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// From a container's directory, the file of its node by which its clock goes.
const CLOCK_OF_NODE: &str = "../../clock";

/// Bucket of all rows.
pub const BUCKET: &str = "results";

/// The cluster and what reaches into it.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The emulator's control endpoint.
    pub control: Control,
    /// Where failpoints are laid down for drivers that run.
    pub failpoints: PathBuf,
    frozen: Vec<u32>,
    blocked: Vec<Vec<String>>,
    lines: [(Line, Proxy); 3],
    /// Each worker's way to the master; empty where a standby is.
    detours: Vec<Proxy>,
    /// Each worker's disk, between [`Stage::put_on_disks`] and [`Stage::heal`].
    pub disks: Vec<Disk>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A rule that stays would outlive the test on this machine.
        self.unblock();
    }
}

impl Stage {
    /// Starts a cluster.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a cluster with more in its master's environment.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with(extra: &[(&str, &str)]) -> Self {
        let mut stage = Self::make(extra).await;
        for index in 0..NODES.len() {
            let detour = Proxy::start(&stage.cluster.address.to_string());
            stage.cluster.reach_master_at(index, detour.address());
            stage.detours.push(detour);
        }
        stage.add_workers().await;
        stage
    }

    /// Starts a cluster with two masters, of which one stands by.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with_standby() -> Self {
        // Workers learn of all masters when they start.
        let mut stage = Self::make(&LEADERSHIP).await;
        stage.cluster.add_standby(&[]).await;
        stage.add_workers().await;
        stage
    }

    async fn add_workers(&mut self) {
        NODES.iter().for_each(|node| self.cluster.add_worker(*node, &[]));
        self.cluster.wait_for_nodes(NODES.len()).await;
    }

    async fn make(extra: &[(&str, &str)]) -> Self {
        let mut lines = None;
        let cluster = Cluster::start_behind(&Judge::Emulator, &[], |endpoint| {
            let target = endpoint.url.trim_start_matches("http://");
            let all = [Line::DriverToDynamo, Line::MasterToDynamo, Line::ApplicationToAws];
            let all = lines.insert(all.map(|line| (line, Proxy::start(target))));
            let own = MASTER.iter().chain(extra);
            let own = own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let mut environment: Vec<_> = own.collect();
            environment.push((DYNAMODB.to_owned(), all[1].1.url()));
            environment
        })
        .await;
        let lines = lines.expect("the cluster asked for its master's environment");
        cluster.aws.create_bucket(BUCKET).await;
        let control = Control::of(&cluster.aws.endpoint);
        let failpoints = cluster.path().join("failpoints");
        std::fs::create_dir(&failpoints).expect("the test's directory can be written to");
        Self {
            cluster,
            control,
            failpoints,
            frozen: Vec::new(),
            blocked: Vec::new(),
            lines,
            detours: Vec::new(),
            disks: Vec::new(),
        }
    }

    fn line(&self, wanted: Line) -> &Proxy {
        let found = self.lines.iter().find(|(line, _)| *line == wanted);
        &found.expect("every line has a proxy").1
    }

    /// Changes how a line is.
    pub fn set(&self, line: Line, mode: Mode) {
        self.line(line).set(mode);
    }

    /// Changes how the way of a worker to the master is.
    ///
    /// # Panics
    /// On a stage with a standby, where workers know all masters themselves.
    pub fn set_detour(&self, worker: usize, mode: Mode) {
        self.detours[worker].set(mode);
    }

    /// Gives every worker a small disk of its own for its work directory, until [`Stage::heal`].
    ///
    /// # Panics
    /// When a worker does not end, or its disk can not be mounted.
    pub async fn put_on_disks(&mut self, fault: DiskFault) {
        for index in 0..self.cluster.workers.len() {
            self.cluster.workers[index].terminate(PATIENCE).await;
            let point = self.cluster.path().join(format!("node-{}", index + 1));
            self.disks.push(Disk::mount(&point, fault).expect("a disk can be mounted"));
            self.cluster.restart_worker(index, &DISK_WATCH);
        }
        self.cluster.wait_for_nodes(NODES.len()).await;
    }

    /// Gives a worker a new disk, as after a repair of the machine.
    ///
    /// # Panics
    /// When the worker does not end, or its disk can not be mounted.
    pub async fn renew_disk(&mut self, index: usize) {
        self.cluster.workers[index].terminate(PATIENCE).await;
        self.disks[index].renew().expect("a disk can be mounted");
        self.cluster.restart_worker(index, &DISK_WATCH);
    }

    /// Drops every packet to and from a port of this machine, until [`Stage::heal`].
    ///
    /// # Errors
    /// What iptables says.
    pub fn block(&mut self, port: u16) -> Result<(), String> {
        for side in ["--dport", "--sport"] {
            let rule = ["INPUT", "-i", "lo", "-p", "tcp", side, &port.to_string(), "-j", "DROP"];
            let rule: Vec<String> = rule.iter().map(|word| (*word).to_owned()).collect();
            iptables("-I", &rule)?;
            self.blocked.push(rule);
        }
        Ok(())
    }

    /// Lets all packets pass again.
    pub fn unblock(&mut self) {
        for rule in std::mem::take(&mut self.blocked) {
            if let Err(error) = iptables("-D", &rule) {
                eprintln!("a packet filter rule stays on this machine: {rule:?}: {error}");
            }
        }
    }

    /// True when clocks of containers can be changed here.
    #[must_use]
    pub fn has_faketime() -> bool {
        Path::new(FAKETIME).is_file()
    }

    /// What a container's environment needs for [`Stage::set_clock`] to reach it.
    #[must_use]
    pub fn clock_environment() -> Vec<(&'static str, String)> {
        [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", CLOCK_OF_NODE),
            ("FAKETIME_NO_CACHE", "1"),
            // A clock that is set does not move what measures spans.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec()
    }

    /// Sets the clock of the containers on a node: `+0`, `+2h`, `-10m`, `+0 x1.05`.
    ///
    /// # Panics
    /// When its file can not be written.
    pub fn set_clock(&self, node: &str, clock: &str) {
        let file = self.cluster.path().join(node).join("clock");
        std::fs::write(&file, clock).expect("the test's directory can be written to");
    }

    /// The test profile's part that an application's processes read.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("MILLRACE_HEARTBEAT_INTERVAL", "500ms".to_owned()),
            ("FAILPOINTS_DIR", self.failpoints.display().to_string()),
            ("AWS_ENDPOINT_URL", self.line(Line::ApplicationToAws).url()),
            (DYNAMODB, self.line(Line::DriverToDynamo).url()),
        ]
    }

    /// Lays a failpoint down: the first driver that comes by aborts.
    ///
    /// # Panics
    /// When it can not be written.
    pub fn lay(&self, point: &str) {
        // Written beside and moved, so that no driver reads half of it.
        let draft = self.failpoints.join(format!("{point}.draft"));
        std::fs::write(&draft, "1*return").expect("the test's directory can be written to");
        std::fs::rename(&draft, self.failpoints.join(point)).expect("a draft can be moved");
    }

    /// True while the failpoint waits for a driver.
    #[must_use]
    pub fn lies(&self, point: &str) -> bool {
        self.failpoints.join(point).exists()
    }

    /// Freezes a process until it is thawed, at the latest by [`Stage::heal`].
    pub fn freeze(&mut self, pid: u32) {
        if processes::resident_bytes(pid).is_ok() {
            processes::freeze_by_id(pid);
            self.frozen.push(pid);
        }
    }

    /// Lets a frozen process go on.
    pub fn thaw(&mut self, pid: u32) {
        if self.frozen.contains(&pid) {
            self.frozen.retain(|frozen| *frozen != pid);
            processes::thaw_by_id(pid);
        }
    }

    /// Undoes what faults have left behind and waits until every node is alive.
    ///
    /// # Panics
    /// When the cluster does not come back.
    pub async fn heal(&mut self) {
        self.control.clear().await;
        for entry in std::fs::read_dir(&self.failpoints).into_iter().flatten().flatten() {
            // Gone already when a driver took it just now.
            let _ = std::fs::remove_file(entry.path());
        }
        self.unblock();
        let proxies = self.lines.iter().map(|(_, proxy)| proxy).chain(&self.detours);
        proxies.for_each(|proxy| proxy.set(Mode::Open));
        for pid in std::mem::take(&mut self.frozen) {
            processes::thaw_by_id(pid);
        }
        if self.cluster.master.has_ended() {
            self.cluster.restart_master().await;
        }
        for index in 0..self.disks.len() {
            if !self.cluster.workers[index].has_ended() {
                self.cluster.workers[index].terminate(PATIENCE).await;
            }
        }
        // Unmounts them; the workers go on in the directories below.
        self.disks.clear();
        for index in 0..self.cluster.workers.len() {
            if self.cluster.workers[index].has_ended() {
                self.cluster.restart_worker(index, &[]);
            }
        }
        self.cluster.wait_for_nodes(NODES.len()).await;
    }
}

fn iptables(what: &str, rule: &[String]) -> Result<(), String> {
    let mut command = std::process::Command::new("iptables");
    let output = command.arg("-w").arg(what).args(rule).output();
    let output = output.map_err(|error| format!("iptables: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
