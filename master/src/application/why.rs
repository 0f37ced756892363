//! Why an application waits, is late or has ended: one cause from the chain of facts, and what mends
//! it.
//!
//! Promises: the cause that is named is the one that nothing else that is known explains; the same
//! facts give the same cause; every sentence holds the numbers it rests on. Owned by the view.
//! Never does: ask anybody; what the master knows has to do.

use std::time::Duration;

use millrace_common::error::Code;
use millrace_proto::v1;
use millrace_proto::v1::ApplicationState as State;
use millrace_proto::v1::CauseKind as Kind;
use millrace_proto::v1::trouble::Kind as Of;

/// A lag below so many batch intervals is what reading once and committing once take.
const LATE_INTERVALS: i64 = 3;
/// And below this it is nobody's concern.
const LATE_FROM_MS: i64 = 5_000;
/// Batches over which durations are averaged, when there are as many.
pub(crate) const BATCHES_JUDGED: usize = 5;
/// A shard from which this much is read is at what Kinesis lets one reader take (2 MiB/s), or at what
/// it lets its producers put (1 MiB/s), both less what smoothing hides.
const HOT_BYTES_PER_SECOND: u64 = 900 << 10;

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
    pub waits: Option<(Kind, &'a str)>,
    /// Driver failures since its last commit, and how many end it.
    pub failures: (u32, u32),
    /// Unix time in milliseconds at which a node was last heard of.
    pub now_ms: i64,
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
    v1::WhyApplicationResponse { standing: standing.into(), cause, others: causes }
}

