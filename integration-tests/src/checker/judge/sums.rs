//! I6: the word counts equal those of a single-threaded count over the committed records.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ends, Facts, exactly_once};
use crate::checker::output::{Kind, word_counts};
use crate::checker::report::{Finding, Invariant, Verdict};

pub(super) fn judge(facts: &Facts) -> Verdict {
    if facts.kind != Kind::Words {
        return Verdict::not_judged(Invariant::I6, "the query has no aggregate");
    }
    let ends = facts.ends();
    let mut findings = Vec::new();
    let found = word_counts(&facts.objects).unwrap_or_else(|what| {
        findings.push(Finding::new("malformed", what));
        BTreeMap::new()
    });
    let (expected, num_records) = reference(facts, &ends);
    let words: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    for word in &words {
        let (here, there) = (found.get(*word), expected.get(*word));
        if here != there {
            let shown = |count: Option<&i64>| count.copied().unwrap_or_default();
            let detail = format!("{word:?}: {} for {}", shown(here), shown(there));
            findings.push(Finding::new("miscounted", detail));
        }
    }
    if facts.is_drained {
        findings.extend(exactly_once::not_at_their_ends(facts, &ends));
    }
    let (sum, of) = (found.values().sum::<i64>(), expected.values().sum::<i64>());
    let seen = format!("{sum} of {of} words in {num_records} records, {} differ", findings.len());
    Verdict::new(Invariant::I6, seen, findings)
}

/// How often each word stands in the committed records: what stands between two single spaces of a
/// line; an end of line is no part of it.
fn reference(facts: &Facts, ends: &Ends<'_>) -> (BTreeMap<String, i64>, usize) {
    let mut counts = BTreeMap::new();
    let mut num_records = 0;
    for (name, record) in exactly_once::committed(facts, ends) {
        if facts.excused.iter().any(|gap| gap.holds(&name)) {
            continue;
        }
        num_records += 1;
        let line = String::from_utf8_lossy(&record.data);
        let line = line.strip_suffix('\n').unwrap_or(&line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        for word in line.split(' ').filter(|_| !line.is_empty()) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    (counts, num_records)
}
