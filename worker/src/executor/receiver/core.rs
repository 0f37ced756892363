//! The reading of one shard, as a machine without time, network or memory of its own.
//!
//! Promises: every record after the start is handed on exactly once, in order, whatever the answers
//! were: throttled, expired, empty, doubled. A run of records names the number it follows, and the
//! runs of one machine chain without a gap. What can not be shown to be gapless is reported as
//! lost, never skipped. Owned by the shard's reader, which performs the steps.

use std::time::Duration;

use millrace_common::application::replay::Range;
use millrace_common::position::{Position, SequenceNumber};
use millrace_common::retry::Backoff;

pub use super::brought::{Brought, EmptyAnswer, End, Lost, Run};
use super::horizon::Horizon;
use super::kinesis::{Answer, FailureKind, IteratorAt, RECORDS_PER_ANSWER_MAX, Record};

/// An iterator lives five minutes; an older one than this is not used any more.
pub const ITERATOR_AGE_MAX: Duration = Duration::from_secs(240);
/// Records asked for as long as nothing is known of their size: 1,000 of 1 KiB make 1 MiB.
const FIRST_LIMIT: u32 = 1_000;
/// How long an iterator at the tail may give answers without records before the shard is read from
/// its oldest record on: Kinesis has been seen to do so for ever where the tail is trimmed.
const TAIL_PATIENCE: Duration = Duration::from_secs(60);
/// How often the end of a range is said until the driver acts on it.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Empty answers at the tip after which the shard counts as idle.
const IDLE_AFTER: u32 = 10;

/// Where the reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this position.
    Position(Position),
    /// At the shard's oldest record.
    TrimHorizon,
    /// At the records that arrived at this time or later; Unix time in milliseconds.
    Timestamp(i64),
}

impl Start {
    /// The number that the reading follows.
    #[must_use]
    pub fn tail(&self) -> Option<SequenceNumber> {
        match self {
            Self::Position(position) => position.sequence_number,
            Self::TrimHorizon | Self::Timestamp(_) => None,
        }
    }
}

/// The pace the core asks for; the shell keeps the number of calls besides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Payload bytes per second that the shard gives; none: no limit.
    pub bytes_per_second: Option<u64>,
    /// Payload bytes an answer should have.
    pub answer_bytes: u64,
    /// Longest pause between two reads of an idle shard.
    pub idle_pause: Duration,
}

impl Limits {
    /// Those of the real service, a little below: 2 MiB/s, answers far from the 10 MiB that bring a
    /// penalty.
    pub const KINESIS: Self = Self {
        bytes_per_second: Some(1_950 << 10),
        answer_bytes: 1 << 20,
        idle_pause: Duration::from_secs(1),
    };

    /// The part of each of so many readers.
    #[must_use]
    pub fn shared_by(self, num_readers: u32) -> Self {
        let part = |bytes: u64| bytes / u64::from(num_readers.max(1));
        Self { bytes_per_second: self.bytes_per_second.map(part), ..self }
    }
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make an iterator and give it to [`ShardCore::iterator`].
    Iterator(IteratorAt),
    /// Read and give the answer to [`ShardCore::answer`].
    Records {
        /// Where to read.
        iterator: String,
        /// How many records at most.
        limit: u32,
    },
    /// Nothing before this time.
    WaitUntil(Duration),
    /// The shard has ended, is lost or missing: nothing any more.
    Rest,
}

/// How the answers of an iterator are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The record at the tail must come first.
    Tail,
    /// From the oldest record: drop everything up to the tail, which may be gone.
    Horizon,
    /// They follow the tail.
    Follows,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    NeedsIterator(Check),
    Reading {
        iterator: String,
        made: Duration,
        check: Check,
    },
    Ended,
    Lost(Lost),
    /// Kinesis does not find the shard: whatever has its name later may be another stream's.
    Missing,
}

/// The state of one shard's reading.
#[derive(Clone, Debug)]
pub struct ShardCore {
    start: Start,
    /// The last number read, or the position's.
    tail: Option<SequenceNumber>,
    /// What the stream may have let go of.
    horizon: Horizon,
    /// The tail behind which a loss is known, and passed over.
    gap_after: Option<Option<SequenceNumber>>,
    /// What arrived at this time or later is not asked for.
    until_ms: i64,
    phase: Phase,
    limits: Limits,
    /// Share of the byte limit that other consumers leave to us, lowered by throttles.
    share: f64,
    not_before: Duration,
    /// Since when iterators at the tail gave nothing at all.
    nothing_since: Option<Duration>,
    num_failures: u32,
    num_idle_reads: u32,
    /// Moving average of payload bytes per record.
    record_bytes: Option<f64>,
}

