//! A whole cluster for one test: master and nodes as real processes on free ports, on top of a
//! judge's AWS.
//!
//! Only one cluster runs at a time in a test program, because a machine with two cores shows
//! nothing true about ten of them. Dropping the cluster ends its processes by their ids, waits for
//! the containers that they leave to end by themselves, and fails the test when one does not.

mod start;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_proto::v1;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tonic::transport::Channel;

use self::start::{client_of, init_table, owned, spawn_master, start_judge, start_master};
use crate::application::File;
use crate::aws::{Aws, Endpoint};
use crate::command::{Output, base_environment, binary, run};
use crate::eventually::{self, PATIENCE, within};
use crate::objects;
use crate::processes::{self, Process};

/// Held by the one cluster that runs.
static TURN: Mutex<()> = Mutex::const_new(());

/// How long containers may outlive their node: they see the end of their standard input at once.
const ORPHANS_GONE: Duration = Duration::from_secs(20);

/// Which judge a cluster stands on.
#[derive(Clone, Debug)]
pub enum Judge {
    /// Millrace's emulator.
    Emulator,
    /// ministack, run by this Python.
    Ministack(PathBuf),
    /// ministack that checks rights; master and nodes call it as users with only these policies.
    MinistackWithRights(PathBuf, Policies),
}

/// Policy documents of the two who call AWS.
#[derive(Clone, Debug)]
pub struct Policies {
    /// Of the nodes, whose credentials driver and executors inherit.
    pub application: String,
    /// Of the master.
    pub master: String,
}

/// What one node offers.
#[derive(Clone, Copy, Debug)]
pub struct NodeSize {
    /// Cores.
    pub cores: u32,
    /// Memory, as `4GiB`.
    pub memory: &'static str,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The judge, with a caller who may do everything.
    pub aws: Aws,
    /// The AWS caller that nodes and commands run as.
    pub caller: Endpoint,
    /// The AWS caller that masters run as.
    pub master_caller: Endpoint,
    /// The master.
    pub master: Process,
    /// The nodes, in order.
    pub workers: Vec<Process>,
    /// Where the master listens.
    pub address: SocketAddr,
    /// Masters that stand by, and where they listen.
    pub standbys: Vec<(Process, SocketAddr)>,
    directory: TempDir,
    master_environment: Vec<(String, String)>,
    worker_sizes: Vec<NodeSize>,
    detours: BTreeMap<usize, String>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts judge, master and one worker per entry of `nodes`, and waits until all are alive.
    ///
    /// # Panics
    /// When something does not come up.
    pub async fn start(judge: &Judge, nodes: &[NodeSize]) -> Self {
        Self::start_with(judge, nodes, &[]).await
    }

    /// As [`Cluster::start`], with more in the master's environment, as
    /// `MILLRACE_MASTER_LOST_AFTER`.
    ///
    /// # Panics
    /// When something does not come up.
    pub async fn start_with(
        judge: &Judge,
        nodes: &[NodeSize],
        master_environment: &[(&str, &str)],
    ) -> Self {
        Self::start_behind(judge, nodes, |_| owned(master_environment)).await
    }

    /// As [`Cluster::start_with`], where that environment depends on where AWS is.
    ///
    /// # Panics
    /// When something does not come up.
    pub async fn start_behind(
        judge: &Judge,
        nodes: &[NodeSize],
        master_environment: impl FnOnce(&Endpoint) -> Vec<(String, String)>,
    ) -> Self {
        let turn = TURN.lock().await;
        let directory = tempfile::tempdir().expect("the temporary directory can be written to");
        let (aws, caller, master_caller) = start_judge(judge, directory.path()).await;
        init_table(&aws.endpoint).await;
        let mut environment = master_caller.environment();
        environment.extend(master_environment(&master_caller));
        let (master, address) =
            start_master("test", "127.0.0.1:0", &environment, directory.path()).await;
        let mut cluster = Self {
            aws,
            caller,
            master_caller,
            master,
            workers: Vec::new(),
            address,
            standbys: Vec::new(),
            directory,
            master_environment: environment,
            worker_sizes: Vec::new(),
            detours: BTreeMap::new(),
            _turn: turn,
        };
        for node in nodes {
            cluster.add_worker(*node, &[]);
        }
        cluster.wait_for_nodes(nodes.len()).await;
        cluster
    }

