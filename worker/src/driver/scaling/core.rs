//! How many executors to ask for: observations and times in, a new number now and then out.
//!
//! Promises: the number is always within its bounds, and never below what the receivers need as far
//! as the bounds allow; it grows only when a backlog has lasted, and by no more than double; it
//! shrinks only when fewer would have done without a break for long, and then to a number that is
//! not at once too small; a change begins all waiting anew. So under a load that does not change the
//! number comes to rest. Owned by the driver's [`Scaling`](super::Scaling). Never does: wait, or read
//! a clock.

use std::time::Duration;

/// From this share of busy compute threads on there are too few.
const HOT: f64 = 0.80;
/// The share at which the number is just right. What lies between this and [`HOT`] is left alone, so
/// that a number that was just chosen is not changed again.
const GOOD: f64 = 0.65;
/// Below this share a backlog is not for want of compute threads.
const IDLE: f64 = 0.50;
/// How much more than the load needs is asked for while there is a backlog to catch up with.
const CATCH_UP: f64 = 1.5;
/// A lag of so many batch intervals is a backlog.
const LAG_INTERVALS: u32 = 3;
/// A shorter lag is none, whatever the interval.
const LAG_MIN: Duration = Duration::from_secs(5);
/// The load is smoothed over so many batch intervals, as threads are busy only while a batch runs.
const SMOOTH_INTERVALS: u32 = 2;
/// The shortest time to smooth over: two observations.
const SMOOTH_MIN: Duration = Duration::from_secs(2);

/// What an application asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long there has to be a backlog.
    pub grow_after: Duration,
    /// How long fewer would have to do.
    pub shrink_after: Duration,
    /// From cut to cut.
    pub interval: Duration,
}

/// Between what the number may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Never fewer.
    pub min: u32,
    /// Never more; not below `min`.
    pub max: u32,
}

/// What there is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// Executors that are here and not to be given up.
    pub num_here: u32,
    /// Their compute threads.
    pub cores_total: u32,
    /// Those that work, on average since the observation before.
    pub cores_busy: f64,
    /// How far the furthest shard is behind its newest record; none when not known.
    pub lag: Option<Duration>,
    /// Share of the byte budget that blocks fill.
    pub fill: f64,
    /// True when half of an executor's budget waits to be planned, or a receiver has stopped reading
    /// for want of room.
    pub is_full: bool,
    /// Executors without which the receivers could not keep up.
    pub floor: u32,
}

/// A new number of executors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The number before.
    pub from: u32,
    /// The number from now on.
    pub to: u32,
    /// Why, in one line.
    pub reason: String,
}

/// Since when fewer would do, and how many at the busiest moment since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cold {
    since: Duration,
    needed: u32,
}

/// The number of executors of one application.
#[derive(Clone, Debug)]
pub struct Core {
    rules: Rules,
    bounds: Bounds,
    target: u32,
    /// Busy compute threads, smoothed, and when they were last observed.
    busy: Option<(f64, Duration)>,
    hot_since: Option<Duration>,
    cold: Option<Cold>,
    reason: String,
}

impl Core {
    /// Begins with `target`, or what is nearest to it within the bounds.
    #[must_use]
    pub fn new(rules: Rules, bounds: Bounds, target: u32) -> Self {
        Self {
            rules,
            bounds,
            target: target.clamp(bounds.min, bounds.max),
            busy: None,
            hot_since: None,
            cold: None,
            reason: "nothing is observed yet".to_owned(),
        }
    }

    /// How many executors to ask for.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Between what that is.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// What speaks for more or for fewer now, in one line.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Other bounds hold from now on.
    pub fn set_bounds(&mut self, bounds: Bounds) -> Option<Change> {
        if bounds == self.bounds {
            return None;
        }
        self.bounds = bounds;
        let Bounds { min, max } = bounds;
        let asked = if min == max { format!("{min}") } else { format!("{min} to {max}") };
        self.change(self.target.clamp(min, max), format!("{asked} executors were asked for"))
    }

