//! The life of batches by its promises.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn core() -> Core {
    Core::new(SECOND * 10, 1, Duration::ZERO)
}

fn on(core: &mut Core, event: Event, seconds: u32) -> Vec<Effect> {
    core.on(event, SECOND * seconds, 0.0)
}

fn some(blocks: usize) -> Event {
    Event::Prepared { blocks: Some(blocks), drained: false }
}

const NONE: Event = Event::Prepared { blocks: None, drained: false };

fn executors() -> BTreeSet<ContainerId> {
    BTreeSet::from([ContainerId::new("e1")])
}

#[test]
fn a_batch_goes_from_cut_to_publication() {
    let mut core = core();
    assert_eq!(on(&mut core, Event::Tick, 9), []);
    assert_eq!(on(&mut core, Event::Tick, 10), [Effect::Prepare(1)]);
    assert_eq!(on(&mut core, some(3), 10), [Effect::Gather(1)]);
    assert_eq!(on(&mut core, Event::Gathered(executors()), 10), []);
    assert_eq!(on(&mut core, Event::RunSucceeded, 11), [Effect::Commit]);
    assert_eq!(on(&mut core, Event::Committed, 11), [Effect::Publish]);
    assert_eq!(core.batch(), 2);
    assert_eq!(on(&mut core, Event::Published, 12), [Effect::Notify]);
    assert!(!core.is_in_flight());
}

#[test]
fn the_pace_is_kept_and_missed_cuts_are_skipped() {
    let mut core = core();
    on(&mut core, Event::Tick, 13);
    on(&mut core, NONE, 13);
    assert_eq!(core.wakes_at(), Some(SECOND * 20), "late by 3 s, and yet at 20 s again");
    on(&mut core, Event::Tick, 45);
    on(&mut core, NONE, 45);
    assert_eq!(core.wakes_at(), Some(SECOND * 50));
}

#[test]
fn nothing_new_is_no_batch_and_positions_alone_are_one_without_a_run() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    assert_eq!(on(&mut core, NONE, 10), []);
    assert_eq!(core.batch(), 1);
    on(&mut core, Event::Tick, 20);
    assert_eq!(on(&mut core, some(0), 20), [Effect::Commit]);
}

#[test]
fn the_next_commit_waits_for_the_publication_and_its_run_does_not() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    on(&mut core, Event::Gathered(executors()), 10);
    on(&mut core, Event::RunSucceeded, 10);
    on(&mut core, Event::Committed, 10);
    assert_eq!(on(&mut core, Event::Tick, 20), [Effect::Prepare(2)]);
    assert_eq!(on(&mut core, some(1), 20), [Effect::Gather(2)]);
    on(&mut core, Event::Gathered(executors()), 20);
    assert_eq!(on(&mut core, Event::RunSucceeded, 21), []);
    assert_eq!(on(&mut core, Event::Published, 30), [Effect::Notify, Effect::Commit]);
}

#[test]
fn half_a_budget_cuts_early() {
    let mut core = core();
    assert_eq!(on(&mut core, Event::Pressure, 3), [Effect::Prepare(1)]);
    assert_eq!(on(&mut core, Event::Pressure, 3), [], "one at a time");
    on(&mut core, NONE, 3);
    assert_eq!(core.wakes_at(), Some(SECOND * 13));
}

#[test]
fn a_lost_executor_ends_the_run_and_the_batch_runs_again() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    on(&mut core, Event::Gathered(executors()), 10);
    assert_eq!(on(&mut core, Event::ExecutorLost(ContainerId::new("e2")), 11), []);
    assert_eq!(on(&mut core, Event::ExecutorLost(ContainerId::new("e1")), 11), [Effect::CancelRun]);
    assert_eq!(on(&mut core, Event::RunFailed(Blame::Cancelled), 11), [Effect::Gather(1)]);
    on(&mut core, Event::Gathered(executors()), 12);
    assert_eq!(core.num_runs(), 2);
}

#[test]
fn the_surroundings_may_fail_for_ever_and_the_query_three_times() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    let mut now = 11;
    for _ in 0..20 {
        on(&mut core, Event::Gathered(executors()), now);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Surroundings), now), []);
        now += 10;
        assert_eq!(on(&mut core, Event::Tick, now), [Effect::Gather(1)]);
    }
    for _ in 1..FAILURES_MAX {
        on(&mut core, Event::Gathered(executors()), now);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Batch), now), []);
        now += 10;
        assert_eq!(on(&mut core, Event::Tick, now), [Effect::Gather(1)]);
    }
    on(&mut core, Event::Gathered(executors()), now);
    assert_eq!(on(&mut core, Event::RunFailed(Blame::Batch), now), [Effect::Divide(1)]);
    assert_eq!(on(&mut core, Event::Divided(false), now), [Effect::Fail], "one block is left");
}

