//! The receivers' core as its actor uses it: one step at a time.

use millrace_common::error::Code;
use millrace_common::position::HashKeyRange;

use super::*;
use crate::driver::receivers::lineage::ListedShard;

#[path = "listing_tests.rs"]
mod listing;
#[path = "range_tests.rs"]
mod range;

const NOW: Duration = Duration::ZERO;
const MIB: u64 = 1 << 20;

fn stream() -> Stream {
    Stream { arn: "arn:s".into(), name: "s".into(), created_ms: 5, keyed: true }
}

fn setup(start: Start) -> SourceSetup {
    SourceSetup {
        name: "logs".into(),
        stream: stream(),
        start,
        retention: Duration::from_secs(86_400),
        layout: Layout::PerExecutor,
        survives_loss: false,
        copies: false,
    }
}

fn listed(id: &str, parents: &[&str], open: bool) -> ListedShard {
    ListedShard {
        shard_id: id.into(),
        parents: parents.iter().map(|p| (*p).to_owned()).collect(),
        range: HashKeyRange { starting: 0, ending: 9 },
        open,
    }
}

fn key(id: &str) -> ShardKey {
    stream().shard("logs", id)
}

fn e(n: usize) -> ContainerId {
    ContainerId::new(format!("e{n}"))
}

/// Executors 1 and 2 share a node, and so do 3 and 4.
fn home(n: usize, budget_bytes: u64) -> Home {
    Home { budget_bytes, node_id: format!("n{}", n.div_ceil(2)), address: format!("e{n}:1") }
}

fn join(core: &mut Core, n: usize) -> Vec<Effect> {
    core.joined(e(n), home(n, 100 * MIB), &BTreeSet::new(), NOW)
}

/// Assignments sent to an executor: shard, generation, where from.
fn assigned(effects: &[Effect], to: &ContainerId) -> Vec<(String, u64, v1::read_from::At)> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Send(executor, Body::Assign(assign)) = effect
            && executor == to
        {
            for a in &assign.assignments {
                let at = a.from.clone().unwrap().at.unwrap();
                found.push((a.shard.clone().unwrap().shard_id, a.generation, at));
            }
        }
    }
    found
}

fn block(id: &str, shard: &str, generation: u64, after: &str, last: &str) -> v1::BlockDescriptor {
    v1::BlockDescriptor {
        block_id: id.into(),
        shard: Some(key(shard).to_proto()),
        generation,
        after_seq: after.into(),
        first_seq: last.into(),
        last_seq: last.into(),
        num_records: 1,
        num_raw_records: 1,
        num_bytes: MIB,
        ..Default::default()
    }
}

fn announce(core: &mut Core, n: usize, blocks: Vec<v1::BlockDescriptor>) -> Vec<Effect> {
    let announcement = v1::BlockAnnouncement {
        receiver_id: format!("logs/{n}"),
        sequence: 1,
        blocks,
        ..Default::default()
    };
    core.announced(&e(n), announcement, NOW)
}

fn refused(effects: &[Effect]) -> Vec<v1::RefusedBlock> {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Send(_, Body::Acknowledged(ack)) => Some(ack.refused.clone()),
            _ => None,
        })
        .expect("an announcement is always acknowledged")
}

fn one_shard_on_one_executor() -> Core {
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    join(&mut core, 1);
    core
}

#[test]
fn shards_are_assigned_when_an_executor_comes_and_spread_when_more_come() {
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    assert!(
        core.listed("logs", vec![listed("a", &[], true), listed("b", &[], true)], 1, NOW)
            .is_empty()
    );
    let effects = join(&mut core, 1);
    let trim = v1::read_from::At::TrimHorizon(true);
    assert_eq!(
        assigned(&effects, &e(1)),
        [("a".into(), 1, trim.clone()), ("b".into(), 1, trim.clone())]
    );
    let effects = join(&mut core, 2);
    let moved = assigned(&effects, &e(2));
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].1, 2, "each move is a new generation");
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send(to, Body::Revoke(_)) if *to == e(1)))
    );
}

