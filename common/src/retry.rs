//! Back-off: how long to wait before the next try. The delays are a pure function of the number of
//! tries and a random number, so that cores can use it too; [`call`] is the shell around it.

use std::time::Duration;

use crate::random;

/// Delays that double from `base` to `max`, each shortened by up to half at random so that many
/// callers do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl Backoff {
    /// For calls to AWS and between our processes: 50 ms to 5 s.
    pub const CALL: Self = Self { base: Duration::from_millis(50), max: Duration::from_secs(5) };

    /// For the driver's attempts: 1 s to 60 s.
    pub const ATTEMPT: Self = Self { base: Duration::from_secs(1), max: Duration::from_secs(60) };

    /// Delay after `failures` failures in a row (at least 1); `random` is a number in `0.0..1.0`.
    #[must_use]
    pub fn delay(self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.base.saturating_mul(1 << doublings).min(self.max);
        full.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
    }

    /// The same delay with a random number of this thread's.
    #[must_use]
    pub fn random_delay(self, failures: u32) -> Duration {
        self.delay(failures, random::unit())
    }
}

/// Calls `attempt` until it succeeds, `retryable` says no, or `tries` (at least 1) are used up;
/// waits with `backoff` in between. `attempt` keeps its own deadline.
///
/// # Errors
/// The error of the last try.
pub async fn call<T, E, F, Fut>(
    backoff: Backoff,
    tries: u32,
    retryable: impl Fn(&E) -> bool,
    mut attempt: F,
) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => {
                failures += 1;
                if failures >= tries || !retryable(&error) {
                    return Err(error);
                }
                tokio::time::sleep(backoff.random_delay(failures)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUICK: Backoff =
        Backoff { base: Duration::from_micros(10), max: Duration::from_micros(100) };

    proptest! {
        #[test]
        fn delays_stay_between_half_and_full(failures in 1u32..100, random in 0.0f64..1.0) {
            let delay = Backoff::CALL.delay(failures, random);
            let full = Backoff::CALL.delay(failures, 0.0);
            prop_assert!(full <= Backoff::CALL.max);
            prop_assert!(delay <= full && delay >= full / 2);
            prop_assert!(full <= Backoff::CALL.delay(failures + 1, 0.0));
        }
    }

    #[tokio::test]
    async fn a_call_is_tried_until_its_budget_ends() {
        let mut seen = 0;
        let result: Result<(), u32> = call(
            Backoff::CALL,
            3,
            |_| true,
            || {
                seen += 1;
                let error = seen;
                async move { Err(error) }
            },
        )
        .await;
        assert_eq!(result, Err(3));
    }

    #[tokio::test]
    async fn a_final_error_is_not_tried_again() {
        let result: Result<(), u32> =
            call(QUICK, 9, |error| *error != 7, || async { Err(7) }).await;
        assert_eq!(result, Err(7));
    }
}
