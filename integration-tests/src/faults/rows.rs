//! The fault rows as a table: number, name, what is done, what must be seen, and the bound. Pure.
//!
//! Promises: every row of the acceptance list is here, those that can not run everywhere included.
//! Never does: act.

use std::time::Duration;

use super::fault::{DiskFault, Fault, Line, Victim, Weather};
use super::proxy::Mode;

/// What must be seen beside the recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// There are this many attempts more than before.
    Attempts(usize),
    /// No attempt was lost.
    NoNewAttempt,
    /// A node was lost, once.
    NodeLostOnce,
    /// The lag rose above five seconds.
    Slower,
    /// No executor held more than its memory.
    MemoryBounded,
    /// A batch needed more than one run.
    RunAgain,
    /// No batch needed more than one run.
    NoRunAgain,
    /// Every attempt that ended did so because its node was drained.
    OnlyDrained,
    /// The victims' containers have ended and as many run as before.
    Replaced,
    /// Every open shard is read by a live executor.
    ShardsMoved,
    /// The master says that the node is lost.
    NodeLost,
    /// Containers of before are running still.
    SameContainers,
    /// Batches were committed while the master was away.
    CommittedMeanwhile,
    /// A driver's log holds this.
    DriverLog(&'static str),
    /// The master's log holds this.
    MasterLog(&'static str),
    /// A batch carries the time of a clock that is off by more than an hour.
    ClockOff,
    /// The fault rule of this name struck.
    Struck(&'static str),
    /// An executor said that its disk refused a block, and kept it in memory.
    SpillRefused,
    /// The application was shown as degraded meanwhile.
    Degraded,
    /// The frozen driver is gone: fenced by itself, or ended by its node.
    ZombieGone,
    /// The blocks of an executor that is gone were read from Kinesis again.
    ReadAgain,
    /// The application failed with this code, naming a shard.
    FailedNamingShard(&'static str),
}

/// From when the recovery counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The injection.
    Injection,
    /// The end of the fault.
    Healing,
}

/// How long until the lag is below two batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Counted from here.
    pub from: From,
    /// At most this many seconds.
    pub seconds: u64,
}

impl Bound {
    /// As a duration.
    #[must_use]
    pub fn limit(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What a row needs to run at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A cluster.
    Nothing,
    /// libfaketime.
    Faketime,
    /// A second master that stands by: a cluster of its own.
    Standby,
    /// Root, to filter packets.
    Root,
    /// Root, to mount disks.
    Mounts,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// What happens, in words.
    pub name: &'static str,
    /// What happens.
    pub fault: Fault,
    /// What must be seen.
    pub seen: &'static [Evidence],
    /// The bound on the recovery; none where only the output counts.
    pub bound: Option<Bound>,
    /// What it needs.
    pub needs: Needs,
}

/// The row of this number.
#[must_use]
pub fn row(number: u32) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.number == number)
}

const fn at_once(seconds: u64) -> Option<Bound> {
    Some(Bound { from: From::Injection, seconds })
}

const fn after(seconds: u64) -> Option<Bound> {
    Some(Bound { from: From::Healing, seconds })
}

const fn plain(
    number: u32,
    name: &'static str,
    fault: Fault,
    seen: &'static [Evidence],
    bound: Option<Bound>,
) -> Row {
    Row { number, name, fault, seen, bound, needs: Needs::Nothing }
}

const fn abort(number: u32, name: &'static str, step: &'static str) -> Row {
    plain(number, name, Fault::Abort { step }, ABORTED, at_once(8))
}

const fn disk(number: u32, name: &'static str, fault: DiskFault) -> Row {
    let seen = &[
        Evidence::MasterLog("node is unhealthy"),
        Evidence::Replaced,
        Evidence::SpillRefused,
        Evidence::NoNewAttempt,
    ];
    let (fault, bound) = (Fault::Disk(fault), after(10));
    Row { number, name, fault, seen, bound, needs: Needs::Mounts }
}

const fn weather(
    number: u32,
    name: &'static str,
    weather: Weather,
    seconds: u64,
    seen: &'static [Evidence],
    bound: Option<Bound>,
) -> Row {
    plain(number, name, Fault::Weather { weather, seconds }, seen, bound)
}

