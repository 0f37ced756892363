//! The life of batches: state and event in, decisions out.
//!
//! Promises: one batch at a time is in the making; its commit is asked for only when the batch
//! before is published; after a stop nothing new is begun. Owned by the batch actor.
//! Never does: run, commit, or read a clock.

mod events;

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_common::id::ContainerId;
use millrace_common::retry::Backoff;
use millrace_proto::v1;

pub use self::events::{Blame, Effect, Ended, Event};

/// Failures of one batch that its own data may be to blame for, until it is divided: each half is a
/// batch of its own, and the part that fails is divided again, down to one block. When that has
/// failed as often by itself, the application stops.
pub const FAILURES_MAX: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Preparing,
    /// The last run failed: wait before the next.
    Resting(Duration),
    Gathering,
    Running(BTreeSet<ContainerId>),
    /// Failed too often: it is being divided.
    Dividing,
    /// Has a result and waits for the batch before to be published.
    Ready,
    Committing,
    /// Will be over when everything committed is published.
    Failed,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    GoOn,
    Stop,
    Drain,
    /// Drained, or at the end of the range: the batch in the making is the last.
    Last,
    DrainDeadline,
}

/// The batches of one attempt.
#[derive(Debug)]
pub struct Core {
    interval: Duration,
    next_cut: Duration,
    /// Number of the batch in the making, or of the next one.
    batch: u64,
    phase: Phase,
    publishing: bool,
    wish: Wish,
    own_failures: u32,
    /// Those of them that this very batch met since it was cut or divided.
    failures_whole: u32,
    other_failures: u32,
    num_runs: u32,
    input_failed: bool,
    /// What was asked for has taken too long: a run that fails from now on is the last.
    patience_over: bool,
    /// The deadline of a drain has passed.
    deadline_over: bool,
    /// The last batch that is a part of a divided one; 0 when none is.
    last_part: u64,
    /// What the attempts before this one met.
    known_failures: Option<v1::BatchFailures>,
}

impl Core {
    /// Nothing is in the making; the first batch has this number.
    #[must_use]
    pub fn new(interval: Duration, first_batch: u64, now: Duration) -> Self {
        Self {
            interval,
            next_cut: now + interval,
            batch: first_batch,
            phase: Phase::Idle,
            publishing: false,
            wish: Wish::GoOn,
            own_failures: 0,
            failures_whole: 0,
            other_failures: 0,
            num_runs: 0,
            input_failed: false,
            patience_over: false,
            deadline_over: false,
            last_part: 0,
            known_failures: None,
        }
    }

    /// The same, with what earlier attempts met.
    #[must_use]
    pub fn knowing(mut self, failures: Option<v1::BatchFailures>) -> Self {
        self.known_failures = failures;
        self
    }

    /// Failures of the batch in the making that it may be to blame for, earlier attempts' included.
    #[must_use]
    pub fn own_failures(&self) -> u32 {
        self.own_failures
    }

    /// Number of the batch in the making, or of the next one.
    #[must_use]
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// Runs of the batch in the making that were begun.
    #[must_use]
    pub fn num_runs(&self) -> u32 {
        self.num_runs
    }

