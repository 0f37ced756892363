//! How a command ends: its exit code and, when it did not do what was asked, the reason.
//!
//! Promises: one exit code per meaning, as `docs/cli.md` documents them; a closed standard output
//! (`millrace list | head -1`) is no error.

use std::process::ExitCode;

use millrace_common::error::{Code, Error};

/// The exit codes of `millrace`. They never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked is done.
    Done = 0,
    /// It is not done; the error says why.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The application can never fit on the cluster.
    DoesNotFit = 3,
    /// The application has failed or was rejected.
    ApplicationFailed = 4,
    /// The drain did not end by its deadline; the application stopped at a batch edge.
    DrainDeadline = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By an error, with this exit code.
    Error(Error, Exit),
    /// Nobody reads standard output any more.
    OutputClosed,
}

impl Ended {
    /// The application itself has failed: its failure, under exit code 4.
    pub(crate) fn application(error: Error) -> Self {
        let exit = match error.code() {
            Code::DoesNotFit => Exit::DoesNotFit,
            Code::DrainDeadline => Exit::DrainDeadline,
            _ => Exit::ApplicationFailed,
        };
        Self::Error(error, exit)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        let exit = match error.code() {
            Code::DoesNotFit => Exit::DoesNotFit,
            Code::DrainDeadline => Exit::DrainDeadline,
            _ => Exit::Failed,
        };
        Self::Error(error, exit)
    }
}

/// What a command gives back.
pub(crate) type Outcome<T = ()> = Result<T, Ended>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_error() {
        let exit = |ended| match ended {
            Ended::Error(_, exit) => exit,
            Ended::OutputClosed => Exit::Done,
        };
        let error = |code| Error::new(code, "what", "next");
        assert_eq!(exit(Ended::from(error(Code::MasterUnreachable))), Exit::Failed);
        assert_eq!(exit(Ended::from(error(Code::DoesNotFit))), Exit::DoesNotFit);
        assert_eq!(exit(Ended::application(error(Code::StreamMissing))), Exit::ApplicationFailed);
        assert_eq!(exit(Ended::application(error(Code::DrainDeadline))), Exit::DrainDeadline);
        assert_eq!(Exit::DrainDeadline as u8, 5);
    }
}
