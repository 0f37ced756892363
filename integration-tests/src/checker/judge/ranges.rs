//! I5: per shard, the sequence ranges of batches never overlap, and grow with the batch number.

use super::{Facts, Rows, only_for_records, place};
use crate::checker::report::{Finding, Invariant, Verdict};

pub(super) fn judge(facts: &Facts, rows: &Rows<'_>) -> Verdict {
    if let Some(verdict) = only_for_records(facts, Invariant::I5) {
        return verdict;
    }
    let ranges = rows.ranges();
    let mut findings = Vec::new();
    let mut num_ranges = 0;
    for batches in ranges.values() {
        num_ranges += batches.len();
        // The furthest so far, since a range may lie within an earlier one.
        let mut furthest: Option<(&u64, super::Range<'_>)> = None;
        for (batch, range) in batches {
            if let Some((earlier, before)) = furthest
                && place(range.first.0) <= place(before.last.0)
            {
                let name = &before.last.0.name;
                let (at, sub) = (name.sequence_number, name.sub_sequence_number);
                let detail = format!("batch {batch} begins before {at}.{sub} of batch {earlier}");
                let finding = Finding::new("overlap", detail).of_record(&range.first.0.name);
                findings.push(finding.in_object(range.first.1).in_object(before.last.1));
            }
            if furthest.is_none_or(|(_, before)| place(range.last.0) > place(before.last.0)) {
                furthest = Some((batch, *range));
            }
        }
    }
    let seen = format!("{num_ranges} ranges in {} shards", ranges.len());
    Verdict::new(Invariant::I5, seen, findings)
}