    /// True while a batch is cut and its outcome is open.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Preparing | Phase::Failed | Phase::Over)
            || self.publishing
    }

    /// True while the application drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.wish == Wish::Drain
    }

    /// When [`Event::Tick`] has something to do next.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Idle if self.has_parts() => Some(Duration::ZERO),
            Phase::Idle => Some(self.next_cut),
            Phase::Resting(until) => Some(*until),
            _ => None,
        }
    }

    /// Takes in what happened; `random` in `0.0..1.0` spreads the rests after failures.
    pub fn on(&mut self, event: Event, now: Duration, random: f64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => effects.extend(self.tick(now)),
            Event::Pressure if self.phase == Phase::Idle && self.may_begin() => {
                self.next_cut = now;
                effects.extend(self.tick(now));
            }
            Event::Pressure => {}
            Event::Prepared { blocks, drained } => effects.extend(self.prepared(blocks, drained)),
            Event::Gathered(executors) if self.phase == Phase::Gathering => {
                self.num_runs += 1;
                self.phase = Phase::Running(executors);
            }
            Event::Gathered(_) => {}
            Event::RunSucceeded if matches!(self.phase, Phase::Running(_)) => {
                effects.extend(self.ready());
            }
            Event::RunSucceeded => {}
            Event::RunFailed(blame) => effects.extend(self.run_failed(&blame, now, random)),
            Event::RunImpossible => {
                if self.phase == Phase::Gathering {
                    self.other_failures += 1;
                    self.phase = Phase::Resting(now + self.rest(random));
                }
            }
            Event::ExecutorLost(lost) => {
                if matches!(&self.phase, Phase::Running(on) if on.contains(&lost)) {
                    effects.push(Effect::CancelRun);
                }
            }
            Event::Divided(is_smaller) => effects.extend(self.divided(is_smaller, now, random)),
            Event::Committed => effects.extend(self.committed()),
            Event::RunTooOld if self.input_failed => self.phase = Phase::Failed,
            Event::RunTooOld => {
                self.phase = Phase::Gathering;
                effects.push(Effect::Gather(self.batch));
            }
            Event::Published => effects.extend(self.published()),
            Event::Stop => self.wish = Wish::Stop,
            Event::Drain if self.wish == Wish::GoOn => {
                self.wish = Wish::Drain;
                self.next_cut = now;
            }
            Event::Drain => {}
            Event::DrainDeadline => {
                self.deadline_over = true;
                if self.wish == Wish::Drain {
                    self.wish = Wish::DrainDeadline;
                }
            }
            Event::CommitWaits if self.is_late() => effects.extend(self.abandon()),
            Event::CommitWaits => {}
            Event::PatienceOver => {
                self.patience_over |= self.wish == Wish::Stop || self.is_late();
                if self.is_late() {
                    effects.extend(self.abandon());
                }
            }
            Event::InputFailed => effects.extend(self.input_failed()),
        }
        effects.extend(self.give_up());
        effects.extend(self.end_if_done());
        effects
    }

    fn may_begin(&self) -> bool {
        matches!(self.wish, Wish::GoOn | Wish::Drain)
            || (self.wish == Wish::Last && self.has_parts() && !self.deadline_over)
    }

    /// True past the deadline of a drain.
    fn is_late(&self) -> bool {
        self.deadline_over && matches!(self.wish, Wish::Last | Wish::DrainDeadline)
    }

    /// True when the next batch is the rest of one that was divided.
    fn has_parts(&self) -> bool {
        self.batch <= self.last_part
    }

    fn tick(&mut self, now: Duration) -> Option<Effect> {
        match self.phase {
            Phase::Idle if self.has_parts() && self.may_begin() => {
                self.phase = Phase::Preparing;
                Some(Effect::Prepare(self.batch))
            }
            Phase::Idle if now >= self.next_cut && self.may_begin() => {
                self.phase = Phase::Preparing;
                self.keep_pace(now);
                Some(Effect::Prepare(self.batch))
            }
            Phase::Resting(until) if now >= until => {
                self.phase = Phase::Gathering;
                Some(Effect::Gather(self.batch))
            }
            _ => None,
        }
    }

    /// The next cut is a whole number of intervals after the last; those that were missed are
    /// skipped. While draining there is no reason to wait.
    fn keep_pace(&mut self, now: Duration) {
        let interval = match self.wish {
            Wish::Drain => self.interval.min(DRAIN_INTERVAL),
            _ => self.interval,
        };
        let behind = now.saturating_sub(self.next_cut).as_nanos();
        let missed = behind / interval.as_nanos().max(1);
        let skipped = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.next_cut += interval.saturating_mul(skipped);
    }

    fn prepared(&mut self, blocks: Option<usize>, drained: bool) -> Option<Effect> {
        if self.phase != Phase::Preparing {
            return None;
        }
        if drained && matches!(self.wish, Wish::GoOn | Wish::Drain) {
            self.wish = Wish::Last;
        }
        let known = self.known_failures.filter(|known| known.batch == self.batch);
        self.own_failures = match known {
            Some(known) => known.count,
            // It holds what the whole failed at, unless a part before it did.
            None if self.has_parts() => FAILURES_MAX - 1,
            None => 0,
        };
        self.failures_whole = 0;
        self.other_failures = 0;
        self.num_runs = 0;
        match blocks {
            None => {
                self.phase = Phase::Idle;
                None
            }
            // Positions alone: there is nothing to run.
            Some(0) => self.ready(),
            Some(_) => {
                self.phase = Phase::Gathering;
                Some(Effect::Gather(self.batch))
            }
        }
    }

    fn ready(&mut self) -> Option<Effect> {
        if self.publishing {
            self.phase = Phase::Ready;
            return None;
        }
        self.phase = Phase::Committing;
        Some(Effect::Commit)
    }

    fn run_failed(&mut self, blame: &Blame, now: Duration, random: f64) -> Option<Effect> {
        if !matches!(self.phase, Phase::Running(_)) {
            return None;
        }
        match blame {
            Blame::Cancelled => {
                self.phase = Phase::Gathering;
                return Some(Effect::Gather(self.batch));
            }
            Blame::Surroundings => self.other_failures += 1,
            Blame::Batch => {
                self.own_failures += 1;
                self.failures_whole += 1;
                if self.own_failures >= FAILURES_MAX {
                    self.phase = Phase::Dividing;
                    return Some(Effect::Divide(self.batch));
                }
            }
            Blame::Application => {
                self.own_failures += 1;
                if self.own_failures >= FAILURES_MAX {
                    self.phase = Phase::Failed;
                    return None;
                }
            }
        }
        self.phase = Phase::Resting(now + self.rest(random));
        None
    }

    fn divided(&mut self, is_smaller: bool, now: Duration, random: f64) -> Option<Effect> {
        if self.phase != Phase::Dividing {
            return None;
        }
        if is_smaller {
            self.last_part = self.last_part.max(self.batch) + 1;
            self.num_runs = 0;
            self.failures_whole = 0;
            self.phase = Phase::Gathering;
            return Some(Effect::Gather(self.batch));
        }
        // One block is left. What failed before were larger batches: it has its own three runs.
        self.phase = if self.failures_whole < FAILURES_MAX {
            Phase::Resting(now + self.rest(random))
        } else {
            Phase::Failed
        };
        None
    }

    fn rest(&self, random: f64) -> Duration {
        Backoff::CALL.delay(self.own_failures + self.other_failures, random)
    }

    fn committed(&mut self) -> Option<Effect> {
        if self.phase != Phase::Committing {
            return None;
        }
        self.batch += 1;
        self.publishing = true;
        self.phase = if self.input_failed { Phase::Failed } else { Phase::Idle };
        Some(Effect::Publish)
    }

    fn published(&mut self) -> Vec<Effect> {
        self.publishing = false;
        let mut effects = vec![Effect::Notify];
        if self.phase == Phase::Ready {
            self.phase = Phase::Committing;
            effects.push(Effect::Commit);
        }
        effects
    }

    /// Gives up the batch in the making when its time is over: it is not committed. Past the deadline
    /// of a drain a batch that has failed before is not tried again.
    fn give_up(&mut self) -> Option<Effect> {
        let is_late = self.is_late();
        let has_failed = self.own_failures + self.other_failures > 0;
        let may_wait = !(self.patience_over || is_late && has_failed);
        let is_running = matches!(self.phase, Phase::Running(_));
        if may_wait || !(is_running && is_late || self.waits_for_a_run()) {
            return None;
        }
        self.give_up_making();
        is_running.then_some(Effect::CancelRun)
    }

    fn waits_for_a_run(&self) -> bool {
        matches!(self.phase, Phase::Gathering | Phase::Resting(_))
    }

    fn give_up_making(&mut self) {
        self.phase = Phase::Idle;
        if self.is_late() {
            self.wish = Wish::DrainDeadline;
        }
    }

    /// Waits no longer for a commit or a publication. Whether the commit was applied is not known
    /// then: the next start finds out.
    fn abandon(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Committing && !self.publishing {
            return Vec::new();
        }
        self.publishing = false;
        let mut effects = vec![Effect::Abandon];
        if matches!(self.phase, Phase::Running(_)) {
            effects.push(Effect::CancelRun);
        }
        if self.input_failed {
            self.phase = Phase::Failed;
        }
        if !matches!(self.phase, Phase::Failed | Phase::Over) {
            self.give_up_making();
        }
        effects
    }

    /// Nothing new is begun; a commit that is on its way is waited for.
    fn input_failed(&mut self) -> Option<Effect> {
        self.input_failed = true;
        match self.phase {
            Phase::Committing | Phase::Failed | Phase::Over => None,
            Phase::Running(_) => {
                self.phase = Phase::Failed;
                Some(Effect::CancelRun)
            }
            _ => {
                self.phase = Phase::Failed;
                None
            }
        }
    }

    fn end_if_done(&mut self) -> Option<Effect> {
        if self.phase == Phase::Failed && !self.publishing {
            self.phase = Phase::Over;
            return Some(Effect::Fail);
        }
        if self.phase != Phase::Idle || self.publishing {
            return None;
        }
        let ended = match self.wish {
            Wish::GoOn | Wish::Drain => return None,
            Wish::Last if self.has_parts() && self.deadline_over => Ended::DrainDeadline,
            Wish::Last if self.has_parts() => return None,
            Wish::Stop => Ended::Stopped,
            Wish::Last => Ended::Drained,
            Wish::DrainDeadline => Ended::DrainDeadline,
        };
        self.phase = Phase::Over;
        Some(Effect::End(ended))
    }
}

/// Between cuts while draining: what is there is worth a batch at once.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
