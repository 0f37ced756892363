//! I3: batch numbers step by one, epochs never fall, positions only go forward, and a parent has
//! ended before its child starts.
//!
//! A watcher may miss a head, so a step of more than one between two heads says nothing; two
//! commits of one number do. What the objects say counts even when nobody watched.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Rows};
use crate::checker::head::{SeenHead, SeenPosition, SeenShard};
use crate::checker::observe::{Look, Observations};
use crate::checker::report::{Finding, Invariant, Verdict};

pub(super) fn judge(facts: &Facts, rows: &Rows<'_>) -> Verdict {
    let heads: Vec<&SeenHead> = facts.heads().collect();
    let mut findings = Vec::new();
    for pair in heads.windows(2) {
        step(pair[0], pair[1], &mut findings);
    }
    findings.extend(facts.observations.as_ref().and_then(vanished));
    findings.extend(epochs_of_objects(facts));
    let mut said = BTreeSet::new();
    for head in &heads {
        for (shard, finding) in children_before_parents(facts, head) {
            if said.insert(shard) {
                findings.push(finding);
            }
        }
    }
    findings.extend(rows_before_parents(facts, rows));
    let batches: BTreeSet<u64> = heads.iter().map(|head| head.batch).filter(|b| *b > 0).collect();
    let last = facts.head.as_ref().map_or(0, |head| head.batch);
    let seen = format!("{} of {last} commits seen in {} heads", batches.len(), heads.len());
    Verdict::new(Invariant::I3, seen, findings)
}

/// What is wrong from one head to a later one.
fn step(before: &SeenHead, after: &SeenHead, findings: &mut Vec<Finding>) {
    let (a, b) = (before.batch, after.batch);
    let mut find = |what, detail: String| findings.push(Finding::new(what, detail));
    if after.epoch < before.epoch {
        find("epoch fell", format!("from {} to {} at batch {b}", before.epoch, after.epoch));
    }
    if b < a {
        find("batch fell", format!("from {a} to {b} in epoch {}", after.epoch));
    }
    if a == b && before.commit_id != after.commit_id {
        let ids = format!("{} and {}", before.commit_id, after.commit_id);
        find("two commits", format!("of batch {a}: {ids}"));
    }
    if a == b && before.positions != after.positions {
        find("moved", format!("positions changed within batch {a}"));
    }
    if a < b && before.commit_id == after.commit_id {
        find("one commit", format!("{} of batches {a} and {b}", after.commit_id));
    }
    let now: BTreeMap<&SeenShard, &SeenPosition> =
        after.positions.iter().map(|(shard, position)| (shard, position)).collect();
    for (shard, old) in &before.positions {
        // An operator's reset gives positions up and fixes a new start; so does a dropped source.
        let start = before.starts.get(&shard.source);
        if start != after.starts.get(&shard.source) {
            continue;
        }
        if let Some(detail) = goes_back(old, now.get(shard).copied()) {
            let name = format!("{}/{}", shard.source, shard.shard);
            find("went back", format!("{name} {detail} between batches {a} and {b}"));
        }
    }
}

fn goes_back(old: &SeenPosition, new: Option<&SeenPosition>) -> Option<String> {
    match new {
        None if old.ended => None,
        None => Some("lost its position".to_owned()),
        Some(new) if new.number < old.number => {
            let shown = |position: &SeenPosition| {
                position.number.map_or("its start".to_owned(), |number| number.0.to_string())
            };
            Some(format!("from {} to {}", shown(old), shown(new)))
        }
        Some(new) if old.ended && !new.ended => Some("had ended and goes on".to_owned()),
        Some(_) => None,
    }
}

/// A head that was there and is not.
fn vanished(observations: &Observations) -> Option<Finding> {
    let looks = observations.samples.iter().map(|sample| (sample.at_ms, &sample.head));
    let mut after = looks.skip_while(|(_, look)| !matches!(look, Look::Head(_)));
    let (at_ms, _) = after.find(|(_, look)| matches!(look, Look::Missing))?;
    Some(Finding::new("head gone", format!("there was a head, and at {at_ms} there was none")))
}

/// Epochs in the keys never fall from a batch to a later one.
fn epochs_of_objects(facts: &Facts) -> Option<Finding> {
    let mut named: Vec<_> = facts
        .objects
        .iter()
        .filter_map(|object| object.name.as_ref().ok().map(|name| (name, object)))
        .collect();
    named.sort_by_key(|(name, _)| name.batch);
    let pair = named
        .windows(2)
        .find(|pair| pair[0].0.batch < pair[1].0.batch && pair[0].0.epoch > pair[1].0.epoch)?;
    let finding = Finding::new("epoch fell", "from an object to one of a later batch");
    Some(finding.in_object(pair[0].1).in_object(pair[1].1))
}

/// Children in a head that have records while a parent has not ended.
fn children_before_parents<'a>(
    facts: &'a Facts,
    head: &'a SeenHead,
) -> Vec<((&'a str, &'a str), Finding)> {
    let mut findings = Vec::new();
    for (child, position) in head.positions.iter().filter(|(_, p)| p.number.is_some() || p.ended) {
        let shard = facts.truth.streams.get(&child.source).and_then(|s| s.shards.get(&child.shard));
        for parent in shard.into_iter().flat_map(|shard| &shard.parents) {
            let Some(of_parent) = head.position(&child.source, parent) else { continue };
            if !of_parent.ended {
                let (child, at) = (&child.shard, position.number.map(|number| number.0));
                let detail =
                    format!("{child} is at {at:?} in batch {}, {parent} goes on", head.batch);
                findings
                    .push(((child.as_str(), parent.as_str()), Finding::new("child first", detail)));
            }
        }
    }
    findings
}

/// Rows of a child in a batch that is not later than all rows of its parents.
fn rows_before_parents(facts: &Facts, rows: &Rows<'_>) -> Vec<Finding> {
    let ranges = rows.ranges();
    let mut findings = Vec::new();
    for ((source, child), of_child) in &ranges {
        let shard = facts.truth.streams.get(*source).and_then(|stream| stream.shards.get(*child));
        let Some((first_batch, first)) = of_child.first_key_value() else { continue };
        for parent in shard.into_iter().flat_map(|shard| &shard.parents) {
            let of_parent = ranges.get(&(*source, parent.as_str()));
            let last = of_parent.and_then(|of_parent| of_parent.last_key_value());
            if let Some((last_batch, last)) = last
                && last_batch >= first_batch
            {
                let detail =
                    format!("{child} stands in batch {first_batch}, {parent} in {last_batch}");
                let finding = Finding::new("child first", detail).of_record(&first.first.0.name);
                findings.push(finding.in_object(first.first.1).in_object(last.last.1));
            }
        }
    }
    findings
}