impl ShardCore {
    /// Begins at `start`. `retention_ms` is how long the stream keeps records, 0 when not known.
    #[must_use]
    pub fn new(start: Start, retention_ms: i64, limits: Limits) -> Self {
        let tail = start.tail();
        let empty_until_ms = match start {
            Start::Position(position) => position.empty_until_ms,
            // What came before is none of the reading's.
            Start::Timestamp(ms) => ms,
            Start::TrimHorizon => 0,
        };
        let ended = matches!(start, Start::Position(position) if position.ended);
        Self {
            start,
            tail,
            horizon: Horizon::new(empty_until_ms, retention_ms),
            gap_after: None,
            until_ms: i64::MAX,
            phase: if ended { Phase::Ended } else { Phase::NeedsIterator(Check::Tail) },
            limits,
            share: 1.0,
            not_before: Duration::ZERO,
            nothing_since: None,
            num_failures: 0,
            num_idle_reads: 0,
            record_bytes: None,
        }
    }

    /// Passes over a loss of what follows this number; a loss anywhere else is reported as ever.
    #[must_use]
    pub fn passing_over(mut self, gap_after: Option<Option<SequenceNumber>>) -> Self {
        self.gap_after = gap_after;
        self
    }

    /// Reads only up to the first record that arrived at this Unix time in milliseconds or later.
    #[must_use]
    pub fn until(mut self, until_ms: Option<i64>) -> Self {
        self.until_ms = until_ms.unwrap_or(i64::MAX);
        self
    }

    /// The last number read, or the one the reading started after.
    #[must_use]
    pub fn tail(&self) -> Option<SequenceNumber> {
        self.tail
    }

    /// Where another machine would have to start to go on from here.
    #[must_use]
    pub fn resume(&self) -> Start {
        match self.start {
            _ if self.tail.is_some() || self.phase == Phase::Ended => {}
            Start::Timestamp(ms) => return Start::Timestamp(ms.max(self.horizon.empty_until_ms())),
            Start::TrimHorizon | Start::Position(_) => return self.start,
        }
        Start::Position(Position {
            sequence_number: self.tail,
            empty_until_ms: self.horizon.empty_until_ms(),
            ended: self.phase == Phase::Ended,
        })
    }

    /// Failures since the last call that succeeded.
    #[must_use]
    pub fn num_failures(&self) -> u32 {
        self.num_failures
    }

