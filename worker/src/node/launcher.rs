//! Starting a container's process, and staying with it to its end.
//!
//! A container is a process group of its own. Its environment is made from nothing: what the node
//! lets through, then the application's, then Millrace's own three. Its standard input is a pipe
//! that ends with the node; its directory and its temporary files are its own. However it ends, its
//! whole group is killed, and what it left but its logs is removed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::OptionFuture;
use millrace_common::resources::{ByteSize, Resources};
use millrace_proto::v1::container_exit::Limit;
use millrace_proto::v1::{ContainerExit, ContainerKind, LaunchContext};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop, ProcessGroup};
use tokio::process::ChildStdin;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::cgroup::{Cgroup, Cgroups};
use super::logs::{self, Capped};
use super::memory::{self, Allowance};
use super::storage::{self, Storage};
use super::work_dir::{STDERR, STDOUT};
use crate::launch;

/// What containers inherit from the node's environment, by name.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "RUST_LOG", "RUST_BACKTRACE"];
/// And by how the name begins.
const INHERITED_PREFIXES: [&str; 4] = ["LC_", "AWS_", "SSL_CERT_", "MILLRACE_"];

/// The directory of its temporary files, in its own.
const TEMPORARY: &str = "tmp";

/// What containers of a node may have beside what they are granted.
#[derive(Debug)]
pub(super) struct Terms {
    /// Of the disk, for each of the two logs.
    pub log_max: ByteSize,
    /// Of the disk, in all.
    pub container_disk: ByteSize,
    /// Where their cgroups are made.
    pub cgroups: Cgroups,
}

/// True for what leads to the tokens of others: a container has one of its own, in its launch
/// context.
fn is_access(name: &str) -> bool {
    name.starts_with("MILLRACE_") && (name.contains("TOKEN") || name.contains("SECRET"))
}

/// How a container is to be ended: not yet, or with this grace.
pub(super) type KillSwitch = watch::Receiver<Option<Duration>>;

/// A process that was started.
#[derive(Debug)]
pub(super) struct Process {
    child: Box<dyn ChildWrapper>,
    /// The write end: the container lives as long as it is held.
    stdin: Option<ChildStdin>,
    directory: PathBuf,
    allowance: Allowance,
    storage: Option<Storage>,
    cgroup: Cgroup,
    /// Its process id.
    pub pid: u32,
}

/// The environment of a container: an allow-list of the node's, the application's, and our own.
pub(super) fn environment(
    of_node: impl IntoIterator<Item = (OsString, OsString)>,
    directory: &Path,
    context: &LaunchContext,
    lent: &BTreeMap<String, String>,
) -> BTreeMap<OsString, OsString> {
    let is_inherited = |name: &OsString| {
        name.to_str().is_some_and(|name| {
            let by_prefix = || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            let is_listed = INHERITED.contains(&name) || by_prefix();
            is_listed && !is_access(name)
        })
    };
    let mut environment: BTreeMap<OsString, OsString> =
        of_node.into_iter().filter(|(name, _)| is_inherited(name)).collect();
    environment.insert("TMPDIR".into(), directory.join(TEMPORARY).into());
    for (name, value) in &context.env {
        environment.insert(name.into(), value.into());
    }
    let own = [
        ("MILLRACE_APPLICATION", context.application.clone()),
        ("MILLRACE_ATTEMPT", context.attempt.to_string()),
        ("MILLRACE_CONTAINER_ID", context.container_id.clone()),
    ];
    environment.extend(own.map(|(name, value)| (name.into(), value.into())));
    environment.extend(lent.iter().map(|(name, value)| (name.into(), value.into())));
    environment
}

/// Makes the directory and the files of a container and starts its process.
pub(super) fn start(
    program: &Path,
    directory: &Path,
    context: &LaunchContext,
    terms: &Terms,
    lent: &BTreeMap<String, String>,
) -> io::Result<Process> {
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700).create(directory.join(TEMPORARY))?;
    launch::write(directory, context)?;
    let role = match context.kind() {
        ContainerKind::Driver => "driver",
        ContainerKind::Executor => "executor",
        ContainerKind::Unspecified => return Err(io::Error::other("the grant has no kind")),
    };
    let stdout = logs::create(&directory.join(STDOUT))?;
    let stderr = logs::create(&directory.join(STDERR))?;
    let capped = [stdout.try_clone()?, stderr.try_clone()?];
    let capped = capped.map(|log| Capped::new(log, terms.log_max)).into();
    let storage = Storage::new(directory.to_owned(), terms.container_disk, capped);
    let environment = environment(std::env::vars_os(), directory, context, lent);
    let mut command = CommandWrap::with_new(program, |command| {
        command
            .arg(role)
            .arg("--launch")
            .arg(directory.join(launch::FILE))
            .arg("--")
            .args(&context.args)
            .env_clear()
            .envs(environment)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr);
    });
    command.wrap(KillOnDrop).wrap(ProcessGroup::leader());
    let mut child = command.spawn()?;
    let stdin = child.stdin().take();
    let pid = child.id().ok_or_else(|| io::Error::other("the process ended at once"))?;
    let granted = context.resources.as_ref().map(Resources::from_proto).unwrap_or_default();
    let cgroup = terms.cgroups.make(&context.container_id, granted);
    if let Err(error) = cgroup.add(pid) {
        tracing::warn!(pid, %error, "a container is in no cgroup: its memory is watched");
    }
    Ok(Process {
        child,
        stdin,
        directory: directory.to_owned(),
        allowance: Allowance::new(granted.memory),
        storage: Some(storage),
        cgroup,
        pid,
    })
}