#[test]
fn latest_reads_from_its_moment_and_a_position_from_there() {
    let start = Start::At { timestamp_ms: 7_000, shards: BTreeSet::from(["a".into(), "b".into()]) };
    let position = Position { sequence_number: "42".parse().ok(), ..Position::default() };
    let positions = BTreeMap::from([(key("a"), position), (key("b"), Position::default())]);
    let mut core = Core::new(vec![setup(start)], &positions, NOW);
    core.listed("logs", vec![listed("a", &[], true), listed("b", &[], true)], 1, NOW);
    let assigned = assigned(&join(&mut core, 1), &e(1));
    assert_eq!(assigned[0].2, v1::read_from::At::Position(position.to_proto()));
    assert_eq!(assigned[1].2, v1::read_from::At::TimestampMs(7_000));
}

#[test]
fn two_sources_of_one_stream_share_what_its_shards_give() {
    let other = SourceSetup { name: "more".into(), ..setup(Start::Earliest) };
    let mut core = Core::new(vec![setup(Start::Earliest), other], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    core.listed("more", vec![listed("a", &[], true)], 1, NOW);
    let effects = join(&mut core, 1);
    let assignments = effects.iter().filter_map(|effect| match effect {
        Effect::Send(_, Body::Assign(assign)) => Some(&assign.assignments),
        _ => None,
    });
    let readers: Vec<u32> = assignments.flatten().map(|one| one.num_readers).collect();
    assert_eq!(readers, [2, 2]);
}

#[test]
fn a_block_that_does_not_chain_is_refused_with_the_tail() {
    let mut core = one_shard_on_one_executor();
    assert_eq!(refused(&announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")])), []);
    let refused = refused(&announce(&mut core, 1, vec![block("b3", "a", 1, "7", "9")]));
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].generation, 1);
    let tail = refused[0].tail.clone().unwrap().at.unwrap();
    let v1::read_from::At::Position(position) = tail else { panic!("{tail:?}") };
    assert_eq!(position.sequence_number, "5");
}

#[test]
fn a_batch_covers_what_was_announced_and_is_released_after_its_commit() {
    let mut core = one_shard_on_one_executor();
    assert!(!core.has_news(NOW));
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    assert!(core.has_news(NOW));
    let (planned, _) = core.plan(1, NOW);
    assert_eq!(planned.positions[&key("a")].sequence_number, "5".parse().ok());
    assert_eq!(core.blocks(1).unwrap().len(), 1);
    assert!(!core.has_news(NOW));
    core.committed(1, NOW);
    let effects = core.release(1, NOW);
    let [Effect::Send(to, Body::Release(release))] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((to, release.block_ids.as_slice()), (&e(1), ["b1".to_owned()].as_slice()));
}

#[test]
fn the_commit_that_ends_the_last_parent_writes_the_childs_entry() {
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    let listing =
        vec![listed("a", &[], false), listed("b", &[], false), listed("c", &["a", "b"], true)];
    core.listed("logs", listing, 1, NOW);
    join(&mut core, 1);
    let end = |shard: &str, id: &str| v1::BlockDescriptor {
        ends_shard: true,
        ..block(id, shard, 1, "", "5")
    };
    let effects = announce(&mut core, 1, vec![end("a", "b1")]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Discover(_))),
        "an end asks for a listing"
    );
    let (planned, _) = core.plan(1, NOW);
    assert!(planned.positions[&key("a")].ended);
    assert!(!planned.positions.contains_key(&key("c")));
    announce(&mut core, 1, vec![end("b", "b2")]);
    let (planned, effects) = core.plan(2, NOW);
    assert_eq!(planned.positions[&key("c")], Position::default());
    assert_eq!(planned.advances.len(), 1, "the child's records belong to a later batch");
    let trim = v1::read_from::At::TrimHorizon(true);
    assert_eq!(assigned(&effects, &e(1)), [("c".into(), 1, trim)]);
}

