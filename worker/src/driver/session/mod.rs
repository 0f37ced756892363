//! The driver's session with the master: one stream each way, opened again for ever.
//!
//! Promises: what the driver wants and holds is said again after each reconnection; without a
//! master the driver goes on. A report that was overtaken is not sent; batches wait, up to a bound.
//! Owned by the driver's main. Never does: decide what a command means.

mod connection;

use std::sync::Arc;
use std::time::Duration;

use millrace_common::access::Token;
use millrace_common::error::Error;
use millrace_common::id::ContainerId;
use millrace_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use connection::Connection;

/// Batches that wait for a master: those of a quarter of an hour at one a second. Older ones are
/// dropped; the head holds what is true.
const BATCH_CAPACITY: usize = 1024;
/// Commands that wait for the driver's main, which handles each at once.
const COMMAND_CAPACITY: usize = 256;
/// Containers to be given back; as many as an application may have executors, and some.
const RELEASE_CAPACITY: usize = 1024;
/// How long the end of the driver may wait for a master that does not answer.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// What the driver is to the master.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `host:port` of the masters, separated by commas.
    pub masters: String,
    /// Leadership term of the master that granted the container.
    pub term: u64,
    /// Name of the application.
    pub application: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Epoch of the attempt as it was launched.
    pub epoch: u64,
    /// The driver's container.
    pub container_id: String,
    /// `host:port` where executors reach the driver.
    pub address: String,
    /// What the master is shown.
    pub token: Option<Token>,
}

impl Identity {
    /// Of the driver that was launched so and listens on `address`.
    #[must_use]
    pub fn of(launch: &v1::LaunchContext, address: String) -> Self {
        Self {
            masters: launch.master_address.clone(),
            term: launch.term,
            application: launch.application.clone(),
            attempt: launch.attempt,
            epoch: launch.epoch,
            container_id: launch.container_id.clone(),
            address,
            token: crate::launch::token(launch),
        }
    }
}

/// What the master must know, said anew on each connection.
#[derive(Clone, Debug, Default, PartialEq)]
struct Standing {
    target: Option<v1::ExecutorTarget>,
    head: Option<v1::HeadAcquired>,
    epoch_request: Option<v1::EpochRequest>,
    failures: Option<v1::BatchFailures>,
    spec_checked: Option<v1::SpecChecked>,
    held: Vec<ContainerId>,
    last_executor: u32,
}

/// A handle on the session. Cloning is cheap; nothing here waits for the master, but
/// [`Self::finish`], shortly.
#[derive(Clone)]
pub struct MasterHandle {
    standing: Arc<watch::Sender<Standing>>,
    report: Arc<watch::Sender<Option<v1::DriverReport>>>,
    batches: mpsc::Sender<v1::Batch>,
    releases: mpsc::Sender<v1::ReleaseContainer>,
    finish: mpsc::Sender<(v1::DriverFinished, oneshot::Sender<()>)>,
}

/// What the session task reads.
struct Inputs {
    standing: watch::Receiver<Standing>,
    report: watch::Receiver<Option<v1::DriverReport>>,
    batches: mpsc::Receiver<v1::Batch>,
    releases: mpsc::Receiver<v1::ReleaseContainer>,
    finish: mpsc::Receiver<(v1::DriverFinished, oneshot::Sender<()>)>,
}

/// Starts the session on a task of its own, which ends when `stop` is cancelled; gives the handle
/// and the master's commands.
///
/// # Errors
/// When the master's address is not one.
pub fn start(
    identity: Identity,
    stop: CancellationToken,
) -> Result<(MasterHandle, mpsc::Receiver<v1::driver_command::Body>), Error> {
    let (handle, inputs) = channels();
    let (commands, receiver) = mpsc::channel(COMMAND_CAPACITY);
    let connection = Connection::new(identity, inputs, commands)?;
    tokio::spawn(connection.run(stop));
    Ok((handle, receiver))
}