#[test]
fn the_last_block_is_not_judged_by_the_failures_of_larger_batches() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(2), 10);
    for second in [11, 21, 31] {
        on(&mut core, Event::Gathered(executors()), second);
        on(&mut core, Event::RunFailed(Blame::Batch), second);
        on(&mut core, Event::Tick, second + 9);
    }
    assert_eq!(on(&mut core, Event::Divided(true), 40), [Effect::Gather(1)]);
    for second in [50, 60] {
        on(&mut core, Event::Gathered(executors()), second);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Batch), second), [Effect::Divide(1)]);
        assert_eq!(on(&mut core, Event::Divided(false), second), [], "it is one block");
        assert_eq!(on(&mut core, Event::Tick, second + 9), [Effect::Gather(1)]);
    }
    on(&mut core, Event::Gathered(executors()), 70);
    assert_eq!(on(&mut core, Event::RunFailed(Blame::Batch), 70), [Effect::Divide(1)]);
    assert_eq!(on(&mut core, Event::Divided(false), 70), [Effect::Fail]);
}

#[test]
fn what_no_division_can_help_is_not_divided() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(8), 10);
    for second in [11, 21] {
        on(&mut core, Event::Gathered(executors()), second);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Application), second), []);
        assert_eq!(on(&mut core, Event::Tick, second + 9), [Effect::Gather(1)]);
    }
    on(&mut core, Event::Gathered(executors()), 31);
    assert_eq!(on(&mut core, Event::RunFailed(Blame::Application), 31), [Effect::Fail]);
}

#[test]
fn a_driver_that_is_started_again_does_not_begin_to_count_anew() {
    for (batch, first) in [(1, vec![Effect::Divide(1)]), (2, vec![])] {
        let known = v1::BatchFailures { batch, count: 2 };
        let mut core = core().knowing(Some(known));
        on(&mut core, Event::Tick, 10);
        on(&mut core, some(8), 10);
        on(&mut core, Event::Gathered(executors()), 11);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Batch), 11), first, "{batch}");
    }
}

/// Plays a world of `blocks` blocks in one batch, one of which makes every run over it fail. Gives
/// the blocks that were committed, those that the application stopped at, and the number of runs.
fn isolate(blocks: usize, poison: usize, is_draining: bool) -> (Vec<usize>, Vec<usize>, u32) {
    let mut core = core();
    if is_draining {
        on(&mut core, Event::Drain, 1);
    }
    let (mut committed, mut runs) = (Vec::new(), 0);
    // By batch, as the receivers plan it.
    let mut planned = std::collections::BTreeMap::from([(1u64, (0..blocks).collect::<Vec<_>>())]);
    let mut waiting: std::collections::VecDeque<Effect> = [].into();
    for second in 10..10_000 {
        waiting.extend(on(&mut core, Event::Tick, second));
        while let Some(effect) = waiting.pop_front() {
            let batch = core.batch();
            let event = match effect {
                Effect::Prepare(batch) => {
                    let blocks = planned.get(&batch).map(Vec::len);
                    Event::Prepared { blocks, drained: is_draining }
                }
                Effect::Gather(batch) => {
                    waiting.extend(on(&mut core, Event::Gathered(executors()), second));
                    runs += 1;
                    if planned[&batch].contains(&poison) {
                        Event::RunFailed(Blame::Batch)
                    } else {
                        Event::RunSucceeded
                    }
                }
                Effect::Divide(batch) => {
                    let all = planned.get_mut(&batch).unwrap();
                    let rest = all.split_off(all.len() / 2);
                    if all.is_empty() {
                        *all = rest;
                        Event::Divided(false)
                    } else {
                        let later = planned.split_off(&(batch + 1));
                        planned.extend(later.into_iter().map(|(n, blocks)| (n + 1, blocks)));
                        planned.insert(batch + 1, rest);
                        Event::Divided(true)
                    }
                }
                Effect::Commit => {
                    committed.extend(planned.remove(&batch).unwrap());
                    Event::Committed
                }
                Effect::Publish => Event::Published,
                Effect::Notify | Effect::CancelRun | Effect::Abandon => continue,
                Effect::Fail => return (committed, planned[&batch].clone(), runs),
                Effect::End(_) => return (committed, Vec::new(), runs),
            };
            waiting.extend(on(&mut core, event, second));
        }
    }
    panic!("it never ends");
}