#[test]
fn a_lost_planned_block_is_read_again_elsewhere() {
    let mut core = one_shard_on_one_executor();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    join(&mut core, 2);
    let effects = core.lost(&e(1), NOW);
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Send(to, Body::Reread(reread)) => {
            Some((to.clone(), reread.block.clone().unwrap().block_id))
        }
        _ => None,
    });
    assert_eq!(asked, Some((e(2), "b1".into())));
    assert!(core.blocks(1).is_none());
    let late = v1::Failure { code: "MR3008".into(), ..Default::default() };
    let done = v1::RereadDone { block_id: "b1".into(), failure: Some(late) };
    assert!(core.reread_done(&e(2), done, NOW).is_empty(), "it is asked for again after a pause");
    let effects = core.tick(Duration::from_secs(1));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Send(_, Body::Reread(_)))));
    let done = v1::RereadDone { block_id: "b1".into(), failure: None };
    core.reread_done(&e(2), done, NOW);
    assert_eq!(core.blocks(1).unwrap()[0].executor, e(2));
}

#[test]
fn a_block_that_was_read_again_by_an_executor_that_is_gone_is_read_once_more() {
    let mut core = one_shard_on_one_executor();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    join(&mut core, 2);
    core.lost(&e(1), NOW);
    core.lost(&e(2), NOW);
    // Its report was on the way when it was given up.
    let done = v1::RereadDone { block_id: "b1".into(), failure: None };
    assert!(core.reread_done(&e(2), done, NOW).is_empty());
    assert!(core.blocks(1).is_none(), "nobody holds it");
    let effects = join(&mut core, 3);
    let is_asked =
        |effect: &Effect| matches!(effect, Effect::Send(to, Body::Reread(_)) if *to == e(3));
    assert!(effects.iter().any(is_asked), "{effects:?}");
}

#[test]
fn a_block_that_can_not_be_had_again_fails_the_application() {
    let mut core = one_shard_on_one_executor();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    join(&mut core, 2);
    core.lost(&e(1), NOW);
    let gone = v1::Failure { code: Code::DataLost.as_str().into(), ..Default::default() };
    let done = v1::RereadDone { block_id: "b1".into(), failure: Some(gone) };
    assert!(core.reread_done(&e(2), done, NOW).is_empty(), "nobody waits for it yet");
    assert!(core.settle_lost(2, NOW).is_empty(), "nor another batch");
    let effects = core.settle_lost(1, NOW);
    assert!(matches!(effects.as_slice(), [Effect::Fail(error)] if error.code() == Code::DataLost));
}

