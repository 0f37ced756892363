//! The checker checked: facts that are right pass, and each mutation of them breaks exactly the
//! invariants that it must, naming what differs.

use serde_json::{Value, json};

use super::*;
use crate::checker::commits;
use crate::checker::head::{Number, SeenPosition, SeenShard, SeenStart, SeenUpload};
use crate::checker::name::ObjectName;
use crate::checker::observe::{Coverage, Delta, Look, Sample};
use crate::checker::truth::{OutOfRange, Shard, Stream};

use Invariant::{I1, I2, I3, I4, I5, I6, I7};

const PARENT: &str = "shardId-000000000000";
const CHILD: &str = "shardId-000000000001";

fn run(n: u8) -> String {
    format!("{n:08x}-3b1f-4a55-9d5b-000000000000")
}

fn key(epoch: u64, batch: u64, task: u64, run: &str) -> String {
    format!("out/app-e{epoch}-b{batch}-t{task}-{run}.json")
}

fn number(n: u64) -> SequenceNumber {
    n.to_string().parse().unwrap()
}

/// A shard of the records 1 to `last`, whose payloads are words.
fn shard(parents: &[&str], is_open: bool, last: u64) -> Shard {
    let parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
    let mut shard = Shard { parents, is_open, ..Shard::default() };
    for n in 1..=last {
        let payload = format!("word {}", n % 3);
        shard.push(number(n), 1_000, payload.as_bytes(), OutOfRange::Dropped);
    }
    shard
}

fn object(key: &str, rows: Vec<Value>) -> Object {
    let name = ObjectName::parse("app", key);
    let token = name.as_ref().ok().map(|name| name.token("app"));
    Object { key: key.to_owned(), name, token, rows }
}

fn row(truth: &Truth, shard: &str, n: u64) -> Value {
    let record = &truth.streams["logs"].shards[shard].records[&(number(n), 0)];
    let sum = record.sha256();
    json!({"source": "logs", "shard": shard, "seq": n.to_string(), "sub": 0, "sha256": sum})
}

fn head(
    epoch: u64,
    batch: u64,
    positions: &[(&str, u64, bool)],
    files: &[(&str, u64)],
) -> SeenHead {
    let position = |(shard, n, ended): &(&str, u64, bool)| {
        let key = SeenShard {
            source: "logs".into(),
            stream: "arn".into(),
            created_ms: 1,
            shard: (*shard).to_owned(),
        };
        let number = (*n > 0).then(|| Number(number(*n)));
        (key, SeenPosition { number, ended: *ended, empty_until_ms: 0 })
    };
    let file = |(key, rows): &(&str, u64)| SeenUpload {
        bucket: "b".into(),
        key: (*key).to_owned(),
        rows: *rows,
    };
    SeenHead {
        epoch,
        batch,
        commit_id: format!("commit-{batch}"),
        positions: positions.iter().map(position).collect(),
        files: files.iter().map(file).collect(),
        starts: [("logs".to_owned(), SeenStart::default())].into(),
    }
}

/// Three batches in two epochs over a parent and its child, all watched, drained and cleaned up.
fn clean() -> Facts {
    let shards =
        [(PARENT.to_owned(), shard(&[], false, 6)), (CHILD.to_owned(), shard(&[PARENT], true, 4))];
    let stream = Stream { arn: "arn".into(), shards: shards.into() };
    let truth = Truth { streams: [("logs".to_owned(), stream)].into() };
    let keys = [
        key(1, 1, 0, &run(1)),
        key(1, 1, 1, &run(1)),
        key(2, 2, 0, &run(2)),
        key(2, 3, 0, &run(3)),
    ];
    let of = |shard: &str, numbers: std::ops::RangeInclusive<u64>| {
        numbers.map(|n| row(&truth, shard, n)).collect::<Vec<_>>()
    };
    let objects = vec![
        object(&keys[0], of(PARENT, 1..=2)),
        object(&keys[1], of(PARENT, 3..=4)),
        object(&keys[2], of(PARENT, 5..=6)),
        object(&keys[3], of(CHILD, 1..=4)),
    ];
    let heads = [
        head(1, 1, &[(PARENT, 4, false)], &[(&keys[0], 2), (&keys[1], 2)]),
        head(2, 1, &[(PARENT, 4, false)], &[(&keys[0], 2), (&keys[1], 2)]),
        head(2, 2, &[(PARENT, 6, true), (CHILD, 0, false)], &[(&keys[2], 2)]),
        head(2, 3, &[(PARENT, 6, true), (CHILD, 4, false)], &[(&keys[3], 4)]),
    ];
    let shown: [&[usize]; 4] = [&[0], &[1], &[2], &[3]];
    let sample = |(head, new): (&SeenHead, &[usize])| {
        let new = new.iter().map(|at| (keys[*at].clone(), "\"etag-1\"".to_owned())).collect();
        let delta = Delta { new, ..Delta::default() };
        Sample { at_ms: 5, delta, head: Look::Head(Box::new(head.clone())) }
    };
    let coverage = Coverage { num_listings: 9, num_heads: 40, ..Coverage::default() };
    let samples = heads.iter().zip(shown).map(sample).collect();
    let commits = commits::known(&heads, &[], "b", "out/");
    Facts {
        application: "app".into(),
        kind: Kind::Records,
        is_drained: true,
        truth,
        objects,
        head: heads.last().cloned(),
        commits,
        observations: Some(Observations { samples, coverage }),
        open_uploads: vec![key(1, 2, 0, &run(9))],
        leftovers: Some(Leftovers::default()),
        excused: Vec::new(),
    }
}

