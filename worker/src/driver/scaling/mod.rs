//! How many executors a driver asks for, and why: it puts observations together, asks the core, and
//! remembers the last decisions.
//!
//! Promises: what it reports is what it decided by. Owned by the driver's main. Never does: choose
//! which executor goes; the master does, and it goes in order, as one whose node is drained.

pub mod core;

use std::collections::VecDeque;
use std::time::Duration;

use millrace_common::application::ApplicationSpec;
use millrace_common::clock::Clock;
use millrace_proto::v1;

use self::core::{Bounds, Change, Core, Observation, Rules};
use super::executors::core::ExecutorView;
use super::receivers::core::Snapshot;

/// Decisions that a report tells of.
const DECISIONS_MAX: usize = 10;
/// Half of the budget has to hold what is read in this time, so that a batch is not cut more often.
const PACE_MAX: Duration = Duration::from_secs(5);
/// Shards that the receivers of one executor read without being late: each up to five calls a second.
const SHARDS_MAX: u64 = 256;
/// The bytes that are read are counted over at least this long.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// The bytes that the receivers read, by the second.
#[derive(Clone, Copy, Debug)]
struct Intake {
    since: Duration,
    total: u64,
    bytes_per_second: u64,
}

impl Intake {
    fn observe(&mut self, now: Duration, total: u64) {
        let window = now.saturating_sub(self.since);
        if window < RATE_WINDOW {
            return;
        }
        let rate = total.saturating_sub(self.total) as f64 / window.as_secs_f64();
        *self = Self { since: now, total, bytes_per_second: rate as u64 };
    }
}

/// The number of executors of one attempt.
#[derive(Debug)]
pub struct Scaling {
    core: Core,
    /// Executors without which blocks could not be copied.
    num_for_copies: u32,
    pace: Duration,
    intake: Intake,
    decisions: VecDeque<v1::ScalingDecision>,
}

impl Scaling {
    /// Begins with as many as the attempt before asked for at last, as far as the file allows; with
    /// the fewest when that is not known.
    #[must_use]
    pub fn new(spec: &ApplicationSpec, last_target: u32, now: Duration) -> Self {
        let executors = spec.resources.executors;
        let rules = Rules {
            grow_after: executors.grow_after,
            shrink_after: executors.shrink_after,
            interval: spec.batch.interval,
        };
        let bounds = Bounds { min: executors.min, max: executors.max };
        let copies = spec.sources.values().any(|source| source.storage_level.copies());
        Self {
            core: Core::new(rules, bounds, last_target),
            num_for_copies: if copies { 2 } else { 1 },
            pace: spec.batch.interval.min(PACE_MAX),
            intake: Intake { since: now, total: 0, bytes_per_second: 0 },
            decisions: VecDeque::new(),
        }
    }