proptest! {
    /// One block that makes every run fail is found, everything before it is committed, nothing
    /// twice, and that takes few runs.
    #[test]
    fn a_block_that_fails_is_found(blocks in 1usize..200, place in 0.0f64..1.0, drains: bool) {
        let poison = ((blocks as f64) * place) as usize;
        let (committed, stopped_at, runs) = isolate(blocks, poison, drains);
        prop_assert_eq!(stopped_at, vec![poison]);
        prop_assert_eq!(committed, (0..poison).collect::<Vec<_>>());
        let halvings = blocks.next_power_of_two().trailing_zeros();
        let most = FAILURES_MAX + 2 * halvings + (FAILURES_MAX - 1);
        prop_assert!(runs <= most, "{runs} runs for {blocks} blocks");
    }

    /// A drain ends only when every part of a divided batch is committed.
    #[test]
    fn a_healthy_batch_is_committed_whole(blocks in 1usize..50) {
        let (committed, stopped_at, runs) = isolate(blocks, usize::MAX, true);
        prop_assert_eq!(committed.len(), blocks);
        prop_assert_eq!((stopped_at.len(), runs), (0, 1));
    }
}

#[test]
fn a_stop_finishes_what_was_begun() {
    let mut core = core();
    assert_eq!(on(&mut core, Event::Stop, 1), [Effect::End(Ended::Stopped)], "nothing was begun");

    let mut core = self::core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    assert_eq!(on(&mut core, Event::Stop, 10), []);
    on(&mut core, Event::Gathered(executors()), 10);
    assert_eq!(on(&mut core, Event::RunSucceeded, 10), [Effect::Commit]);
    assert_eq!(on(&mut core, Event::Committed, 10), [Effect::Publish]);
    assert_eq!(on(&mut core, Event::Tick, 30), [], "nothing new is begun");
    let end = on(&mut core, Event::Published, 30);
    assert_eq!(end, [Effect::Notify, Effect::End(Ended::Stopped)]);
}

#[test]
fn a_drain_goes_on_until_everything_is_read() {
    let mut core = core();
    assert_eq!(on(&mut core, Event::Drain, 1), []);
    assert_eq!(on(&mut core, Event::Tick, 1), [Effect::Prepare(1)]);
    on(&mut core, NONE, 1);
    assert_eq!(on(&mut core, Event::Tick, 2), [Effect::Prepare(1)], "each second now");
    on(&mut core, Event::Prepared { blocks: Some(2), drained: true }, 2);
    on(&mut core, Event::Gathered(executors()), 2);
    on(&mut core, Event::RunSucceeded, 2);
    on(&mut core, Event::Committed, 2);
    let end = on(&mut core, Event::Published, 3);
    assert_eq!(end, [Effect::Notify, Effect::End(Ended::Drained)]);
}

#[test]
fn a_drain_without_anything_to_read_ends_at_once_and_its_deadline_at_the_edge() {
    let mut core = core();
    on(&mut core, Event::Drain, 1);
    on(&mut core, Event::Tick, 1);
    let end = on(&mut core, Event::Prepared { blocks: None, drained: true }, 1);
    assert_eq!(end, [Effect::End(Ended::Drained)]);

    let mut core = self::core();
    on(&mut core, Event::Drain, 1);
    on(&mut core, Event::Tick, 1);
    on(&mut core, some(1), 1);
    assert_eq!(on(&mut core, Event::DrainDeadline, 2), []);
    on(&mut core, Event::Gathered(executors()), 2);
    on(&mut core, Event::RunSucceeded, 2);
    on(&mut core, Event::Committed, 2);
    let end = on(&mut core, Event::Published, 3);
    assert_eq!(end, [Effect::Notify, Effect::End(Ended::DrainDeadline)]);
}

/// Draining, with the last batch cut and its run begun.
fn draining(drained: bool) -> Core {
    let mut core = core();
    on(&mut core, Event::Drain, 1);
    on(&mut core, Event::Tick, 1);
    on(&mut core, Event::Prepared { blocks: Some(1), drained }, 1);
    on(&mut core, Event::Gathered(executors()), 1);
    core
}

