//! Transitions, attempts and history on their own. Whole lives are tested with the control core.

use std::time::Duration;

use millrace_common::retry::Backoff;
use millrace_proto::v1::{ApplicationState, Batch};
use proptest::prelude::*;

use super::attempts::{Failures, Verdict};
use super::history::{BATCHES_MAX, History};
use super::state::{is_terminal, may_become};
use crate::config::Timing;
use crate::moment::Moment;

const TIMING: Timing = Timing {
    heartbeat_interval: Duration::from_secs(1),
    suspect_after: Duration::from_secs(5),
    lost_after: Duration::from_secs(15),
    adopt_timeout: Duration::from_secs(15),
    kill_grace: Duration::from_secs(10),
    attempt_backoff: Backoff::ATTEMPT,
    attempt_failures_max: 5,
    attempt_window: Duration::from_secs(600),
};

const STATES: [ApplicationState; 10] = [
    ApplicationState::Unspecified,
    ApplicationState::Queued,
    ApplicationState::Starting,
    ApplicationState::Running,
    ApplicationState::Stopping,
    ApplicationState::Stopped,
    ApplicationState::Failed,
    ApplicationState::Rejected,
    ApplicationState::Killed,
    ApplicationState::Finished,
];

#[test]
fn a_terminal_state_is_left_only_by_a_submission() {
    for from in STATES.into_iter().filter(|state| is_terminal(*state)) {
        for to in STATES {
            assert_eq!(may_become(from, to), to == ApplicationState::Queued, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn every_live_state_can_end_and_none_becomes_unspecified() {
    for from in STATES.into_iter().filter(|state| !is_terminal(*state)).skip(1) {
        assert!(STATES.into_iter().any(|to| is_terminal(to) && may_become(from, to)), "{from:?}");
        assert!(!may_become(from, ApplicationState::Unspecified));
    }
    assert!(!may_become(ApplicationState::Stopping, ApplicationState::Running));
    assert!(!may_become(ApplicationState::Queued, ApplicationState::Running));
}

fn at(seconds: u64) -> Moment {
    let wall_ms = i64::try_from(seconds).unwrap() * 1_000 + 1_700_000_000_000;
    Moment { wall_ms, monotonic: Duration::from_secs(seconds) }
}

#[test]
fn failures_and_their_pause_outlive_the_master() {
    let mut failures = Failures::default();
    for second in [100, 110, 120] {
        failures.record(at(second), &TIMING);
    }
    let recorded = failures.recorded(at(121));
    // The new master's clock has just begun.
    let now = Moment { monotonic: Duration::from_secs(1), ..at(122) };
    let mut restored = Failures::restore(now, &recorded);
    assert_eq!(restored.retry_at(&TIMING), Duration::from_secs(3), "4 s after the third");
    let verdict = restored.record(now, &TIMING);
    assert_eq!(verdict, Verdict::RetryAfter(Duration::from_secs(8), 4));
    // Long after, they are forgotten as they would have been.
    let later = Moment { monotonic: Duration::from_secs(1), ..at(3_000) };
    let mut restored = Failures::restore(later, &recorded);
    assert_eq!(restored.retry_at(&TIMING), Duration::ZERO);
    assert_eq!(restored.record(later, &TIMING), Verdict::RetryAfter(Duration::from_secs(1), 1));
}

#[test]
fn failures_outside_the_window_are_forgotten() {
    let mut failures = Failures::default();
    for hour in 0..20 {
        let verdict = failures.record(at(hour * 3600), &TIMING);
        assert_eq!(verdict, Verdict::RetryAfter(Duration::from_secs(1), 1));
    }
}

#[test]
fn what_passes_by_itself_is_waited_for_without_an_end() {
    let mut failures = Failures::default();
    let longest = (0..50).map(|_| failures.record_passing(&TIMING)).max_by_key(|verdict| {
        let Verdict::WaitFor(delay) = verdict else { panic!("{verdict:?}") };
        *delay
    });
    let Some(Verdict::WaitFor(longest)) = longest else { panic!("nothing") };
    assert!(longest > Duration::from_secs(8) && longest <= Duration::from_secs(600), "{longest:?}");
    // A crash after an outage is the first.
    assert_eq!(failures.record(at(1), &TIMING), Verdict::RetryAfter(Duration::from_secs(1), 1));
    assert!(failures.forgive());
    assert_eq!(failures.record_passing(&TIMING), Verdict::WaitFor(Duration::from_secs(1)));
}

proptest! {
    #[test]
    fn the_fifth_failure_in_the_window_is_the_last(
        gaps in proptest::collection::vec(0u64..400, 1..30),
    ) {
        let mut failures = Failures::default();
        let mut times: Vec<u64> = Vec::new();
        let mut now = 0;
        for gap in gaps {
            now += gap;
            times.push(now);
            let recent = times.iter().filter(|time| now - **time <= 600).count();
            let verdict = failures.record(at(now), &TIMING);
            match verdict {
                Verdict::WaitFor(_) => prop_assert!(false, "the driver's own failure"),
                Verdict::Exhausted(count) => prop_assert!(recent >= 5 && count as usize == recent),
                Verdict::RetryAfter(delay, count) => {
                    prop_assert_eq!(count as usize, recent);
                    prop_assert!(recent < 5);
                    prop_assert_eq!(delay, Duration::from_secs(1 << (recent - 1)));
                }
            }
        }
    }

    #[test]
    fn the_history_keeps_the_newest(numbers in 1u64..1500, limit in 1usize..1200) {
        let mut history = History::default();
        for number in 1..=numbers {
            history.record(Batch { number, ..Default::default() });
            history.record(Batch { number, published_ms: 1, ..Default::default() });
        }
        let newest = history.newest(limit);
        let kept = usize::try_from(numbers).unwrap().min(BATCHES_MAX).min(limit);
        prop_assert_eq!(newest.len(), kept);
        prop_assert_eq!(newest[0].number, numbers);
        prop_assert!(newest.iter().all(|batch| batch.published_ms == 1));
    }
}