    /// Starts one more worker with `extra` in its own environment; it registers by itself.
    pub fn add_worker(&mut self, size: NodeSize, extra: &[(&str, &str)]) {
        let process = self.spawn_worker(self.workers.len(), size, extra);
        self.workers.push(process);
        self.worker_sizes.push(size);
    }

    /// Has the worker of this index, started later, look for the master at `address`.
    pub fn reach_master_at(&mut self, index: usize, address: String) {
        self.detours.insert(index, address);
    }

    /// Starts the worker of this index again, under its old name, after it was ended.
    pub fn restart_worker(&mut self, index: usize, extra: &[(&str, &str)]) {
        self.workers[index] = self.spawn_worker(index, self.worker_sizes[index], extra);
    }

    fn spawn_worker(&self, index: usize, size: NodeSize, extra: &[(&str, &str)]) -> Process {
        let name = format!("node-{}", index + 1);
        let work = self.path().join(&name);
        let arguments: Vec<String> = [
            "node",
            "--master",
            &self.detours.get(&index).cloned().unwrap_or_else(|| self.masters()),
            "--node-id",
            &name,
            "--host",
            "127.0.0.1",
            "--cores",
            &size.cores.to_string(),
            "--memory",
            size.memory,
            "--work-dir",
            &work.display().to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        let mut environment = self.caller.environment();
        environment.extend(owned(extra));
        let worker = binary("millrace-worker");
        Process::spawn(&name, &worker, &arguments, &environment, self.path())
    }

    /// Waits until exactly `num` nodes are alive.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn wait_for_nodes(&mut self, num: usize) {
        let mut client = self.client();
        let processes = &mut self.workers;
        let master = &mut self.master;
        within(PATIENCE, &format!("{num} nodes are alive"), async || {
            master.assert_running();
            processes.iter_mut().for_each(Process::assert_running);
            let answer = client.list_nodes(v1::ListNodesRequest {}).await;
            let nodes = answer.map_err(|status| status.to_string())?.into_inner().nodes;
            let alive = nodes.iter().filter(|node| node.state() == v1::NodeState::Alive).count();
            if alive == num { Ok(()) } else { Err(format!("{alive} alive of {nodes:?}")) }
        })
        .await;
    }

    /// The directory of this test's files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A gRPC client of the master.
    #[must_use]
    pub fn client(&self) -> ClientServiceClient<Channel> {
        client_of(self.address)
    }

    /// Starts the master again, under its old address, after it was ended.
    pub async fn restart_master(&mut self) {
        let listen = self.address.to_string();
        let environment = &self.master_environment;
        (self.master, _) = start_master("test", &listen, environment, self.path()).await;
    }

    /// Starts one more master of this cluster, with more in its environment, and waits until it
    /// listens; workers that are added later know of it.
    pub async fn add_standby(&mut self, environment: &[(&str, &str)]) {
        let mut all = self.master_environment.clone();
        all.extend(owned(environment));
        let name = format!("standby-{}", self.standbys.len() + 1);
        let standby = spawn_master(&name, "test", "127.0.0.1:0", &all, self.path()).await;
        self.standbys.push(standby);
    }

    /// Where all masters listen, as a list.
    #[must_use]
    pub fn masters(&self) -> String {
        let standbys = self.standbys.iter().map(|(_, address)| address.to_string());
        std::iter::once(self.address.to_string()).chain(standbys).collect::<Vec<_>>().join(",")
    }

