//! Ranges as the receivers' actor sees them: what is read, what is not, and when all of it is.

use proptest::prelude::*;

use super::*;
use crate::driver::ledger::EMPTY_MARGIN_MS;

/// The range ends here, by arrival; a minute and more before the listings.
const UNTIL_MS: i64 = 1_000_000;
const LISTED_MS: i64 = UNTIL_MS + EMPTY_MARGIN_MS;

fn within(positions: &BTreeMap<ShardKey, Position>) -> Core {
    let start = Start::At { timestamp_ms: 500_000, shards: BTreeSet::from(["a".into()]) };
    Core::until(Some(UNTIL_MS), vec![setup(start)], positions, NOW)
}

fn list(core: &mut Core, shards: &[(&str, &[&str], bool)]) -> Vec<Effect> {
    let shards = shards.iter().map(|(id, parents, open)| listed(id, parents, *open)).collect();
    core.listed("logs", shards, LISTED_MS, NOW)
}

/// Executor 1 says of a shard that it read up to `after`, and what is behind that.
fn told(core: &mut Core, shard: &str, generation: u64, after: &str, end: End) -> Vec<Effect> {
    let (server_ms, nothing_before_ms) = match end {
        End::LaterRecord => (LISTED_MS, UNTIL_MS),
        End::Empty(server_ms) => (server_ms, 0),
    };
    let read = v1::EmptyRead {
        shard: Some(key(shard).to_proto()),
        generation,
        after_seq: after.into(),
        server_ms,
        millis_behind_latest: 0,
        nothing_before_ms,
    };
    let announcement = v1::BlockAnnouncement { empty_reads: vec![read], ..Default::default() };
    core.announced(&e(1), announcement, NOW)
}

#[derive(Clone, Copy)]
enum End {
    LaterRecord,
    Empty(i64),
}

fn commit(core: &mut Core, batch: u64) -> BTreeMap<ShardKey, Position> {
    assert!(core.has_news(NOW));
    let positions = core.plan(batch, NOW).0.positions;
    core.committed(batch, NOW);
    positions
}

fn revoked(effects: &[Effect]) -> Vec<String> {
    let shards = effects.iter().filter_map(|effect| match effect {
        Effect::Send(_, Body::Revoke(revoke)) => Some(revoke.shards.clone()),
        _ => None,
    });
    shards.flatten().map(|shard| shard.shard_id).collect()
}

fn reading_one_shard() -> Core {
    let mut core = within(&BTreeMap::new());
    list(&mut core, &[("a", &[], true)]);
    let effects = join(&mut core, 1);
    assert_eq!(assigned(&effects, &e(1))[0].2, v1::read_from::At::TimestampMs(500_000));
    core
}

#[test]
fn a_later_record_ends_a_shard_and_the_range() {
    let mut core = reading_one_shard();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "7")]);
    assert!(!core.is_range_read());
    let effects = told(&mut core, "a", 1, "7", End::LaterRecord);
    assert_eq!(revoked(&effects), ["a"], "nothing more is asked of it");
    assert!(core.is_range_read());
    let positions = commit(&mut core, 1);
    assert_eq!(positions[&key("a")].empty_until_ms, UNTIL_MS);
    assert!(!core.has_news(NOW), "the head says all that there is to say");

    // The next driver has nothing to read.
    let mut next = within(&positions);
    assert!(!next.is_range_read(), "before a listing nobody knows");
    list(&mut next, &[("a", &[], false), ("b", &["a"], true)]);
    assert_eq!(assigned(&join(&mut next, 1), &e(1)), []);
    assert!(next.is_range_read() && !next.has_news(NOW));
}

#[test]
fn what_is_said_of_another_record_than_the_last_ends_nothing() {
    let mut core = reading_one_shard();
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "7")]);
    told(&mut core, "a", 1, "6", End::LaterRecord);
    told(&mut core, "a", 0, "7", End::LaterRecord);
    assert!(!core.is_range_read());
    // What comes after it takes it back.
    told(&mut core, "a", 1, "7", End::LaterRecord);
    assert!(core.is_range_read());
    core.lost(&e(1), NOW);
    assert!(!core.is_range_read(), "the block is gone, and is read again");
    let effects = join(&mut core, 2);
    assert_eq!(assigned(&effects, &e(2)).len(), 1);
}

