//! The states of an application and the only ways from one to the next.

use millrace_proto::v1::ApplicationState::{self, *};

/// True for a state that only a new submission leaves.
#[must_use]
pub(crate) fn is_terminal(state: ApplicationState) -> bool {
    matches!(state, Stopped | Failed | Rejected | Killed | Finished)
}

/// The legal transitions; everything else is a defect.
#[must_use]
pub(crate) fn may_become(from: ApplicationState, to: ApplicationState) -> bool {
    match from {
        Unspecified => to == Queued,
        // Waits for a place, for the first time or again after its driver failed.
        Queued => matches!(to, Starting | Stopping | Stopped | Failed | Killed),
        Starting => {
            matches!(to, Running | Queued | Stopping | Stopped | Failed | Rejected | Finished)
        }
        Running => matches!(to, Queued | Stopping | Stopped | Failed | Rejected | Finished),
        Stopping => is_terminal(to),
        Stopped | Failed | Rejected | Killed | Finished => to == Queued,
    }
}

/// The state's name as people and JSON see it.
#[must_use]
pub(crate) fn name(state: ApplicationState) -> &'static str {
    state.as_str_name().trim_start_matches("APPLICATION_STATE_")
}