#[test]
fn an_executor_that_comes_back_is_told_everything_again() {
    let mut core = one_shard_on_one_executor();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    core.committed(1, NOW);
    core.release(1, NOW);
    announce(&mut core, 1, vec![block("b2", "a", 1, "5", "6")]);
    // The release was lost with the session; b2 is there.
    let held = BTreeSet::from([BlockId::new("b1"), BlockId::new("b2"), BlockId::new("b3")]);
    let effects = core.rejoined(&e(1), home(1, 100 * MIB), &held, NOW);
    let released: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(_, Body::Release(release)) => Some(release.block_ids.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(released, [["b1".to_owned()]], "b3 is not announced yet and stays");
    assert_eq!(assigned(&effects, &e(1))[0].1, 1, "the same generation: nothing begins anew");
    // It has lost b2: the shard goes back to before it, under a new generation.
    let effects = core.rejoined(&e(1), home(1, 100 * MIB), &BTreeSet::new(), NOW);
    let again = assigned(&effects, &e(1));
    assert_eq!(again[0].1, 2);
    let v1::read_from::At::Position(position) = &again[0].2 else { panic!("{again:?}") };
    assert_eq!(position.sequence_number, "5");
}

#[test]
fn a_silent_shard_gets_another_reader() {
    let mut core = one_shard_on_one_executor();
    join(&mut core, 2);
    let reader = core.snapshot(NOW).receivers[0].container.clone();
    let effects = core.tick(SILENCE_LIMIT);
    let other = if reader == e(1) { e(2) } else { e(1) };
    assert_eq!(assigned(&effects, &other).len(), 1);
    // But not while its executor has no room to read.
    core.heartbeat(&other, 100 * MIB, true);
    assert!(assigned(&core.tick(SILENCE_LIMIT * 2), &reader).is_empty());
}

#[test]
fn a_cut_waits_for_every_receiver_with_shards() {
    let mut core = one_shard_on_one_executor();
    join(&mut core, 2);
    let (cut, effects) = core.cut();
    assert_eq!(effects.len(), 1, "the other executor reads nothing");
    assert!(!core.cut_is_answered());
    let reader = core.snapshot(NOW).receivers[0].clone();
    let answer = |cut_id| v1::BlockAnnouncement {
        receiver_id: reader.receiver.as_str().into(),
        cut_id,
        ..Default::default()
    };
    core.announced(&reader.container, answer(cut - 1), NOW);
    assert!(!core.cut_is_answered(), "an answer to an older cut");
    core.announced(&reader.container, answer(cut), NOW);
    assert!(core.cut_is_answered());
    core.cut();
    core.lost(&reader.container, NOW);
    assert!(core.cut_is_answered(), "nobody waits for the dead");
}

#[test]
fn data_loss_stops_the_application_or_is_skipped_by_policy() {
    let trouble = |generation| v1::ShardTrouble {
        shard: Some(key("a").to_proto()),
        generation,
        kind: v1::shard_trouble::Kind::DataLost.into(),
        lost_after_seq: "5".into(),
        lost_before_seq: "9".into(),
        ..Default::default()
    };
    let mut core = one_shard_on_one_executor();
    assert!(core.troubled(&e(1), trouble(7), NOW).is_empty(), "of an assignment that is not");
    let effects = core.troubled(&e(1), trouble(1), NOW);
    let [Effect::Fail(error)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(error.code(), Code::DataLost);
    assert!(error.message().contains("logs/a after 5 and before 9"), "{error}");

    let survivor = SourceSetup { survives_loss: true, ..setup(Start::Earliest) };
    let mut core = Core::new(vec![survivor], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    join(&mut core, 1);
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    let effects = core.troubled(&e(1), trouble(1), NOW);
    assert!(matches!(effects.first(), Some(Effect::Gap(_))));
    let again = assigned(&effects, &e(1));
    assert_eq!((again.len(), again[0].1), (1, 2));
    let v1::read_from::At::Position(position) = &again[0].2 else { panic!("{again:?}") };
    assert_eq!(position.sequence_number, "5", "nothing up to here is read again");
    let passes_over = effects.iter().any(
        |effect| matches!(effect, Effect::Send(_, Body::Assign(a)) if a.assignments[0].skips_gap),
    );
    assert!(passes_over, "{effects:?}");
    let gaps = core.snapshot(NOW).gaps;
    assert_eq!((gaps[0].shard_id.as_str(), gaps[0].count), ("a", 1));
    let (planned, _) = core.plan(2, NOW);
    assert_eq!(planned.gaps, BTreeMap::new(), "the next driver would find it again");
    announce(&mut core, 1, vec![block("b2", "a", 2, "5", "9")]);
    let (planned, _) = core.plan(3, NOW);
    assert_eq!(planned.gaps[&key("a")].count, 1);
    assert!(planned.gaps[&key("a")].last.contains("after 5 and before 9"), "{planned:?}");
    assert_eq!(planned.advances[0].from, "5".parse().ok(), "the gap is behind the position");
    assert_eq!(planned.positions[&key("a")].sequence_number, "9".parse().ok());

    // The next attempt counts on, and until it is past the next loss it leaves the count as it was.
    let survivor = SourceSetup { survives_loss: true, ..setup(Start::Earliest) };
    let mut core =
        Core::new(vec![survivor], &planned.positions, NOW).after_gaps(planned.gaps.clone());
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    join(&mut core, 1);
    let next = |lost_after: &str| v1::ShardTrouble {
        lost_after_seq: lost_after.into(),
        lost_before_seq: "15".into(),
        ..trouble(1)
    };
    assert!(core.troubled(&e(1), next("11"), NOW).is_empty(), "what it read comes first");
    core.troubled(&e(1), next("9"), NOW);
    assert_eq!(core.snapshot(NOW).gaps[0].count, 2);
    assert_eq!(core.plan(4, NOW).0.gaps, planned.gaps);
    // An answer from behind the loss that shows nothing more there is past it, too.
    let empty = v1::EmptyRead {
        shard: Some(key("a").to_proto()),
        generation: 2,
        after_seq: "9".into(),
        server_ms: 1_000_000,
        millis_behind_latest: 0,
        ..Default::default()
    };
    let read = v1::BlockAnnouncement { empty_reads: vec![empty], ..Default::default() };
    core.announced(&e(1), read, NOW);
    assert_eq!(core.plan(5, NOW).0.gaps[&key("a")].count, 2);
}

#[test]
fn pressure_counts_blocks_that_wait_and_not_those_of_the_batch_in_the_making() {
    let mut core = one_shard_on_one_executor();
    core.joined(e(1), home(1, 2 * MIB), &BTreeSet::new(), NOW);
    assert!(!core.is_under_pressure());
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    assert!(core.is_under_pressure());
    core.plan(1, NOW);
    assert!(!core.is_under_pressure());
    core.heartbeat(&e(1), 2 * MIB, false);
    assert!(core.is_under_pressure(), "an open block of 1 MiB");
}

#[test]
fn a_drain_is_over_when_every_shard_was_read_past_its_moment() {
    let mut core = one_shard_on_one_executor();
    assert!(!core.is_read_past(10_000), "not listed since");
    core.listed("logs", vec![listed("a", &[], true)], 11_000, NOW);
    assert!(!core.is_read_past(10_000), "not read since");
    let read = |server_ms| v1::EmptyRead {
        shard: Some(key("a").to_proto()),
        generation: 1,
        server_ms,
        ..Default::default()
    };
    let announcement = |server_ms| v1::BlockAnnouncement {
        receiver_id: "logs/1".into(),
        empty_reads: vec![read(server_ms)],
        ..Default::default()
    };
    core.announced(&e(1), announcement(10_000), NOW);
    assert!(!core.is_read_past(10_000));
    core.announced(&e(1), announcement(11_000), NOW);
    assert!(core.is_read_past(10_000));
}

/// Who was asked to copy which block from where.
fn copies(effects: &[Effect]) -> Vec<(ContainerId, String, String)> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Send(to, Body::Copy(copy)) = effect {
            for copy in &copy.copies {
                let id = copy.block.clone().unwrap().block_id;
                found.push((to.clone(), id, copy.holder_address.clone()));
            }
        }
    }
    found
}

fn released(effects: &[Effect]) -> Vec<(ContainerId, Vec<String>)> {
    let release = |effect: &Effect| match effect {
        Effect::Send(to, Body::Release(release)) => Some((to.clone(), release.block_ids.clone())),
        _ => None,
    };
    effects.iter().filter_map(release).collect()
}

fn asks_for_rereads(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Send(_, Body::Reread(_))))
}

