//! K: what the streams hold, record by record, with the lineage of their shards.
//!
//! Promises: nothing here comes from the code under test; aggregates are taken apart by [`super::kpl`].
//! Never does: call AWS (see [`super::read_truth`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use millrace_common::position::{HashKeyRange, SequenceNumber};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::kpl;

/// The place of a record in its shard: sequence number, then sub-sequence number.
pub type Place = (SequenceNumber, u64);

/// A record's name among all sources of an application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RecordName {
    /// Name of the source.
    pub source: String,
    /// Shard id.
    pub shard: String,
    /// Sequence number.
    pub sequence_number: SequenceNumber,
    /// Place within a KPL aggregate; 0 for a plain record.
    pub sub_sequence_number: u64,
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, shard, sequence_number, sub_sequence_number } = self;
        write!(f, "{source}/{shard} {sequence_number}.{sub_sequence_number}")
    }
}

/// What is done with a user record whose hash key lies outside its shard's range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// It is not expected in the output: its producer sends it again.
    #[default]
    Dropped,
    /// It is expected like any other.
    Delivered,
}

/// One user record as it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its payload.
    pub data: Vec<u8>,
    /// When it arrived, Unix time in milliseconds.
    pub arrival_ms: i64,
    /// False when it is out of its shard's range and dropped for that.
    pub is_expected: bool,
}

impl Record {
    /// SHA-256 of the payload in lower-case hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.data))
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One shard and its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shard {
    /// Shards that were split or merged into it.
    pub parents: Vec<String>,
    /// Its range of hash keys; none when not known.
    pub range: Option<HashKeyRange>,
    /// False once it has been split or merged.
    pub is_open: bool,
    /// Its records, in order.
    pub records: BTreeMap<Place, Record>,
}

impl Shard {
    /// Takes in one raw record as Kinesis gave it.
    pub fn push(
        &mut self,
        number: SequenceNumber,
        arrival_ms: i64,
        data: &[u8],
        out_of_range: OutOfRange,
    ) {
        match kpl::take_apart(data) {
            None => {
                let record = Record { data: data.to_vec(), arrival_ms, is_expected: true };
                self.records.insert((number, 0), record);
            }
            Some(users) => {
                for (sub, user) in (0u64..).zip(users) {
                    let is_inside = self.range.is_none_or(|range| range.contains(user.hash_key));
                    let is_expected = is_inside || out_of_range == OutOfRange::Delivered;
                    let record = Record { data: user.data.to_vec(), arrival_ms, is_expected };
                    self.records.insert((number, sub), record);
                }
            }
        }
    }
}

/// The stream behind one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Its ARN.
    pub arn: String,
    /// Its shards by id, open and closed.
    pub shards: BTreeMap<String, Shard>,
}

impl Stream {
    /// The shards and all shards that they came from.
    #[must_use]
    pub fn ancestors<'a>(&'a self, shards: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let parents = |shard: &str| self.shards.get(shard).into_iter().flat_map(|s| &s.parents);
        let mut open: Vec<&str> =
            shards.into_iter().flat_map(parents).map(String::as_str).collect();
        while let Some(shard) = open.pop() {
            if found.insert(shard) {
                open.extend(parents(shard).map(String::as_str));
            }
        }
        found
    }
}

/// All sources of an application, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Streams by the name of the source.
    pub streams: BTreeMap<String, Stream>,
}

impl Truth {
    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        let shards = self.streams.values().flat_map(|stream| stream.shards.values());
        shards.map(|shard| shard.records.len()).sum()
    }

    /// True when no stream holds a record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record of this name.
    #[must_use]
    pub fn get(&self, name: &RecordName) -> Option<&Record> {
        let shard = self.streams.get(&name.source)?.shards.get(&name.shard)?;
        shard.records.get(&(name.sequence_number, name.sub_sequence_number))
    }

    /// Adds what an earlier reading saw and this one does not see any more: trimmed records.
    pub fn absorb(&mut self, earlier: Self) {
        for (source, stream) in earlier.streams {
            let known = self.streams.entry(source).or_default();
            if known.arn.is_empty() {
                known.arn = stream.arn;
            }
            for (id, shard) in stream.shards {
                match known.shards.get_mut(&id) {
                    Some(now) => now.records.extend(shard.records),
                    None => {
                        known.shards.insert(id, shard);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u64) -> SequenceNumber {
        n.to_string().parse().unwrap()
    }

    #[test]
    fn ancestors_are_found_over_generations() {
        let shard = |parents: &[&str]| Shard {
            parents: parents.iter().map(|p| (*p).to_owned()).collect(),
            ..Shard::default()
        };
        let shards = [("a", shard(&[])), ("b", shard(&[])), ("c", shard(&["a", "b"]))];
        let mut stream = Stream::default();
        stream.shards.extend(shards.map(|(id, shard)| (id.to_owned(), shard)));
        stream.shards.insert("d".into(), shard(&["c"]));
        assert_eq!(stream.ancestors(["d"]), ["a", "b", "c"].into());
        assert_eq!(stream.ancestors(["a"]), [].into());
    }

    #[test]
    fn what_was_trimmed_is_remembered() {
        let of = |numbers: &[u64]| {
            let mut shard = Shard::default();
            numbers.iter().for_each(|n| shard.push(number(*n), 0, b"x", OutOfRange::Dropped));
            let shards = [("s".to_owned(), shard)].into();
            Truth { streams: [("logs".to_owned(), Stream { arn: "a".into(), shards })].into() }
        };
        let mut now = of(&[2, 3]);
        now.absorb(of(&[1, 2]));
        assert_eq!(now, of(&[1, 2, 3]));
    }
}
