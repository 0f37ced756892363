//! The faults as words: whom they strike, which line, which weather. Pure.
//!
//! Never does: act.

use super::proxy::Mode;

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// One executor.
    Executor,
    /// Every executor, so that every copy of every block is gone.
    AllExecutors,
    /// The driver.
    Driver,
    /// A worker that has an executor and not the driver.
    Worker,
    /// The worker under the driver.
    DriversWorker,
}

/// A line that a proxy stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// From the driver to DynamoDB.
    DriverToDynamo,
    /// From the master to DynamoDB.
    MasterToDynamo,
    /// From driver and executors to Kinesis and S3.
    ApplicationToAws,
}

/// What is done to AWS for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// S3 answers SlowDown to half of the uploads' calls.
    S3SlowDown,
    /// One Complete is applied, its answer is lost, and the next says NoSuchUpload.
    CompletedAndUnknown,
    /// One Complete answers 200 with an error as its body.
    ErrorInside200,
    /// DynamoDB throttles every call about the application's head.
    DynamoThrottled,
    /// Half of the reads are throttled, some come back empty, and every iterator expires.
    KinesisMoods,
    /// The answer to one commit is lost.
    CommitAnswerLost,
    /// One commit is delivered twice, and one 30 s late.
    CommitLateAndTwice,
    /// Every call of the application is refused for expired credentials.
    CredentialsExpired,
}

impl Weather {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::S3SlowDown,
        Self::CompletedAndUnknown,
        Self::ErrorInside200,
        Self::DynamoThrottled,
        Self::KinesisMoods,
        Self::CommitAnswerLost,
        Self::CommitLateAndTwice,
        Self::CredentialsExpired,
    ];
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// It has no byte left.
    Full,
    /// It takes no writes, those to open files included.
    ReadOnly,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL. With `in_upload`, while a task uploads.
    Kill {
        /// Whom.
        victim: Victim,
        /// Waits for an upload first.
        in_upload: bool,
    },
    /// SIGSTOP, and SIGCONT after `seconds`.
    Freeze {
        /// Whom.
        victim: Victim,
        /// For how long.
        seconds: u64,
        /// Waits for an upload first.
        in_upload: bool,
    },
    /// The driver aborts before a step of the commit and, recovered, after it.
    Abort {
        /// `k0` to `k8`.
        step: &'static str,
    },
    /// The master is killed and started again after `seconds`.
    MasterDown {
        /// For how long.
        seconds: u64,
    },
    /// AWS misbehaves for `seconds`.
    Weather {
        /// How.
        weather: Weather,
        /// For how long.
        seconds: u64,
    },
    /// Shards split and merge three times; the driver is killed meanwhile.
    Reshard,
    /// The application is stopped, and records that it has not read are trimmed.
    Trim,
    /// A line is bad for `seconds`.
    Network {
        /// Which.
        line: Line,
        /// How bad.
        mode: Mode,
        /// For how long.
        seconds: u64,
    },
    /// A second application eats the memory of its executor.
    Memory,
    /// A worker's messages to the master are lost for `seconds`; the master's arrive.
    OneWay {
        /// For how long.
        seconds: u64,
    },
    /// The line to AWS is narrower than the load for `seconds`.
    Narrow {
        /// For how long.
        seconds: u64,
    },
    /// No packet passes between driver and executors for `seconds`.
    Partition {
        /// For how long.
        seconds: u64,
    },
    /// The leading master is killed where another one stands by.
    LeaderKilled,
    /// The driver's node is drained, with a notice, and taken into use again.
    Drain {
        /// The notice.
        seconds: u64,
    },
    /// Every process is restarted in turn, each worker after a drain.
    Roll,
    /// The clocks of the containers on the driver's node are set by libfaketime: ahead, back, and
    /// too fast.
    Clock,
    /// The disk of a node with an executor fails, then that of every node.
    Disk(DiskFault),
}