const ABORTED: &[Evidence] = &[Evidence::Attempts(2), Evidence::DriverLog("aborts as told")];

/// Every row but the storm.
pub const ROWS: &[Row] = &[
    plain(
        1,
        "executor killed",
        Fault::Kill { victim: Victim::Executor, in_upload: true },
        &[
            Evidence::RunAgain,
            Evidence::Replaced,
            Evidence::ShardsMoved,
            Evidence::DriverLog("executor has ended"),
        ],
        at_once(5),
    ),
    plain(
        2,
        "worker killed",
        Fault::Kill { victim: Victim::Worker, in_upload: false },
        &[Evidence::NodeLost, Evidence::Replaced, Evidence::NoNewAttempt],
        at_once(8),
    ),
    plain(
        3,
        "driver killed",
        Fault::Kill { victim: Victim::Driver, in_upload: false },
        &[Evidence::Attempts(1)],
        at_once(8),
    ),
    plain(
        4,
        "master killed, restarted 20 s later",
        Fault::MasterDown { seconds: 20 },
        &[Evidence::CommittedMeanwhile, Evidence::SameContainers, Evidence::NoNewAttempt],
        at_once(0),
    ),
    Row {
        number: 5,
        name: "leading master killed, standby there",
        fault: Fault::LeaderKilled,
        seen: &[Evidence::SameContainers, Evidence::NoNewAttempt],
        bound: at_once(0),
        needs: Needs::Standby,
    },
    abort(6, "driver aborts at k0", "k0"),
    abort(7, "driver aborts at k1", "k1"),
    abort(8, "driver aborts at k2", "k2"),
    abort(9, "driver aborts at k3", "k3"),
    abort(10, "driver aborts at k4", "k4"),
    abort(11, "driver aborts at k5", "k5"),
    abort(12, "driver aborts at k6", "k6"),
    abort(13, "driver aborts at k7", "k7"),
    abort(14, "driver aborts at k8", "k8"),
    weather(
        15,
        "commit answer lost",
        Weather::CommitAnswerLost,
        0,
        &[
            Evidence::Struck("commit-lost"),
            Evidence::DriverLog("the answer was lost, the commit was not"),
            Evidence::NoNewAttempt,
        ],
        at_once(2),
    ),
    weather(
        16,
        "commit delivered 30 s late, and twice",
        Weather::CommitLateAndTwice,
        32,
        &[Evidence::Struck("commit-late"), Evidence::Struck("commit-twice")],
        at_once(35),
    ),
    plain(
        17,
        "driver stopped 30 s, then continued",
        Fault::Freeze { victim: Victim::Driver, seconds: 30, in_upload: false },
        &[Evidence::Attempts(1), Evidence::ZombieGone],
        at_once(10),
    ),
    plain(
        18,
        "executor stopped in mid upload, continued",
        Fault::Freeze { victim: Victim::Executor, seconds: 8, in_upload: true },
        &[Evidence::RunAgain, Evidence::DriverLog("executor is silent: given up")],
        at_once(5),
    ),
    Row {
        number: 19,
        name: "partition driver / executors, 10 s",
        fault: Fault::Partition { seconds: 10 },
        seen: &[Evidence::DriverLog("executor is silent: given up"), Evidence::NoNewAttempt],
        bound: after(10),
        needs: Needs::Root,
    },
    plain(
        20,
        "partition driver / DynamoDB, 20 s",
        Fault::Network { line: Line::DriverToDynamo, mode: Mode::Refuse, seconds: 20 },
        &[Evidence::Degraded, Evidence::NoNewAttempt],
        after(5),
    ),
    plain(
        21,
        "partition leader / DynamoDB, 12 s",
        Fault::Network { line: Line::MasterToDynamo, mode: Mode::Refuse, seconds: 12 },
        &[Evidence::MasterLog("stepping down"), Evidence::NoNewAttempt],
        at_once(6),
    ),
    plain(
        22,
        "one-way drop from a worker to the master, 12 s",
        Fault::OneWay { seconds: 12 },
        &[Evidence::NodeLostOnce, Evidence::Replaced, Evidence::NoNewAttempt],
        at_once(10),
    ),
    plain(
        23,
        "up to 200 ms delay and 5 % resets to Kinesis and S3, 20 s",
        Fault::Network {
            line: Line::ApplicationToAws,
            mode: Mode::Bad { delay: Duration::from_millis(200), cuts_per_mille: 50 },
            seconds: 20,
        },
        &[Evidence::NoNewAttempt],
        after(10),
    ),
    plain(
        24,
        "1 Mbit/s under three times the load, 20 s",
        Fault::Narrow { seconds: 20 },
        &[Evidence::Slower, Evidence::MemoryBounded, Evidence::NoNewAttempt],
        None,
    ),
    weather(
        25,
        "S3 SlowDown on half the calls for 60 s",
        Weather::S3SlowDown,
        60,
        &[Evidence::Struck("s3-slow-UploadPart"), Evidence::NoNewAttempt],
        after(10),
    ),
    weather(
        26,
        "NoSuchUpload after a Complete that succeeded",
        Weather::CompletedAndUnknown,
        0,
        &[
            Evidence::Struck("complete-lost"),
            Evidence::Struck("complete-unknown"),
            Evidence::NoNewAttempt,
        ],
        at_once(2),
    ),
    weather(
        27,
        "200 with an error body on Complete",
        Weather::ErrorInside200,
        0,
        &[Evidence::Struck("complete-error"), Evidence::NoNewAttempt],
        at_once(2),
    ),
    weather(
        28,
        "DynamoDB throttles for 60 s",
        Weather::DynamoThrottled,
        60,
        &[Evidence::Struck("dynamo-UpdateItem"), Evidence::Degraded, Evidence::NoNewAttempt],
        after(5),
    ),
    weather(
        29,
        "Kinesis throttles, iterators expire, empty pages",
        Weather::KinesisMoods,
        10,
        &[
            Evidence::Struck("kinesis-throttle"),
            Evidence::Struck("kinesis-empty"),
            Evidence::NoNewAttempt,
        ],
        after(5),
    ),
    plain(
        30,
        "split and merge three times, driver killed",
        Fault::Reshard,
        &[Evidence::Attempts(1), Evidence::ShardsMoved],
        after(10),
    ),
    plain(
        31,
        "records trimmed beyond the position",
        Fault::Trim,
        &[Evidence::FailedNamingShard("MR5001")],
        None,
    ),
    plain(
        32,
        "every copy of a block lost",
        Fault::Kill { victim: Victim::AllExecutors, in_upload: true },
        &[Evidence::ReadAgain, Evidence::RunAgain, Evidence::Replaced, Evidence::NoNewAttempt],
        at_once(10),
    ),
    disk(33, "disk full", DiskFault::Full),
    disk(34, "disk read-only", DiskFault::ReadOnly),
    plain(
        35,
        "a container eats memory",
        Fault::Memory,
        &[Evidence::SameContainers, Evidence::NoNewAttempt],
        at_once(5),
    ),
    Row {
        number: 36,
        name: "clock +2 h, -10 min, x1.05 on one node",
        fault: Fault::Clock,
        seen: &[Evidence::ClockOff, Evidence::NoNewAttempt],
        bound: at_once(5),
        needs: Needs::Faketime,
    },
    weather(
        37,
        "credentials expire",
        Weather::CredentialsExpired,
        10,
        &[Evidence::Struck("expired-GetRecords"), Evidence::Degraded],
        after(60),
    ),
    plain(
        38,
        "drain under load, 120 s notice",
        Fault::Drain { seconds: 110 },
        &[Evidence::NoRunAgain, Evidence::OnlyDrained],
        at_once(110),
    ),
    plain(
        39,
        "rolling restart of every process",
        Fault::Roll,
        &[Evidence::NoRunAgain, Evidence::OnlyDrained],
        None,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_there_in_order() {
        let numbers: Vec<u32> = ROWS.iter().map(|row| row.number).collect();
        assert_eq!(numbers, (1..=39).collect::<Vec<_>>());
    }

    #[test]
    fn every_row_says_what_must_be_seen() {
        let silent = |row: &&Row| row.seen.is_empty();
        let silent: Vec<u32> = ROWS.iter().filter(silent).map(|row| row.number).collect();
        assert_eq!(silent, Vec::<u32>::new());
    }
}
