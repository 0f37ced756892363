//! Waits for a state, with a deadline and a message; a test never waits for time to pass.

use std::time::{Duration, Instant};

/// Between two looks at a state: short beside every deadline, long beside the cost of a look.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// How long anything in a test may take before it counts as hanging. Generous, because the machine
/// may be shared with a compiler; a healthy cluster needs a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks again and again until `look` gives `Ok`, and returns that. `Err` says what is missing
/// still; the last one becomes part of the failure.
///
/// # Panics
/// When `deadline` has passed.
pub async fn within<T, F>(deadline: Duration, what: &str, look: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    attempt(deadline, look)
        .await
        .unwrap_or_else(|missing| panic!("{what}: not within {deadline:?}; last seen: {missing}"))
}

/// [`within`] for what may fail to come.
///
/// # Errors
/// What was missing last, when `deadline` has passed.
pub async fn attempt<T, E, F>(deadline: Duration, mut look: F) -> Result<T, E>
where
    F: AsyncFnMut() -> Result<T, E>,
{
    let started = Instant::now();
    loop {
        match look().await {
            Err(_) if started.elapsed() < deadline => tokio::time::sleep(BETWEEN_LOOKS).await,
            decided => return decided,
        }
    }
}

/// [`within`] for code that can not wait on a future, as `drop`: true when `look` became true.
pub fn blocking(deadline: Duration, mut look: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !look() {
        if started.elapsed() >= deadline {
            return false;
        }
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_value_is_returned_as_soon_as_it_is_there() {
        let mut looks = 0;
        let value = within(PATIENCE, "three looks", async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks}")) }
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "the moon: not within 0ns; last seen: clouds")]
    async fn a_missed_deadline_says_what_was_seen_last() {
        within(Duration::ZERO, "the moon", async || Err::<(), _>("clouds".to_owned())).await;
    }

    #[test]
    fn blocking_gives_up_at_the_deadline() {
        assert!(!blocking(Duration::ZERO, || false));
        assert!(blocking(Duration::ZERO, || true));
    }
}
