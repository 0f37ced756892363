//! Tests of the judge: a played KCL, and any table.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::position::HashKeyRange;
use proptest::prelude::*;

use super::*;
use crate::driver::receivers::lineage::{Lineage, Loss, Start};

const TABLE: &str = "word-count-kcl";

fn number(value: u64) -> SequenceNumber {
    value.to_string().parse().unwrap()
}

fn lease(shard: &str, checkpoint: &str) -> Lease {
    Lease {
        key: shard.to_owned(),
        owner: None,
        counter: "1".into(),
        checkpoint: Checkpoint::parse(checkpoint).unwrap(),
        sub_sequence_number: 0,
    }
}

fn listed(shard: &str, parents: &[&str]) -> ListedShard {
    ListedShard {
        shard_id: shard.to_owned(),
        parents: parents.iter().map(|&parent| parent.to_owned()).collect(),
        range: HashKeyRange { starting: 0, ending: u128::MAX },
        open: true,
    }
}

fn stream() -> StreamName {
    StreamName::of("arn:aws:kinesis:eu-west-1:123456789012:stream/logs", "logs", 1_700_000_000_999)
}

fn judged(leases: &[Lease], shards: &[ListedShard]) -> Result<Import, Error> {
    judge(TABLE, &stream(), leases, shards)
}