    /// Waits until the first standby leads, and takes it for the master from then on; the one that
    /// led takes its place.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn standby_leads(&mut self) -> v1::GetClusterResponse {
        let (process, address) = &mut self.standbys[0];
        std::mem::swap(process, &mut self.master);
        std::mem::swap(address, &mut self.address);
        let mut client = self.client();
        within(PATIENCE, "the standby leads", async || {
            let answer = client.get_cluster(v1::GetClusterRequest {}).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
        })
        .await
    }

    /// Starts the first standby again, under its old address, after it was ended.
    pub async fn restart_standby(&mut self) {
        let listen = self.standbys[0].1.to_string();
        let environment = &self.master_environment;
        self.standbys[0] =
            spawn_master("standby-again", "test", &listen, environment, self.path()).await;
    }

    /// Starts the master of another cluster on the same table and waits until it answers.
    pub async fn start_master_of(&self, cluster: &str) -> Process {
        start_master(cluster, "127.0.0.1:0", &self.master_caller.environment(), self.path()).await.0
    }

    /// Runs the `millrace` command against this cluster.
    pub async fn millrace(&self, arguments: &[&str]) -> Output {
        let mut environment = base_environment();
        environment.extend(self.caller.environment());
        environment.push(("MILLRACE_MASTER".to_owned(), self.masters()));
        run(&binary("millrace"), arguments, &environment, PATIENCE).await
    }

    /// Writes `text` as an application file.
    ///
    /// # Panics
    /// When it can not be written.
    #[must_use]
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("the test's directory can be written to");
        path.display().to_string()
    }

    /// Submits an application that must be taken.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&self, file: &File) {
        let path = self.write(&format!("{}.toml", file.name), &file.toml());
        let _ = self.millrace(&["submit", &path]).await.success();
    }

    /// Stops an application by `millrace stop`, with more `flags`, and waits until it has stopped.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&self, application: &str, flags: &[&str]) {
        let arguments: Vec<&str> = ["stop", application].iter().chain(flags).copied().collect();
        let _ = self.millrace(&arguments).await.success();
        self.wait_for_state(application, v1::ApplicationState::Stopped).await;
    }

    /// The application as the master knows it.
    ///
    /// # Errors
    /// The master's answer when it does not know it.
    pub async fn application(&self, name: &str) -> Result<v1::Application, String> {
        let request = v1::GetApplicationRequest { name: name.to_owned() };
        let answer = self.client().get_application(request).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        answer.application.ok_or_else(|| "no application in the answer".to_owned())
    }

    /// Waits until the application is in `state`; an end in another state fails at once.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn wait_for_state(&self, name: &str, state: v1::ApplicationState) -> v1::Application {
        let seen = within(PATIENCE, &format!("{name} is {}", state.as_str_name()), async || {
            let application = self.application(name).await?;
            if application.state() == state || has_ended(&application) {
                Ok(application)
            } else {
                Err(describe(&application))
            }
        })
        .await;
        assert_eq!(seen.state(), state, "{}\n{}", describe(&seen), self.container_logs());
        seen
    }

    /// Waits until `look` is satisfied with the driver's report of a live application.
    ///
    /// # Panics
    /// When that does not come, or the application ends.
    pub async fn wait_for_report(
        &self,
        name: &str,
        what: &str,
        look: impl Fn(&v1::DriverReport) -> bool,
    ) -> v1::DriverReport {
        within(PATIENCE, &format!("{name}: {what}"), async || {
            let application = self.application(name).await?;
            assert!(
                !has_ended(&application),
                "{}\n{}",
                describe(&application),
                self.container_logs()
            );
            match application.report {
                Some(report) if look(&report) => Ok(report),
                other => Err(format!("{other:?}; {}", application.reason)),
            }
        })
        .await
    }

    /// Containers of an application, those that have ended included.
    ///
    /// # Panics
    /// When the master does not answer.
    pub async fn containers(&self, application: &str) -> Vec<v1::Container> {
        let request = v1::ListContainersRequest { application: application.to_owned() };
        let answer = self.client().list_containers(request).await;
        answer.expect("the master answers").into_inner().containers
    }

    /// Process id of the driver that runs; none between two attempts.
    ///
    /// # Panics
    /// When the master does not answer.
    pub async fn driver(&self, application: &str) -> Option<u32> {
        let containers = self.containers(application).await;
        let statuses = containers.into_iter().filter_map(|container| container.status);
        let mut drivers = statuses.filter(|status| status.kind() == v1::ContainerKind::Driver);
        let running = drivers.find(|status| status.state() == v1::ContainerState::Running);
        running.map(|status| status.pid).filter(|pid| *pid != 0)
    }

    /// Waits for the driver, and kills it.
    ///
    /// # Panics
    /// When none comes to run.
    pub async fn kill_driver(&self, application: &str) {
        let pid = within(PATIENCE, "its driver runs", async || {
            self.driver(application).await.ok_or_else(|| "there is none".to_owned())
        });
        processes::kill_by_id(pid.await);
    }

    /// The newest batches of an application.
    ///
    /// # Panics
    /// When the master does not answer.
    pub async fn batches(&self, application: &str) -> Vec<v1::Batch> {
        let request = v1::ListBatchesRequest { name: application.to_owned(), limit: 1_000 };
        let answer = self.client().list_batches(request).await;
        answer.expect("the master answers").into_inner().batches
    }

    /// The last lines of the standard error of all containers, for a failing test.
    #[must_use]
    pub fn container_logs(&self) -> String {
        let mut text = String::new();
        let mut open = vec![self.path().to_owned()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.file_name().is_some_and(|name| name == "stderr.log") {
                    text.push_str(&format!("--- {}\n{}\n", path.display(), processes::tail(&path)));
                }
            }
        }
        text
    }

    /// Waits until the words visible under a prefix add up to at least `total`.
    ///
    /// # Panics
    /// When that does not come, or the application ends before.
    pub async fn wait_for_words(&self, name: &str, bucket: &str, prefix: &str, total: i64) {
        let mut seen = BTreeMap::<String, i64>::new();
        within(PATIENCE, &format!("{total} words are visible"), async || {
            for key in objects::keys(&self.aws.endpoint, bucket, prefix).await {
                if let Entry::Vacant(new) = seen.entry(key) {
                    let object = objects::json_lines(&self.aws.endpoint, bucket, new.key()).await;
                    new.insert(objects::word_counts(&object).values().sum());
                }
            }
            let visible = seen.values().sum::<i64>();
            if visible >= total {
                return Ok(());
            }
            let application = self.application(name).await?;
            let (line, logs) = (describe(&application), self.container_logs());
            assert!(!has_ended(&application), "{visible} words are visible, {line}\n{logs}");
            Err(format!("{visible} words in {} objects; {line}", seen.len()))
        })
        .await;
    }

    /// Waits until the application has committed a batch of this number or a later one.
    ///
    /// # Panics
    /// When that does not come, or the application ends before.
    pub async fn wait_for_batch(&self, name: &str, batch: u64) {
        let what = format!("batch {batch} is committed");
        self.wait_for_report(name, &what, |report| report.batch >= batch).await;
    }

    /// Waits until no container of this cluster runs.
    ///
    /// # Panics
    /// When one does not end.
    pub async fn wait_for_no_containers(&self) {
        within(PATIENCE, "no container runs", async || match self.container_pids().as_slice() {
            [] => Ok(()),
            pids => Err(format!("{pids:?}")),
        })
        .await;
    }

    /// Process ids of all live containers, from the process table.
    #[must_use]
    pub fn container_pids(&self) -> Vec<u32> {
        let known: Vec<u32> = self.workers.iter().map(Process::pid).collect();
        let own = [self.aws.process.pid(), self.master.pid()];
        let standbys: Vec<u32> = self.standbys.iter().map(|(standby, _)| standby.pid()).collect();
        let mut pids = processes::naming(self.path());
        pids.retain(|pid| !known.contains(pid) && !own.contains(pid) && !standbys.contains(pid));
        pids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.container_logs());
        }
        self.master.kill();
        self.standbys.iter_mut().for_each(|(standby, _)| standby.kill());
        self.workers.iter_mut().for_each(Process::kill);
        let mut left = self.container_pids();
        let gone = eventually::blocking(ORPHANS_GONE, || {
            left = self.container_pids();
            left.is_empty()
        });
        left.iter().copied().for_each(processes::kill_by_id);
        assert!(gone || std::thread::panicking(), "containers outlived their nodes: {left:?}");
    }
}

/// One line for a failing test.
fn describe(application: &v1::Application) -> String {
    let attempts: Vec<_> = application.attempts.iter().map(|a| (a.number, &a.end_reason)).collect();
    format!(
        "{} is {}: {} {:?}, attempts {attempts:?}",
        application.name,
        application.state().as_str_name(),
        application.reason,
        application.failure
    )
}

fn has_ended(application: &v1::Application) -> bool {
    use v1::ApplicationState as S;
    matches!(application.state(), S::Stopped | S::Failed | S::Rejected | S::Killed | S::Finished)
}