fn channels() -> (MasterHandle, Inputs) {
    let (standing, standing_receiver) = watch::channel(Standing::default());
    let (report, report_receiver) = watch::channel(None);
    let (batches, batch_receiver) = mpsc::channel(BATCH_CAPACITY);
    let (releases, release_receiver) = mpsc::channel(RELEASE_CAPACITY);
    let (finish, finish_receiver) = mpsc::channel(1);
    let handle = MasterHandle {
        standing: Arc::new(standing),
        report: Arc::new(report),
        batches,
        releases,
        finish,
    };
    let inputs = Inputs {
        standing: standing_receiver,
        report: report_receiver,
        batches: batch_receiver,
        releases: release_receiver,
        finish: finish_receiver,
    };
    (handle, inputs)
}

impl MasterHandle {
    /// How many executors the application wants, and of what size.
    pub fn want(&self, target: v1::ExecutorTarget) {
        self.standing.send_modify(|standing| standing.target = Some(target));
    }

    /// Another number of them is wanted.
    pub fn want_count(&self, count: u32) {
        self.standing.send_modify(|standing| {
            if let Some(target) = &mut standing.target {
                target.count = count;
            }
        });
    }

    /// On these nodes the executors fail again and again: others are to be had elsewhere.
    pub fn avoid(&self, nodes: Vec<v1::NodeExclusion>) {
        self.standing.send_modify(|standing| {
            if let Some(target) = &mut standing.target {
                target.excluded_nodes = nodes;
            }
        });
    }

    /// The head is this driver's.
    pub fn acquired(&self, head: v1::HeadAcquired) {
        self.standing.send_modify(|standing| {
            standing.head = Some(head);
            standing.epoch_request = None;
        });
    }

    /// The head has this epoch already: a higher one is needed.
    pub fn request_epoch(&self, seen_epoch: u64) {
        let request = Some(v1::EpochRequest { seen_epoch });
        self.standing.send_modify(|standing| standing.epoch_request = request);
    }

    /// How often the next batch has failed.
    pub fn failures(&self, failures: v1::BatchFailures) {
        self.standing.send_modify(|standing| standing.failures = Some(failures));
    }

    /// What was found of the next revision.
    pub fn checked(&self, checked: v1::SpecChecked) {
        self.standing.send_modify(|standing| standing.spec_checked = Some(checked));
    }

    /// The containers that the driver holds, for a master that was restarted.
    pub fn hold(&self, held: Vec<ContainerId>) {
        self.standing.send_modify(|standing| {
            let newest = held.iter().filter_map(ContainerId::executor_number).max();
            standing.last_executor = standing.last_executor.max(newest.unwrap_or(0));
            standing.held = held;
        });
    }

    /// Gives a container back.
    pub fn release(&self, container: &ContainerId, reason: &str) {
        let release = v1::ReleaseContainer {
            container_id: container.as_str().to_owned(),
            reason: reason.to_owned(),
        };
        if self.releases.try_send(release).is_err() {
            tracing::warn!(executor = %container, "too many containers to give back: the master will find this one gone");
        }
    }

    /// Tells of a published batch.
    pub fn batch(&self, batch: v1::Batch) {
        if let Err(error) = self.batches.try_send(batch) {
            tracing::debug!(%error, "no master hears of batches");
        }
    }

    /// Replaces the last report.
    pub fn report(&self, report: v1::DriverReport) {
        self.report.send_replace(Some(report));
    }

    /// Tells of the driver's end, and waits a little for the master to hear it.
    pub async fn finish(&self, finished: v1::DriverFinished) {
        let (told, heard) = oneshot::channel();
        let send = async {
            if self.finish.send((finished, told)).await.is_ok() {
                heard.await.ok();
            }
        };
        if tokio::time::timeout(FINISH_WITHIN, send).await.is_err() {
            tracing::warn!("no master hears of the end of this driver");
        }
    }
}