/// Positions in a few letters: a number, `0` for the oldest record, `.` for the end.
fn shown(import: &Import) -> String {
    let shown = import.positions.iter().map(|(shard, position)| {
        let at = match (position.ended, position.sequence_number) {
            (true, _) => ".".to_owned(),
            (false, Some(number)) => number.to_string(),
            (false, None) => "0".to_owned(),
        };
        format!("{shard}={at}")
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn refused(result: Result<Import, Error>, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::KclCheckpoint, "{error}");
    for word in words.iter().chain([&TABLE]) {
        assert!(error.message().contains(word), "{word} in {error}");
    }
}

#[test]
fn each_checkpoint_has_its_position() {
    let leases = [lease("a", "17"), lease("b", "TRIM_HORIZON"), lease("c", "SHARD_END")];
    let shards = [listed("a", &[]), listed("b", &[]), listed("c", &[])];
    let import = judged(&leases, &shards).unwrap();
    assert_eq!(shown(&import), "a=17 b=0 c=.");
    let look = Look { shard_id: "a".into(), number: number(17), sub_sequence_number: 0 };
    assert_eq!(import.looks, [look]);
}

#[test]
fn what_was_processed_is_not_guessed() {
    let shards = [listed("a", &[]), listed("b", &[])];
    let leases = [lease("a", "LATEST"), lease("b", "AT_TIMESTAMP")];
    refused(judged(&leases, &shards), &["a, b"]);
}

#[test]
fn children_of_ended_parents_begin_and_others_wait() {
    let shards = [
        listed("a", &[]),
        listed("b", &[]),
        listed("c", &["a"]),
        listed("d", &["a"]),
        listed("e", &["b"]),
        listed("f", &["c", "e"]),
    ];
    let leases = [lease("a", "SHARD_END"), lease("b", "9"), lease("e", "TRIM_HORIZON")];
    // Of a's children none has a lease yet: both begin. The others are descendants of b.
    assert_eq!(shown(&judged(&leases, &shards).unwrap()), "a=. b=9 c=0 d=0");
}

#[test]
fn a_lease_that_was_deleted_after_its_end_is_not_read_again() {
    let shards = [
        listed("grandparent", &[]),
        listed("parent", &["grandparent"]),
        listed("child-1", &["parent"]),
        listed("child-2", &["parent"]),
    ];
    let leases = [lease("grandparent", "SHARD_END"), lease("child-1", "5"), lease("child-2", "7")];
    let import = judged(&leases, &shards).unwrap();
    assert_eq!(shown(&import), "child-1=5 child-2=7 grandparent=. parent=.");
    // Nothing below it was processed: it is new, and its children wait for it.
    let leases = [lease("grandparent", "SHARD_END"), lease("child-1", "TRIM_HORIZON")];
    assert_eq!(shown(&judged(&leases, &shards).unwrap()), "grandparent=. parent=0");
}

#[test]
fn a_checkpoint_before_the_parents_end_is_refused() {
    let shards = [listed("parent", &[]), listed("child", &["parent"])];
    refused(judged(&[lease("parent", "3"), lease("child", "5")], &shards), &["child"]);
    refused(judged(&[lease("parent", "3"), lease("child", "SHARD_END")], &shards), &["child"]);
}

#[test]
fn a_shard_that_is_listed_no_more_is_left_to_the_policy() {
    let shards = [listed("child", &["ended"])];
    let leases = [lease("ended", "SHARD_END"), lease("vanished", "4"), lease("unread", "LATEST")];
    let import = judged(&leases, &shards).unwrap();
    assert_eq!(shown(&import), "child=0 ended=. unread=0 vanished=4");
    assert_eq!(import.looks, [], "there is no record to look at");
}

#[test]
fn a_table_of_many_streams_gives_only_this_ones_leases() {
    let shards = [listed("shardId-000000000000", &[])];
    let leases = [
        lease("123456789012:logs:1700000000:shardId-000000000000", "17"),
        lease("123456789012:logs:1600000000:shardId-000000000000", "LATEST"),
        lease("123456789012:clicks:1700000000:shardId-000000000000", "LATEST"),
    ];
    let import = judged(&leases, &shards).unwrap();
    assert_eq!(shown(&import), "shardId-000000000000=17");
    refused(judged(&leases[1..], &shards), &["123456789012:logs:1700000000:"]);
    refused(judged(&[], &shards), &["no lease"]);
    let twice = [leases[0].clone(), lease("shardId-000000000000", "18")];
    refused(judged(&twice, &shards), &["two leases", "shardId-000000000000"]);
}

#[test]
fn a_checkpoint_inside_an_aggregate_is_refused() {
    let look = |shard: &str, sub_sequence_number| Look {
        shard_id: shard.into(),
        number: number(17),
        sub_sequence_number,
    };
    let whole = [
        (look("a", 0), Found::UserRecords(1)),
        (look("b", 2), Found::UserRecords(3)),
        (look("c", 2), Found::Trimmed),
    ];
    assert!(check_records(TABLE, &whole).is_ok());
    for (sub, num) in [(0, 2), (1, 3), (3, 3), (u64::MAX - 1, 1)] {
        let error = check_records(TABLE, &[(look("b", sub), Found::UserRecords(num))]).unwrap_err();
        assert_eq!(error.code(), Code::KclCheckpoint, "{error}");
        let named = format!("b (at 17, user record {sub} of 0 to {})", num - 1);
        assert!(error.message().contains(&named), "{error}");
    }
    let error = check_records(TABLE, &[(look("b", 0), Found::NeverThere)]).unwrap_err();
    assert!(error.message().contains("never held"), "{error}");
}

#[test]
fn whoever_renews_a_lease_is_named() {
    let owned = |shard: &str, owner: &str, counter: &str| Lease {
        owner: Some(owner.into()),
        counter: counter.into(),
        ..lease(shard, "5")
    };
    let before = [owned("a", "worker-1", "1"), owned("b", "worker-2", "1"), lease("c", "5")];
    assert!(is_owned(&before) && !is_owned(&before[2..]));
    assert!(check_still(TABLE, &before, &before).is_ok());
    let after = [owned("a", "worker-1", "2"), owned("b", "worker-2", "1"), lease("c", "5")];
    let error = check_still(TABLE, &before, &after).unwrap_err();
    assert_eq!(error.code(), Code::KclLive);
    for word in [TABLE, "of a changed", "by worker-1"] {
        assert!(error.message().contains(word), "{word} in {error}");
    }
    assert!(!error.message().contains("worker-2"), "{error}");
    for after in [&before[1..], &[&before[..], &[lease("d", "5")]].concat()] {
        assert!(check_still(TABLE, &before, after).is_err(), "rows come and go");
    }
}

#[test]
fn a_refusal_names_only_some_of_many() {
    let shards: Vec<_> = (0..500).map(|i| listed(&format!("s{i:03}"), &[])).collect();
    let leases: Vec<_> = shards.iter().map(|shard| lease(&shard.shard_id, "LATEST")).collect();
    refused(judged(&leases, &shards), &["s000, s001", "s009 and 490 more"]);
}

/// A shard of a made-up stream: up to two parents among the shards before it, and its lease.
#[derive(Clone, Debug)]
struct Made {
    parents: Vec<prop::sample::Index>,
    /// How much of the shard the KCL has processed, if all its parents have ended.
    progress: u8,
    /// The lease is deleted, if all children are processed.
    is_cleaned: bool,
    /// The lease is not made yet, if nothing of the shard is processed.
    is_new: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let parents = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (parents, 0u8..4, any::<bool>(), any::<bool>()).prop_map(
        |(parents, progress, is_cleaned, is_new)| Made { parents, progress, is_cleaned, is_new },
    )
}

/// Plays a KCL over the shards and gives the listing, its leases, and of each shard what it has
/// processed: none for nothing, 0 for all.
fn play(shards: &[Made]) -> (Vec<ListedShard>, Vec<Lease>, BTreeMap<String, Option<u64>>) {
    let id = |index: usize| format!("s{index:02}");
    let (mut listing, mut processed) = (Vec::new(), BTreeMap::<String, Option<u64>>::new());
    for (index, made) in shards.iter().enumerate() {
        let parents: BTreeSet<String> = match index {
            0 => BTreeSet::new(),
            _ => made.parents.iter().map(|parent| id(parent.index(index))).collect(),
        };
        let may_begin = parents.iter().all(|parent| processed[parent] == Some(0));
        let progress = match made.progress {
            0 => None,
            1 => Some(0),
            more => Some(u64::from(more)),
        };
        processed.insert(id(index), progress.filter(|_| may_begin));
        let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
        listing.push(listed(&id(index), &parents));
    }
    let children = |parent: &str| {
        let of = |shard: &&ListedShard| shard.parents.iter().any(|p| p == parent);
        listing.iter().filter(of).map(|shard| processed[&shard.shard_id]).collect::<Vec<_>>()
    };
    let mut leases = Vec::new();
    for (index, made) in shards.iter().enumerate() {
        let shard = id(index);
        let below = children(&shard);
        match processed[&shard] {
            Some(0)
                if made.is_cleaned && !below.is_empty() && below.iter().all(Option::is_some) => {}
            Some(0) => leases.push(lease(&shard, "SHARD_END")),
            Some(number) => leases.push(lease(&shard, &number.to_string())),
            None if made.is_new => {}
            None => leases.push(lease(&shard, "TRIM_HORIZON")),
        }
    }
    (listing, leases, processed)
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_not_processed(shards in prop::collection::vec(made(), 1..12)) {
        let (listing, leases, processed) = play(&shards);
        prop_assume!(!leases.is_empty());
        let import = judged(&leases, &listing).unwrap();
        for shard in &listing {
            let position = import.positions.get(&shard.shard_id);
            match processed[&shard.shard_id] {
                Some(0) => prop_assert_eq!(position, Some(&ended()), "{:?}", shard),
                Some(value) => prop_assert_eq!(position, Some(&at(number(value))), "{:?}", shard),
                // From its oldest record, now or when its parents have ended.
                None => {
                    let done = |parent: &String| processed[parent] == Some(0);
                    let expected = shard.parents.iter().all(done).then(Position::default);
                    prop_assert_eq!(position, expected.as_ref(), "{:?}", shard);
                }
            }
        }
        // The lineage takes it: nothing is lost, and everything that is not read yet waits.
        let entries = import.positions.iter().map(|(id, position)| (id.clone(), position.ended));
        let mut lineage = Lineage::new(Start::Earliest, entries);
        prop_assert_eq!(lineage.list(listing.clone()), []);
        let readable: BTreeSet<String> = lineage.readable().map(|(id, _)| id.to_owned()).collect();
        let begun = import.positions.iter().filter(|(_, position)| !position.ended);
        let begun: BTreeSet<String> = begun.map(|(id, _)| id.clone()).collect();
        prop_assert_eq!(&readable, &begun);
        let known: BTreeSet<&str> = lineage.unended().collect();
        for shard in &listing {
            let is_done = processed[&shard.shard_id] == Some(0);
            prop_assert_eq!(known.contains(&*shard.shard_id), !is_done, "{:?}", shard);
        }
    }

    #[test]
    fn any_table_is_judged(
        shards in prop::collection::vec(made(), 0..8),
        rows in prop::collection::vec(("s0[0-9]", 0usize..5, 0u64..3), 0..8),
    ) {
        let (listing, ..) = play(&shards);
        let leases: Vec<Lease> = rows
            .into_iter()
            .map(|(shard, kind, sub_sequence_number)| {
                let checkpoint = ["7", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "SHARD_END"][kind];
                Lease { sub_sequence_number, ..lease(&shard, checkpoint) }
            })
            .collect();
        let Ok(import) = judged(&leases, &listing) else { return Ok(()) };
        // Whatever the table says: a taken checkpoint is the table's, and is looked at.
        for (shard, position) in &import.positions {
            let lease = leases.iter().find(|lease| lease.key == *shard);
            if let Some(taken) = position.sequence_number {
                prop_assert_eq!(lease.map(|l| l.checkpoint), Some(Checkpoint::Number(taken)));
                let is_listed = listing.iter().any(|listed| listed.shard_id == *shard);
                let is_looked_at = import.looks.iter().any(|look| look.shard_id == *shard);
                prop_assert_eq!(is_looked_at, is_listed);
            }
        }
        let entries = import.positions.iter().map(|(id, position)| (id.clone(), position.ended));
        let losses = Lineage::new(Start::Earliest, entries).list(listing.clone());
        let vanished = |loss: &Loss| matches!(loss, Loss::Vanished(_));
        prop_assert!(losses.iter().all(vanished), "{:?}", losses);
    }
}
