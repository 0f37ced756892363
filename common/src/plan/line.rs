//! The lines of a plan as people read them, and sizes and rates in words.

use serde::Serialize;

use super::{Nodes, places};
use crate::resources::Resources;

/// How a line of the arithmetic stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A number without a bound.
    Info,
    /// It holds.
    Ok,
    /// It holds, but not at every load: `why` says what happens then.
    Tight,
    /// A number that it needs is not known.
    Unknown,
    /// It does not hold while others have what they have.
    NotNow,
    /// It can not hold on this cluster.
    Never,
}

impl Status {
    /// True when the application can not start for it.
    #[must_use]
    pub fn fails(self) -> bool {
        matches!(self, Self::NotNow | Self::Never)
    }
}

/// One inequality: what is needed, and what there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is about, as `executors` or `reads of app-logs`.
    pub what: String,
    /// What is needed, with its unit; empty for a number without a bound.
    pub needs: String,
    /// What there is, with its unit.
    pub has: String,
    /// Whether it holds.
    pub status: Status,
    /// What fails, or what happens at a full load, in one sentence with its numbers.
    pub why: Option<String>,
    /// The setting that mends a line that is tight, as `batch.interval=2s`.
    pub setting: Option<String>,
}

impl Line {
    pub(super) fn new(what: impl Into<String>, needs: String, has: String, status: Status) -> Self {
        Self { what: what.into(), needs, has, status, why: None, setting: None }
    }

    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    pub(super) fn mended_by(mut self, setting: Option<String>) -> Self {
        self.setting = setting;
        self
    }
}

pub(super) fn nodes(nodes: &Nodes) -> Line {
    let (all, free) = (places::sum(&nodes.offered), places::sum(&nodes.free));
    let mut has = format!("{}: {}", counted(nodes.offered.len() as u64, "node"), words(all));
    if free != all {
        has = format!("{has}; free now {}", words(free));
    }
    if nodes.num_forbidden > 0 {
        has = format!("{has}; {} it may not use", counted(nodes.num_forbidden as u64, "node"));
    }
    Line::new("cluster", String::new(), has, Status::Info)
}

pub(super) fn task_cores(cores: u32, executors: u32) -> Line {
    let total = u64::from(cores) * u64::from(executors);
    let has = format!("{executors} x {cores} = {}, receivers hold none", counted(total, "core"));
    Line::new("tasks", "1 core".to_owned(), has, Status::Ok)
}

/// Cores and memory, the memory rounded.
pub(super) fn words(resources: Resources) -> String {
    let cores = counted(u64::from(resources.cores), "core");
    format!("{cores}, {}", about(resources.memory.as_u64()))
}

/// A number of things.
pub(super) fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// Bytes with three digits at most, as `1.2GiB`.
pub(super) fn about(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let whole = (value - value.round()).abs() < 0.05 || value >= 100.0;
    if whole { format!("{value:.0}{}", UNITS[unit]) } else { format!("{value:.1}{}", UNITS[unit]) }
}

/// A number with its thousands apart, as `17,280`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_are_short() {
        let sizes = [0, 1_023, 966_367_641, 3 << 30, 1_288_490_188, 137_438_953_472 + (1 << 30)];
        assert_eq!(sizes.map(about), ["0B", "1KiB", "922MiB", "3GiB", "1.2GiB", "129GiB"]);
        assert_eq!([0, 999, 1_000, 138_240].map(grouped), ["0", "999", "1,000", "138,240"]);
        assert_eq!((counted(1, "node"), counted(0, "node")), ("1 node".into(), "0 nodes".into()));
    }
}
