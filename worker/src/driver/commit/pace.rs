//! The commit's time and chance: clock, pauses, deadlines, ids.
//!
//! Promises: in production the machine's, in a simulation the seed's, so that a history can be
//! repeated. Cloning is cheap. Never does: decide anything.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_common::clock::SharedClock;
use millrace_common::random;
use millrace_common::retry::Backoff;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::outcome::CommitError;

type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;
type Uuids = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// Between two sendings of a call to the head's table. Shorter than for S3: it is one small call of
/// one process, and everything waits for it.
const HEAD: Backoff = Backoff { max: Duration::from_secs(2), ..Backoff::CALL };

/// Where the commit takes its time and its randomness from.
#[derive(Clone)]
pub(super) struct Pace {
    clock: SharedClock,
    sleep: Sleep,
    uuids: Uuids,
}

impl Pace {
    /// The machine's, with this clock.
    pub(super) fn of_the_machine(clock: SharedClock) -> Self {
        Self {
            clock,
            sleep: Arc::new(|pause| Box::pin(tokio::time::sleep(pause))),
            uuids: Arc::new(random::uuid),
        }
    }

    /// One that can be repeated.
    #[cfg(test)]
    pub(super) fn simulated(clock: SharedClock, sleep: Sleep, uuids: Uuids) -> Self {
        Self { clock, sleep, uuids }
    }

    /// Time since some fixed moment; never goes back.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// An id that no one else has.
    pub(super) fn uuid(&self) -> Uuid {
        (self.uuids)()
    }

    pub(super) async fn sleep(&self, pause: Duration) {
        (self.sleep)(pause).await;
    }

    /// How long to wait after this many failures in a row.
    pub(super) fn back_off(&self, failures: u32) -> Duration {
        self.delay(Backoff::CALL, failures)
    }

    /// The same for a call to the head's table.
    pub(super) fn head_back_off(&self, failures: u32) -> Duration {
        self.delay(HEAD, failures)
    }

    fn delay(&self, backoff: Backoff, failures: u32) -> Duration {
        let (high, _) = self.uuid().as_u64_pair();
        // The upper 32 bits of a version 4 UUID are random.
        let random = f64::from((high >> 32) as u32) / (f64::from(u32::MAX) + 1.0);
        backoff.delay(failures, random)
    }

    /// What `call` gives, or none when it takes longer than `deadline`.
    pub(super) async fn in_time<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            result = call => Some(result),
            () = self.sleep(deadline) => None,
        }
    }
}

/// What `step` gives, unless the driver is told to end first.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    step: impl Future<Output = T>,
) -> Result<T, CommitError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(CommitError::Cancelled),
        result = step => Ok(result),
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pace")
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::clock::SystemClock;

    use super::*;

    #[test]
    fn the_head_is_asked_again_sooner_than_s3() {
        let pace = Pace::of_the_machine(SystemClock::shared());
        let longest = |pauses: &dyn Fn() -> Duration| (0..100).map(|_| pauses()).max();
        assert!(longest(&|| pace.back_off(30)) > Some(HEAD.max));
        assert!(longest(&|| pace.head_back_off(30)) <= Some(HEAD.max));
    }
}