#[test]
fn a_deadline_ends_a_drain_whose_batch_can_not_be_written() {
    let end = Effect::End(Ended::DrainDeadline);
    for drained in [false, true] {
        // The run before it failed: the one that is on its way is given up with the deadline.
        let mut core = draining(drained);
        on(&mut core, Event::RunFailed(Blame::Surroundings), 2);
        assert_eq!(on(&mut core, Event::Tick, 60), [Effect::Gather(1)]);
        on(&mut core, Event::Gathered(executors()), 60);
        assert_eq!(on(&mut core, Event::DrainDeadline, 61), [Effect::CancelRun, end]);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Cancelled), 61), []);

        // It fails only now, or nobody computes it.
        let mut core = draining(drained);
        assert_eq!(on(&mut core, Event::DrainDeadline, 2), []);
        assert_eq!(on(&mut core, Event::RunFailed(Blame::Surroundings), 3), [end]);

        // It hangs: the patience is the last word.
        let mut core = draining(drained);
        assert_eq!(on(&mut core, Event::DrainDeadline, 2), []);
        assert_eq!(on(&mut core, Event::PatienceOver, 32), [Effect::CancelRun, end]);
    }
}

#[test]
fn a_deadline_ends_a_drain_that_can_not_commit_or_publish() {
    let end = Effect::End(Ended::DrainDeadline);
    for drained in [false, true] {
        for is_committed in [false, true] {
            for stuck in [Event::CommitWaits, Event::PatienceOver] {
                let mut core = draining(drained);
                assert_eq!(on(&mut core, Event::RunSucceeded, 2), [Effect::Commit]);
                if is_committed {
                    assert_eq!(on(&mut core, Event::Committed, 2), [Effect::Publish]);
                }
                assert_eq!(on(&mut core, Event::CommitWaits, 3), [], "before the deadline");
                assert_eq!(on(&mut core, Event::DrainDeadline, 4), [], "it may be about to end");
                assert_eq!(on(&mut core, stuck.clone(), 5), [Effect::Abandon, end]);
            }
        }
    }
}

#[test]
fn a_drain_that_ends_just_behind_its_deadline_has_drained() {
    let mut core = draining(true);
    assert_eq!(on(&mut core, Event::DrainDeadline, 2), []);
    on(&mut core, Event::RunSucceeded, 2);
    on(&mut core, Event::Committed, 2);
    let end = on(&mut core, Event::Published, 3);
    assert_eq!(end, [Effect::Notify, Effect::End(Ended::Drained)]);
}

#[test]
fn a_stop_waits_for_what_is_committed_however_long_it_takes() {
    let mut core = draining(false);
    on(&mut core, Event::Stop, 2);
    on(&mut core, Event::RunSucceeded, 2);
    on(&mut core, Event::Committed, 2);
    on(&mut core, Event::DrainDeadline, 3);
    assert_eq!(on(&mut core, Event::CommitWaits, 4), []);
    assert_eq!(on(&mut core, Event::PatienceOver, 60), []);
    let end = on(&mut core, Event::Published, 90);
    assert_eq!(end, [Effect::Notify, Effect::End(Ended::Stopped)]);
}

#[test]
fn a_run_that_is_too_old_is_run_again() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    on(&mut core, Event::Gathered(executors()), 10);
    on(&mut core, Event::RunSucceeded, 10);
    assert_eq!(on(&mut core, Event::RunTooOld, 10), [Effect::Gather(1)]);
}

#[test]
fn a_failure_waits_until_what_is_committed_is_published() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    on(&mut core, Event::Gathered(executors()), 10);
    on(&mut core, Event::RunSucceeded, 10);
    assert_eq!(on(&mut core, Event::InputFailed, 10), [], "the commit is on its way");
    assert_eq!(on(&mut core, Event::Committed, 11), [Effect::Publish]);
    assert_eq!(on(&mut core, Event::Tick, 30), []);
    assert_eq!(on(&mut core, Event::Published, 30), [Effect::Notify, Effect::Fail]);
}

#[test]
fn an_input_that_fails_ends_the_run() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    on(&mut core, Event::Gathered(executors()), 10);
    assert_eq!(on(&mut core, Event::InputFailed, 10), [Effect::CancelRun, Effect::Fail]);
    assert_eq!(on(&mut core, Event::RunFailed(Blame::Cancelled), 11), []);
}

