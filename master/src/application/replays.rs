//! Replays, as the master sees them: applications whose names lead to others.
//!
//! Promises: a replay is not taken that would write where its application writes. Never does: know
//! how far a replay is.

use millrace_common::application::{ApplicationSpec, Replay, replay};
use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;
use millrace_proto::v1;

use super::Application;

impl Application {
    /// What it was submitted with last.
    fn spec(&self) -> Option<&v1::ApplicationSpec> {
        self.record.application.spec.as_ref()
    }

    /// True for an application that reads a past range and then ends by itself.
    pub(crate) fn is_replay(&self) -> bool {
        self.spec().is_some_and(|spec| spec.replay.is_some())
    }
}

/// Whether a submission may have its name, and may write where it wants to, as far as replays are
/// concerned. `known` gives the application of a name.
///
/// # Errors
/// [`Code::ReplayPath`] for a replay in the places of its application; [`Code::WrongState`] for one
/// under the name of something else, or the other way round: a head has one range, or none.
pub(crate) fn check<'a>(
    spec: &ApplicationSpec,
    is_upgrade: bool,
    known: impl Fn(&ApplicationName) -> Option<&'a Application>,
) -> Result<(), Error> {
    let wanted = spec.replay.as_ref().map(Replay::to_proto);
    let before = known(&spec.name).and_then(Application::spec);
    let is_another = before.is_some_and(|before| before.replay != wanted);
    if is_another || (is_upgrade && wanted.is_some()) {
        return Err(Error::new(
            Code::WrongState,
            format!("{} is the name of a replay, or would be, and its head is not", spec.name),
            "submit under another name; `millrace replay` finds one for each replay",
        ));
    }
    let Some(Replay { of, .. }) = &spec.replay else { return Ok(()) };
    let Some(theirs) = known(of).and_then(Application::spec) else { return Ok(()) };
    // One that this master took: it can be read.
    let theirs = ApplicationSpec::from_proto(theirs)?;
    replay::check_places(of, &theirs.sink, &spec.sink)
}

/// Why the head of a replay is not reset.
pub(crate) fn is_not_reset(name: &ApplicationName) -> Error {
    Error::new(
        Code::WrongState,
        format!("{name} is a replay: its range says where it begins"),
        "run `millrace replay` with another range, into another place",
    )
}
