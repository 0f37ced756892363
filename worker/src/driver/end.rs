//! How a driver ends, as its exit code and as its last word to the master.
//!
//! Promises: every end but a kill is told with its reason. Never does: act.

use millrace_common::error::{Code, Error};
use millrace_common::exit::HANDED_OVER;
use millrace_common::id::ApplicationName;
use millrace_proto::v1;

/// How the driver ended.
#[derive(Debug)]
pub enum End {
    /// As asked.
    Stopped,
    /// As asked, before it was at work; what it leaves to the next start, for people.
    Early(String),
    /// All of the range that was to be read is committed and published; what was read, for people.
    Finished(String),
    /// At the edge of a batch, for another attempt on another node.
    HandedOver,
    /// The drain took too long: this is the lag.
    DrainDeadline(Error),
    /// The specification can not run.
    Rejected(Error),
    /// Something failed; true when another attempt may do better.
    Failed(Error, bool),
    /// The process was told to end at once.
    Killed,
}

impl End {
    /// The process's exit code: 0 stopped or finished, 1 failed or rejected, 5 drain deadline,
    /// [`HANDED_OVER`] moved, 143 SIGTERM.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped | Self::Early(_) | Self::Finished(_) => 0,
            Self::Rejected(_) | Self::Failed(..) => 1,
            Self::DrainDeadline(_) => 5,
            Self::HandedOver => HANDED_OVER,
            Self::Killed => 143,
        }
    }

    /// As the master hears it.
    #[must_use]
    pub fn to_proto(&self) -> v1::DriverFinished {
        use v1::ApplicationState as State;
        let (state, retryable, error) = match self {
            Self::Stopped | Self::Early(_) | Self::HandedOver | Self::Killed => {
                (State::Stopped, false, None)
            }
            Self::Finished(_) => (State::Finished, false, None),
            Self::DrainDeadline(error) => (State::Stopped, false, Some(error)),
            Self::Rejected(error) => (State::Rejected, false, Some(error)),
            Self::Failed(error, retryable) => (State::Failed, *retryable, Some(error)),
        };
        v1::DriverFinished {
            state: state.into(),
            retryable,
            reason: match self {
                Self::Finished(what) | Self::Early(what) => what.clone(),
                _ => error.map_or_else(|| "stopped as asked".to_owned(), ToString::to_string),
            },
            failure: error.map(Error::to_failure),
            handed_over: matches!(self, Self::HandedOver),
        }
    }
}

/// The error of a drain that is ended by its deadline: `how_far` it came, and why no further. What is
/// committed and not published is left to the next start.
#[must_use]
pub fn drain_overdue(
    name: &ApplicationName,
    how_far: &str,
    cause: Option<v1::Failure>,
    is_published: bool,
) -> Error {
    let left = match is_published {
        true => "",
        false => "; what is committed becomes visible at its next start",
    };
    let message = format!("the drain of {name} did not end by its deadline; {how_far}{left}");
    let again = "submit it again and drain with a longer deadline; nothing is lost";
    match cause {
        None => Error::new(Code::DrainDeadline, message, again),
        Some(cause) => {
            let next_move = format!("{}; then {again}", cause.next_move);
            Error::new(Code::DrainDeadline, message, next_move)
                .caused_by(Error::from_failure(cause))
        }
    }
}

/// True for errors that another attempt may not meet. What denies the first start is the
/// specification's or its owner's; an application that `has_run` had these rights, and gets them
/// back with new credentials, a clock that is set, or a stream that has settled.
#[must_use]
pub fn is_passing(error: &Error, has_run: bool) -> bool {
    match error.code() {
        Code::AwsUnreachable | Code::Throttled | Code::AwsOther => true,
        Code::Forbidden | Code::Credentials | Code::ClockSkew | Code::StreamNotActive => has_run,
        _ => false,
    }
}

/// True for errors of the specification that only the head or the stream could show.
#[must_use]
pub fn is_refusal(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::InvalidValue
            | Code::SourceChanged
            | Code::KclLive
            | Code::KclCheckpoint
            | Code::ReplayRange
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_ends_a_first_start_and_no_restart() {
        for code in [Code::Forbidden, Code::Credentials, Code::ClockSkew, Code::StreamNotActive] {
            let error = Error::new(code, "denied", "wait");
            assert!(is_passing(&error, true) && !is_passing(&error, false), "{code:?}");
        }
        let error = Error::new(Code::StreamMissing, "gone", "make it again");
        assert!(!is_passing(&error, true), "a stream that is gone does not come back by itself");
        let error = Error::new(Code::AwsUnreachable, "away", "wait");
        assert!(is_passing(&error, false));
    }
}
