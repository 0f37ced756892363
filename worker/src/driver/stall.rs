//! Whether this process stood still: stopped, swapped out, or its machine suspended.
//!
//! Promises: silence is held against others only for time in which this process could hear. Owned by
//! the actors that judge silence by their ticks. Never does: read a clock.

use std::time::Duration;

/// A tick that is later than this was not late by itself.
pub const STALL_MIN: Duration = Duration::from_secs(1);

/// Looks at when ticks come.
#[derive(Debug)]
pub struct Stall {
    every: Duration,
    ticked_at: Option<Duration>,
}

impl Stall {
    /// Ticks are to come after each `every`.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, ticked_at: None }
    }

    /// A tick came; gives how long this process stood still before it, if it did.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        let last = self.ticked_at.replace(now)?;
        let late = now.saturating_sub(last).saturating_sub(self.every);
        (late >= STALL_MIN).then_some(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gap_between_ticks_is_a_stall() {
        let ms = Duration::from_millis;
        let mut stall = Stall::new(ms(100));
        assert_eq!(stall.tick(ms(90_000)), None, "the first tick has no one before it");
        assert_eq!(stall.tick(ms(90_100)), None);
        assert_eq!(stall.tick(ms(91_199)), None, "a busy machine");
        assert_eq!(stall.tick(ms(98_299)), Some(ms(7_000)));
        assert_eq!(stall.tick(ms(98_399)), None, "each stall is told once");
    }
}