impl Facts<'_> {
    fn name(&self) -> &str {
        &self.application.name
    }

    /// Why it failed or was rejected.
    fn end(&self) -> v1::Cause {
        let Some(failure) = &self.application.failure else {
            return cause(Kind::Other, &self.application.reason, &self.logs());
        };
        let code = Code::parse(&failure.code);
        if code == Some(Code::AttemptsExhausted)
            && let Some(crash) = self.crash()
        {
            return v1::Cause { code: failure.code.clone(), ..crash };
        }
        of_failure(failure, Of::Unspecified)
    }

    /// Why its driver is not at work, worst first.
    fn waiting(&self) -> Vec<v1::Cause> {
        let crash = self.crash();
        let waits = self.waits.map(|(kind, what)| cause(kind, what, &self.mend_of(kind)));
        let causes: Vec<v1::Cause> = crash.into_iter().chain(waits).collect();
        if !causes.is_empty() {
            return causes;
        }
        let next = format!("wait, or follow it: `millrace logs {} --follow`", self.name());
        vec![cause(Kind::Starting, &self.application.reason, &next)]
    }

    /// What its last driver ended with, when it did not end in order.
    fn crash(&self) -> Option<v1::Cause> {
        let (failed, allowed) = self.failures;
        let last = self.application.attempts.iter().rev().find(|attempt| attempt.ended_ms > 0)?;
        if failed == 0 && self.application.state() != State::Failed {
            return None;
        }
        let exceeded = self.exceeded(&last.container_id);
        let what = format!(
            "driver attempt {} ended: {}; {failed} of {allowed} failures since the last commit",
            last.number, last.end_reason
        );
        Some(match exceeded {
            Some(mend) => cause(Kind::OutOfMemory, &what, &mend),
            None => cause(Kind::CrashLoop, &what, &self.logs()),
        })
    }

    /// What mends a container that held more than it was granted, if this one did.
    fn exceeded(&self, container_id: &str) -> Option<String> {
        let status = self.containers.iter().find(|c| c.container_id == container_id)?;
        self.exceeded_by(status)
    }

    fn exceeded_by(&self, status: &v1::ContainerStatus) -> Option<String> {
        let exit = status.exit.as_ref()?;
        if exit.exceeded() != v1::container_exit::Limit::Memory {
            return None;
        }
        let key = match status.kind() {
            v1::ContainerKind::Driver => "resources.driver",
            _ => "resources.executor",
        };
        Some(format!(
            "give it more: raise `memory` of `{key}` in the file and submit it again (now {} MiB)",
            status.resources.unwrap_or_default().memory_bytes >> 20
        ))
    }

    fn logs(&self) -> String {
        format!("read what it wrote: `millrace logs {}`", self.name())
    }

    fn mend_of(&self, kind: Kind) -> String {
        let name = self.name();
        match kind {
            Kind::NoNodes => "start a worker: `millrace-worker --master ADDRESS`".to_owned(),
            Kind::Labels => {
                "start a worker with these labels (`millrace-worker --label KEY=VALUE`), \
                             or change `node_selector`"
                    .to_owned()
            }
            Kind::Queue => {
                "wait for what runs in the queue, submit to another (`millrace queues` shows \
                            them), or have its cap raised"
                    .to_owned()
            }
            Kind::MasterStarting => "wait: it takes 15 s at most".to_owned(),
            _ => format!(
                "start another worker, stop something (`millrace list`), or ask for less; \
                 `millrace plan` on the file of {name} shows the arithmetic"
            ),
        }
    }

    /// What is not as it should be while it runs, worst first.
    fn running(&self) -> Vec<v1::Cause> {
        let Some(report) = &self.application.report else {
            let next = format!("wait, or follow it: `millrace logs {} --follow`", self.name());
            return vec![cause(Kind::Starting, &self.application.reason, &next)];
        };
        let mut causes: Vec<v1::Cause> = report.troubles.iter().map(of_trouble).collect();
        causes.extend(self.lost_executor());
        if let Some((kind, what)) = self.waits {
            let what = format!("{} executors run; {what}", self.application.num_executors);
            let kind = if kind == Kind::DriverPlace { Kind::ExecutorsMissing } else { kind };
            causes.push(cause(kind, &what, &self.mend_of(kind)));
        }
        causes.extend(self.slow(report));
        causes
    }

    /// An executor that was ended for its memory since the last commits.
    fn lost_executor(&self) -> Option<v1::Cause> {
        let recent = self.now_ms - RECENT.as_millis() as i64;
        let ended = self.containers.iter().filter(|c| c.ended_ms >= recent && c.ended_ms > 0);
        ended.max_by_key(|c| c.ended_ms).and_then(|status| {
            let mend = self.exceeded_by(status)?;
            let reason = status.exit.as_ref().map(|exit| exit.reason.as_str()).unwrap_or_default();
            let what = format!("container {} was {reason}", status.container_id);
            Some(cause(Kind::OutOfMemory, &what, &mend))
        })
    }

    /// Why it is behind, if it is.
    fn slow(&self, report: &v1::DriverReport) -> Option<v1::Cause> {
        let spec = self.application.spec.as_ref()?;
        let interval_ms = spec.batch.as_ref().map_or(0, |batch| batch.interval_ms);
        let interval = i64::try_from(interval_ms).unwrap_or(i64::MAX);
        let lag = report.millis_behind_latest;
        let pace = Pace::over(self.batches);
        if let Some(pace) = pace.filter(|pace| pace.took_ms > interval_ms) {
            return Some(pace.explain(interval_ms, self.name()));
        }
        // A replay reads what is long past: that is no lag.
        if spec.replay.is_some() || lag < LATE_FROM_MS.max(interval.saturating_mul(LATE_INTERVALS))
        {
            return None;
        }
        if let Some(hot) = hot(report) {
            let what = format!(
                "shard {}/{} is {} s behind and gives {} KiB/s, while the others keep up",
                hot.source,
                hot.shard_id,
                hot.millis_behind_latest / 1_000,
                hot.bytes_per_second >> 10
            );
            let next = "split the shard, or spread its keys: a shard gives one reader 2 MiB/s and \
                        takes 1 MiB/s, whatever the cluster has";
            return Some(cause(Kind::HotShard, &what, next));
        }
        let full = report.executors.iter().filter(|executor| executor.over_budget).count();
        let rate: u64 = report.late_shards.iter().map(|shard| shard.bytes_per_second).sum();
        let what = format!(
            "it is {} s behind; {full} of {} executors hold all the blocks they may; the furthest \
             shards are read at {} KiB/s",
            lag / 1_000,
            report.executors.len(),
            rate >> 10
        );
        let next = format!("wait, or give it more executors: `millrace scale {} ...`", self.name());
        Some(cause(Kind::CatchingUp, &what, &next))
    }
}

/// An end of an executor is news for this long.
const RECENT: Duration = Duration::from_secs(600);

