//! What goes into the commit and how it can end, in types that people and other modules see.
//!
//! Promises: every failure says whether another attempt may do better.
//! Never does: decide (see `core`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;
use millrace_common::position::ShardKey;

use crate::driver::head::{Gaps, PendingUpload, Positions};

/// What a driver knows of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFacts {
    /// Whose head.
    pub application: ApplicationName,
    /// The cluster that started this driver.
    pub cluster: String,
    /// The epoch that the master granted.
    pub epoch: u64,
    /// A UUID of this process, new at each start.
    pub owner: String,
    /// True when the master has a record of a head, so that none may be made anew.
    pub head_expected: bool,
}

/// The result of a batch, ready to be made true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchCommit {
    /// The whole new positions, entries that did not move included.
    pub positions: Positions,
    /// Losses that were passed over, by shard: all of them, those before this batch included.
    pub gaps: BTreeMap<ShardKey, Gaps>,
    /// Uploads of the batch's first successful run, results and dead letters alike.
    pub uploads: Vec<PendingUpload>,
    /// Key of the new state, where the query has one.
    pub state_ptr: Option<String>,
    /// Hash of the specification that computed the batch.
    pub spec_hash: String,
    /// Sources whose entries may vanish because the operator dropped them.
    pub dropped_sources: BTreeSet<String>,
    /// What was to be read and what was read (R6).
    pub records: RecordCounts,
    /// Time since the run began; an old run is run again rather than committed.
    pub run_age: Duration,
}

/// The records of a batch, counted at both ends of the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// By the blocks of the batch.
    pub planned: u64,
    /// By the leaves of the run.
    pub read: u64,
}

/// How `Committer::commit` ended when nothing went wrong.
#[derive(Debug)]
pub enum CommitOutcome {
    /// The batch is true; publish it.
    Committed(super::Committed),
    /// The run is older than half the upload guard and was not offered: run it again.
    RunTooOld(super::Published),
}

/// Why a step of the commit did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A newer driver owns the head. Exit; nothing is lost.
    #[error("epoch {found} owns the head, this driver is of epoch {mine}")]
    Fenced {
        /// Epoch of this driver.
        mine: u64,
        /// Epoch in the head.
        found: u64,
    },
    /// k0 was refused by an equal or higher epoch of this cluster: ask the master for a higher one.
    #[error("the head has epoch {seen} of this cluster already")]
    EpochTooLow {
        /// Epoch in the head.
        seen: u64,
    },
    /// The step was cancelled at shutdown. Whatever it had begun the next driver ends.
    #[error("cancelled")]
    Cancelled,
    /// Everything else, ready for people.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl CommitError {
    /// True when another attempt may do better without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Fenced { .. } | Self::EpochTooLow { .. } | Self::Cancelled => true,
            Self::Failed(error) => {
                matches!(error.code(), Code::AwsUnreachable | Code::Throttled | Code::AwsOther)
            }
        }
    }

    /// The error for people; `application` names the head.
    #[must_use]
    pub fn explain(self, application: &ApplicationName) -> Error {
        match self {
            Self::Fenced { mine, found } => Error::new(
                Code::Fenced,
                format!("driver of {application} with epoch {mine} is fenced by epoch {found}"),
                "nothing: the newer driver goes on from the last commit",
            ),
            Self::EpochTooLow { seen } => Error::new(
                Code::Fenced,
                format!("the head of {application} has epoch {seen} already"),
                "start the application again: the master grants a higher epoch",
            ),
            Self::Cancelled => Error::new(
                Code::Fenced,
                format!("the driver of {application} was stopped in mid commit"),
                "nothing: the next driver completes what was committed",
            ),
            Self::Failed(error) => error,
        }
    }
}
