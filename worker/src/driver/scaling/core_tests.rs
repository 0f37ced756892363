//! The number of executors against its promises, under loads that come, stay and go.

use proptest::prelude::*;

use super::*;

const CORES: u32 = 2;
const RULES: Rules = Rules {
    grow_after: Duration::from_secs(15),
    shrink_after: Duration::from_secs(120),
    interval: Duration::from_secs(5),
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An application whose load is given in executors; the master grants after some seconds.
struct Application {
    core: Core,
    now: u64,
    here: u32,
    /// Work that is not done, in executor-seconds.
    backlog: f64,
    /// When the executors that were asked for come, or those given up are gone.
    changes_at: u64,
    changes: Vec<(u64, Change)>,
}

impl Application {
    fn new(min: u32, max: u32) -> Self {
        let core = Core::new(RULES, Bounds { min, max }, min);
        Self { core, now: 0, here: min, backlog: 0.0, changes_at: 0, changes: Vec::new() }
    }

    /// One second under this load.
    fn second(&mut self, load: f64, floor: u32) {
        self.now += 1;
        if self.now >= self.changes_at {
            self.here = self.core.target();
        }
        let work = self.backlog + load;
        let done = work.min(f64::from(self.here));
        self.backlog = work - done;
        let lag = seconds((self.backlog / load.max(0.1)) as u64);
        let busy = done * f64::from(CORES);
        let seen = Observation {
            num_here: self.here,
            cores_total: self.here * CORES,
            cores_busy: busy,
            lag: Some(lag),
            fill: 0.1,
            is_full: false,
            floor,
        };
        if let Some(change) = self.core.observe(seconds(self.now), &seen) {
            assert_eq!(change.to, self.core.target());
            self.changes_at = self.now + 4;
            self.changes.push((self.now, change));
        }
    }

    fn run(&mut self, num_seconds: u64, load: f64) {
        (0..num_seconds).for_each(|_| self.second(load, 1));
    }

    /// How often a growth follows a shrinking or the other way round.
    fn num_turns(&self) -> usize {
        let ups: Vec<bool> = self.changes.iter().map(|(_, c)| c.to > c.from).collect();
        ups.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }
}

#[test]
fn it_grows_under_load_and_shrinks_when_idle() {
    let mut application = Application::new(1, 8);
    application.run(300, 3.5);
    let grown = application.core.target();
    assert!((6..=8).contains(&grown), "3.5 executors' worth at 65%: {grown}");
    assert!(application.changes[0].0 >= 15, "only when it has lasted: {:?}", application.changes);
    let reason = &application.changes[0].1.reason;
    assert!(reason.contains("100% of 2 compute threads busy"), "{reason}");
    assert!(reason.contains("for 15s"), "{reason}");
    application.run(400, 0.0);
    assert_eq!(application.core.target(), 1);
    let (_, last) = application.changes.last().unwrap();
    assert!(last.reason.contains("1 would have done for 120s"), "{last:?}");
    assert_eq!(application.num_turns(), 1, "{:?}", application.changes);
}

#[test]
fn it_waits_for_those_that_it_asked_for() {
    let mut core = Core::new(RULES, Bounds { min: 1, max: 8 }, 1);
    let hot = Observation { num_here: 1, cores_total: 2, cores_busy: 2.0, ..Default::default() };
    for second in 0..600 {
        core.observe(seconds(second), &hot);
    }
    assert_eq!(core.target(), 2, "one is here, so no more than two are asked for");
    assert!(core.reason().ends_with("1 of 2 are here"), "{}", core.reason());
}

#[test]
fn more_executors_do_not_help_a_shard_that_gives_no_more() {
    let mut core = Core::new(RULES, Bounds { min: 2, max: 8 }, 2);
    let late = Observation {
        num_here: 2,
        cores_total: 4,
        cores_busy: 1.0,
        lag: Some(seconds(3600)),
        ..Default::default()
    };
    for second in 0..600 {
        assert_eq!(core.observe(seconds(second), &late), None);
    }
    assert!(core.reason().contains("more would not help"), "{}", core.reason());
    assert!(core.reason().contains("3600.0 s behind"), "{}", core.reason());
}

#[test]
fn full_buffers_and_working_threads_ask_for_more() {
    let mut core = Core::new(RULES, Bounds { min: 1, max: 4 }, 2);
    let full = Observation {
        num_here: 2,
        cores_total: 4,
        cores_busy: 3.0,
        is_full: true,
        fill: 0.9,
        ..Default::default()
    };
    let changes: Vec<_> = (0..20).filter_map(|s| core.observe(seconds(s), &full)).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to, 4);
    assert!(changes[0].reason.contains("90% of their budget, too full"), "{changes:?}");
}

