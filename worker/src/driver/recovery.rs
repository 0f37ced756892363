//! k1 beside the master: what an attempt before committed is completed while the driver hears and
//! tells.
//!
//! Promises: the master is told what is waited for, and of the batch that was completed; a stop, a
//! move or the deadline of a drain is heeded within [`GRACE`], and what is left then is left to the
//! next start. Owned by the acquisition. Never does: decide what is complete.

use std::time::Duration;

use millrace_common::head::{names_dead_letters, run_of_key};
use millrace_common::id::ApplicationName;
use millrace_proto::v1;
use millrace_proto::v1::driver_command::Body as Command;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::batch::making::Totals;
use super::commit::{Acquired, CommitError, Committer, Published};
use super::end::{End, drain_overdue};
use super::head::{self, Head, PendingUpload};
use super::receivers::core::Snapshot;
use super::report::report;
use super::session::MasterHandle;
use super::upgrade::Present;

/// How long k1 may go on after a stop, while S3 takes what it is told.
const GRACE: Duration = Duration::from_secs(5);

/// Why a driver does not get to work.
#[derive(Debug)]
pub enum Halt {
    /// A step of the commit did not succeed.
    Commit(CommitError),
    /// It was asked to end.
    Asked(End),
}

impl<E: Into<CommitError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Commit(error.into())
    }
}

/// What k1 is run with.
#[derive(Clone, Copy)]
pub struct Recovery<'a> {
    /// Performs k1.
    pub committer: &'a Committer,
    /// The application, for whoever asks what may follow it.
    pub present: &'a Present,
    /// Hears and asks.
    pub master: &'a MasterHandle,
    /// Cancelled when the driver ends at once.
    pub cancel: &'a CancellationToken,
}

impl Recovery<'_> {
    /// k1. Commands that it does not heed itself are put to `early`.
    ///
    /// # Errors
    /// As [`Committer::recover`]; [`Halt::Asked`] when it was asked to end first.
    pub async fn run(
        self,
        acquired: Acquired,
        commands: &mut mpsc::Receiver<Command>,
        early: &mut Vec<Command>,
    ) -> Result<Published, Halt> {
        let left = Left::of(&self.present.spec.name, acquired.head());
        let clock = &*self.present.world.clock;
        let recovering = self.committer.recover(acquired, self.cancel);
        tokio::pin!(recovering);
        let mut reports = tokio::time::interval(self.present.world.times.report_interval);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = Asked::default();
        loop {
            let command = tokio::select! {
                proof = &mut recovering => {
                    let proof = proof?;
                    early.extend(asked.passed_on(clock.monotonic()));
                    self.tell(left, &proof);
                    return Ok(proof);
                }
                command = commands.recv() => command.ok_or(CommitError::Cancelled)?,
                _ = reports.tick() => {
                    self.report(&left);
                    match asked.due(clock.monotonic(), self.committer.status().is_waiting()) {
                        None => continue,
                        Some(due) => return Err(Halt::Asked(self.end(due, &left))),
                    }
                }
            };
            match command {
                Command::CheckSpec(asked) => {
                    self.present.clone().look(*asked, self.master.clone(), self.cancel.clone());
                }
                command => early.extend(asked.take(command, clock.monotonic())),
            }
        }
    }

    fn report(&self, left: &Left) {
        let Some(batch) = &left.open else { return };
        let totals = Totals { overall: left.totals, ..Totals::since(batch.number) };
        let late = self.committer.status().degraded().borrow().clone();
        let (input, clock) = (Snapshot::default(), &*self.present.world.clock);
        let scaling = v1::ScalingReport::default();
        self.master.report(v1::DriverReport {
            scaling: None,
            doing: format!(
                "completes the {} files of batch {}, which an attempt before committed",
                batch.num_files, batch.number
            ),
            ..report(&totals, &[], &input, late.as_ref(), scaling, clock)
        });
    }

    /// The master hears of a batch whose own driver may not have told of it any more.
    fn tell(&self, left: Left, proof: &Published) {
        // After a repair the head is another.
        let Some(batch) = left.open.filter(|_| proof.head().commit_id == left.commit_id) else {
            return;
        };
        tracing::info!(batch = batch.number, files = batch.num_files, "completed what was left");
        let published_ms = self.present.world.clock.now_ms();
        self.master.batch(v1::Batch { published_ms, ..batch });
    }

    fn end(&self, due: Due, left: &Left) -> End {
        let what = match &left.open {
            Some(batch) => format!("the files of batch {}", batch.number),
            None => "what is committed".to_owned(),
        };
        match due {
            Due::Stop => {
                End::Early(format!("stopped as asked; {what} will be complete at its next start"))
            }
            Due::Move => End::HandedOver,
            Due::DrainDeadline => {
                let cause = self.committer.status().degraded().borrow().clone();
                let name = &self.present.spec.name;
                End::DrainDeadline(drain_overdue(name, "nothing was read yet", cause, false))
            }
        }
    }
}

/// What an attempt before left behind.
struct Left {
    commit_id: String,
    totals: head::Totals,
    /// Its batch, when files of it may have to be completed.
    open: Option<v1::Batch>,
}

impl Left {
    fn of(application: &ApplicationName, head: &Head) -> Self {
        let is_open = !head.pending.is_empty() && !head.is_published;
        Self {
            commit_id: head.commit_id.clone(),
            totals: head.totals,
            open: is_open.then(|| batch_of(application, head)),
        }
    }
}