    /// Something was observed at this time.
    pub fn observe(&mut self, now: Duration, seen: &Observation) -> Option<Change> {
        let Bounds { min, max } = self.bounds;
        if min == max {
            self.reason = format!("{min} are asked for, whatever the load");
            return None;
        }
        if seen.num_here == 0 || seen.cores_total == 0 {
            self.reason = "no executor is here yet".to_owned();
            return None;
        }
        let load = self.smooth(now, seen);
        let share = load / f64::from(seen.num_here);
        let behind = seen.lag.filter(|lag| *lag > self.lag_limit());
        let facts = facts(share, seen);
        let floor = seen.floor.clamp(min, max);
        if floor > self.target {
            return self
                .change(floor, format!("the receivers need {floor} to hold what they read"));
        }
        let has_backlog = behind.is_some() || seen.is_full;
        let is_hot = share >= HOT || (has_backlog && share >= IDLE);
        let needed = to_count(load / GOOD).clamp(floor, max);
        self.cold = match self.cold {
            _ if is_hot || has_backlog || needed >= self.target => None,
            Some(cold) => Some(Cold { needed: cold.needed.max(needed), ..cold }),
            None => Some(Cold { since: now, needed }),
        };
        // What is seen of fewer than were asked for says nothing about so many.
        let may_grow = is_hot && self.target < max && seen.num_here >= self.target;
        self.hot_since = may_grow.then(|| self.hot_since.unwrap_or(now));
        if let Some(since) = self.hot_since
            && now.saturating_sub(since) >= self.rules.grow_after
        {
            let factor = if has_backlog { CATCH_UP } else { 1.0 };
            let most = self.target.saturating_mul(2).min(max);
            let to = to_count(load / GOOD * factor).clamp(self.target + 1, most);
            return self.change(to, format!("{facts} for {:?}", self.rules.grow_after));
        }
        if let Some(Cold { since, needed }) = self.cold
            && now.saturating_sub(since) >= self.rules.shrink_after
        {
            let after = self.rules.shrink_after;
            return self.change(needed, format!("{facts}; {needed} would have done for {after:?}"));
        }
        self.reason = format!("{facts}: {}", self.outlook(now, seen, is_hot, has_backlog));
        None
    }

    /// What comes of it when it goes on like this.
    fn outlook(&self, now: Duration, seen: &Observation, is_hot: bool, backlog: bool) -> String {
        let left = |since: Duration, after: Duration| {
            Duration::from_secs((after + since).saturating_sub(now).as_secs() + 1)
        };
        if let Some(since) = self.hot_since {
            let left = left(since, self.rules.grow_after);
            return format!("more are asked for when this lasts another {left:?}");
        }
        if is_hot && self.target >= self.bounds.max {
            return format!("more would help, and {} is the most that is allowed", self.bounds.max);
        }
        if is_hot || seen.num_here < self.target {
            return format!("{} of {} are here", seen.num_here, self.target);
        }
        if backlog {
            return "more would not help, as compute threads are idle".to_owned();
        }
        match self.cold {
            Some(Cold { since, needed }) => {
                let left = left(since, self.rules.shrink_after);
                format!("{needed} will do when this lasts another {left:?}")
            }
            None => "just right".to_owned(),
        }
    }

    fn lag_limit(&self) -> Duration {
        self.rules.interval.saturating_mul(LAG_INTERVALS).max(LAG_MIN)
    }

    /// The load, in executors that it would keep busy.
    fn smooth(&mut self, now: Duration, seen: &Observation) -> f64 {
        let busy = seen.cores_busy.min(f64::from(seen.cores_total));
        let half_life = self.rules.interval.saturating_mul(SMOOTH_INTERVALS).max(SMOOTH_MIN);
        let smoothed = match self.busy {
            Some((before, at)) => {
                let age = now.saturating_sub(at).as_secs_f64();
                let kept = (-age / half_life.as_secs_f64()).exp2();
                before * kept + busy * (1.0 - kept)
            }
            None => busy,
        };
        self.busy = Some((smoothed, now));
        smoothed * f64::from(seen.num_here) / f64::from(seen.cores_total)
    }

    fn change(&mut self, to: u32, reason: String) -> Option<Change> {
        let from = std::mem::replace(&mut self.target, to);
        (self.hot_since, self.cold) = (None, None);
        self.reason.clone_from(&reason);
        (from != to).then_some(Change { from, to, reason })
    }
}

/// A number of executors that is at least `load`.
fn to_count(load: f64) -> u32 {
    // Saturates; a hair above a whole number is that number.
    (load - 1e-6).ceil().max(0.0) as u32
}

fn facts(share: f64, seen: &Observation) -> String {
    let percent = |share: f64| (share * 100.0).round() as u64;
    let lag = match seen.lag {
        Some(lag) => format!("{:.1} s behind", lag.as_secs_f64()),
        None => "lag not known".to_owned(),
    };
    let full = if seen.is_full { ", too full" } else { "" };
    format!(
        "{}% of {} compute threads busy, {lag}, blocks fill {}% of their budget{full}",
        percent(share),
        seen.cores_total,
        percent(seen.fill),
    )
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