    /// How many executors to ask for.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.core.target()
    }

    /// Looks at what there is. True when another number is to be asked for.
    pub fn observe(&mut self, views: &[ExecutorView], input: &Snapshot, clock: &dyn Clock) -> bool {
        let now = clock.monotonic();
        self.intake.observe(now, input.read_bytes_total);
        let staying: Vec<&ExecutorView> = views
            .iter()
            .filter(|view| !input.leaving.contains(&view.registration.container))
            .collect();
        let budget: u64 = staying.iter().map(|view| view.registration.budget_bytes).sum();
        let num_here = u32::try_from(staying.len()).unwrap_or(u32::MAX);
        let seen = Observation {
            num_here,
            cores_total: staying.iter().map(|view| view.registration.cores).sum(),
            cores_busy: staying
                .iter()
                .map(|view| f64::from(view.heartbeat.busy_millicores) / 1_000.0)
                .sum(),
            lag: input
                .millis_behind_latest
                .and_then(|ms| u64::try_from(ms).ok())
                .map(Duration::from_millis),
            fill: input.buffered_bytes as f64 / budget.max(1) as f64,
            is_full: input.under_pressure && input.leaving.is_empty()
                || staying.iter().any(|view| view.heartbeat.over_budget),
            floor: self.needed_by_receivers(input.num_shards, budget, num_here),
        };
        let change = self.core.observe(now, &seen);
        self.remember(change, clock)
    }

    /// Others are the bounds from now on. True when another number is to be asked for.
    pub fn set_bounds(&mut self, bounds: v1::ExecutorBounds, clock: &dyn Clock) -> bool {
        let (min, max) = (bounds.min.max(1), bounds.max.max(bounds.min).max(1));
        let change = self.core.set_bounds(Bounds { min, max });
        self.remember(change, clock)
    }

    fn remember(&mut self, change: Option<Change>, clock: &dyn Clock) -> bool {
        let Some(Change { from, to, reason }) = change else { return false };
        tracing::info!(from, to, %reason, "another number of executors is asked for");
        if self.decisions.len() == DECISIONS_MAX {
            self.decisions.pop_front();
        }
        self.decisions.push_back(v1::ScalingDecision { at_ms: clock.now_ms(), from, to, reason });
        true
    }

    /// Executors without which the receivers would stop reading for want of room, or be late.
    fn needed_by_receivers(&self, num_shards: u64, budget: u64, num_here: u32) -> u32 {
        let by_shards = num_shards.div_ceil(SHARDS_MAX);
        let each = budget / u64::from(num_here.max(1));
        let open = self.intake.bytes_per_second as f64 * self.pace.as_secs_f64();
        let by_bytes = if each == 0 { 0 } else { (open as u64).div_ceil((each / 2).max(1)) };
        let needed = by_shards.max(by_bytes);
        u32::try_from(needed).unwrap_or(u32::MAX).max(self.num_for_copies)
    }

    /// For the driver's report.
    #[must_use]
    pub fn report(&self) -> v1::ScalingReport {
        let Bounds { min, max } = self.core.bounds();
        v1::ScalingReport {
            target: self.core.target(),
            min,
            max,
            reason: self.core.reason().to_owned(),
            decisions: self.decisions.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::application::parse_toml;
    use millrace_common::clock::ManualClock;
    use millrace_common::id::ContainerId;

    use super::super::executors::core::Registration;
    use super::*;

    fn spec(executors: &str) -> ApplicationSpec {
        let text = format!(
            "name = \"a\"\n[resources]\nexecutors = {executors}\n[batch]\ninterval = \"10s\"\n\
             [source.s]\nstream = \"x\"\nformat = \"text\"\n[query]\nsql = \"SELECT 1\"\n\
             [sink]\ntype = \"s3\"\npath = \"s3://bucket/a/\"\n"
        );
        parse_toml("a.toml", &text, &[]).unwrap()
    }

    fn view(number: u32) -> ExecutorView {
        ExecutorView {
            registration: Registration {
                container: ContainerId::new(format!("a-a1-e{number}")),
                node_id: "n1".to_owned(),
                address: String::new(),
                cores: 2,
                budget_bytes: 100 << 20,
                held: std::collections::BTreeSet::new(),
            },
            heartbeat: v1::ExecutorHeartbeat::default(),
            exclusion: None,
        }
    }

    #[test]
    fn it_begins_where_the_attempt_before_ended() {
        let begin = |last| Scaling::new(&spec("{ min = 2, max = 8 }"), last, Duration::ZERO);
        assert_eq!((begin(0).target(), begin(5).target(), begin(9).target()), (2, 5, 8));
        assert_eq!(Scaling::new(&spec("3"), 0, Duration::ZERO).target(), 3);
    }

    #[test]
    fn what_the_receivers_read_needs_room() {
        let clock = ManualClock::at(1_000);
        let mut scaling = Scaling::new(&spec("{ min = 1, max = 8 }"), 0, clock.monotonic());
        let mut input = Snapshot { num_shards: 4, ..Snapshot::default() };
        assert!(!scaling.observe(&[view(1)], &input, &*clock));
        // 40 MiB/s: five seconds of that are 200 MiB, and half of 100 MiB is 50 MiB.
        clock.advance(Duration::from_secs(20));
        input.read_bytes_total = 800 << 20;
        assert!(scaling.observe(&[view(1)], &input, &*clock));
        let report = scaling.report();
        assert_eq!((report.target, report.min, report.max), (4, 1, 8));
        assert_eq!(report.decisions.len(), 1);
        assert_eq!(report.decisions[0].at_ms, 21_000);
        assert!(report.reason.contains("the receivers need 4"), "{report:?}");
        // Who is to be given up does not count.
        input.leaving.insert(ContainerId::new("a-a1-e1"));
        scaling.observe(&[view(1)], &input, &*clock);
        assert_eq!(scaling.report().reason, "no executor is here yet");
    }

    #[test]
    fn only_the_last_decisions_are_kept() {
        let clock = ManualClock::at(1_000);
        let mut scaling = Scaling::new(&spec("1"), 0, Duration::ZERO);
        for count in 2..30 {
            let bounds = v1::ExecutorBounds { min: count, max: count };
            assert!(scaling.set_bounds(bounds, &*clock));
        }
        let decisions = scaling.report().decisions;
        assert_eq!(decisions.len(), DECISIONS_MAX);
        assert_eq!(decisions.last().map(|last| last.to), Some(29));
    }
}
