//! Why an application waits, is late or has ended: one cause from the chain of facts, and what mends
//! it.
//!
//! Promises: the cause that is named is the one that nothing else that is known explains; the same
//! facts give the same cause; every sentence holds the numbers it rests on. Owned by the view.
//! Never does: ask anybody; what the master knows has to do.

mod chain;
mod mends;
mod pace;

use millrace_common::error::Code;
use millrace_common::resources::Resources;
use millrace_proto::v1;
use millrace_proto::v1::ApplicationState as State;
use millrace_proto::v1::CauseKind as Kind;
use millrace_proto::v1::trouble::Kind as Of;

pub(crate) use self::pace::BATCHES_JUDGED;
use self::pace::Pace;
use super::is_terminal;
use crate::scheduler::Wait;

/// A lag below so many batch intervals is what reading once and committing once take.
const LATE_INTERVALS: i64 = 3;
/// And below this it is nobody's concern.
const LATE_FROM_MS: i64 = 5_000;
/// A shard from which this much is read is at what Kinesis lets one reader take (2 MiB/s), or at what
/// it lets its producers put (1 MiB/s), both less what smoothing hides.
const HOT_BYTES_PER_SECOND: u64 = 900 << 10;
/// A batch that is open for so many intervals, and so long, is late.
const OPEN_INTERVALS: i64 = 10;
const OPEN_MS: i64 = 60_000;
/// An executor's end is news for this long, where no batch was committed since.
const RECENT_MS: i64 = 60_000;

/// What the master knows of an application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The application, with its attempts and its driver's last report.
    pub application: &'a v1::Application,
    /// Its containers, live and ended.
    pub containers: &'a [v1::ContainerStatus],
    /// Its newest batches, newest first.
    pub batches: &'a [v1::Batch],
    /// What the scheduler says it waits for, when it does.
    pub waits: Option<&'a Wait>,
    /// Driver failures since its last commit, and how many end it.
    pub failures: (u32, u32),
    /// What is around it.
    pub cluster: &'a Surroundings,
    /// Unix time in milliseconds at which a node was last heard of.
    pub now_ms: i64,
}

/// The cluster as it is of interest to an application that waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// The master, as workers find it: `host:port`.
    pub address: String,
    /// The DynamoDB table of the heads.
    pub table: String,
    /// Nodes that may be given work.
    pub num_nodes: usize,
    /// What these offer, used or not.
    pub offered: Resources,
    /// What is free on them.
    pub free: Resources,
    /// What each live application holds, the one that holds most first.
    pub holders: Vec<(String, Resources)>,
}

/// The answer to `millrace why`.
#[must_use]
pub(crate) fn why(facts: &Facts<'_>) -> v1::WhyApplicationResponse {
    use v1::Standing;

    let (standing, mut causes) = match facts.application.state() {
        State::Stopped | State::Killed | State::Finished => (Standing::Ended, Vec::new()),
        State::Failed | State::Rejected => (Standing::Failed, vec![facts.end()]),
        State::Queued | State::Starting | State::Unspecified => {
            (Standing::Waiting, facts.waiting())
        }
        State::Running | State::Stopping => match facts.running() {
            causes if causes.is_empty() => (Standing::Well, causes),
            causes => (Standing::Slow, causes),
        },
    };
    let cause = (!causes.is_empty()).then(|| causes.remove(0));
    let links = facts.chain();
    v1::WhyApplicationResponse { standing: standing.into(), cause, others: causes, links }
}