/// The head's batch as the master hears of it: what the head does not tell is 0.
fn batch_of(application: &ApplicationName, head: &Head) -> v1::Batch {
    let before = head.before.as_ref().map(|before| before.totals.records);
    let is_dead = |upload: &&PendingUpload| names_dead_letters(application, &upload.key);
    let (dead, results): (Vec<_>, Vec<_>) = head.pending.iter().partition(is_dead);
    let rows = |uploads: &[&PendingUpload]| uploads.iter().map(|upload| upload.rows).sum();
    let run = head.pending.iter().find_map(|upload| run_of_key(application, &upload.key));
    let file = |upload: &PendingUpload| format!("s3://{}/{}", upload.bucket, upload.key);
    v1::Batch {
        number: head.batch,
        epoch: run.map_or(0, |run| run.epoch),
        num_records: before.map_or(0, |before| head.totals.records.saturating_sub(before)),
        num_rows: rows(&results),
        num_bad_records: rows(&dead),
        num_files: u32::try_from(head.pending.len()).unwrap_or(u32::MAX),
        files: head.pending.iter().map(file).collect(),
        recovered: true,
        ..Default::default()
    }
}

/// What the driver is to do instead of going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Stop,
    Move,
    DrainDeadline,
}

/// What the master asked for while k1 ran, and when it did first.
#[derive(Debug, Default)]
struct Asked {
    stop: Option<(Command, Duration)>,
    drain: Option<(v1::StopDriver, Duration)>,
}

impl Asked {
    /// Takes in a command; gives those back that say nothing of an end.
    fn take(&mut self, command: Command, now: Duration) -> Option<Command> {
        match command {
            Command::Stop(stop) if stop.drain => {
                self.drain.get_or_insert((stop, now));
                None
            }
            Command::Stop(_) | Command::HandOver(_) => {
                self.stop.get_or_insert((command, now));
                None
            }
            other => Some(other),
        }
    }

    /// What is due now. k1 is not waited for while S3 or DynamoDB does not take what it is told.
    fn due(&self, now: Duration, is_waiting: bool) -> Option<Due> {
        if let Some((command, since)) = &self.stop
            && (is_waiting || now.saturating_sub(*since) >= GRACE)
        {
            return Some(if matches!(command, Command::Stop(_)) { Due::Stop } else { Due::Move });
        }
        let (stop, since) = self.drain.as_ref()?;
        let deadline = Duration::from_millis(stop.deadline_ms);
        let is_over = !deadline.is_zero() && now.saturating_sub(*since) >= deadline;
        is_over.then_some(Due::DrainDeadline)
    }

    /// For the driver at work: a drain has what is left of its time.
    fn passed_on(self, now: Duration) -> impl Iterator<Item = Command> {
        let drain = self.drain.map(|(stop, since)| {
            let passed = u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX);
            let deadline_ms = match stop.deadline_ms {
                0 => 0,
                deadline_ms => deadline_ms.saturating_sub(passed).max(1),
            };
            Command::Stop(v1::StopDriver { deadline_ms, ..stop })
        });
        drain.into_iter().chain(self.stop.map(|(command, _)| command))
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::error::{Code, Error};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain(deadline_ms: u64) -> Command {
        Command::Stop(v1::StopDriver { drain: true, deadline_ms })
    }

    #[test]
    fn a_stop_waits_a_little_and_not_for_an_s3_that_refuses() {
        let mut asked = Asked::default();
        assert_eq!(asked.take(Command::Stop(v1::StopDriver::default()), SECOND), None);
        // Said again by a new master: it counts from the first time.
        assert_eq!(asked.take(Command::Stop(v1::StopDriver::default()), SECOND * 4), None);
        assert_eq!(asked.due(SECOND * 5, false), None);
        assert_eq!(asked.due(SECOND, true), Some(Due::Stop));
        assert_eq!(asked.due(SECOND * 6, false), Some(Due::Stop));
        let mut asked = Asked::default();
        assert_eq!(asked.take(Command::HandOver(v1::HandOver::default()), SECOND), None);
        assert_eq!(asked.due(SECOND, true), Some(Due::Move));
    }

    #[test]
    fn a_drain_has_its_deadline_and_hands_on_what_is_left_of_it() {
        let mut asked = Asked::default();
        asked.take(drain(3_000), SECOND);
        assert_eq!(asked.due(SECOND * 3, true), None, "it may wait until then");
        assert_eq!(asked.due(SECOND * 4, false), Some(Due::DrainDeadline));
        let left: Vec<_> = asked.passed_on(SECOND * 2).collect();
        assert_eq!(left, [drain(2_000)]);
        let mut asked = Asked::default();
        asked.take(drain(0), SECOND);
        assert_eq!(asked.due(SECOND * 10_000, true), None, "without a deadline");
        assert_eq!(asked.passed_on(SECOND * 9).collect::<Vec<_>>(), [drain(0)]);
        let bounds = Command::Bounds(v1::ExecutorBounds::default());
        assert_eq!(Asked::default().take(bounds.clone(), SECOND), Some(bounds));
    }

    #[test]
    fn errors_of_every_kind_halt() {
        let halts = |halt: Halt| matches!(halt, Halt::Commit(CommitError::Failed(_)));
        assert!(halts(Error::new(Code::AwsOther, "no", "wait").into()));
    }
}
