//! The words of the life of batches: what happens, and what is to be done.
//!
//! Promises: plain values. Owned by the core. Never does: decide.

use std::collections::BTreeSet;

use millrace_common::id::ContainerId;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// Half of an executor's budget is used.
    Pressure,
    /// The receivers were cut: is there a batch, does it hold blocks, and is the drain reached?
    Prepared {
        /// None when there was nothing new.
        blocks: Option<usize>,
        /// True when everything that the drain asks for, or all of the range that is read, is planned.
        drained: bool,
    },
    /// Every block of the batch is held; the run is begun on these executors.
    Gathered(BTreeSet<ContainerId>),
    /// The run has a result.
    RunSucceeded,
    /// The run has none.
    RunFailed(Blame),
    /// The executors of the batch could not be had: ask for its blocks again.
    RunImpossible,
    /// An executor is gone.
    ExecutorLost(ContainerId),
    /// The batch was divided and its first part is now the batch; false when it can not be.
    Divided(bool),
    /// k5 was applied.
    Committed,
    /// k5 was not tried: the run is too old.
    RunTooOld,
    /// k6 has ended.
    Published,
    /// Finish the batch that was begun and end.
    Stop,
    /// Read everything that had arrived when this was asked, and end.
    Drain,
    /// The drain took too long: end at the edge of a batch, if it comes by itself.
    DrainDeadline,
    /// DynamoDB or S3 does not take what is to be committed or published.
    CommitWaits,
    /// The end was asked for long ago: a batch that nobody computes is given up. It is not
    /// committed, so the next start makes it again. Past the deadline of a drain whatever is under
    /// way is given up.
    PatienceOver,
    /// The input can not go on: publish what is committed and fail.
    InputFailed,
}

/// Whose fault a failed run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's: we cancelled it.
    Cancelled,
    /// An executor, the network, S3: run again for ever.
    Surroundings,
    /// The query on this data, or the engine: after some times the batch is divided.
    Batch,
    /// The sink or the plan, whatever the data: after some times it is hopeless.
    Application,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Cut all receivers and plan the batch with this number.
    Prepare(u64),
    /// Wait until every block of the batch is held, then report them.
    Gather(u64),
    /// Divide the batch with this number, and report whether that was possible.
    Divide(u64),
    /// End the run.
    CancelRun,
    /// k5.
    Commit,
    /// k6.
    Publish,
    /// Leave k5 and k6 as they are: what they have begun the next start ends.
    Abandon,
    /// k7.
    Notify,
    /// The application can not go on, and everything committed is published.
    Fail,
    /// Nothing is left to do.
    End(Ended),
}

/// How the life of batches ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As asked, at the edge of a batch.
    Stopped,
    /// Everything asked for was read.
    Drained,
    /// The drain's deadline passed first.
    DrainDeadline,
}
