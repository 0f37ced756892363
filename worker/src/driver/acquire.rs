//! k0 and k1: from nothing to a head that is this driver's and has nothing left to publish.
//!
//! Promises: receivers start only after it. Never does: read records.

use std::collections::BTreeMap;

use millrace_common::application::ApplicationSpec;
use millrace_common::error::Error;
use millrace_proto::v1;
use millrace_proto::v1::driver_command::Body as Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commit::{Acquired, CommitError, Committer, Published};
use super::head::SourceStart;
use super::kcl::LeaseTables;
use super::receivers::discovery::{Description, Streams};
use super::recovery::{Halt, Recovery};
use super::session::MasterHandle;
use super::start::sources;
use super::upgrade::Present;

/// What the acquisition works with.
#[derive(Clone, Copy)]
pub struct Acquisition<'a> {
    /// The application.
    pub spec: &'a ApplicationSpec,
    /// What a specification that is to follow is held against.
    pub present: &'a Present,
    /// Its streams, by source.
    pub streams: &'a BTreeMap<String, Description>,
    /// Kinesis.
    pub kinesis: &'a dyn Streams,
    /// Lease tables of the KCL, for sources that are taken over.
    pub leases: &'a dyn LeaseTables,
    /// The master, for a higher epoch.
    pub master: &'a MasterHandle,
    /// Cancelled when the driver ends at once.
    pub cancel: &'a CancellationToken,
}

/// Takes the head, completes what was left, and fixes where new sources begin. Gives the committer
/// with the epoch that won, the proof, and the commands that came meanwhile.
///
/// # Errors
/// What stops the driver.
pub async fn acquire(
    this: Acquisition<'_>,
    committer: Committer,
    commands: &mut mpsc::Receiver<Command>,
) -> Result<(Committer, Published, Vec<Command>), Halt> {
    let starts = match committer.peek(this.cancel).await? {
        Some(_) => BTreeMap::new(),
        None => this.starts(sources::wanted(this.spec)).await?,
    };
    let mut early = Vec::new();
    let (committer, acquired) = this.take(committer, starts, commands, &mut early).await?;
    let head = acquired.head();
    this.master.acquired(v1::HeadAcquired { epoch: head.epoch, batch: head.batch });
    let (present, master, cancel) = (this.present, this.master, this.cancel);
    let recovery = Recovery { committer: &committer, present, master, cancel };
    let mut proof = recovery.run(acquired, commands, &mut early).await?;
    if let Some(request) = proof.reset_request() {
        tracing::warn!(?request, "the positions are given up, as was asked");
        let starts = this.starts(sources::reset_to(this.spec, request)).await?;
        proof = committer.reset(proof, starts, this.cancel).await?;
    }
    let dropped = sources::dropped(proof.positions(), this.streams, &this.spec.drop_sources)?;
    let missing: Vec<_> = sources::wanted(this.spec)
        .filter(|(name, _)| {
            dropped.contains(*name) || sources::is_new(proof.start_of(name), this.streams, name)
        })
        .collect();
    // Before anything is given up: where they can not begin, the revision before goes on from here.
    let starts = this.starts(missing).await?;
    if !dropped.is_empty() {
        tracing::warn!(?dropped, "the positions of these sources are given up, as was asked");
        proof = committer.drop_sources(proof, &dropped, this.cancel).await?;
    }
    if !starts.is_empty() {
        proof = committer.fix_starts(proof, starts, this.cancel).await?;
    }
    Ok((committer, proof, early))
}

impl Acquisition<'_> {
    async fn starts(
        &self,
        sources: impl IntoIterator<Item = (&String, millrace_common::application::StartPosition)>,
    ) -> Result<BTreeMap<String, SourceStart>, Error> {
        let range = self.spec.replay.as_ref().map(|replay| replay.range);
        sources::first_starts(sources, range, self.streams, self.kinesis, self.leases).await
    }

    /// k0, with a higher epoch of the master's where the head has this one already.
    async fn take(
        &self,
        mut committer: Committer,
        starts: BTreeMap<String, SourceStart>,
        commands: &mut mpsc::Receiver<Command>,
        early: &mut Vec<Command>,
    ) -> Result<(Committer, Acquired), CommitError> {
        loop {
            let seen = match committer.acquire(starts.clone(), self.cancel).await {
                Ok(acquired) => return Ok((committer, acquired)),
                Err(CommitError::EpochTooLow { seen }) => seen,
                Err(error) => return Err(error),
            };
            tracing::info!(seen, "the head has this epoch already: asking the master for a higher");
            self.master.request_epoch(seen);
            let granted = loop {
                tokio::select! {
                    () = self.cancel.cancelled() => return Err(CommitError::Cancelled),
                    command = commands.recv() => match command {
                        Some(Command::Epoch(granted)) if granted.epoch > seen => break granted.epoch,
                        Some(other) => early.push(other),
                        None => return Err(CommitError::Cancelled),
                    },
                }
            };
            committer = committer.with_epoch(granted);
        }
    }
}