impl<'a> Facts<'a> {
    fn name(&self) -> &'a str {
        &self.application.name
    }

    fn spec(&self) -> Option<&'a v1::ApplicationSpec> {
        self.application.spec.as_ref()
    }

    fn is_live(&self) -> bool {
        !is_terminal(self.application.state())
    }

    /// The other application that holds most, if one holds anything.
    fn largest_holder(&self) -> Option<&'a str> {
        let others = self.cluster.holders.iter().filter(|(name, _)| *name != self.name());
        others.map(|(name, _)| name.as_str()).next()
    }

    /// Why it failed or was rejected.
    fn end(&self) -> v1::Cause {
        let Some(failure) = &self.application.failure else {
            return cause(Kind::Other, &self.application.reason, self.read_logs(""));
        };
        let is_exhausted = failure.code == Code::AttemptsExhausted.as_str();
        match self.crash().filter(|_| is_exhausted) {
            Some(crash) if crash.code.is_empty() => {
                v1::Cause { code: failure.code.clone(), ..crash }
            }
            Some(crash) => crash,
            None => self.of_failure(failure, Of::Unspecified),
        }
    }

    /// Why its driver is not at work, worst first.
    fn waiting(&self) -> Vec<v1::Cause> {
        let waits = self.waits.map(|wait| cause(wait.lack, &wait.reason, self.mend_wait(wait)));
        let causes: Vec<v1::Cause> = self.crash().into_iter().chain(waits).collect();
        if causes.is_empty() { vec![self.starting()] } else { causes }
    }

    fn starting(&self) -> v1::Cause {
        let next = format!("wait, or follow it: `millrace logs {} --follow`", self.name());
        cause(Kind::Starting, &self.application.reason, next)
    }

    /// What its last driver ended with, when it did not end in order and nothing was committed since.
    fn crash(&self) -> Option<v1::Cause> {
        let (failed, allowed) = self.failures;
        let last = self.last_ended()?;
        if failed == 0 && last.failure.is_none() {
            return None;
        }
        let counted = match failed {
            // What its surroundings deny counts for nothing.
            0 => "tried again until it passes".to_owned(),
            _ => format!("failure {failed} of {allowed} without a commit"),
        };
        let ended = format!("driver attempt {}: {}; {counted}", last.number, last.end_reason);
        if let Some(failure) = &last.failure {
            return Some(v1::Cause { what: ended, ..self.of_failure(failure, Of::Unspecified) });
        }
        let status = self.containers.iter().find(|c| c.container_id == last.container_id);
        if let Some(status) = status.filter(|status| exceeded_memory(status)) {
            return Some(with_code(
                Code::ContainerMemory,
                cause(Kind::OutOfMemory, &ended, self.mend_memory(status)),
            ));
        }
        let logs = self.read_logs(&last.container_id);
        let next = format!("read what it wrote: {logs}; correct it, then {}", self.resubmit(""));
        Some(cause(Kind::CrashLoop, &ended, next))
    }

    /// The attempt of this submission, and of the revision in use, that ended last.
    fn last_ended(&self) -> Option<&'a v1::Attempt> {
        let mine = |attempt: &&v1::Attempt| {
            attempt.ended_ms > 0
                && attempt.revision == self.application.revision
                && attempt.started_ms >= self.application.submitted_ms
        };
        self.application.attempts.iter().rev().find(mine)
    }

    /// What is not as it should be while it runs, worst first.
    fn running(&self) -> Vec<v1::Cause> {
        let mut causes: Vec<v1::Cause> = self.lost_executor().into_iter().collect();
        let Some(report) = &self.application.report else {
            causes.extend(self.crash());
            causes.push(self.starting());
            return causes;
        };
        causes.extend(report.troubles.iter().map(|trouble| self.of_trouble(trouble)));
        if causes.is_empty() {
            causes.extend(self.crash());
        }
        if let Some(wait) = self.waits {
            let lack = match wait.lack {
                Kind::DriverPlace => Kind::ExecutorsMissing,
                lack => lack,
            };
            let what = format!("{} executors run; {}", self.application.num_executors, wait.reason);
            causes.push(cause(lack, &what, self.mend_wait(wait)));
        }
        causes.extend(self.slow(report));
        causes
    }

    /// An executor that was ended for its memory, when no batch was committed since.
    fn lost_executor(&self) -> Option<v1::Cause> {
        let committed_ms = self.batches.first().map_or(0, |batch| batch.committed_ms);
        let is_news = |status: &&v1::ContainerStatus| {
            let since_ms = committed_ms.max(self.now_ms - RECENT_MS);
            status.ended_ms > since_ms && exceeded_memory(status)
        };
        let status = self.containers.iter().filter(is_news).max_by_key(|status| status.ended_ms)?;
        let reason = status.exit.as_ref().map(|exit| exit.reason.as_str()).unwrap_or_default();
        let what = format!("container {} was {reason}", status.container_id);
        let ended = cause(Kind::OutOfMemory, &what, self.mend_memory(status));
        Some(with_code(Code::ContainerMemory, ended))
    }

    fn interval_ms(&self) -> u64 {
        self.spec().and_then(|spec| spec.batch).map_or(0, |batch| batch.interval_ms)
    }

    /// How far behind is late.
    fn late_from_ms(&self) -> i64 {
        let interval = i64::try_from(self.interval_ms()).unwrap_or(i64::MAX);
        LATE_FROM_MS.max(interval.saturating_mul(LATE_INTERVALS))
    }

    /// How long nothing was committed while a batch is open, when that is late.
    fn open_for_ms(&self, report: &v1::DriverReport) -> Option<i64> {
        let begun_ms = self.application.attempts.last().map_or(0, |attempt| attempt.started_ms);
        let since_ms = report.last_commit_ms.max(begun_ms);
        let interval = i64::try_from(self.interval_ms()).unwrap_or(i64::MAX);
        let late_ms = OPEN_MS.max(interval.saturating_mul(OPEN_INTERVALS));
        let open_ms = self.now_ms - since_ms;
        (report.num_batches_in_flight > 0 && open_ms > late_ms).then_some(open_ms)
    }

    /// Why a batch does not end.
    fn open_batch(&self, report: &v1::DriverReport, open_ms: i64) -> v1::Cause {
        let (busy, cores) = (report.task_cores_busy, report.task_cores_total);
        // A task that computes holds a core; one that waits for the store does not.
        let is_sink = busy == 0;
        let kind = if is_sink { Kind::SlowSink } else { Kind::IntervalTooShort };
        let on = if is_sink { "it waits for the object store" } else { "it computes" };
        let what = format!(
            "batch {} is open and nothing was committed for {} s; {busy} of {cores} task cores are \
             busy: {on}",
            report.batch + 1,
            open_ms / 1_000
        );
        let took_ms = u64::try_from(open_ms).unwrap_or_default();
        cause(kind, &what, self.mend_pace(took_ms, is_sink))
    }

    /// True when a batch was published a short while ago.
    fn is_at_work(&self) -> bool {
        let published_ms = self.batches.iter().map(|batch| batch.published_ms).max().unwrap_or(0);
        self.now_ms - published_ms < RECENT_MS.max(self.late_from_ms())
    }

    /// Why it is behind, if it is.
    fn slow(&self, report: &v1::DriverReport) -> Option<v1::Cause> {
        if let Some(open_ms) = self.open_for_ms(report) {
            return Some(self.open_batch(report, open_ms));
        }
        let is_late = |pace: &Pace| pace.took_ms > self.interval_ms() && self.is_at_work();
        let pace = Pace::over(self.batches).filter(is_late);
        if let Some(pace) = pace {
            let kind = if pace.is_sink() { Kind::SlowSink } else { Kind::IntervalTooShort };
            let what = format!("{}, longer than the interval", pace.describe(self.interval_ms()));
            return Some(cause(kind, &what, self.mend_pace(pace.took_ms, pace.is_sink())));
        }
        // A replay reads what is long past: that is no lag.
        let is_replay = self.spec().is_some_and(|spec| spec.replay.is_some());
        if is_replay || report.millis_behind_latest < self.late_from_ms() {
            return None;
        }
        if let Some(hot) = hot(report) {
            let what = format!(
                "shard {}/{} is {} s behind at {} KiB/s, what one shard gives, while the others \
                 keep up",
                hot.source,
                hot.shard_id,
                hot.millis_behind_latest / 1_000,
                hot.bytes_per_second >> 10
            );
            return Some(cause(Kind::HotShard, &what, self.mend_hot(hot)));
        }
        let full = report.executors.iter().filter(|executor| executor.over_budget).count();
        let rate: u64 = report.late_shards.iter().map(|shard| shard.bytes_per_second).sum();
        let what = format!(
            "it is {} s behind; {full} of {} executors hold all the blocks they may; the furthest \
             shards are read at {} KiB/s",
            report.millis_behind_latest / 1_000,
            report.executors.len(),
            rate >> 10
        );
        let next = format!("wait, or give it more executors: {}", self.scale());
        Some(cause(Kind::CatchingUp, &what, next))
    }

    fn of_trouble(&self, trouble: &v1::Trouble) -> v1::Cause {
        let failure = trouble.failure.clone().unwrap_or_default();
        let mut cause = self.of_failure(&failure, trouble.kind());
        if !trouble.subject.is_empty() && !cause.what.contains(&trouble.subject) {
            cause.what = format!("{}: {}", trouble.subject, cause.what);
        }
        cause
    }

    /// A failure that says itself what to do.
    fn of_failure(&self, failure: &v1::Failure, of: Of) -> v1::Cause {
        let kind = Code::parse(&failure.code).map_or(Kind::Other, |code| kind_of(code, of));
        let next_move = self.mend_failure(kind, failure);
        v1::Cause { code: failure.code.clone(), ..cause(kind, &failure.message, next_move) }
    }
}