/// Shard a is read by executor 1, each block is to be held twice, and 2 and 3 are there too.
fn three_executors_with_copies() -> Core {
    let setup = SourceSetup { copies: true, ..setup(Start::Earliest) };
    let mut core = Core::new(vec![setup], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    for n in 1..=3 {
        join(&mut core, n);
    }
    core
}

fn copied(id: &str) -> v1::BlockCopied {
    v1::BlockCopied { block_id: id.into(), failure: None }
}

#[test]
fn a_second_holder_on_another_node_saves_the_rereading() {
    let mut core = three_executors_with_copies();
    let effects = announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    assert_eq!(copies(&effects), [(e(3), "b1".into(), "e1:1".into())], "2 is on the same node");
    assert!(copies(&announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")])).is_empty());
    assert!(core.copied(&e(3), copied("b1")).is_empty());
    core.plan(1, NOW);
    assert_eq!(core.blocks(1).unwrap()[0].executor, e(1), "a run goes to the first holder");
    let effects = core.lost(&e(1), NOW);
    assert!(!asks_for_rereads(&effects), "{effects:?}");
    assert_eq!(core.blocks(1).unwrap()[0].executor, e(3));
    // With the last holder the block is lost.
    assert!(asks_for_rereads(&core.lost(&e(3), NOW)));
    assert_eq!(core.blocks(1), None);
}

#[test]
fn a_block_that_waits_to_be_planned_outlives_its_reader() {
    let mut core = three_executors_with_copies();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5"), block("b2", "a", 1, "5", "7")]);
    core.copied(&e(3), copied("b1"));
    let effects = core.lost(&e(1), NOW);
    // b2 had no copy yet: the shard goes back to before it, and no further.
    let again: Vec<_> = (2..=3).flat_map(|n| assigned(&effects, &e(n))).collect();
    let v1::read_from::At::Position(position) = &again[0].2 else { panic!("{again:?}") };
    assert_eq!((again.len(), position.sequence_number.as_str()), (1, "5"));
    core.plan(1, NOW);
    assert_eq!(core.blocks(1).unwrap().len(), 1);
    assert_eq!(core.blocks(1).unwrap()[0].executor, e(3));
}

#[test]
fn a_release_reaches_every_holder_and_whoever_still_copies() {
    let mut core = three_executors_with_copies();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5"), block("b2", "a", 1, "5", "7")]);
    core.copied(&e(3), copied("b1"));
    core.plan(1, NOW);
    core.committed(1, NOW);
    let both = vec!["b1".to_owned(), "b2".to_owned()];
    assert_eq!(released(&core.release(1, NOW)), [(e(1), both.clone()), (e(3), both)]);
    // The copy of b2 was on its way, and is dropped when it is heard of.
    let effects = core.copied(&e(3), copied("b2"));
    assert_eq!(released(&effects), [(e(3), vec!["b2".to_owned()])]);
}

#[test]
fn a_holder_that_does_not_find_its_block_is_passed_by() {
    let mut core = three_executors_with_copies();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.copied(&e(3), copied("b1"));
    core.plan(1, NOW);
    let effects = core.block_missing(&"b1".into(), NOW);
    assert_eq!(released(&effects), [(e(1), vec!["b1".to_owned()])], "what is left of it goes");
    assert!(!asks_for_rereads(&effects));
    assert_eq!(core.blocks(1).unwrap()[0].executor, e(3));
    assert!(asks_for_rereads(&core.block_missing(&"b1".into(), NOW)));
}

#[test]
fn a_copy_of_which_the_word_was_lost_counts_when_its_holder_is_back() {
    let mut core = three_executors_with_copies();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5"), block("b2", "a", 1, "5", "7")]);
    core.rejoined(&e(3), home(3, 100 * MIB), &BTreeSet::from(["b1".into()]), NOW);
    core.plan(1, NOW);
    core.lost(&e(1), NOW);
    assert_eq!(core.blocks(1), None, "b2 was not copied");
    let done = v1::RereadDone { block_id: "b2".into(), failure: None };
    core.reread_done(&e(2), done, NOW);
    let blocks = core.blocks(1).unwrap();
    assert_eq!([&blocks[0].executor, &blocks[1].executor], [&e(3), &e(2)]);
}

#[test]
fn a_block_read_again_too_late_is_dropped() {
    let mut core = one_shard_on_one_executor();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    join(&mut core, 2);
    core.lost(&e(1), NOW);
    core.committed(1, NOW);
    core.release(1, NOW);
    let done = v1::RereadDone { block_id: "b1".into(), failure: None };
    let effects = core.reread_done(&e(2), done, NOW);
    assert_eq!(released(&effects), [(e(2), vec!["b1".to_owned()])]);
}

#[test]
fn a_planned_block_that_is_gone_from_kinesis_too_is_a_gap_by_policy() {
    let survivor = SourceSetup { survives_loss: true, ..setup(Start::Earliest) };
    let mut core = Core::new(vec![survivor], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    join(&mut core, 1);
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5"), block("b2", "a", 1, "5", "7")]);
    let (planned, _) = core.plan(1, NOW);
    join(&mut core, 2);
    core.lost(&e(1), NOW);
    let gone = v1::Failure { code: Code::DataLost.as_str().into(), ..Default::default() };
    core.reread_done(&e(2), v1::RereadDone { block_id: "b1".into(), failure: Some(gone) }, NOW);
    core.reread_done(&e(2), v1::RereadDone { block_id: "b2".into(), failure: None }, NOW);
    assert_eq!(core.blocks(1), None);
    let effects = core.settle_lost(1, NOW);
    assert!(matches!(effects.as_slice(), [Effect::Gap(_)]), "{effects:?}");
    assert!(core.settle_lost(1, NOW).is_empty(), "counted once");
    let blocks = core.blocks(1).unwrap();
    assert_eq!((blocks.len(), blocks[0].id.as_str()), (1, "b2"), "the rest of the batch runs");
    assert_eq!(planned.positions[&key("a")].sequence_number, "7".parse().ok());
    assert_eq!(core.snapshot(NOW).gaps[0].count, 1);
}

#[test]
fn a_shard_that_moves_to_another_executor_rests_and_one_that_stays_does_not() {
    let rests = |effects: &[Effect]| -> Vec<u64> {
        let assign = |effect: &Effect| match effect {
            Effect::Send(_, Body::Assign(assign)) => Some(assign.assignments.clone()),
            _ => None,
        };
        effects.iter().filter_map(assign).flatten().map(|a| a.rest_ms).collect()
    };
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true), listed("b", &[], true)], 1, NOW);
    assert_eq!(rests(&join(&mut core, 1)), [0, 0], "nobody has read them before");
    assert_eq!(rests(&join(&mut core, 2)), [600], "one moves, and may be read until now");
    let later = Duration::from_millis(400);
    let effects = core.lost(&e(1), later);
    assert_eq!(rests(&effects), [600]);
    // Some time after its reader was lost less is left.
    core.lost(&e(2), later);
    let effects = core.joined(e(3), home(3, 100 * MIB), &BTreeSet::new(), later * 2);
    assert_eq!(rests(&effects), [200, 200]);
}

#[test]
fn a_shard_that_is_gone_ends_in_the_head_before_it_leaves_it() {
    let survivor = SourceSetup { survives_loss: true, ..setup(Start::Earliest) };
    let position = Position { sequence_number: "5".parse().ok(), ..Position::default() };
    let mut core = Core::new(vec![survivor], &BTreeMap::from([(key("a"), position)]), NOW);
    let effects = core.listed("logs", vec![listed("b", &["a"], true)], 1, NOW);
    assert!(matches!(effects.as_slice(), [Effect::Gap(_)]), "{effects:?}");
    join(&mut core, 1);
    announce(&mut core, 1, vec![block("b1", "b", 1, "", "7")]);
    let (planned, _) = core.plan(1, NOW);
    let gone = planned.positions[&key("a")];
    assert_eq!((gone.sequence_number, gone.ended), ("5".parse().ok(), true));
    core.committed(1, NOW);
    announce(&mut core, 1, vec![block("b2", "b", 1, "7", "9")]);
    let (planned, _) = core.plan(2, NOW);
    assert_eq!(planned.positions.keys().collect::<Vec<_>>(), [&key("b")]);
}

#[test]
fn an_executor_that_lost_a_block_drops_the_others_that_go_back_with_it() {
    let mut core = one_shard_on_one_executor();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "5"), block("b2", "a", 1, "5", "6")]);
    // b1 is gone, b3 is not announced yet.
    let held = BTreeSet::from([BlockId::new("b2"), BlockId::new("b3")]);
    let effects = core.rejoined(&e(1), home(1, 100 * MIB), &held, NOW);
    assert_eq!(released(&effects), [(e(1), vec!["b2".to_owned()])]);
}

