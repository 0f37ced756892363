//! The revisions of an application: which specification is in use, which is to follow, and which to
//! go back to.
//!
//! Promises: a revision takes the place of another only at the edge of a batch, after the running
//! driver has found nothing wrong with it; until it is at work the one before is kept, and goes on
//! when the new one turns out not to run. What is remembered is bounded.

use millrace_common::error::{Code, Error};
use millrace_proto::v1::{self, ApplicationState, RevisionState, driver_command};

use super::core::{Action, Application};
use super::moving::hand_over;
use super::record::Revised;
use super::state::name as state_name;
use crate::moment::{Moment, format_ms};

/// Revisions that stay listed. Each is a few hundred bytes of the record, which is one item.
const REVISIONS_MAX: usize = 20;

/// A submission that was found to be one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Admitted {
    /// What is to run.
    pub spec: v1::ApplicationSpec,
    /// Its hash.
    pub hash: String,
    /// The submitter's name for the submission; may be empty.
    pub request_id: String,
    /// Who submits; may be empty.
    pub owner: String,
}

impl Application {
    /// The revision that this very submission has made before, if it has.
    ///
    /// # Errors
    /// [`Code::RequestReused`] when its request id was that of another specification.
    pub(crate) fn submitted_before(&self, submission: &Admitted) -> Result<Option<u32>, Error> {
        let Admitted { request_id, hash, .. } = submission;
        let mut revisions = self.record.application.revisions.iter();
        let known = revisions.rfind(|known| known.request_id == *request_id);
        match known.filter(|_| !request_id.is_empty()) {
            None => Ok(None),
            Some(known) if known.spec_hash == *hash => Ok(Some(known.number)),
            Some(known) => Err(Error::new(
                Code::RequestReused,
                format!(
                    "the request id {request_id:?} was used for revision {} of {}, which is another \
                     specification",
                    known.number, self.name
                ),
                "choose a new request id for each submission, and the same one only to repeat it",
            )),
        }
    }

    /// The number of the revision in use.
    pub(crate) fn revision(&self) -> u32 {
        self.record.application.revision
    }

    /// The number of the revision that is to follow, if one is.
    pub(crate) fn next_revision(&self) -> Option<u32> {
        self.record.next.as_ref().map(|next| next.revision)
    }

    /// The refusal of a submission under the name of an application that is live.
    pub(super) fn name_in_use(&self) -> Error {
        let shown = &self.record.application;
        let owner = match shown.owner.as_str() {
            "" => String::new(),
            owner => format!(" of {owner}"),
        };
        Error::new(
            Code::NameInUse,
            format!(
                "application {}{owner} is {} since {}, in attempt {} of revision {}",
                self.name,
                state_name(self.state()),
                format_ms(shown.changed_ms),
                self.record.last_attempt,
                shown.revision,
            ),
            format!(
                "put this one in its place with `millrace submit --upgrade`, end it with `millrace \
                 stop {}`, or use another name",
                self.name
            ),
        )
    }

    /// Lists a revision; its number.
    fn list_revision(&mut self, now: Moment, submission: &Admitted, state: RevisionState) -> u32 {
        let kept = [&self.record.next, &self.record.before]
            .map(|revised| revised.as_ref().map_or(0, |revised| revised.revision));
        let application = &mut self.record.application;
        let revisions = &mut application.revisions;
        let number = revisions.last().map_or(0, |last| last.number) + 1;
        let mut revision = v1::Revision {
            number,
            submitted_ms: now.wall_ms,
            submitted_by: submission.owner.clone(),
            request_id: submission.request_id.clone(),
            spec_hash: submission.hash.clone(),
            ..Default::default()
        };
        revision.set_state(state);
        revisions.push(revision);
        let is_kept = |number| number == application.revision || kept.contains(&number);
        if revisions.len() > REVISIONS_MAX
            && let Some(oldest) = revisions.iter().position(|old| !is_kept(old.number))
        {
            revisions.remove(oldest);
        }
        number
    }

    fn set_revision(&mut self, now: Moment, number: u32, state: RevisionState, reason: &str) {
        let revisions = &mut self.record.application.revisions;
        let Some(revision) = revisions.iter_mut().find(|known| known.number == number) else {
            return;
        };
        revision.set_state(state);
        reason.clone_into(&mut revision.reason);
        let is_over = matches!(state, RevisionState::Ended | RevisionState::Refused);
        revision.ended_ms = if is_over { now.wall_ms } else { 0 };
    }

    fn refuse_revision(&mut self, now: Moment, number: u32, failure: v1::Failure) {
        let reason = format!("{}: {}", failure.code, failure.message);
        self.set_revision(now, number, RevisionState::Refused, &reason);
        let revisions = &mut self.record.application.revisions;
        if let Some(revision) = revisions.iter_mut().find(|known| known.number == number) {
            revision.failure = Some(failure);
        }
    }

    /// Puts the first, or after an end the next, revision to use.
    pub(super) fn begin_revision(&mut self, now: Moment, submission: Admitted) {
        let number = self.list_revision(now, &submission, RevisionState::Starting);
        let application = &mut self.record.application;
        application.revision = number;
        application.owner = submission.owner;
        application.spec = Some(submission.spec);
        self.record.next = None;
        self.record.before = None;
    }