/// A shard that is behind alone, and is read as fast as it may be.
fn hot(report: &v1::DriverReport) -> Option<&v1::LateShard> {
    let mut late = report.late_shards.iter();
    let first = late.next()?;
    let second = late.next().map_or(0, |shard| shard.millis_behind_latest);
    let alone = report.num_shards > 1 && second < first.millis_behind_latest / 2;
    (alone && first.bytes_per_second >= HOT_BYTES_PER_SECOND).then_some(first)
}

/// What batches take, on average.
#[derive(Clone, Copy, Debug)]
struct Pace {
    num: u64,
    /// From the start of the run until the files are visible.
    took_ms: u64,
    run_ms: u64,
    /// Of the run, with the object store; and after the commit, until the files were visible.
    store_ms: u64,
}

impl Pace {
    /// None before a batch of this driver is published.
    fn over(batches: &[v1::Batch]) -> Option<Self> {
        let epoch = batches.first()?.epoch;
        let ran = |batch: &&v1::Batch| {
            batch.epoch == epoch && batch.published_ms > 0 && batch.num_runs == 1
        };
        let judged: Vec<&v1::Batch> = batches.iter().filter(ran).take(BATCHES_JUDGED).collect();
        let num = u64::try_from(judged.len()).ok().filter(|num| *num > 0)?;
        let publishing =
            |batch: &v1::Batch| u64::try_from(batch.published_ms - batch.committed_ms).unwrap_or(0);
        let mean = |of: &dyn Fn(&v1::Batch) -> u64| {
            judged.iter().map(|batch| of(batch)).sum::<u64>() / num
        };
        Some(Self {
            num,
            // Publishing a batch and running the next go on at once; the longer one sets the pace.
            took_ms: mean(&|batch| batch.run_ms.max(publishing(batch))),
            run_ms: mean(&|batch| batch.run_ms),
            store_ms: mean(&|batch| batch.store_ms.max(publishing(batch))),
        })
    }

    fn explain(self, interval_ms: u64, name: &str) -> v1::Cause {
        let Self { num, took_ms, run_ms, store_ms } = self;
        let what = format!(
            "the last {num} batches took {took_ms} ms on average, longer than the interval of \
             {interval_ms} ms; {store_ms} ms of that with the object store"
        );
        if store_ms * 2 > took_ms {
            let next = "see to the bucket and the way to it; fewer and larger files help: a longer \
                        `batch.interval`, `sink.files_per_batch`, or no `partition_by` of many values";
            return cause(Kind::SlowSink, &what, next);
        }
        let next = format!(
            "raise `batch.interval` above {} ms, or give it more cores: `millrace scale {name} ...`",
            run_ms.max(took_ms)
        );
        cause(Kind::IntervalTooShort, &what, &next)
    }
}

fn cause(kind: Kind, what: &str, next_move: &str) -> v1::Cause {
    v1::Cause {
        kind: kind.into(),
        what: what.to_owned(),
        next_move: next_move.to_owned(),
        code: String::new(),
    }
}

fn of_trouble(trouble: &v1::Trouble) -> v1::Cause {
    let failure = trouble.failure.clone().unwrap_or_default();
    let mut cause = of_failure(&failure, trouble.kind());
    if !trouble.subject.is_empty() && !cause.what.contains(&trouble.subject) {
        cause.what = format!("{}: {}", trouble.subject, cause.what);
    }
    cause
}

/// A failure that says itself what to do.
fn of_failure(failure: &v1::Failure, of: Of) -> v1::Cause {
    let kind = Code::parse(&failure.code).map_or(Kind::Other, |code| kind_of(code, of));
    v1::Cause {
        kind: kind.into(),
        what: failure.message.clone(),
        next_move: failure.next_move.clone(),
        code: failure.code.clone(),
    }
}

/// The kind of cause behind a code, which is the same wherever it is met but for throttling.
fn kind_of(code: Code, of: Of) -> Kind {
    match code {
        Code::Throttled if of == Of::Shard => Kind::ShardThrottled,
        Code::Throttled if of == Of::Commit => Kind::TableThrottled,
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
        Code::NameInUse | Code::HeadForeign | Code::Fenced => Kind::NameTaken,
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
#[path = "why_tests.rs"]
mod tests;