#[test]
fn the_parts_of_a_divided_batch_lead_to_the_same_positions_step_by_step() {
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    let listing = vec![listed("a", &[], false), listed("b", &[], true), listed("c", &["a"], true)];
    core.listed("logs", listing, 1, NOW);
    join(&mut core, 1);
    let end = v1::BlockDescriptor { ends_shard: true, ..block("a2", "a", 1, "1", "2") };
    let blocks = vec![
        block("a1", "a", 1, "", "1"),
        end,
        block("b1", "b", 1, "", "1"),
        block("b2", "b", 1, "1", "2"),
        block("b3", "b", 1, "2", "3"),
    ];
    announce(&mut core, 1, blocks);
    let (whole, _) = core.plan(1, NOW);
    assert!(whole.positions.contains_key(&key("c")), "{whole:?}");
    let (mut batch, mut last) = (1, 1);
    let (mut before, mut order) = (BTreeMap::new(), Vec::new());
    while batch <= last {
        while core.split(batch).is_some() {
            last += 1;
        }
        let planned = core.planned(batch).unwrap();
        let ids: Vec<String> =
            core.blocks(batch).unwrap().into_iter().map(|b| b.id.as_str().to_owned()).collect();
        assert_eq!((ids.len(), planned.advances.len()), (1, 1), "divided as far as it goes");
        order.extend(ids);
        let moved = crate::driver::commit::core::check_progress(
            &before,
            &planned.positions,
            &BTreeSet::new(),
        );
        assert_eq!(moved, Ok(()));
        // Every shard keeps an entry, and the child's comes with its parent's end.
        assert!(planned.positions.contains_key(&key("a")));
        assert!(planned.positions.contains_key(&key("b")));
        assert_eq!(planned.positions.contains_key(&key("c")), batch == last);
        core.committed(batch, NOW);
        core.release(batch, NOW);
        before = planned.positions;
        batch += 1;
    }
    assert_eq!(order, ["a1", "b1", "b2", "b3", "a2"], "in each shard in order, its end last");
    assert_eq!(before, whole.positions);
}