#[test]
fn an_empty_open_shard_ends_the_range_a_minute_after_it() {
    let mut core = reading_one_shard();
    told(&mut core, "a", 1, "", End::Empty(LISTED_MS - 1_000));
    assert!(!core.is_range_read(), "records of the range may still be on their way");
    told(&mut core, "a", 1, "", End::Empty(LISTED_MS));
    assert!(core.is_range_read());
    assert!(commit(&mut core, 1)[&key("a")].empty_until_ms >= UNTIL_MS);
}

#[test]
fn an_empty_closed_shard_is_read_to_its_own_end() {
    let mut core = reading_one_shard();
    list(&mut core, &[("a", &[], false), ("b", &["a"], true)]);
    told(&mut core, "a", 1, "", End::Empty(LISTED_MS + 5_000));
    assert!(!core.is_range_read(), "its child may have begun within the range");
    // Nor does the head say so, if it is written now.
    announce(&mut core, 1, vec![block("b1", "a", 1, "", "7")]);
    told(&mut core, "a", 1, "7", End::Empty(LISTED_MS + 5_000));
    assert!(commit(&mut core, 1)[&key("a")].empty_until_ms < UNTIL_MS);
    let end = v1::BlockDescriptor {
        ends_shard: true,
        num_raw_records: 0,
        num_records: 0,
        first_seq: String::new(),
        ..block("b2", "a", 1, "7", "7")
    };
    announce(&mut core, 1, vec![end]);
    list(&mut core, &[("a", &[], false), ("b", &["a"], true)]);
    let (_, effects) = core.plan(2, NOW);
    assert_eq!(assigned(&effects, &e(1))[0].0, "b");
    assert!(!core.is_range_read());
    told(&mut core, "b", 1, "", End::LaterRecord);
    assert!(core.is_range_read());
}

#[test]
fn children_of_a_shard_that_ends_behind_the_range_are_not_read() {
    let mut core = reading_one_shard();
    list(&mut core, &[("a", &[], false), ("b", &["a"], true), ("c", &["a"], true)]);
    told(&mut core, "a", 1, "", End::LaterRecord);
    assert!(core.is_range_read());
    let positions = commit(&mut core, 1);
    assert_eq!(positions.keys().map(|key| key.shard_id.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_shard_that_is_gone_after_its_part_was_read_is_no_loss() {
    let mut core = reading_one_shard();
    told(&mut core, "a", 1, "", End::LaterRecord);
    let positions = commit(&mut core, 1);
    let mut next = within(&positions);
    let effects = list(&mut next, &[("b", &["a"], true)]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Fail(_))), "{effects:?}");
    // One that was not read to the end of the range is.
    let mut unread = positions;
    unread.insert(key("a"), Position::default());
    let effects = list(&mut within(&unread), &[("b", &["a"], true)]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Fail(_))));
}

#[test]
fn a_stale_listing_ends_no_range() {
    let mut core = within(&BTreeMap::new());
    core.listed("logs", vec![listed("a", &[], true)], UNTIL_MS - 1, NOW);
    join(&mut core, 1);
    told(&mut core, "a", 1, "", End::LaterRecord);
    assert!(!core.is_range_read(), "a shard may have begun since");
    list(&mut core, &[("a", &[], true)]);
    assert!(core.is_range_read());
}

#[test]
fn a_replay_leaves_a_part_of_each_shard_to_the_application() {
    let mut core = within(&BTreeMap::new());
    list(&mut core, &[("a", &[], true)]);
    let assignments = join(&mut core, 1).into_iter().filter_map(|effect| match effect {
        Effect::Send(_, Body::Assign(assign)) => Some(assign.assignments),
        _ => None,
    });
    let readers: Vec<_> = assignments.flatten().map(|a| (a.num_readers, a.until_ms)).collect();
    assert_eq!(readers, [(2, UNTIL_MS)]);
}

/// A shard of a family: its parents are earlier ones, it takes over at `from_ms` and gives up at
/// `to_ms`.
#[derive(Clone, Debug)]
struct Kin {
    parents: Vec<usize>,
    from_ms: i64,
    to_ms: Option<i64>,
}

