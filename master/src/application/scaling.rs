//! The number of executors that people set by hand.
//!
//! It holds for the attempts to come too, until it is set again or the application is submitted
//! anew. Within its bounds the driver decides; this only says what they are.

use millrace_common::application::ApplicationSpec;
use millrace_common::error::Error;
use millrace_proto::v1::{self, driver_command};

use super::core::{Action, Application};

impl Application {
    /// Between which bounds the number of its executors may be.
    pub(super) fn bounds(&self) -> v1::ExecutorBounds {
        let application = &self.record.application;
        if application.scaled_to > 0 {
            let count = application.scaled_to;
            return v1::ExecutorBounds { min: count, max: count };
        }
        let resources = application.spec.as_ref().and_then(|spec| spec.resources);
        let resources = resources.unwrap_or_default();
        v1::ExecutorBounds { min: resources.min_executors, max: resources.max_executors }
    }

    /// For the driver.
    pub(super) fn tell_bounds(&self) -> driver_command::Body {
        driver_command::Body::Bounds(self.bounds())
    }

    /// Sets the number of executors; 0: as the file says again.
    ///
    /// # Errors
    /// [`millrace_common::error::Code::WrongState`] when it has ended, and
    /// [`millrace_common::error::Code::InvalidValue`] for a number that its file could not ask for.
    pub(crate) fn scale(&mut self, executors: u32) -> Result<Vec<Action>, Error> {
        if !self.is_live() {
            return Err(self.has_ended("scaled"));
        }
        if let Some(spec) = &self.record.application.spec
            && executors > 0
        {
            let mut scaled = spec.clone();
            if let Some(resources) = &mut scaled.resources {
                (resources.min_executors, resources.max_executors) = (executors, executors);
            }
            ApplicationSpec::from_proto(&scaled)?;
        }
        self.record.application.scaled_to = executors;
        Ok(vec![Action::SaveThenTell(self.tell_bounds())])
    }
}
