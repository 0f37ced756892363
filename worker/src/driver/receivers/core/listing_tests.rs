//! What descriptions and listings show while the application runs: shards that are gone, a stream
//! that is gone, settings that change.

use proptest::prelude::*;

use super::*;

/// Shard `a`, read up to its record 5, with `b` as its child, on executor 1.
fn reading_a_parent(survives_loss: bool) -> Core {
    let setup = SourceSetup { survives_loss, ..setup(Start::Earliest) };
    let mut core = Core::new(vec![setup], &BTreeMap::new(), NOW);
    core.listed("logs", vec![listed("a", &[], false), listed("b", &["a"], true)], 1, NOW);
    join(&mut core, 1);
    announce(&mut core, 1, vec![block("a1", "a", 1, "", "5")]);
    core
}

/// The reader of `a` says that Kinesis does not find the shard; it has read up to `after`.
fn tell_gone(core: &mut Core, generation: u64, after: &str) -> Vec<Effect> {
    let trouble = v1::ShardTrouble {
        shard: Some(key("a").to_proto()),
        generation,
        kind: v1::shard_trouble::Kind::StreamGone.into(),
        lost_after_seq: after.into(),
        ..Default::default()
    };
    core.troubled(&e(1), trouble, NOW)
}

/// A listing from its beginning, with `a` or without it.
fn list(core: &mut Core, with_a: bool) -> Vec<Effect> {
    core.listing_begins("logs");
    end_listing(core, with_a)
}

fn end_listing(core: &mut Core, with_a: bool) -> Vec<Effect> {
    let mut shards = vec![listed("b", &["a"], true)];
    shards.extend(with_a.then(|| listed("a", &[], false)));
    core.listed("logs", shards, 1, NOW)
}

fn is_discover(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Discover(source)] if source == "logs")
}

fn asks_again(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Send(_, Body::Reread(_))))
}

/// Block `a1` is in batch 1, and its executor is gone; executor 2 was asked to read it again.
fn rereading(survives_loss: bool) -> Core {
    let mut core = reading_a_parent(survives_loss);
    core.plan(1, NOW);
    join(&mut core, 2);
    assert!(asks_again(&core.lost(&e(1), NOW)));
    core
}

fn reread_is_missing(core: &mut Core) -> Vec<Effect> {
    let failure = v1::Failure { code: Code::StreamMissing.as_str().into(), ..Default::default() };
    core.reread_done(&e(2), v1::RereadDone { block_id: "a1".into(), failure: Some(failure) }, NOW)
}

#[test]
fn a_shard_that_expires_while_it_is_read_is_a_loss_and_the_stream_is_not_gone() {
    let mut core = reading_a_parent(false);
    assert!(is_discover(&tell_gone(&mut core, 1, "5")), "its listing decides");
    let effects = list(&mut core, false);
    let Some(Effect::Fail(error)) = effects.first() else { panic!("{effects:?}") };
    assert_eq!(error.code(), Code::DataLost);
    assert!(error.message().contains("shard a ") && error.message().contains("after 5"), "{error}");
}

#[test]
fn by_policy_it_is_a_counted_gap_and_its_children_are_read() {
    let mut core = reading_a_parent(true);
    tell_gone(&mut core, 1, "5");
    let effects = list(&mut core, false);
    assert!(matches!(effects.first(), Some(Effect::Gap(_))), "{effects:?}");
    assert_eq!(assigned(&effects, &e(1))[0].0, "b");
    let gaps = core.snapshot(NOW).gaps;
    assert_eq!((gaps.len(), gaps[0].count), (1, 1));
    let again = list(&mut core, false);
    assert!(!again.iter().any(|effect| matches!(effect, Effect::Gap(_))), "counted once");
    // What was read of it has its effect, and then the head says that it ended.
    let (planned, _) = core.plan(1, NOW);
    let position = planned.positions[&key("a")];
    assert_eq!((position.sequence_number, position.ended), ("5".parse().ok(), true));
    assert_eq!(planned.positions[&key("b")], Position::default());
}

#[test]
fn only_a_listing_that_began_later_is_believed() {
    let mut core = reading_a_parent(true);
    core.listing_begins("logs");
    tell_gone(&mut core, 1, "5");
    assert!(end_listing(&mut core, false).is_empty(), "it began before");
    core.listing_begins("logs");
    core.listing_failed("logs");
    assert!(end_listing(&mut core, false).is_empty(), "of another listing");
    let effects = list(&mut core, false);
    assert!(matches!(effects.first(), Some(Effect::Gap(_))), "{effects:?}");
}

#[test]
fn a_shard_that_is_listed_after_all_is_tried_again_at_the_pace_of_the_listings() {
    let mut core = reading_a_parent(false);
    assert!(is_discover(&tell_gone(&mut core, 1, "5")));
    let again = assigned(&list(&mut core, true), &e(1));
    assert_eq!((again[0].0.as_str(), again[0].1), ("a", 2), "a new reader");
    assert!(tell_gone(&mut core, 2, "5").is_empty(), "the next listing comes by itself");
    assert_eq!(assigned(&list(&mut core, true), &e(1))[0].1, 3);
    assert!(list(&mut core, false).is_empty(), "nothing was told since");
}

#[test]
fn what_was_read_comes_before_the_loss() {
    let mut core = reading_a_parent(true);
    assert!(tell_gone(&mut core, 1, "7").is_empty(), "the block with 7 is on its way");
    assert!(list(&mut core, false).is_empty());
    announce(&mut core, 1, vec![block("a2", "a", 1, "5", "7")]);
    assert!(is_discover(&tell_gone(&mut core, 1, "7")));
    list(&mut core, false);
    let (planned, _) = core.plan(1, NOW);
    assert_eq!(planned.positions[&key("a")].sequence_number, "7".parse().ok());
    assert!(core.snapshot(NOW).gaps[0].last.contains("after 7"), "{:?}", core.snapshot(NOW).gaps);
}

