//! Property tests of the shard histories.

use super::*;
use proptest::prelude::*;

/// A reshard by random numbers; they are folded onto shards that exist.
#[derive(Debug, Clone)]
enum Step {
    Split(usize, u128),
    Merge(usize),
    Scale(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<usize>(), any::<u128>()).prop_map(|(at, key)| Step::Split(at, key)),
        any::<usize>().prop_map(Step::Merge),
        (1u32..20).prop_map(Step::Scale),
    ];
    prop::collection::vec(step, 0..25)
}

fn by_range(topology: &Topology) -> Vec<ShardEntry> {
    let mut open: Vec<_> = topology.open_shards().cloned().collect();
    open.sort_by_key(|s| s.range.start);
    open
}

fn apply(topology: &mut Topology, step: &Step, now_ms: u64) -> KinesisResult<()> {
    let open = by_range(topology);
    match step {
        Step::Split(at, key) => {
            let shard = &open[at % open.len()];
            let width = shard.range.end - shard.range.start;
            let start = shard.range.start + if width == 0 { 0 } else { 1 + key % width };
            topology.split(shard.index, start, now_ms)
        }
        Step::Merge(at) => {
            let first = &open[at % open.len()];
            let second = open.get(at % open.len() + 1).unwrap_or(first);
            topology.merge(first.index, second.index, now_ms)
        }
        Step::Scale(count) => topology.scale_to(*count, now_ms),
    }
}

fn assert_partition(topology: &Topology) {
    let open = by_range(topology);
    assert_eq!(open.first().map(|s| s.range.start), Some(0));
    assert_eq!(open.last().map(|s| s.range.end), Some(u128::MAX));
    for pair in open.windows(2) {
        assert_eq!(pair[0].range.end + 1, pair[1].range.start, "gap or overlap");
    }
}

proptest! {
    #[test]
    fn open_shards_partition_the_key_space(first in 1u32..20, steps in steps()) {
        let mut topology = Topology::uniform(first, 0);
        for (i, step) in steps.iter().enumerate() {
            // A refused step must leave the shards as they were.
            let before = topology.clone();
            if apply(&mut topology, step, i as u64 + 1).is_err() {
                prop_assert_eq!(&before, &topology);
            }
            assert_partition(&topology);
        }
    }

    #[test]
    fn a_child_lies_inside_its_parents_and_all_of_them_are_closed(
        first in 1u32..10,
        steps in steps(),
    ) {
        let mut topology = Topology::uniform(first, 0);
        for step in &steps {
            // Refusals are covered by the test above.
            apply(&mut topology, step, 1).ok();
        }
        for child in topology.shards() {
            let parents: Vec<_> =
                child.parents().map(|p| topology.get(p).expect("listed")).collect();
            prop_assert!(parents.iter().all(|p| !p.is_open()));
            let inside = |key| parents.iter().any(|p| p.range.contains(key));
            prop_assert!(parents.is_empty() || (inside(child.range.start) && inside(child.range.end)));
        }
    }

    #[test]
    fn scaling_ends_with_uniform_ranges(first in 1u32..40, count in 1u32..40) {
        let mut topology = Topology::uniform(first, 0);
        topology.scale_to(count, 1).expect("any count can be reached");
        let ranges: Vec<_> = by_range(&topology).iter().map(|s| s.range).collect();
        prop_assert_eq!(ranges, HashRange::uniform(count));
    }
}

#[test]
fn uniform_ranges_are_those_of_aws() {
    let ranges = HashRange::uniform(2);
    assert_eq!(ranges[0].end.to_string(), "170141183460469231731687303715884105727");
    assert_eq!(ranges[1].end.to_string(), "340282366920938463463374607431768211455");
}

#[test]
fn shards_that_do_not_touch_are_not_merged() {
    let mut topology = Topology::uniform(3, 0);
    let error = topology.merge(0, 2, 1).expect_err("0 and 2 do not touch");
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
}

#[test]
fn closed_shards_are_listed_until_the_retention_has_passed() {
    let mut topology = Topology::uniform(1, 0);
    topology.split(0, 100, 50).expect("inside");
    assert_eq!(topology.drop_expired(50), Vec::<u32>::new());
    assert_eq!(topology.drop_expired(51), vec![0]);
    assert_eq!(topology.shards().len(), 2);
}

#[test]
fn shard_ids_round_trip() {
    assert_eq!(shard_id(12), "shardId-000000000012");
    assert_eq!(parse_shard_id("shardId-000000000012"), Some(12));
    assert_eq!(parse_shard_id("shardId-12"), None);
    assert_eq!(parse_shard_id("12"), None);
}