    /// Another specification is to take the place of the one in use.
    ///
    /// # Errors
    /// [`Code::WrongState`] while it stops, or while another is on its way.
    pub(crate) fn upgrade(
        &mut self,
        now: Moment,
        submission: Admitted,
    ) -> Result<Vec<Action>, Error> {
        if let Some(next) = &self.record.next {
            return Err(Error::new(
                Code::WrongState,
                format!("revision {} of {} is on its way already", next.revision, self.name),
                format!("wait for it: `millrace history {}`", self.name),
            ));
        }
        if self.state() == ApplicationState::Stopping || self.is_concluded() {
            return Err(Error::new(
                Code::WrongState,
                format!("{} is about to end and can not be upgraded", self.name),
                "wait for its end, then submit without --upgrade",
            ));
        }
        let revision = self.list_revision(now, &submission, RevisionState::Checking);
        self.record.next = Some(Revised {
            spec: submission.spec,
            revision,
            owner: submission.owner,
            is_checked: false,
        });
        if self.driver.is_none() {
            self.take_next(now);
            return Ok(vec![Action::Save]);
        }
        let mut actions = vec![Action::Save];
        self.ask_to_upgrade(&mut actions);
        Ok(actions)
    }

    /// What the driver has to do for the revision that is to follow, said again when it comes back.
    pub(super) fn ask_to_upgrade(&mut self, actions: &mut Vec<Action>) {
        let (Some(next), Some(driver)) = (&self.record.next, &mut self.driver) else { return };
        if next.is_checked {
            driver.is_leaving = true;
            actions.push(Action::Tell(follows(next.revision)));
        } else {
            let (revision, spec) = (next.revision, Some(next.spec.clone()));
            let check = Box::new(v1::CheckSpec { revision, spec });
            actions.push(Action::Tell(driver_command::Body::CheckSpec(check)));
        }
    }

    /// The driver has looked at the revision that is to follow.
    pub(super) fn spec_checked(&mut self, now: Moment, checked: v1::SpecChecked) -> Vec<Action> {
        let Some(next) = self.record.next.as_mut().filter(|next| next.revision == checked.revision)
        else {
            return Vec::new();
        };
        if next.is_checked {
            return Vec::new();
        }
        if let Some(failure) = checked.failure {
            self.record.next = None;
            self.refuse_revision(now, checked.revision, failure);
            return vec![Action::Save];
        }
        next.is_checked = true;
        if let Some(driver) = &mut self.driver {
            driver.is_leaving = true;
        }
        vec![Action::SaveThenTell(follows(checked.revision))]
    }

    /// The next revision takes the place of the one in use, whose driver has ended. True when there
    /// is one.
    pub(super) fn take_next(&mut self, now: Moment) -> bool {
        if self.state() == ApplicationState::Stopping {
            return false;
        }
        let Some(next) = self.record.next.take() else { return false };
        let in_use = self.record.application.revision;
        let follows = format!("revision {} followed", next.revision);
        self.set_revision(now, in_use, RevisionState::Ended, &follows);
        self.set_revision(now, next.revision, RevisionState::Starting, "");
        let before = self.put_to_use(next);
        // One that was never at work is nothing to go back to.
        self.record.before.get_or_insert(before);
        true
    }

    /// Changes what is in use; gives what was.
    fn put_to_use(&mut self, revised: Revised) -> Revised {
        let application = &mut self.record.application;
        let before = Revised {
            spec: application.spec.replace(revised.spec).unwrap_or_default(),
            revision: std::mem::replace(&mut application.revision, revised.revision),
            owner: std::mem::replace(&mut application.owner, revised.owner),
            is_checked: true,
        };
        self.record.batch_failures = None;
        self.forget_failures();
        before
    }

    /// The revision in use can not run: the one before goes on, when there is one. True when there
    /// is.
    pub(super) fn take_back(&mut self, now: Moment, failure: Option<v1::Failure>) -> bool {
        if self.state() == ApplicationState::Stopping {
            return false;
        }
        let Some(before) = self.record.before.take() else { return false };
        let refused = self.record.application.revision;
        self.refuse_revision(now, refused, failure.unwrap_or_default());
        let goes_on = format!("revision {refused} was refused");
        self.set_revision(now, before.revision, RevisionState::Starting, &goes_on);
        self.put_to_use(before);
        true
    }

    /// The driver has executors: whatever could be wrong with the revision was looked at, and its
    /// containers can live with what they are given.
    pub(super) fn revision_works(&mut self, now: Moment) -> Vec<Action> {
        let number = self.record.application.revision;
        let mut revisions = self.record.application.revisions.iter();
        let is_new = revisions
            .any(|known| known.number == number && known.state() == RevisionState::Starting);
        if !is_new {
            return Vec::new();
        }
        self.record.before = None;
        if let Some(spec) = &mut self.record.application.spec {
            // Said once, and done: a stream that is made again later is another matter.
            spec.drop_sources.clear();
        }
        self.set_revision(now, number, RevisionState::Active, "");
        vec![Action::Save]
    }

    /// The revision that was to follow does not.
    pub(super) fn give_up_next(&mut self, now: Moment, reason: &str) {
        if let Some(next) = self.record.next.take() {
            self.set_revision(now, next.revision, RevisionState::Refused, reason);
        }
    }

    /// The application has ended.
    pub(super) fn end_revisions(&mut self, now: Moment, state: ApplicationState, reason: &str) {
        let number = self.record.application.revision;
        match (state, self.record.application.failure.clone()) {
            (ApplicationState::Rejected, Some(failure)) => {
                self.refuse_revision(now, number, failure);
            }
            _ => self.set_revision(now, number, RevisionState::Ended, reason),
        }
        self.record.before = None;
        self.give_up_next(now, &format!("the application ended first: {reason}"));
    }
}

fn follows(revision: u32) -> driver_command::Body {
    hand_over(format!("revision {revision} follows"))
}