#[test]
fn an_excluded_executors_shards_move_and_its_blocks_are_read_again() {
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true), listed("b", &[], true)], 1, NOW);
    join(&mut core, 1);
    announce(&mut core, 1, vec![block("a1", "a", 1, "", "5")]);
    core.plan(1, NOW);
    announce(&mut core, 1, vec![block("a2", "a", 1, "5", "7")]);
    join(&mut core, 2);
    let bad = BTreeSet::from([e(1)]);
    let effects = core.exclude(bad.clone(), NOW);
    // Both shards are the other's, a again from before what was not planned.
    let moved = assigned(&effects, &e(2));
    let v1::read_from::At::Position(position) = &moved[0].2 else { panic!("{moved:?}") };
    assert_eq!((moved[0].0.as_str(), position.sequence_number.as_str()), ("a", "5"));
    assert!(core.assignment.values().all(|seat| seat.container == e(2)), "{:?}", core.assignment);
    let revoked =
        |effect: &Effect| matches!(effect, Effect::Send(to, Body::Revoke(_)) if *to == e(1));
    assert!(effects.iter().any(revoked), "it stops reading: {effects:?}");
    let reread =
        |effect: &Effect| matches!(effect, Effect::Send(to, Body::Reread(_)) if *to == e(2));
    assert!(effects.iter().any(reread), "{effects:?}");
    let dropped: BTreeSet<String> =
        released(&effects).into_iter().filter(|(to, _)| *to == e(1)).flat_map(|(_, b)| b).collect();
    assert_eq!(dropped, BTreeSet::from(["a1".to_owned(), "a2".to_owned()]));
    assert_eq!(core.blocks(1), None);
    // Named again it is left alone, and what it still says is refused.
    assert!(core.exclude(bad, NOW).is_empty());
    announce(&mut core, 1, vec![block("a3", "a", 1, "7", "8")]);
    assert!(!core.has_news(NOW));
    // It comes back, and the shards are spread again.
    assert!(!core.exclude(BTreeSet::new(), NOW).is_empty());
    assert_eq!(core.assignment.values().filter(|seat| seat.container == e(1)).count(), 1);
}

#[test]
fn an_excluded_executor_is_better_than_none_and_than_one_that_leaves() {
    let mut core = Core::new(vec![setup(Start::Earliest)], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], true)], 1, NOW);
    join(&mut core, 1);
    core.exclude(BTreeSet::from([e(1)]), NOW);
    assert_eq!(core.assignment[&key("a")].container, e(1));
    join(&mut core, 2);
    assert_eq!(core.assignment[&key("a")].container, e(2));
    core.leave(e(2), NOW);
    assert_eq!(core.assignment[&key("a")].container, e(1));
}