    /// The gap, when the reading has stopped at one.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        match self.phase {
            Phase::Lost(lost) => Some(lost),
            _ => None,
        }
    }

    /// True when the reading has stopped because the shard does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.phase == Phase::Missing
    }

    /// What to do at `now`.
    pub fn step(&mut self, now: Duration) -> Step {
        if let Phase::Reading { made, .. } = self.phase
            && now.saturating_sub(made) > ITERATOR_AGE_MAX
        {
            self.start_over();
        }
        match &self.phase {
            Phase::Ended | Phase::Lost(_) | Phase::Missing => Step::Rest,
            _ if now < self.not_before => Step::WaitUntil(self.not_before),
            Phase::NeedsIterator(check) => Step::Iterator(self.iterator_at(*check)),
            Phase::Reading { iterator, .. } => {
                Step::Records { iterator: iterator.clone(), limit: self.limit() }
            }
        }
    }

    /// An iterator was made.
    pub fn iterator(&mut self, now: Duration, iterator: String) {
        if let Phase::NeedsIterator(check) = self.phase {
            let check = match (self.tail, self.start) {
                (Some(_), _) => check,
                // No record would have to come first, but from when on records count is known.
                (None, Start::Position(_) | Start::Timestamp(_)) if self.horizon.can_judge() => {
                    Check::Horizon
                }
                (None, _) => Check::Follows,
            };
            self.phase = Phase::Reading { iterator, made: now, check };
            self.num_failures = 0;
        }
    }

    /// A call failed. `random` is a number in `0.0..1.0`.
    pub fn failed(&mut self, now: Duration, kind: FailureKind, random: f64) {
        match kind {
            FailureKind::ExpiredIterator => return self.start_over(),
            FailureKind::InvalidPosition => match self.phase {
                // The tail is no number of this shard any more: look from its oldest record on.
                Phase::NeedsIterator(Check::Tail) if self.tail.is_some() => {
                    self.phase = Phase::NeedsIterator(Check::Horizon);
                    return;
                }
                Phase::Reading { .. } => self.start_over(),
                _ => {}
            },
            FailureKind::Throttled => self.share = (self.share / 2.0).max(1.0 / 16.0),
            FailureKind::Missing => self.phase = Phase::Missing,
            FailureKind::Forbidden | FailureKind::Unavailable => {}
        }
        self.num_failures = self.num_failures.saturating_add(1);
        self.not_before = now + Backoff::CALL.delay(self.num_failures, random);
    }

    /// An answer arrived.
    pub fn answer(&mut self, now: Duration, answer: Answer) -> Brought {
        let Phase::Reading { check, .. } = self.phase else { return Brought::default() };
        self.num_failures = 0;
        self.share = (self.share + 1.0 / 16.0).min(1.0);
        self.pace(now, &answer);
        if !is_in_order(&answer.records) {
            self.start_over();
            return Brought::default();
        }
        let Answer { records, next_iterator, millis_behind_latest, children, server_ms } = answer;
        let num_records = records.len();
        if num_records > 0 || check != Check::Tail {
            self.nothing_since = None;
        }
        let (run, seen_tail, first) = self.after_tail(records);
        let at_tip = num_records == 0 && millis_behind_latest == 0;
        let tells_more = !run.is_empty() || at_tip || next_iterator.is_none();
        let check = match check {
            Check::Follows if tells_more && self.is_doubtful(run.first(), server_ms) => {
                self.start_over();
                return self.searching(server_ms, millis_behind_latest);
            }
            Check::Follows => Check::Follows,
            _ if seen_tail => Check::Follows,
            Check::Tail if num_records == 0 && self.waits_in_vain(now, millis_behind_latest) => {
                self.phase = Phase::NeedsIterator(Check::Horizon);
                return self.searching(server_ms, millis_behind_latest);
            }
            // Nothing but records before the tail, or nothing at all: it may still come.
            check if run.is_empty() && !at_tip && next_iterator.is_some() => check,
            Check::Tail => {
                self.phase = Phase::NeedsIterator(Check::Horizon);
                return self.searching(server_ms, millis_behind_latest);
            }
            Check::Horizon if self.horizon.is_known_gapless(server_ms) => Check::Follows,
            Check::Horizon if self.gap_after == Some(self.tail) => Check::Follows,
            Check::Horizon => {
                let lost = Lost { after_seq: self.tail, before_seq: first };
                self.phase = Phase::Lost(lost);
                return Brought { lost: Some(lost), ..Brought::default() };
            }
        };
        if check != Check::Follows {
            let Some(iterator) = next_iterator else { return Brought::default() };
            self.phase = Phase::Reading { iterator, made: now, check };
            return self.searching(server_ms, millis_behind_latest);
        }
        if seen_tail && run.is_empty() {
            self.horizon.tail_stood_alone(server_ms, millis_behind_latest);
        }
        let mut run = run;
        let of_range = Range::len_before(self.until_ms, run.iter().map(|r| r.arrival_ms));
        if of_range < run.len() {
            run.truncate(of_range);
            return self.end_of_range(now, run, server_ms, millis_behind_latest);
        }
        let run = self.take(run);
        let end = next_iterator.is_none().then_some(End { after_seq: self.tail, children });
        self.phase = match next_iterator {
            // Each answer gives a new iterator, which lives five minutes again.
            Some(iterator) => Phase::Reading { iterator, made: now, check },
            None => Phase::Ended,
        };
        let empty = (num_records == 0 && end.is_none())
            .then(|| self.empty(server_ms, millis_behind_latest))
            .flatten();
        Brought { run, empty, end, lost: None, millis_behind_latest: Some(millis_behind_latest) }
    }

    /// Gives up the iterator: the next one starts at the tail, which must come first.
    fn start_over(&mut self) {
        self.phase = Phase::NeedsIterator(Check::Tail);
    }

    fn iterator_at(&self, check: Check) -> IteratorAt {
        match (self.tail, check) {
            (Some(_), Check::Horizon) => IteratorAt::TrimHorizon,
            (Some(tail), Check::Tail | Check::Follows) => IteratorAt::Record(tail),
            (None, _) => match self.start {
                Start::Timestamp(ms) => {
                    IteratorAt::Timestamp(ms.max(self.horizon.empty_until_ms()))
                }
                _ if self.horizon.empty_until_ms() > 0 => {
                    IteratorAt::Timestamp(self.horizon.empty_until_ms())
                }
                Start::TrimHorizon | Start::Position(_) => IteratorAt::TrimHorizon,
            },
        }
    }

    /// The records past the tail, whether the tail was among them, and the oldest of those past it.
    fn after_tail(
        &mut self,
        mut records: Vec<Record>,
    ) -> (Vec<Record>, bool, Option<SequenceNumber>) {
        let Some(tail) = self.tail else {
            let first = records.first().map(|record| record.sequence_number);
            return (records, false, first);
        };
        let old = records.partition_point(|record| record.sequence_number <= tail);
        let before = records.drain(..old).next_back();
        let seen = before.filter(|record| record.sequence_number == tail);
        if let Some(tail) = &seen {
            self.horizon.saw_tail(tail.arrival_ms);
        }
        let first = records.first().map(|record| record.sequence_number);
        (records, seen.is_some(), first)
    }

    /// Hands records on and moves the tail behind them.
    fn take(&mut self, records: Vec<Record>) -> Option<Run> {
        let last = records.last()?;
        self.horizon.moved(last.arrival_ms);
        let after_seq = self.tail.replace(last.sequence_number);
        self.num_idle_reads = 0;
        Some(Run { after_seq, records })
    }

    /// A sign of life while the tail is looked for: nothing new, and not at the tip.
    fn searching(&self, server_ms: Option<i64>, millis_behind_latest: i64) -> Brought {
        let millis_behind_latest = millis_behind_latest.max(1);
        let empty = server_ms.map(|server_ms| EmptyAnswer {
            after_seq: self.tail,
            server_ms,
            millis_behind_latest,
            nothing_before_ms: 0,
        });
        Brought { empty, ..Brought::default() }
    }

    fn empty(&mut self, server_ms: Option<i64>, millis_behind_latest: i64) -> Option<EmptyAnswer> {
        let server_ms = server_ms?;
        if millis_behind_latest == 0 {
            self.horizon.was_empty(server_ms);
        }
        let after_seq = self.tail;
        Some(EmptyAnswer { after_seq, server_ms, millis_behind_latest, nothing_before_ms: 0 })
    }

    /// The answer reaches behind the range that is asked for: hands on what is of it, and says so
    /// until somebody ends the reading.
    fn end_of_range(
        &mut self,
        now: Duration,
        records: Vec<Record>,
        server_ms: Option<i64>,
        millis_behind_latest: i64,
    ) -> Brought {
        let run = self.take(records);
        self.start_over();
        self.not_before = self.not_before.max(now + SAY_AGAIN_AFTER);
        let empty = EmptyAnswer {
            after_seq: self.tail,
            server_ms: server_ms.unwrap_or_default(),
            millis_behind_latest,
            nothing_before_ms: self.until_ms,
        };
        let millis_behind_latest = Some(millis_behind_latest);
        Brought { run, empty: Some(empty), millis_behind_latest, ..Brought::default() }
    }

    /// True when an answer without records says that the tail will not come from its iterator: all
    /// that is past the retention is behind it, or it has given nothing for too long.
    fn waits_in_vain(&mut self, now: Duration, millis_behind_latest: i64) -> bool {
        let since = *self.nothing_since.get_or_insert(now);
        self.horizon.is_reached(millis_behind_latest) || now.saturating_sub(since) >= TAIL_PATIENCE
    }

    /// True when it has to be seen whether the tail is still there.
    fn is_doubtful(&mut self, first: Option<&Record>, server_ms: Option<i64>) -> bool {
        server_ms.is_some_and(|server_ms| self.horizon.is_doubtful(first, server_ms))
    }

    /// When the next read may come, by what this one brought.
    fn pace(&mut self, now: Duration, answer: &Answer) {
        let num_bytes = answer.num_bytes();
        if !answer.records.is_empty() {
            let average = num_bytes as f64 / answer.records.len() as f64;
            let known = self.record_bytes.unwrap_or(average);
            self.record_bytes = Some(known * 0.7 + average * 0.3);
        }
        let by_bytes = match self.limits.bytes_per_second {
            Some(limit) => Duration::from_secs_f64(num_bytes as f64 / (limit as f64 * self.share)),
            None => Duration::ZERO,
        };
        let at_tip = answer.records.is_empty() && answer.millis_behind_latest == 0;
        self.num_idle_reads = if at_tip { self.num_idle_reads.saturating_add(1) } else { 0 };
        let by_idleness = match self.num_idle_reads.saturating_sub(IDLE_AFTER) {
            0 => Duration::ZERO,
            over => (Duration::from_millis(100) * over).min(self.limits.idle_pause),
        };
        self.not_before = now + by_bytes.max(by_idleness);
    }

    /// Records to ask for, so that the answer stays near the wanted size.
    fn limit(&self) -> u32 {
        match self.record_bytes {
            None => FIRST_LIMIT,
            Some(bytes) => {
                let limit = self.limits.answer_bytes as f64 / bytes.max(1.0);
                (limit as u32).clamp(1, RECORDS_PER_ANSWER_MAX)
            }
        }
    }
}

fn is_in_order(records: &[Record]) -> bool {
    records.is_sorted_by(|a, b| a.sequence_number < b.sequence_number)
}
