//! The two times that the cores decide by. They never ask a clock themselves.

use std::time::Duration;

/// Now, as the shell's clock shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Unix time in milliseconds; may jump. Only for showing.
    pub wall_ms: i64,
    /// Time since some fixed moment; never goes back. For every decision.
    pub monotonic: Duration,
}

impl Moment {
    /// Time that has passed since `earlier`.
    pub(crate) fn since(self, earlier: Duration) -> Duration {
        self.monotonic.saturating_sub(earlier)
    }
}

/// A Unix time in milliseconds as people read it, as `2026-01-31T12:00:00Z`.
pub(crate) fn format_ms(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.round(jiff::Unit::Second).unwrap_or(time).to_string(),
        Err(_) => format!("{ms} ms"),
    }
}
