//! I1: the rows equal the records up to the committed positions, each once, with its payload.

use std::collections::{BTreeSet, HashMap};

use super::{Ends, Facts, Rows, only_for_records};
use crate::checker::head::{SeenHead, SeenStart};
use crate::checker::output::{Object, RecordRow};
use crate::checker::report::{Finding, Invariant, Verdict};
use crate::checker::truth::{Record, RecordName, Stream};

/// Letters of a payload that a finding shows.
const SHOWN: usize = 60;

pub(super) fn judge(facts: &Facts, rows: &Rows<'_>) -> Verdict {
    if let Some(verdict) = only_for_records(facts, Invariant::I1) {
        return verdict;
    }
    let ends = facts.ends();
    let mut findings = rows.malformed.clone();
    let mut seen: HashMap<&RecordName, &Object> = HashMap::new();
    for (object, row) in &rows.records {
        if let Some(first) = seen.insert(&row.name, object) {
            let doubled = Finding::new("doubled", "").of_record(&row.name);
            findings.push(doubled.in_object(first).in_object(object));
        }
        findings.extend(row_is_a_record(facts, &ends, object, row));
    }
    let mut num_committed = 0;
    for (name, record) in committed(facts, &ends) {
        num_committed += 1;
        let is_excused = facts.excused.iter().any(|gap| gap.holds(&name));
        if !seen.contains_key(&name) && !is_excused {
            findings.push(lost(facts, &name, record));
        }
    }
    if facts.is_drained {
        findings.extend(not_at_their_ends(facts, &ends));
    }
    let (num_rows, num_records) = (rows.records.len(), facts.truth.len());
    let seen = format!("{num_rows} rows of {num_committed} committed of {num_records} records");
    Verdict::new(Invariant::I1, seen, findings)
}

/// What is wrong about a row by itself.
fn row_is_a_record(
    facts: &Facts,
    ends: &Ends<'_>,
    object: &Object,
    row: &RecordRow,
) -> Option<Finding> {
    let name = &row.name;
    let finding =
        |what, detail: String| Some(Finding::new(what, detail).of_record(name).in_object(object));
    let Some(record) = facts.truth.get(name) else {
        return finding("invented", "no such record in the stream".to_owned());
    };
    if !record.is_expected {
        return finding("out of range", "its hash key is not its shard's".to_owned());
    }
    let end = ends.get(&name.source, &name.shard);
    if !end.is_some_and(|end| end.holds(name.sequence_number)) {
        return finding("not committed", "it lies behind its shard's position".to_owned());
    }
    let expected = record.sha256();
    if row.sha256 != expected {
        let payload = shown(record);
        return finding("changed", format!("sha256 {} for {expected} of {payload}", row.sha256));
    }
    None
}

/// The records that must stand in the output.
pub(super) fn committed<'a>(
    facts: &'a Facts,
    ends: &Ends<'_>,
) -> impl Iterator<Item = (RecordName, &'a Record)> {
    let shards = facts.truth.streams.iter().flat_map(|(source, stream)| {
        let start = facts.head.as_ref().and_then(|head| head.starts.get(source));
        let from_ms = start.and_then(|start| start.from_ms);
        let unread = unread_ancestors(stream, start);
        let shards = stream.shards.iter().filter(move |(id, _)| !unread.contains(id.as_str()));
        shards.map(move |(id, shard)| (source, id, shard, from_ms))
    });
    let ended = shards.filter_map(|(source, id, shard, from_ms)| {
        Some((source, id, shard, from_ms, ends.get(source, id)?))
    });
    let wanted = ended.flat_map(|(source, id, shard, from_ms, end)| {
        let of_shard = shard.records.iter().filter(move |((number, _), record)| {
            let in_time = from_ms.is_none_or(|from_ms| record.arrival_ms >= from_ms);
            record.is_expected && in_time && end.holds(*number)
        });
        of_shard.map(move |((number, sub), record)| {
            let name = RecordName {
                source: source.clone(),
                shard: id.clone(),
                sequence_number: *number,
                sub_sequence_number: *sub,
            };
            (name, record)
        })
    });
    wanted.collect::<Vec<_>>().into_iter()
}

/// Shards that lie wholly before a start in the middle of a stream.
fn unread_ancestors<'a>(stream: &'a Stream, start: Option<&'a SeenStart>) -> BTreeSet<&'a str> {
    let open = start.into_iter().flat_map(|start| &start.open_shards);
    stream.ancestors(open.map(String::as_str))
}

/// A record that is committed and stands nowhere, with the batch that should hold it.
fn lost(facts: &Facts, name: &RecordName, record: &Record) -> Finding {
    let holds = |head: &SeenHead| {
        let position = head.position(&name.source, &name.shard);
        position.is_some_and(|position| position.holds(name.sequence_number))
    };
    let (mut before, mut by) = (0, 0);
    for head in facts.heads() {
        if holds(head) {
            by = head.batch;
            break;
        }
        before = head.batch;
    }
    let batches = match by {
        0 => "committed by an unknown batch".to_owned(),
        by if before + 1 >= by => format!("committed by batch {by}"),
        by => format!("committed by one of the batches {} to {by}", before + 1),
    };
    Finding::new("lost", format!("{batches}, payload {}", shown(record))).of_record(name)
}

/// Shards of which a drain left something.
pub(super) fn not_at_their_ends(facts: &Facts, ends: &Ends<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (source, stream) in &facts.truth.streams {
        let start = facts.head.as_ref().and_then(|head| head.starts.get(source));
        let unread = unread_ancestors(stream, start);
        for (id, shard) in stream.shards.iter().filter(|(id, _)| !unread.contains(id.as_str())) {
            let Some((last, _)) = shard.records.last_key_value() else { continue };
            let detail = match ends.get(source, id) {
                None => "it has no position".to_owned(),
                Some(position) if !shard.is_open && !position.ended => {
                    "it is closed and its position does not say that it has ended".to_owned()
                }
                Some(position) if position.holds(last.0) => continue,
                Some(position) => {
                    let at = position.number.map_or("its start".to_owned(), |n| n.0.to_string());
                    format!("its position is {at}, its last record {}", last.0)
                }
            };
            findings.push(Finding::new("not drained", format!("{source}/{id}: {detail}")));
        }
    }
    findings
}

fn shown(record: &Record) -> String {
    let text = String::from_utf8_lossy(&record.data);
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    format!("{start:?}")
}
