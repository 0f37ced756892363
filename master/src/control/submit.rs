//! Submissions: the first under a name, the next after an end, one in the place of another, and one
//! that is only said again.

use millrace_common::error::Error;
use millrace_common::id::ApplicationName;
use millrace_proto::v1;

use super::core::{Core, unknown};
use crate::application::{Admitted, Application, admission, replays};
use crate::moment::Moment;

impl Core {
    /// An application is submitted. What the submitter is told once the ticket is written.
    ///
    /// # Errors
    /// As admission says; [`Code::UnknownQueue`] and [`Code::QueueDenied`]; [`Code::NameInUse`] while
    /// an application of this name is live and this is no upgrade; [`Code::RequestReused`].
    ///
    /// [`Code::UnknownQueue`]: millrace_common::error::Code::UnknownQueue
    /// [`Code::QueueDenied`]: millrace_common::error::Code::QueueDenied
    /// [`Code::NameInUse`]: millrace_common::error::Code::NameInUse
    /// [`Code::RequestReused`]: millrace_common::error::Code::RequestReused
    pub(crate) fn submit(
        &mut self,
        now: Moment,
        request: &v1::SubmitApplicationRequest,
        owner: String,
    ) -> Result<(v1::SubmitApplicationResponse, u64), Error> {
        let nodes = self.possible_nodes();
        let (spec, submission) = admission::admit(request, owner, &nodes)?;
        let name = spec.name.clone();
        if let Some(application) = self.applications.get(&name)
            && let Some(revision) = application.submitted_before(&submission)?
        {
            let mut response = self.describe(&name, Vec::new())?;
            response.revision = revision;
            response.repeated_request = true;
            return Ok((response, self.last_ticket));
        }
        self.queues.admit(&spec.queue, &submission.owner)?;
        if request.upgrade {
            admission::within_queue(&spec, &self.queues, &nodes)?;
        }
        replays::check(&spec, request.upgrade, |name| self.applications.get(name))?;
        let warnings = self.take_in(now, &name, submission, request.upgrade)?;
        let ticket = self.save(&name).unwrap_or_default();
        self.step(now);
        Ok((self.describe(&name, warnings)?, ticket))
    }

    /// Puts a submission where it belongs; what the submitter should know.
    fn take_in(
        &mut self,
        now: Moment,
        name: &ApplicationName,
        submission: Admitted,
        is_upgrade: bool,
    ) -> Result<Vec<String>, Error> {
        let sequence = self.last_sequence + 1;
        let mut warnings = Vec::new();
        match self.applications.get_mut(name) {
            Some(application) => {
                warnings.extend(application.unused_start(&submission.spec));
                if is_upgrade && application.is_live() {
                    // It keeps its place in the order of submission.
                    let actions = application.upgrade(now, submission)?;
                    self.perform(name, actions);
                    return Ok(warnings);
                }
                application.resubmit(now, submission, sequence)?;
            }
            None => {
                let (timing, own) = (self.timing, name.clone());
                let made = Application::submit(now, timing, own, submission, sequence);
                self.applications.insert(name.clone(), made);
            }
        }
        if is_upgrade {
            warnings.push(format!(
                "nothing was running under the name {name}: there was nothing to upgrade, it is started"
            ));
        }
        self.last_sequence = sequence;
        Ok(warnings)
    }

    fn describe(
        &self,
        name: &ApplicationName,
        mut warnings: Vec<String>,
    ) -> Result<v1::SubmitApplicationResponse, Error> {
        let application = self.applications.get(name).ok_or_else(|| unknown(name))?;
        let is_placed = application.driver.is_some() || !application.is_live();
        if !is_placed {
            warnings.push(format!("queued: {}", application.reason()));
        }
        let follows = application.next_revision();
        let mut response = v1::SubmitApplicationResponse {
            name: name.to_string(),
            attempt: application.attempt() + u32::from(!is_placed || follows.is_some()),
            warnings,
            revision: follows.unwrap_or_else(|| application.revision()),
            ..Default::default()
        };
        response.set_state(application.state());
        Ok(response)
    }
}