#[test]
fn blocks_that_are_lost_after_their_shard_are_a_gap_too() {
    let mut core = reading_a_parent(true);
    tell_gone(&mut core, 1, "5");
    list(&mut core, false);
    let effects = core.lost(&e(1), NOW);
    let [Effect::Gap(error)] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(error.message().contains("after its start"), "{error}");
    join(&mut core, 2);
    announce(&mut core, 2, vec![block("b1", "b", 2, "", "9")]);
    let (planned, _) = core.plan(1, NOW);
    assert_eq!(planned.positions[&key("a")], Position { ended: true, ..Position::default() });
    assert_eq!(planned.gaps[&key("a")].count, 2);
}

#[test]
fn a_lost_block_of_a_shard_that_is_gone_is_not_asked_for_again() {
    for survives_loss in [false, true] {
        let mut core = rereading(survives_loss);
        assert!(is_discover(&reread_is_missing(&mut core)));
        assert!(core.settle_lost(1, NOW).is_empty(), "it may be the stream");
        list(&mut core, false);
        assert!(!asks_again(&core.tick(Duration::from_secs(100))));
        let effects = core.settle_lost(1, NOW);
        let [Effect::Fail(error) | Effect::Gap(error)] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!(matches!(effects[0], Effect::Gap(_)), survives_loss);
        assert_eq!(error.code(), Code::DataLost);
        assert!(error.message().contains("logs/a from 5 to 5"), "{error}");
        assert_eq!(core.blocks(1), survives_loss.then(Vec::new), "the batch goes on without it");
    }
}

#[test]
fn a_lost_block_of_a_shard_that_is_listed_is_asked_for_again() {
    let mut core = rereading(false);
    assert!(is_discover(&reread_is_missing(&mut core)));
    assert!(assigned(&list(&mut core, true), &e(2)).is_empty(), "its reader said nothing");
    assert!(core.settle_lost(1, NOW).is_empty());
    assert!(asks_again(&core.tick(Duration::from_secs(100))));
}

#[test]
fn only_its_description_says_that_the_stream_is_gone() {
    let core = reading_a_parent(true);
    let cause = Error::new(Code::StreamMissing, "not found", "none");
    let effects = core.stream_missing("logs", cause);
    let [Effect::Fail(error)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(error.code(), Code::StreamMissing);
}

#[test]
fn a_stream_made_again_under_its_name_stops_the_application() {
    let mut core = one_shard_on_one_executor();
    let retention = setup(Start::Earliest).retention;
    assert!(core.described("logs", &stream(), retention, NOW).is_empty());
    let again = Stream { created_ms: 6, ..stream() };
    let effects = core.described("logs", &again, retention, NOW);
    let [Effect::Fail(error)] = effects.as_slice() else { panic!("it goes on: {effects:?}") };
    assert_eq!(error.code(), Code::SourceChanged);
}

#[test]
fn readers_judge_by_the_retention_of_today() {
    let mut core = one_shard_on_one_executor();
    let told = |effects: &[Effect]| -> Vec<(u64, u64, bool)> {
        let assign = |effect: &Effect| match effect {
            Effect::Send(_, Body::Assign(assign)) => Some(assign.assignments.clone()),
            _ => None,
        };
        let all = effects.iter().filter_map(assign).flatten();
        all.map(|one| (one.generation, one.retention_ms, one.keyed)).collect()
    };
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(told(&core.described("logs", &stream(), week, NOW)), [(2, 604_800_000, true)]);
    assert!(core.described("logs", &stream(), week, NOW).is_empty(), "nothing new");
    let spread = Stream { keyed: false, ..stream() };
    assert_eq!(told(&core.described("logs", &spread, week, NOW)), [(3, 604_800_000, false)]);
    // And whoever comes later.
    core.lost(&e(1), NOW);
    assert_eq!(told(&join(&mut core, 2)), [(4, 604_800_000, false)]);
}

/// What may happen around a shard that is not found.
#[derive(Clone, Copy, Debug)]
enum Event {
    Told,
    Begins,
    Fails,
    Ends,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// A listed shard is never taken for gone, and one that is gone only after both were seen.
    #[test]
    fn a_shard_is_gone_only_when_not_found_and_then_not_listed(
        events in prop::collection::vec(
            prop_oneof![Just(Event::Told), Just(Event::Begins), Just(Event::Fails), Just(Event::Ends)],
            0..30,
        ),
        is_there: bool,
    ) {
        let mut core = reading_a_parent(true);
        let (mut is_told, mut began_later, mut is_gone) = (false, false, false);
        for event in events {
            let (generation, _) = core.ledger.reading(&key("a")).unwrap();
            match event {
                Event::Told => {
                    prop_assert!(!tell_gone(&mut core, generation, "5").iter().any(is_final));
                    is_told = true;
                }
                Event::Begins => {
                    core.listing_begins("logs");
                    began_later = is_told;
                }
                Event::Fails => {
                    core.listing_failed("logs");
                    began_later = false;
                }
                Event::Ends => {
                    let effects = end_listing(&mut core, is_there);
                    let expected = !is_there && began_later && !is_gone;
                    prop_assert_eq!(effects.iter().any(is_final), expected, "{:?}", effects);
                    is_gone |= expected;
                    if began_later {
                        (is_told, began_later) = (false, false);
                    }
                }
            }
        }
        prop_assert_eq!(core.snapshot(NOW).gaps.len(), usize::from(is_gone));
    }
}

fn is_final(effect: &Effect) -> bool {
    matches!(effect, Effect::Fail(_) | Effect::Gap(_))
}
