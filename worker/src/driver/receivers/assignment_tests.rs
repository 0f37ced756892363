//! The assignment by its promises, over random layouts, loads and losses.

use proptest::prelude::*;

use super::*;

fn shard(number: usize) -> ShardKey {
    ShardKey {
        source: "logs".into(),
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        shard_id: format!("shardId-{number:012}"),
    }
}

fn executor(number: usize) -> ContainerId {
    ContainerId::new(format!("app-a1-e{number}"))
}

fn executors(count: usize) -> BTreeMap<ContainerId, u64> {
    (1..=count).map(|number| (executor(number), 0)).collect()
}

fn demands(rates: &[u64]) -> Vec<Demand> {
    rates
        .iter()
        .enumerate()
        .map(|(number, rate)| Demand { shard: shard(number), bytes_per_second: *rate, avoid: None })
        .collect()
}

fn shards_per_executor(assignment: &Assignment) -> BTreeMap<ContainerId, usize> {
    let mut counts = BTreeMap::new();
    for seat in assignment.values() {
        *counts.entry(seat.container.clone()).or_default() += 1;
    }
    counts
}

fn moves(before: &Assignment, after: &Assignment) -> usize {
    let moved = |(shard, seat): &(&ShardKey, &Seat)| {
        after.get(*shard).is_some_and(|to| to.container != seat.container)
    };
    before.iter().filter(moved).count()
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::PerExecutor),
        Just(Layout::PerShard),
        (1u32..20).prop_map(Layout::Count),
    ]
}

#[test]
fn thirty_six_shards_on_sixteen_executors() {
    let demands = demands(&[0; 36]);
    let per_executor =
        assign("logs", Layout::PerExecutor, &executors(16), &demands, &Assignment::new());
    let counts = shards_per_executor(&per_executor);
    assert_eq!(counts.len(), 16);
    assert!(counts.values().all(|count| (2..=3).contains(count)), "{counts:?}");
    let receivers: BTreeSet<_> = per_executor.values().map(|seat| &seat.receiver).collect();
    assert_eq!(receivers.len(), 16);

    let per_shard = assign("logs", Layout::PerShard, &executors(16), &demands, &Assignment::new());
    let receivers: BTreeSet<_> = per_shard.values().map(|seat| &seat.receiver).collect();
    assert_eq!(receivers.len(), 36);
    assert!(shards_per_executor(&per_shard).values().all(|count| (2..=3).contains(count)));
}

#[test]
fn one_executor_reads_everything_and_none_reads_nothing() {
    let demands = demands(&[0; 36]);
    let one = assign("logs", Layout::PerExecutor, &executors(1), &demands, &Assignment::new());
    assert_eq!(one.len(), 36);
    let none = assign("logs", Layout::PerExecutor, &executors(0), &demands, &one);
    assert!(none.is_empty());
}

#[test]
fn a_hot_shard_gets_company_of_cold_ones() {
    // Two executors, four shards: by number alone the two hot ones may share an executor.
    let before =
        assign("logs", Layout::PerExecutor, &executors(2), &demands(&[0; 4]), &Assignment::new());
    let on = |number: usize, assignment: &Assignment| assignment[&shard(number)].container.clone();
    let mut rates = [0; 4];
    let mates: Vec<usize> = (0..4).filter(|n| on(*n, &before) == on(0, &before)).collect();
    for hot in &mates {
        rates[*hot] = 1 << 20;
    }
    let after = assign("logs", Layout::PerExecutor, &executors(2), &demands(&rates), &before);
    assert_ne!(on(mates[0], &after), on(mates[1], &after));
    assert!(shards_per_executor(&after).values().all(|count| *count == 2));
}

#[test]
fn a_shard_leaves_the_executor_that_failed_it() {
    let before =
        assign("logs", Layout::PerExecutor, &executors(2), &demands(&[0; 2]), &Assignment::new());
    let failed = before[&shard(0)].container.clone();
    let mut demands = demands(&[0; 2]);
    demands[0].avoid = Some(failed.clone());
    let after = assign("logs", Layout::PerExecutor, &executors(2), &demands, &before);
    assert_ne!(after[&shard(0)].container, failed);
}

proptest! {
    #[test]
    fn every_shard_has_one_seat_and_numbers_are_even(
        layout in layouts(),
        num_executors in 1usize..12,
        rates in prop::collection::vec(0u64..2_000_000, 0..40),
    ) {
        let demands = demands(&rates);
        let all = executors(num_executors);
        let assignment = assign("logs", layout, &all, &demands, &Assignment::new());
        prop_assert_eq!(assignment.len(), demands.len());
        prop_assert!(assignment.values().all(|seat| all.contains_key(&seat.container)));
        if !matches!(layout, Layout::Count(_)) {
            let counts = shards_per_executor(&assignment);
            let most = counts.values().max().copied().unwrap_or(0);
            prop_assert!(most <= demands.len().div_ceil(num_executors));
        }
        let receivers: BTreeSet<_> = assignment.values().map(|seat| &seat.receiver).collect();
        match layout {
            Layout::PerShard => prop_assert_eq!(receivers.len(), demands.len()),
            Layout::Count(count) => prop_assert!(receivers.len() <= count as usize),
            Layout::PerExecutor => prop_assert!(receivers.len() <= num_executors),
        }
        // A receiver is on one executor only.
        let homes: BTreeSet<_> =
            assignment.values().map(|seat| (&seat.receiver, &seat.container)).collect();
        prop_assert_eq!(homes.len(), receivers.len());
    }

    #[test]
    fn what_is_well_placed_stays(
        layout in layouts(),
        num_executors in 1usize..12,
        rates in prop::collection::vec(0u64..2_000_000, 0..40),
    ) {
        let demands = demands(&rates);
        let all = executors(num_executors);
        let before = assign("logs", layout, &all, &demands, &Assignment::new());
        let after = assign("logs", layout, &all, &demands, &before);
        prop_assert_eq!(before, after);
    }

    #[test]
    fn a_loss_moves_only_what_was_lost(
        num_executors in 2usize..12,
        num_shards in 0usize..40,
        lost in 0usize..12,
    ) {
        let demands = demands(&vec![0; num_shards]);
        let before =
            assign("logs", Layout::PerExecutor, &executors(num_executors), &demands, &Assignment::new());
        let gone = executor(1 + lost % num_executors);
        let mut rest = executors(num_executors);
        rest.remove(&gone);
        let kept: Assignment =
            before.iter().filter(|(_, s)| s.container != gone).map(|(k, s)| (k.clone(), s.clone())).collect();
        let after = assign("logs", Layout::PerExecutor, &rest, &demands, &kept);
        prop_assert_eq!(moves(&kept, &after), 0);
        prop_assert_eq!(after.len(), num_shards);
    }

    #[test]
    fn a_newcomer_gets_its_share_and_no_more_moves(
        num_executors in 1usize..12,
        num_shards in 0usize..40,
    ) {
        let demands = demands(&vec![0; num_shards]);
        let before =
            assign("logs", Layout::PerExecutor, &executors(num_executors), &demands, &Assignment::new());
        let after = assign("logs", Layout::PerExecutor, &executors(num_executors + 1), &demands, &before);
        prop_assert!(moves(&before, &after) <= num_shards / (num_executors + 1));
        let counts = shards_per_executor(&after);
        let most = counts.values().max().copied().unwrap_or(0);
        prop_assert!(most <= num_shards.div_ceil(num_executors + 1));
    }
}