/// A word count over the clean facts' records: each batch counted by itself.
fn clean_words() -> Facts {
    let mut facts = clean();
    facts.kind = Kind::Words;
    let records = [(0, 1..=2), (1, 3..=4), (2, 5..=6), (3, 1..=4)];
    for (at, numbers) in records {
        let rows = numbers.flat_map(|n: u64| [("word".to_owned(), 1), ((n % 3).to_string(), 1)]);
        facts.objects[at].rows = rows.map(|(word, n)| json!({"word": word, "n": n})).collect();
    }
    facts.commits.clear();
    facts
}

/// Asserts that exactly `broken` is broken, and that the first finding of the first says all of
/// `names`.
fn breaks(facts: &Facts, broken: &[Invariant], names: &[&str]) {
    let report = facts.judge();
    assert_eq!(report.broken(), broken, "{report}");
    let first = report.verdict(broken[0]).findings[0].to_string();
    for name in names {
        assert!(first.contains(name), "{first:?} does not say {name:?}");
    }
}

fn last_head(facts: &mut Facts) -> &mut SeenHead {
    let samples = &mut facts.observations.as_mut().unwrap().samples;
    match &mut samples.last_mut().unwrap().head {
        Look::Head(head) => head,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_right_passes() {
    for facts in [clean(), clean_words()] {
        let report = facts.judge();
        assert!(report.is_clean(), "{report}");
        let not_judged = report.verdicts.iter().filter(|verdict| verdict.not_judged.is_some());
        let not_judged: Vec<_> = not_judged.map(|verdict| verdict.invariant).collect();
        let expected = if facts.kind == Kind::Records { vec![I6] } else { vec![I1, I5] };
        assert_eq!(not_judged, expected);
    }
}

#[test]
fn a_deleted_object_is_lost_records_and_a_missing_file() {
    let mut facts = clean();
    facts.objects.remove(2);
    breaks(&facts, &[I1, I2], &["lost", PARENT, " 5.0", "committed by batch 2", "\"word 2\""]);
    let missing = facts.judge().verdict(I2).findings[0].to_string();
    assert!(missing.contains("missing in batch 2, task 0, epoch 2 (out/app-e2-b2"), "{missing}");
}

#[test]
fn an_object_that_vanishes_before_a_watcher_is_seen_by_it_too() {
    let mut facts = clean();
    facts.objects.remove(2);
    let delta = Delta { gone: vec![key(2, 2, 0, &run(2))], ..Delta::default() };
    let seen = facts.observations.as_mut().unwrap();
    seen.samples.push(Sample { at_ms: 9, delta, head: Look::Same });
    breaks(&facts, &[I1, I2, I4], &["lost"]);
    assert!(facts.judge().verdict(I4).findings[0].to_string().starts_with("vanished in batch 2"));
}

#[test]
fn a_copied_object_is_doubled_records_and_an_unnamed_file() {
    let mut facts = clean();
    let copy = object(&key(2, 2, 0, &run(7)), facts.objects[2].rows.clone());
    facts.objects.push(copy);
    let place = "batch 2, task 0, epoch 2";
    breaks(&facts, &[I1, I2], &["doubled", PARENT, " 5.0", place, " and ", &run(7)]);
}

#[test]
fn a_copy_in_another_batch_overlaps() {
    let mut facts = clean();
    let copy = object(&key(2, 3, 1, &run(3)), facts.objects[2].rows.clone());
    facts.objects.push(copy);
    breaks(&facts, &[I1, I2, I3, I5], &["doubled"]);
    assert!(facts.judge().verdict(I5).findings[0].to_string().contains("overlap"));
}

#[test]
fn a_swapped_payload_is_named() {
    let mut facts = clean();
    let other = facts.objects[1].rows[0]["sha256"].clone();
    facts.objects[0].rows[0]["sha256"] = other;
    breaks(&facts, &[I1], &["changed", PARENT, " 1.0", "batch 1, task 0, epoch 1", "\"word 1\""]);
}

#[test]
fn a_record_dropped_from_the_truth_is_an_invented_row() {
    let mut facts = clean();
    let shards = &mut facts.truth.streams.get_mut("logs").unwrap().shards;
    shards.get_mut(CHILD).unwrap().records.remove(&(number(2), 0));
    breaks(&facts, &[I1], &["invented", CHILD, " 2.0", "batch 3, task 0, epoch 2"]);
}

#[test]
fn a_dropped_row_is_lost_and_its_object_is_too_short() {
    let mut facts = clean();
    facts.objects[1].rows.remove(0);
    breaks(&facts, &[I1, I2], &["lost", PARENT, " 3.0", "committed by batch 1"]);
    let short = facts.judge().verdict(I2).findings[0].to_string();
    assert!(short.contains("it has 1 rows, its commit says 2"), "{short}");
}

#[test]
fn a_batch_with_other_rows_than_the_master_says_is_named() {
    let mut facts = clean();
    let commit = facts.commits.get_mut(&1).unwrap();
    commit.num_rows = Some(5);
    assert!(facts.judge().is_clean(), "the rows of each object are known");
    facts.commits.get_mut(&1).unwrap().files = None;
    breaks(&facts, &[I2], &["other rows", "batch 1 has 4 rows, its commit says 5"]);
    facts.commits.get_mut(&1).unwrap().num_rows = Some(4);
    facts.commits.get_mut(&1).unwrap().epoch = Some(7);
    breaks(&facts, &[I2], &["another epoch in batch 1", "committed in epoch 7"]);
}

#[test]
fn an_object_of_an_uncommitted_batch_is_named() {
    let mut facts = clean();
    facts.objects.push(object(&key(2, 4, 0, &run(4)), Vec::new()));
    breaks(&facts, &[I2], &["uncommitted in batch 4, task 0, epoch 2", "the head is at batch 3"]);
}

#[test]
fn an_object_that_is_visible_before_its_commit_is_named() {
    let mut facts = clean();
    let samples = &mut facts.observations.as_mut().unwrap().samples;
    let early = samples[3].delta.new.clone();
    samples[1].delta.new.extend(early);
    samples[3].delta.new.clear();
    breaks(&facts, &[I4], &["too early in batch 3", "the head read after it is at batch 1"]);
}

#[test]
fn a_row_behind_the_position_is_not_committed() {
    let mut facts = clean();
    facts.is_drained = false;
    let position = &mut facts.head.as_mut().unwrap().positions[1].1;
    position.number = Some(Number(number(3)));
    *last_head(&mut facts) = facts.head.clone().unwrap();
    breaks(&facts, &[I1], &["not committed", CHILD, " 4.0"]);
}

#[test]
fn what_a_drain_left_is_named() {
    let mut facts = clean();
    facts.objects[3].rows.pop();
    facts.commits.clear();
    facts.head.as_mut().unwrap().positions[1].1.number = Some(Number(number(3)));
    *last_head(&mut facts) = facts.head.clone().unwrap();
    last_head(&mut facts).files[0].rows = 3;
    breaks(&facts, &[I1], &["not drained", CHILD, "its position is 3, its last record 4"]);
}

#[test]
fn an_etag_that_changes_is_named() {
    let mut facts = clean();
    let changed = ("\"etag-1\"".to_owned(), "\"etag-2\"".to_owned());
    let delta = Delta { changed: [(key(1, 1, 0, &run(1)), changed)].into(), ..Delta::default() };
    let seen = facts.observations.as_mut().unwrap();
    seen.samples.push(Sample { at_ms: 9, delta, head: Look::Same });
    breaks(&facts, &[I4], &["ETag changed in batch 1, task 0, epoch 1", "etag-2"]);
}

#[test]
fn an_epoch_that_falls_is_named() {
    let mut facts = clean();
    last_head(&mut facts).epoch = 1;
    facts.head.as_mut().unwrap().epoch = 1;
    breaks(&facts, &[I3], &["epoch fell", "from 2 to 1 at batch 3"]);
}

#[test]
fn two_commits_of_one_batch_are_named() {
    let mut facts = clean();
    facts.head.as_mut().unwrap().commit_id = "another".into();
    breaks(&facts, &[I3], &["two commits", "of batch 3: commit-3 and another"]);
}

#[test]
fn a_position_that_goes_back_is_named() {
    let mut facts = clean();
    let position = &mut facts.head.as_mut().unwrap();
    position.batch = 4;
    position.commit_id = "commit-4".into();
    position.positions[0].1 = SeenPosition::default();
    facts.is_drained = false;
    facts.objects.truncate(3);
    facts.commits.clear();
    let report = facts.judge();
    assert!(report.broken().contains(&I3), "{report}");
    let first = report.verdict(I3).findings[0].to_string();
    assert!(first.contains("from 6 to its start between batches 3 and 4"), "{first}");
}

#[test]
fn a_child_that_is_read_with_its_parent_is_named() {
    let mut facts = clean();
    let row = facts.objects[3].rows.remove(0);
    facts.objects[2].rows.push(row);
    facts.commits.clear();
    breaks(&facts, &[I3], &["child first", CHILD, "stands in batch 2", PARENT]);
}

#[test]
fn a_head_that_lets_a_child_start_early_is_named() {
    let mut facts = clean();
    let samples = &mut facts.observations.as_mut().unwrap().samples;
    let Look::Head(head) = &mut samples[2].head else { panic!("a head") };
    head.positions[0].1.ended = false;
    head.positions[1].1.number = Some(Number(number(1)));
    breaks(&facts, &[I3], &["child first", CHILD, "in batch 2", PARENT]);
}

#[test]
fn miscounted_words_are_named() {
    let mut facts = clean_words();
    facts.objects[1].rows[0]["n"] = json!(2);
    breaks(&facts, &[I6], &["miscounted", "\"word\": 11 for 10"]);
}

#[test]
fn what_is_left_is_named() {
    let mut facts = clean();
    facts.open_uploads = vec![key(2, 3, 0, &run(3))];
    facts.leftovers = Some(Leftovers {
        processes: vec![(7, "millrace-worker driver".into())],
        ports: vec!["127.0.0.1:9".parse().unwrap()],
        files: vec!["blocks/7.arrow".into()],
    });
    breaks(&facts, &[I7], &["open upload", &run(3), "the head names it"]);
    assert_eq!(facts.judge().verdict(I7).num_findings, 4);
}

#[test]
fn records_that_a_policy_gave_up_may_be_absent() {
    let mut facts = clean();
    facts.objects[1].rows.clear();
    facts.commits.clear();
    let (source, shard) = ("logs".to_owned(), PARENT.to_owned());
    breaks(&facts, &[I1], &["lost"]);
    facts.excused = vec![Gap { source, shard, after: Some(number(2)), until: number(4) }];
    assert!(facts.judge().is_clean(), "{}", facts.judge());
}

#[test]
fn a_start_in_the_middle_expects_nothing_before_it() {
    let mut facts = clean();
    let start = SeenStart { from_ms: Some(500), open_shards: [CHILD.to_owned()].into() };
    facts.objects.drain(0..3);
    facts.commits.retain(|batch, _| *batch == 3);
    for sample in &mut facts.observations.as_mut().unwrap().samples {
        sample.delta.new.retain(|key, _| key.contains("-b3-"));
    }
    breaks(&facts, &[I1], &["lost"]);
    facts.head.as_mut().unwrap().starts = [("logs".to_owned(), start)].into();
    assert!(facts.judge().is_clean(), "{}", facts.judge());
}

#[test]
fn nobody_watched_and_nobody_looked() {
    let facts = Facts { observations: None, leftovers: None, ..clean() };
    let report = facts.judge();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.verdict(I4).word(), "-");
}