/// A shard that is behind alone, and is read as fast as it may be.
fn hot(report: &v1::DriverReport) -> Option<&v1::LateShard> {
    let mut late = report.late_shards.iter();
    let first = late.next()?;
    let second = late.next().map_or(0, |shard| shard.millis_behind_latest);
    let alone = report.num_shards > 1 && second < first.millis_behind_latest / 2;
    (alone && first.bytes_per_second >= HOT_BYTES_PER_SECOND).then_some(first)
}

fn exceeded_memory(status: &v1::ContainerStatus) -> bool {
    let exceeded = status.exit.as_ref().map(v1::ContainerExit::exceeded);
    exceeded == Some(v1::container_exit::Limit::Memory)
}

fn cause(kind: Kind, what: &str, next_move: String) -> v1::Cause {
    v1::Cause { kind: kind.into(), what: what.to_owned(), next_move, code: String::new() }
}

fn with_code(code: Code, cause: v1::Cause) -> v1::Cause {
    v1::Cause { code: code.as_str().to_owned(), ..cause }
}

/// The kind of cause behind a code, which is the same wherever it is met but for throttling.
fn kind_of(code: Code, of: Of) -> Kind {
    match code {
        Code::Throttled if of == Of::Shard => Kind::ShardThrottled,
        Code::Throttled if of == Of::Commit => Kind::TableThrottled,
        Code::Throttled if of == Of::Batch => Kind::SlowSink,
        Code::StreamMissing | Code::StreamNotActive | Code::SourceChanged => Kind::Stream,
        Code::DataLost => Kind::DataLost,
        Code::TableMissing | Code::HeadMissing | Code::HeadUnreadable => Kind::Table,
        Code::BucketMissing | Code::UploadLost => Kind::Bucket,
        Code::Forbidden => Kind::Forbidden,
        Code::Credentials => Kind::Credentials,
        Code::ClockSkew => Kind::ClockSkew,
        Code::BucketRegion => Kind::Region,
        Code::AwsUnreachable => Kind::AwsUnreachable,
        Code::BatchFailed | Code::BadRecord | Code::BatchDeadline => Kind::PoisonBatch,
        Code::AttemptsExhausted => Kind::CrashLoop,
        Code::NameInUse | Code::HeadForeign => Kind::NameTaken,
        Code::DoesNotFit => Kind::NoCores,
        Code::FileSyntax
        | Code::UnknownKey
        | Code::InvalidValue
        | Code::UnknownName
        | Code::SqlSyntax
        | Code::SqlType
        | Code::SqlUnsupported => Kind::Specification,
        _ if of == Of::Shard => Kind::ShardUnreadable,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests;
