//! What of an application outlives the master.

use millrace_proto::v1;

/// A revision beside the one in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revised {
    /// What it would run.
    pub spec: v1::ApplicationSpec,
    /// Its number.
    pub revision: u32,
    /// Who submitted it.
    pub owner: String,
    /// True once the running driver has found nothing wrong with it.
    pub is_checked: bool,
}

/// The durable part: everything needed to go on after a restart of the master.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApplicationRecord {
    /// Specification, state and attempts.
    pub application: v1::Application,
    /// Highest epoch ever granted; the next one is above it.
    pub max_epoch: u64,
    /// Highest attempt number ever given.
    pub last_attempt: u32,
    /// True once a driver has acquired the head: from then on one must exist.
    pub is_head_expected: bool,
    /// How often the batch after the head's has failed, over all attempts since the submission.
    pub batch_failures: Option<v1::BatchFailures>,
    /// Place in the order of submission.
    pub sequence: u64,
    /// What the driver was asked to do when it was asked to stop.
    pub stop: Option<v1::StopDriver>,
    /// When its driver failed since the last commit, Unix time in milliseconds.
    pub failures_ms: Vec<i64>,
    /// Its newest batches, oldest first, as they were when the record was last written.
    pub batches: Vec<v1::Batch>,
    /// The revision that is to follow the one in use.
    pub next: Option<Revised>,
    /// The revision to go back to when the one in use turns out not to run.
    pub before: Option<Revised>,
    /// How it ends as soon as nothing of it runs any more, when that is decided.
    pub outcome: Option<v1::DriverFinished>,
}
