//! Starting a container's process, and staying with it to its end.
//!
//! A container is a process group of its own. Its environment is made from nothing: what the node
//! lets through, then the application's, then Millrace's own three. Its standard input is a pipe
//! that ends with the node. However it ends, its whole group is killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use millrace_common::resources::ByteSize;
use millrace_proto::v1::{ContainerExit, ContainerKind, LaunchContext};
use nix::sys::signal::Signal;
use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop, ProcessGroup};
use tokio::process::ChildStdin;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::logs;
use super::memory::{self, Allowance};
use super::work_dir::{STDERR, STDOUT};
use crate::launch;

/// What containers inherit from the node's environment, by name.
const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE"];
/// And by how the name begins.
const INHERITED_PREFIXES: [&str; 4] = ["LC_", "AWS_", "SSL_CERT_", "MILLRACE_"];

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
    /// Its process id.
    pub pid: u32,
}

/// The environment of a container: an allow-list of the node's, the application's, and our own.
pub(super) fn environment(
    of_node: impl IntoIterator<Item = (OsString, OsString)>,
    context: &LaunchContext,
) -> BTreeMap<OsString, OsString> {
    let is_inherited = |name: &OsString| {
        name.to_str().is_some_and(|name| {
            INHERITED.contains(&name)
                || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    };
    let mut environment: BTreeMap<OsString, OsString> =
        of_node.into_iter().filter(|(name, _)| is_inherited(name)).collect();
    for (name, value) in &context.env {
        environment.insert(name.into(), value.into());
    }
    let own = [
        ("MILLRACE_APPLICATION", context.application.clone()),
        ("MILLRACE_ATTEMPT", context.attempt.to_string()),
        ("MILLRACE_CONTAINER_ID", context.container_id.clone()),
    ];
    environment.extend(own.map(|(name, value)| (name.into(), value.into())));
    environment
}

/// Makes the directory and the files of a container and starts its process.
pub(super) fn start(
    program: &Path,
    directory: &Path,
    context: &LaunchContext,
) -> io::Result<Process> {
    fs::create_dir_all(directory)?;
    launch::write(directory, context)?;
    let role = match context.kind() {
        ContainerKind::Driver => "driver",
        ContainerKind::Executor => "executor",
        ContainerKind::Unspecified => return Err(io::Error::other("the grant has no kind")),
    };
    let stdout = File::create(directory.join(STDOUT))?;
    let stderr = File::create(directory.join(STDERR))?;
    let environment = environment(std::env::vars_os(), context);
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
    let memory = context.resources.unwrap_or_default().memory_bytes;
    let allowance = Allowance::new(ByteSize::bytes(memory));
    Ok(Process { child, stdin, directory: directory.to_owned(), allowance, pid })
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
        drop(self.stdin.take());
        let stderr_tail = logs::stderr_tail(&self.directory);
        match status {
            Ok(status) => {
                let exit = ContainerExit { stderr_tail, ..describe(status) };
                match excess {
                    Some(reason) => ContainerExit { reason, ..exit },
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

    /// `excess` says why, when it is ended for its memory.
    async fn wait(
        &mut self,
        kill: &mut KillSwitch,
        excess: &mut Option<String>,
    ) -> io::Result<ExitStatus> {
        let mut looks = tokio::time::interval(memory::LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
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
                    let resident = memory::resident_of_group(self.pid)?;
                    if let Some(why) = self.allowance.look(resident) {
                        tracing::warn!(pid = self.pid, why, "a container holds too much memory");
                        *excess = Some(why);
                        self.child.start_kill()?;
                        return self.child.wait().await;
                    }
                }
            }
        }
    }
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
