//! `millrace local up`: emulator, table, buckets, master, workers, in this order, each waited for.
//!
//! Promises: ends with a cluster that takes applications, or with nothing running and the last
//! lines of the log of what failed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use millrace_client::Client;
use millrace_common::aws::{AwsSettings, Clients};
use millrace_common::error::{Code, Error, Result};
use millrace_common::{access, shutdown, table};
use millrace_proto::v1::NodeState;
use serde_json::json;

use super::record::{self, ACCESS_KEY, Directory, REGION, Record, SECRET_KEY, unusable};
use super::{down, environment, process};
use crate::arguments::LocalUp;
use crate::commands::buckets;
use crate::commands::token::Files;
use crate::ended::Outcome;
use crate::output::{Output, fields};

/// How long each part may take until it serves; they take well below a second on an idle machine.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often a part is asked whether it serves.
const POLL: Duration = Duration::from_millis(25);
/// Lines of a log that are shown when a part fails.
const LOG_TAIL_LINES: usize = 12;

pub(super) async fn run(output: &Output, command: &LocalUp) -> Outcome {
    let directory = Directory::create(&command.directory.dir)?;
    let _lock = directory.lock()?;
    refuse_if_running(&directory, output)?;
    let mut starting = Starting {
        programs: Programs::find()?,
        directory,
        record: Record::default(),
        children: Vec::new(),
    };
    let interrupted = shutdown::on_signal()
        .map_err(|error| Error::internal("signals can not be heard").caused_by(error))?;
    let spinner = output.spinner("starting");
    let outcome = tokio::select! {
        outcome = starting.start(command, &spinner) => outcome,
        () = interrupted.cancelled() => Err(Error::new(
            Code::LocalCluster,
            "the start was interrupted",
            format!("run `{}` again", record::command("up", &command.directory.dir)),
        )),
    };
    spinner.finish_and_clear();
    let (directory, record) = (&starting.directory, &starting.record);
    if let Err(error) = outcome {
        starting.show_log_tail(output);
        down::end(directory, record).await?;
        directory.forget()?;
        return Err(error.into());
    }
    let value = json!({
        "dir": directory.path(),
        "endpoint": record.endpoint,
        "master": record.master,
        "workers": command.workers,
    });
    output.result(&value, || {
        fields(&[
            ("directory", directory.path().display().to_string()),
            ("aws endpoint", record.endpoint.clone()),
            ("master", record.master.clone()),
            (
                "workers",
                format!("{} x {} cores, {}", command.workers, command.cores, command.memory),
            ),
        ])
    })?;
    output.say(&format!("for this shell: eval \"$({})\"", directory.command("env")));
    Ok(())
}

/// Refuses a directory in which something still lives.
fn refuse_if_running(directory: &Directory, output: &Output) -> Result<()> {
    let Some(record) = directory.load()? else { return Ok(()) };
    let living: Vec<_> = record.processes.iter().filter(|process| process.lives()).collect();
    if living.is_empty() {
        output.say("the cluster recorded here has ended; starting it again");
        return Ok(());
    }
    Err(Error::new(
        Code::LocalCluster,
        format!(
            "a local cluster runs in {} already ({} of {} processes)",
            directory.path().display(),
            living.len(),
            record.processes.len()
        ),
        format!("end it with `{}`, or use another --dir", directory.command("down")),
    ))
}

/// The programs of a cluster.
#[derive(Debug)]
struct Programs {
    emulator: PathBuf,
    master: PathBuf,
    worker: PathBuf,
}

impl Programs {
    fn find() -> Result<Self> {
        Ok(Self {
            emulator: process::program("millrace-emulator")?,
            master: process::program("millrace-master")?,
            worker: process::program("millrace-worker")?,
        })
    }
}

/// A cluster that is being started.
#[derive(Debug)]
struct Starting {
    programs: Programs,
    directory: Directory,
    record: Record,
    children: Vec<Child>,
}

impl Starting {
    async fn start(&mut self, command: &LocalUp, spinner: &indicatif::ProgressBar) -> Result<()> {
        spinner.set_message("starting the emulator");
        self.emulator(command).await?;
        spinner.set_message("making table and buckets");
        self.storage(command).await?;
        spinner.set_message("starting the master");
        let client = self.master().await?;
        spinner.set_message("starting the workers");
        self.workers(command, &client).await
    }