impl Kin {
    /// True when the family's tree says that records of the range may be in it.
    fn may_hold(&self) -> bool {
        self.from_ms < UNTIL_MS
    }
}

/// Splits of random shards at rising times, some within the range and some behind it.
fn family() -> impl Strategy<Value = Vec<Kin>> {
    let root = Kin { parents: Vec::new(), from_ms: 0, to_ms: None };
    prop::collection::vec((0usize..8, any::<bool>(), 1i64..20), 0..8).prop_map(move |changes| {
        let (mut kin, mut now) = (vec![root.clone()], 900_000);
        for (which, merges, later) in changes {
            now += later * 10_000;
            let open: Vec<usize> = (0..kin.len()).filter(|n| kin[*n].to_ms.is_none()).collect();
            let one = open[which % open.len()];
            let other = open[(which + 1) % open.len()];
            let parents = if merges && one != other { vec![one, other] } else { vec![one] };
            let num_children = if parents.len() == 2 { 1 } else { 2 };
            for parent in &parents {
                kin[*parent].to_ms = Some(now);
            }
            for _ in 0..num_children {
                kin.push(Kin { parents: parents.clone(), from_ms: now, to_ms: None });
            }
        }
        kin
    })
}

proptest! {
    #[test]
    fn the_range_ends_when_every_shard_that_began_within_it_is_read(
        kin in family(), restarts in prop::collection::vec(any::<bool>(), 40),
    ) {
        let name = |n: usize| if n == 0 { "a".to_owned() } else { format!("s{n}") };
        let listing = || {
            let shard = |(n, kin): (usize, &Kin)| ListedShard {
                shard_id: name(n),
                parents: kin.parents.iter().map(|parent| name(*parent)).collect(),
                range: HashKeyRange { starting: 0, ending: 9 },
                open: kin.to_ms.is_none(),
            };
            kin.iter().enumerate().map(shard).collect::<Vec<_>>()
        };
        let mut positions = BTreeMap::new();
        let mut read = BTreeSet::new();
        let (mut core, mut batch) = (within(&positions), 0);
        core.listed("logs", listing(), LISTED_MS, NOW);
        join(&mut core, 1);
        for restarts in restarts {
            if core.is_range_read() {
                break;
            }
            // Every shard that is read comes to its end, or to the range's.
            let reading: Vec<ShardKey> = core.assignment.keys().cloned().collect();
            prop_assert!(!reading.is_empty(), "nothing moves, and the range is not read");
            for shard in reading {
                let id = shard.shard_id.as_str();
                let nth = (0..kin.len()).find(|n| name(*n) == id).unwrap();
                prop_assert!(read.insert(nth) || restarts_happened(&positions), "{id} twice");
                let generation = core.ledger.reading(&shard).unwrap().0;
                match kin[nth].to_ms {
                    Some(end_ms) if end_ms < UNTIL_MS => {
                        let last = format!("{}", nth + 1);
                        let end = v1::BlockDescriptor {
                            ends_shard: true,
                            ..block(&format!("b{batch}-{nth}"), id, generation, "", &last)
                        };
                        announce(&mut core, 1, vec![end]);
                    }
                    _ => drop(told(&mut core, id, generation, "", End::LaterRecord)),
                }
            }
            core.listed("logs", listing(), LISTED_MS, NOW);
            if core.has_news(NOW) {
                batch += 1;
                positions = core.plan(batch, NOW).0.positions;
                core.committed(batch, NOW);
                core.release(batch, NOW);
            }
            if restarts {
                core = within(&positions);
                core.listed("logs", listing(), LISTED_MS, NOW);
                join(&mut core, 1);
            }
        }
        prop_assert!(core.is_range_read());
        let expected: BTreeSet<usize> = (0..kin.len()).filter(|n| kin[*n].may_hold()).collect();
        prop_assert_eq!(read, expected);
    }
}

/// A driver that starts again reads what the one before had not committed.
fn restarts_happened(positions: &BTreeMap<ShardKey, Position>) -> bool {
    !positions.is_empty()
}
