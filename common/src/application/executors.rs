//! How many executors an application has: a number, or a range and how fast it follows the load.

use std::time::Duration;

use serde::Deserialize;

use super::spec::duration;

/// A backlog this long has more executors asked for.
const GROW_AFTER: Duration = Duration::from_secs(15);
/// When fewer would have done for this long, there are fewer.
const SHRINK_AFTER: Duration = Duration::from_secs(120);

/// A fixed number of executors (`min == max`) or a range to scale in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Form")]
pub struct ExecutorCount {
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// How long there has to be a backlog before there are more. Default 15s.
    pub grow_after: Duration,
    /// How long fewer would have to do before there are fewer. Default 2m.
    pub shrink_after: Duration,
}

impl ExecutorCount {
    /// This many, always.
    #[must_use]
    pub const fn fixed(count: u32) -> Self {
        Self::range(count, count)
    }

    /// As many as the load needs, within these bounds.
    #[must_use]
    pub const fn range(min: u32, max: u32) -> Self {
        Self { min, max, grow_after: GROW_AFTER, shrink_after: SHRINK_AFTER }
    }

    /// As a message gives the two times, where 0 is the default.
    #[must_use]
    pub fn with_times(self, grow_after_ms: u64, shrink_after_ms: u64) -> Self {
        let time = |ms: u64, default| if ms == 0 { default } else { Duration::from_millis(ms) };
        Self {
            grow_after: time(grow_after_ms, self.grow_after),
            shrink_after: time(shrink_after_ms, self.shrink_after),
            ..self
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a number of executors, or { min = 2, max = 16 }, where grow_after \
                               and shrink_after may be given as durations"
)]
enum Form {
    Fixed(u32),
    Range(Range),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    min: u32,
    max: u32,
    #[serde(default = "grow_after", deserialize_with = "duration")]
    grow_after: Duration,
    #[serde(default = "shrink_after", deserialize_with = "duration")]
    shrink_after: Duration,
}

fn grow_after() -> Duration {
    GROW_AFTER
}

fn shrink_after() -> Duration {
    SHRINK_AFTER
}

impl From<Form> for ExecutorCount {
    fn from(form: Form) -> Self {
        match form {
            Form::Fixed(count) => Self::fixed(count),
            Form::Range(Range { min, max, grow_after, shrink_after }) => {
                Self { min, max, grow_after, shrink_after }
            }
        }
    }
}