#[test]
fn bounds_may_change_at_any_time() {
    let mut core = Core::new(RULES, Bounds { min: 1, max: 4 }, 2);
    assert_eq!(core.set_bounds(Bounds { min: 1, max: 4 }), None);
    let change = core.set_bounds(Bounds { min: 6, max: 6 }).unwrap();
    assert_eq!((change.from, change.to), (2, 6));
    assert_eq!(change.reason, "6 executors were asked for");
    assert_eq!(core.set_bounds(Bounds { min: 1, max: 8 }), None, "six will do");
    assert_eq!(core.set_bounds(Bounds { min: 1, max: 3 }).unwrap().to, 3);
    let idle = Observation { num_here: 3, cores_total: 6, ..Default::default() };
    let mut changes = (0..200).filter_map(|second| core.observe(seconds(second), &idle));
    assert_eq!(changes.next().unwrap().to, 1, "and then the load decides again");
}

proptest! {
    /// Whatever the load does: bounded, never below what the receivers need, no change too soon.
    #[test]
    fn it_keeps_its_bounds_and_its_times(
        min in 1u32..5,
        more in 0u32..12,
        phases in prop::collection::vec((0.0f64..16.0, 1u64..200, 1u32..6), 1..8),
    ) {
        let max = min + more;
        let mut application = Application::new(min, max);
        for (load, num_seconds, floor) in phases {
            for _ in 0..num_seconds {
                application.second(load, floor);
                let target = application.core.target();
                prop_assert!((min..=max).contains(&target));
                prop_assert!(target >= floor.min(max), "{target} for a floor of {floor}");
            }
        }
        for pair in application.changes.windows(2) {
            let ((before, _), (at, change)) = (&pair[0], &pair[1]);
            let waited = seconds(at - before);
            if change.to < change.from {
                prop_assert!(waited >= RULES.shrink_after, "{:?}", application.changes);
            } else if !change.reason.contains("receivers need") {
                prop_assert!(waited >= RULES.grow_after, "{:?}", application.changes);
                prop_assert!(change.to <= change.from * 2);
            }
        }
    }

    /// A load that stays, give or take a tenth, is met and then left alone.
    #[test]
    fn it_comes_to_rest(
        max in 2u32..40,
        load in 0.05f64..20.0,
        noise in prop::collection::vec(-0.1f64..0.1, 1..50),
    ) {
        let mut application = Application::new(1, max);
        let run = |application: &mut Application, num_seconds: usize| {
            for second in 0..num_seconds {
                application.second(load * (1.0 + noise[second % noise.len()]), 1);
            }
        };
        run(&mut application, 6_000);
        prop_assert!(application.num_turns() <= 1, "{:?}", application.changes);
        let (target, num_changes) = (application.core.target(), application.changes.len());
        prop_assert!(num_changes <= 16, "{:?}", application.changes);
        run(&mut application, 6_000);
        prop_assert_eq!(application.core.target(), target, "{:?}", application.changes);
        prop_assert!(
            f64::from(target) >= load * 0.9 || target == max,
            "{target} for {load}"
        );
    }
}
