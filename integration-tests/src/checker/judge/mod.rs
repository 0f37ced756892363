//! The judgement: facts in, a report out. One file per invariant, no file with a call in it.
//!
//! Promises: the same facts give the same report; an invariant that nothing is known about is said
//! to be not judged, and never to hold.

mod batches;
mod exactly_once;
mod leftovers;
mod progress;
mod ranges;
mod sums;
#[cfg(test)]
mod tests;
mod visibility;

use std::collections::{BTreeMap, HashMap};

use millrace_common::position::SequenceNumber;

use super::commits::Commits;
use super::head::{SeenHead, SeenPosition, SeenShard};
use super::machine::Leftovers;
use super::observe::Observations;
use super::output::{Kind, Object, RecordRow};
use super::report::{Finding, Invariant, Report, Verdict};
use super::truth::{RecordName, Truth};

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The application.
    pub application: String,
    /// What its query writes.
    pub kind: Kind,
    /// True when its producers stopped before it was drained: then its positions are the ends.
    pub is_drained: bool,
    /// K.
    pub truth: Truth,
    /// O.
    pub objects: Vec<Object>,
    /// The head at the end; none when there is no item.
    pub head: Option<SeenHead>,
    /// What is known of its commits.
    pub commits: Commits,
    /// What a watcher saw; none when nobody watched.
    pub observations: Option<Observations>,
    /// Keys of the uploads that are open under the prefix.
    pub open_uploads: Vec<String>,
    /// What is left on the machine; none when nobody looked.
    pub leftovers: Option<Leftovers>,
    /// Records that are gone by a policy and were counted: they may be absent.
    pub excused: Vec<Gap>,
}

/// Records of a shard that a policy gave up: those after `after` and up to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Name of the source.
    pub source: String,
    /// Shard id.
    pub shard: String,
    /// The last sequence number before the gap; none when it begins with the shard.
    pub after: Option<SequenceNumber>,
    /// The last sequence number in the gap.
    pub until: SequenceNumber,
}

impl Gap {
    fn holds(&self, record: &RecordName) -> bool {
        let number = record.sequence_number;
        (&self.source, &self.shard) == (&record.source, &record.shard)
            && self.after.is_none_or(|after| number > after)
            && number <= self.until
    }
}

impl Facts {
    /// Judges every invariant.
    #[must_use]
    pub fn judge(&self) -> Report {
        let rows = Rows::of(self);
        let verdicts = vec![
            exactly_once::judge(self, &rows),
            batches::judge(self),
            progress::judge(self, &rows),
            visibility::judge(self),
            ranges::judge(self, &rows),
            sums::judge(self),
            leftovers::judge(self),
        ];
        Report { application: self.application.clone(), verdicts }
    }

    /// The heads that were seen, in order, the last one included.
    fn heads(&self) -> impl Iterator<Item = &SeenHead> {
        self.observations.iter().flat_map(Observations::heads).chain(&self.head)
    }

    /// How far each shard is committed at the end, by source and shard id.
    fn ends(&self) -> Ends<'_> {
        let mut newest: HashMap<(&str, &str), &(SeenShard, SeenPosition)> = HashMap::new();
        for entry in self.head.iter().flat_map(|head| &head.positions) {
            let known = newest.entry((&entry.0.source, &entry.0.shard)).or_insert(entry);
            if entry.0.created_ms > known.0.created_ms {
                *known = entry;
            }
        }
        Ends(newest.into_iter().map(|(name, (_, position))| (name, *position)).collect())
    }
}

/// Positions at the end, in the newest stream of each source.
struct Ends<'a>(HashMap<(&'a str, &'a str), SeenPosition>);

impl Ends<'_> {
    fn get(&self, source: &str, shard: &str) -> Option<SeenPosition> {
        self.0.get(&(source, shard)).copied()
    }
}

/// The rows of a query that writes every record, each with the object it stands in.
struct Rows<'a> {
    records: Vec<(&'a Object, RecordRow)>,
    /// Rows of another shape.
    malformed: Vec<Finding>,
}

impl<'a> Rows<'a> {
    fn of(facts: &'a Facts) -> Self {
        let mut rows = Self { records: Vec::new(), malformed: Vec::new() };
        if facts.kind != Kind::Records {
            return rows;
        }
        let mut sources = facts.truth.streams.keys();
        let only_source = sources.next().filter(|_| sources.next().is_none());
        for object in &facts.objects {
            for row in &object.rows {
                match RecordRow::parse(row, only_source.map(String::as_str)) {
                    Ok(row) => rows.records.push((object, row)),
                    Err(what) => {
                        rows.malformed.push(Finding::new("malformed", what).in_object(object));
                    }
                }
            }
        }
        rows
    }

    /// Per shard of a source: batches with their rows' first and last places, in order of batches.
    fn ranges(&self) -> BTreeMap<(&str, &str), BTreeMap<u64, Range<'_>>> {
        let mut ranges = BTreeMap::<_, BTreeMap<u64, Range<'_>>>::new();
        for (object, row) in &self.records {
            let Ok(name) = &object.name else { continue };
            let of_shard = ranges.entry((row.name.source.as_str(), row.name.shard.as_str()));
            let range = of_shard.or_default().entry(name.batch);
            let range = range.or_insert(Range { first: (row, object), last: (row, object) });
            if place(row) < place(range.first.0) {
                range.first = (row, object);
            }
            if place(row) > place(range.last.0) {
                range.last = (row, object);
            }
        }
        ranges
    }
}

/// The first and the last row of one shard in one batch.
#[derive(Clone, Copy)]
struct Range<'a> {
    first: (&'a RecordRow, &'a Object),
    last: (&'a RecordRow, &'a Object),
}

fn place(row: &RecordRow) -> (SequenceNumber, u64) {
    (row.name.sequence_number, row.name.sub_sequence_number)
}

/// A verdict for queries that do not write every record.
fn only_for_records(facts: &Facts, invariant: Invariant) -> Option<Verdict> {
    let why = "the query does not write every record";
    (facts.kind != Kind::Records).then(|| Verdict::not_judged(invariant, why))
}