#[test]
fn a_stop_does_not_wait_for_ever_for_executors_that_do_not_come() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    assert_eq!(on(&mut core, Event::PatienceOver, 11), [], "nobody asked for an end");
    on(&mut core, Event::Stop, 11);
    assert_eq!(on(&mut core, Event::PatienceOver, 41), [Effect::End(Ended::Stopped)]);
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_run_that_fails_again_and_again() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    on(&mut core, some(1), 10);
    on(&mut core, Event::Gathered(executors()), 10);
    on(&mut core, Event::Stop, 11);
    assert_eq!(on(&mut core, Event::PatienceOver, 41), [], "a run that may succeed goes on");
    let ended = on(&mut core, Event::RunFailed(Blame::Surroundings), 70);
    assert_eq!(ended, [Effect::End(Ended::Stopped)]);
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Tick),
        1 => Just(Event::Pressure),
        4 => (prop::option::of(0usize..3), any::<bool>())
            .prop_map(|(blocks, drained)| Event::Prepared { blocks, drained }),
        4 => Just(Event::Gathered(executors())),
        4 => Just(Event::RunSucceeded),
        1 => Just(Event::RunFailed(Blame::Cancelled)),
        1 => Just(Event::RunFailed(Blame::Surroundings)),
        2 => Just(Event::RunFailed(Blame::Batch)),
        1 => Just(Event::RunFailed(Blame::Application)),
        2 => any::<bool>().prop_map(Event::Divided),
        1 => Just(Event::RunImpossible),
        1 => Just(Event::ExecutorLost(ContainerId::new("e1"))),
        4 => Just(Event::Committed),
        1 => Just(Event::RunTooOld),
        4 => Just(Event::Published),
        1 => Just(Event::Stop),
        1 => Just(Event::Drain),
        1 => Just(Event::DrainDeadline),
        1 => Just(Event::CommitWaits),
        1 => Just(Event::PatienceOver),
        1 => Just(Event::InputFailed),
    ]
}

proptest! {
    /// Whatever comes in whatever order: a commit is asked for only when the one before is
    /// published, batches are committed in order, and nothing follows the end.
    #[test]
    fn commits_are_in_order_and_one_at_a_time(events in prop::collection::vec(events(), 0..200)) {
        let mut core = core();
        let (mut committing, mut publishing, mut over) = (false, false, false);
        let mut next = 1;
        for (second, event) in events.into_iter().enumerate() {
            // The shell reports only what it was asked for.
            let real = match event {
                Event::Committed | Event::RunTooOld => committing,
                Event::Published => publishing,
                _ => true,
            };
            if !real {
                continue;
            }
            match event {
                Event::Committed => {
                    committing = false;
                    publishing = true;
                    next += 1;
                }
                Event::RunTooOld => committing = false,
                Event::Published => publishing = false,
                _ => {}
            }
            for effect in on(&mut core, event, u32::try_from(second).unwrap()) {
                prop_assert!(!over, "{effect:?} after the end");
                match effect {
                    Effect::Commit => {
                        prop_assert!(!committing && !publishing);
                        committing = true;
                    }
                    Effect::Publish => prop_assert!(publishing),
                    Effect::Abandon => {
                        prop_assert!(committing || publishing);
                        (committing, publishing) = (false, false);
                    }
                    Effect::Prepare(batch) | Effect::Gather(batch) | Effect::Divide(batch) => {
                        prop_assert_eq!(batch, next);
                        prop_assert!(!committing);
                    }
                    Effect::End(_) => {
                        prop_assert!(!committing && !publishing);
                        over = true;
                    }
                    Effect::Fail => {
                        prop_assert!(!committing && !publishing);
                        over = true;
                    }
                    Effect::Notify | Effect::CancelRun => {}
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_range_is_the_end_without_anybody_asking() {
    let mut core = core();
    on(&mut core, Event::Tick, 10);
    let last = Event::Prepared { blocks: Some(2), drained: true };
    assert_eq!(on(&mut core, last, 10), [Effect::Gather(1)]);
    on(&mut core, Event::Gathered(executors()), 10);
    assert_eq!(on(&mut core, Event::RunSucceeded, 11), [Effect::Commit]);
    assert_eq!(on(&mut core, Event::Tick, 20), [], "nothing follows");
    assert_eq!(on(&mut core, Event::Committed, 21), [Effect::Publish]);
    let end = [Effect::Notify, Effect::End(Ended::Drained)];
    assert_eq!(on(&mut core, Event::Published, 22), end);
}