impl Process {
    /// Waits for the end, and brings it about when asked.
    pub(super) async fn run(mut self, mut kill: KillSwitch) -> ContainerExit {
        let mut excess = None;
        let status = self.wait(&mut kill, &mut excess).await;
        // What the process may have left in its group goes with it; nothing left is the usual case.
        if let Err(error) = self.child.start_kill() {
            tracing::trace!(pid = self.pid, %error, "nothing was left in the group");
        }
        for pid in self.cgroup.pids() {
            // One that has left its group; gone already is fine.
            let _ = signal::kill(nix_pid(pid), Signal::SIGKILL);
        }
        drop(self.stdin.take());
        storage::clear(vec![self.directory.clone()]).await;
        if excess.is_none()
            && let Some(peak) = self.cgroup.ended_for_memory()
        {
            excess = Some((Limit::Memory, self.allowance.ended_by_kernel(peak)));
        }
        let stderr_tail = logs::stderr_tail(&self.directory);
        match status {
            Ok(status) => {
                let exit = ContainerExit { stderr_tail, ..describe(status) };
                match excess {
                    Some((limit, reason)) => {
                        ContainerExit { reason, exceeded: limit.into(), ..exit }
                    }
                    // Whoever killed it, its memory is the first that people ask about.
                    None if exit.signal.is_some() => {
                        let reason = format!("{}; {}", exit.reason, self.allowance.at_most());
                        ContainerExit { reason, ..exit }
                    }
                    None => exit,
                }
            }
            Err(error) => ContainerExit {
                reason: format!("its end could not be observed: {error}"),
                stderr_tail,
                ..Default::default()
            },
        }
    }

    async fn end_for(
        &mut self,
        limit: Limit,
        why: String,
        excess: &mut Option<(Limit, String)>,
    ) -> io::Result<ExitStatus> {
        tracing::warn!(pid = self.pid, why, "a container takes more than it may");
        *excess = Some((limit, why));
        self.child.start_kill()?;
        self.child.wait().await
    }

    /// `excess` says why, when it is ended for what it takes.
    async fn wait(
        &mut self,
        kill: &mut KillSwitch,
        excess: &mut Option<(Limit, String)>,
    ) -> io::Result<ExitStatus> {
        let mut looks = tokio::time::interval(memory::LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        let storage: OptionFuture<_> = self.storage.take().map(Storage::watch).into();
        let mut storage = pin!(storage);
        loop {
            let asked = *kill.borrow_and_update();
            if let Some(grace) = asked {
                let until = Instant::now() + grace;
                if grace.is_zero() {
                    self.child.start_kill()?;
                } else {
                    self.child.signal(Signal::SIGTERM as i32)?;
                }
                deadline = Some(deadline.map_or(until, |earlier: Instant| earlier.min(until)));
            }
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = self.child.wait() => return status,
                changed = kill.changed() => if changed.is_err() {
                    // Nobody is left who could ask: the node ends.
                    self.child.start_kill()?;
                    return self.child.wait().await;
                },
                () = late => {
                    self.child.start_kill()?;
                    return self.child.wait().await;
                }
                _ = looks.tick() => {
                    let resident = memory::held_by_group(self.pid)?;
                    if let Some(why) = self.allowance.look(resident) {
                        return self.end_for(Limit::Memory, why, excess).await;
                    }
                }
                Some(why) = &mut storage => return self.end_for(Limit::Disk, why, excess).await,
            }
        }
    }
}

fn nix_pid(pid: u32) -> Pid {
    // Process ids are far below 2^31.
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// How a process ended.
fn describe(status: ExitStatus) -> ContainerExit {
    let reason = match (status.code(), status.signal()) {
        (Some(launch::EXIT_ORPHANED), _) => "its node died".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("ended by signal {signal} ({name})"),
            Err(_) => format!("ended by signal {signal}"),
        },
        (None, None) => "ended in a way the system does not explain".to_owned(),
    };
    ContainerExit { code: status.code(), signal: status.signal(), reason, ..Default::default() }
}