    async fn emulator(&mut self, command: &LocalUp) -> Result<()> {
        let port_file = self.port_file("emulator")?;
        let mut emulator = Command::new(&self.programs.emulator);
        emulator
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.directory.path().join("emulator"))
            .arg("--port-file")
            .arg(&port_file);
        if command.no_limits {
            emulator.arg("--no-limits");
        }
        self.spawn(emulator, "emulator")?;
        let address = self.address("emulator", &port_file).await?;
        self.record.endpoint = format!("http://{address}");
        self.directory.save(&self.record)
    }

    /// The table and the buckets. The emulator keeps them over restarts.
    async fn storage(&self, command: &LocalUp) -> Result<()> {
        let settings = AwsSettings {
            region: Some(REGION.to_owned()),
            endpoint: Some(self.record.endpoint.clone()),
            ..AwsSettings::default()
        };
        let clients = Clients::with_keys(&settings, ACCESS_KEY, SECRET_KEY).await?;
        table::create_if_missing(&clients.dynamodb, table::DEFAULT_TABLE).await?;
        for bucket in &command.buckets {
            buckets::create_if_missing(&clients, bucket).await?;
        }
        Ok(())
    }

    async fn master(&mut self) -> Result<Client> {
        let port_file = self.port_file("master")?;
        let mut master = Command::new(&self.programs.master);
        let files = self.access()?;
        master
            .arg("--secret-file")
            .arg(&files.secret)
            .arg("--audit-file")
            .arg(self.directory.path().join("audit.jsonl"))
            .args(["--listen", "127.0.0.1:0", "--cluster", "local"])
            .args(["--table", table::DEFAULT_TABLE, "--port-file"])
            .arg(&port_file);
        self.spawn(master, "master")?;
        let address = self.address("master", &port_file).await?;
        self.record.master = format!("http://{address}");
        self.directory.save(&self.record)?;
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            self.all_live()?;
            let token = access::read_token(&files.admin)?;
            match Client::connect(&self.record.master, Some(token)).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The cluster's secret and its first tokens: those of an earlier start, or new ones.
    fn access(&mut self) -> Result<Files> {
        let files = Files::within(self.directory.path());
        files.ensure()?;
        self.record.token_file = files.admin.clone();
        Ok(files)
    }

    async fn workers(&mut self, command: &LocalUp, client: &Client) -> Result<()> {
        let master = self.record.master.trim_start_matches("http://").to_owned();
        let token_file = Files::within(self.directory.path()).node;
        let started: Vec<_> =
            (1..=command.workers).map(|number| format!("node-{number}")).collect();
        for node in &started {
            let work_dir = self.directory.path().join("nodes").join(node);
            std::fs::create_dir_all(&work_dir).map_err(|error| unusable(&work_dir, error))?;
            let mut worker = Command::new(&self.programs.worker);
            worker
                .args(["node", "--master", &master, "--node-id", node, "--host", "127.0.0.1"])
                .args(["--cores", &command.cores.to_string()])
                .args(["--memory", &command.memory.to_string()])
                .arg("--token-file")
                .arg(&token_file)
                .arg("--work-dir")
                .arg(&work_dir);
            self.spawn(worker, node)?;
        }
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            self.all_live()?;
            let nodes = client.nodes().await?;
            // The master may remember nodes of an earlier start with more workers.
            let alive = |id: &String| {
                let is_up = |state| !matches!(state, NodeState::Suspect | NodeState::Lost);
                nodes.iter().any(|node| node.node_id == *id && is_up(node.state()))
            };
            let Some(missing) = started.iter().find(|id| !alive(id)) else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(self.late(missing));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts a program with the cluster's environment and writes it down at once.
    fn spawn(&mut self, mut command: Command, role: &str) -> Result<()> {
        let logs = self.directory.path().join("logs");
        std::fs::create_dir_all(&logs).map_err(|error| unusable(&logs, error))?;
        // Profiles and tokens of the user's real account have no place here.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        for name in ["MILLRACE_MASTER", "MILLRACE_TOKEN", "MILLRACE_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        let environment = environment(&self.record).into_iter();
        // The administrator's token is the user's, not theirs.
        let is_theirs =
            |(name, value): &(_, String)| *name != "MILLRACE_TOKEN_FILE" && !value.is_empty();
        command.envs(environment.filter(is_theirs));
        let log = logs.join(format!("{role}.log"));
        let (child, process) = process::start(&mut command, role, &log)?;
        self.children.push(child);
        self.record.processes.push(process);
        self.directory.save(&self.record)
    }

    /// Where a server shall write its address; the file of an earlier start is removed.
    fn port_file(&self, role: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(format!("{role}.port"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(unusable(&path, error))
            }
            _ => Ok(path),
        }
    }

    /// Waits for a server's address.
    async fn address(&mut self, role: &str, port_file: &Path) -> Result<String> {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if let Ok(text) = std::fs::read_to_string(port_file) {
                return Ok(text.trim().to_owned());
            }
            self.all_live()?;
            if Instant::now() >= deadline {
                return Err(self.late(role));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Fails when a process that was started has ended.
    fn all_live(&mut self) -> Result<()> {
        for (child, process) in self.children.iter_mut().zip(&self.record.processes) {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Error::new(
                    Code::LocalCluster,
                    format!("{} has ended with {status} while it was started", process.role),
                    format!("read {}", process.log.display()),
                ));
            }
        }
        Ok(())
    }

    fn late(&self, what: &str) -> Error {
        let log = self.record.processes.last().map(|process| process.log.clone());
        Error::new(
            Code::LocalCluster,
            format!("{what} is not ready within {} s", READY_DEADLINE.as_secs()),
            format!("read {}", log.unwrap_or_default().display()),
        )
    }

    /// The last lines of the log of the process that ended, or else of the newest.
    fn show_log_tail(&self, output: &Output) {
        let processes = &self.record.processes;
        let Some(process) = processes.iter().find(|process| !process.lives()).or(processes.last())
        else {
            return;
        };
        let text = std::fs::read_to_string(&process.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        output.say(&format!("the end of {}:", process.log.display()));
        for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
            output.say(&format!("  {line}"));
        }
    }
}
