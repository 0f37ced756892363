//! Whether to connect to the driver again, and when to give up.
//!
//! Promises: an executor without its driver ends by itself after the grace time; one that the
//! driver refuses ends at once. Never does: connect.

use std::time::Duration;

use millrace_common::retry::Backoff;
use millrace_common::{Code, Error};

/// How long an executor goes on without its driver. A driver that comes back within it finds the
/// blocks where they were.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a new executor tries to be taken on: its driver may be starting too.
pub const START_GRACE: Duration = Duration::from_secs(30);

/// Between two tries: soon, because a batch may be waiting.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// What a connection met.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// How a connection ended.
#[derive(Debug)]
pub enum Loss {
    /// It broke, or never came about: why. No defect, since drivers end.
    Broken(Cause),
    /// The driver will not have this executor.
    Refused(Error),
}

/// What to do about it.
#[derive(Debug)]
pub enum Next {
    /// Try again after this long.
    Again(Duration),
    /// End with this error.
    GiveUp(Error),
}

/// The state of the session.
#[derive(Debug)]
pub struct SessionCore {
    grace: Duration,
    is_new: bool,
    /// Since when there has been no connection.
    alone_since: Option<Duration>,
    num_failures: u32,
}

impl SessionCore {
    /// Alone since `now`.
    #[must_use]
    pub fn new(now: Duration, grace: Duration) -> Self {
        Self { grace, is_new: true, alone_since: Some(now), num_failures: 0 }
    }

    /// The driver took the executor on.
    pub fn registered(&mut self) {
        self.is_new = false;
        self.alone_since = None;
        self.num_failures = 0;
    }

    /// The connection is lost. `random` is a number in `0.0..1.0`.
    pub fn lost(&mut self, now: Duration, loss: Loss, random: f64) -> Next {
        let cause = match loss {
            Loss::Refused(error) => return Next::GiveUp(error),
            Loss::Broken(cause) => cause,
        };
        let since = *self.alone_since.get_or_insert(now);
        let grace = if self.is_new { self.grace.max(START_GRACE) } else { self.grace };
        if now.saturating_sub(since) >= grace {
            return Next::GiveUp(
                Error::new(
                    Code::DriverUnreachable,
                    format!("the driver could not be reached for {grace:?}"),
                    "nothing: a new attempt of the driver starts executors of its own",
                )
                .caused_by(cause),
            );
        }
        self.num_failures = self.num_failures.saturating_add(1);
        Next::Again(BACKOFF.delay(self.num_failures, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Loss {
        Loss::Broken("broken".into())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_broken_connection_is_made_again_until_the_grace_time_is_over() {
        let mut core = SessionCore::new(at(0), GRACE);
        core.registered();
        for second in 100..110 {
            assert!(matches!(core.lost(at(second), broken(), 0.5), Next::Again(_)));
        }
        let Next::GiveUp(error) = core.lost(at(110), broken(), 0.5) else { panic!("goes on") };
        assert!(error.to_string().contains("driver"), "{error}");
    }

    #[test]
    fn a_registration_makes_the_grace_time_whole_again() {
        let mut core = SessionCore::new(at(0), GRACE);
        assert!(matches!(core.lost(at(9), broken(), 0.5), Next::Again(_)));
        core.registered();
        assert!(matches!(core.lost(at(15), broken(), 0.5), Next::Again(_)));
        assert!(matches!(core.lost(at(24), broken(), 0.5), Next::Again(_)));
        assert!(matches!(core.lost(at(25), broken(), 0.5), Next::GiveUp(_)));
    }

    #[test]
    fn a_new_executor_waits_longer_for_its_driver() {
        let mut core = SessionCore::new(at(0), GRACE);
        assert!(matches!(core.lost(at(29), broken(), 0.5), Next::Again(_)));
        assert!(matches!(core.lost(at(30), broken(), 0.5), Next::GiveUp(_)));
    }

    #[test]
    fn a_refusal_ends_the_executor_at_once() {
        let mut core = SessionCore::new(at(0), GRACE);
        let refusal = Loss::Refused(Error::new(Code::Fenced, "another epoch", "nothing"));
        assert!(
            matches!(core.lost(at(1), refusal, 0.5), Next::GiveUp(e) if e.code() == Code::Fenced)
        );
    }
}
