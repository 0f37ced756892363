//! What a watcher saw, look by look, in a form that can be kept in a file: only what changed.
//!
//! Promises: a sample that holds a listing holds a head that was read after it. Never does: judge
//! (see [`super::judge`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::head::SeenHead;
use super::read_output::Listed;

/// How two listings differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Objects that were not there before, with their ETags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub new: BTreeMap<String, String>,
    /// Objects whose ETag is another one now: before and after.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, (String, String)>,
    /// Objects that are not there any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.new.is_empty() && self.changed.is_empty() && self.gone.is_empty()
    }
}

/// A head that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// Nothing has changed since the sample before.
    Same,
    /// There is no head.
    Missing,
    /// The head as it is now.
    Head(Box<SeenHead>),
}

/// One look that saw something new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When the look ended, Unix time in milliseconds, by this machine's clock: for people only.
    pub at_ms: i64,
    /// What a listing before the head showed.
    #[serde(default, skip_serializing_if = "Delta::is_empty")]
    pub delta: Delta,
    /// The head, read after the listing.
    pub head: Look,
}

/// How well somebody watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Listings that succeeded, with a head read after each.
    pub num_listings: u64,
    /// Heads read, those after listings included.
    pub num_heads: u64,
    /// Calls that failed; their looks are left out.
    pub num_failed: u64,
    /// Longest time between two listings, in milliseconds.
    pub longest_pause_ms: u64,
}

/// Everything a watcher saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    /// Looks that saw something new, in order.
    pub samples: Vec<Sample>,
    /// How well it watched.
    pub coverage: Coverage,
}

/// A line of the file that `millrace-check watch` writes.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Sample(Sample),
    Coverage(Coverage),
}

impl Observations {
    /// The line of a file for one sample.
    #[must_use]
    pub fn sample_line(sample: &Sample) -> String {
        let line = serde_json::to_string(&Line::Sample(sample.clone()));
        line.expect("a sample holds only texts, numbers and maps with text keys")
    }

    /// The line of a file for the coverage; the last one counts.
    #[must_use]
    pub fn coverage_line(coverage: &Coverage) -> String {
        let line = serde_json::to_string(&Line::Coverage(*coverage));
        line.expect("a coverage holds only numbers")
    }

    /// Reads such a file; a last line that was cut off is passed over.
    ///
    /// # Errors
    /// The line that is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut observations = Self::default();
        let num_lines = text.lines().count();
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(Line::Sample(sample)) => observations.samples.push(sample),
                Ok(Line::Coverage(coverage)) => observations.coverage = coverage,
                Err(_) if index + 1 == num_lines && !text.ends_with('\n') => {}
                Err(error) => return Err(format!("line {}: {error}", index + 1)),
            }
        }
        Ok(observations)
    }

    /// The heads in the order in which they were seen.
    pub fn heads(&self) -> impl Iterator<Item = &SeenHead> {
        self.samples.iter().filter_map(|sample| match &sample.head {
            Look::Head(head) => Some(&**head),
            Look::Same | Look::Missing => None,
        })
    }
}

/// Turns looks into samples: remembers what was seen last.
#[derive(Debug, Default)]
pub(super) struct Differ {
    etags: BTreeMap<String, String>,
    head: Option<SeenHead>,
    is_first: bool,
}

impl Differ {
    pub(super) fn new() -> Self {
        Self { is_first: true, ..Self::default() }
    }

    /// The sample of a look, none when it saw nothing new. `listing` is none when only the head was
    /// read.
    pub(super) fn look(
        &mut self,
        at_ms: i64,
        listing: Option<Vec<Listed>>,
        head: Option<SeenHead>,
    ) -> Option<Sample> {
        let delta = listing.map(|listing| self.delta(listing)).unwrap_or_default();
        let look = if self.head == head && !self.is_first {
            Look::Same
        } else {
            head.clone().map_or(Look::Missing, |head| Look::Head(Box::new(head)))
        };
        (self.head, self.is_first) = (head, false);
        let is_new = look != Look::Same || !delta.is_empty();
        is_new.then_some(Sample { at_ms, delta, head: look })
    }

    fn delta(&mut self, listing: Vec<Listed>) -> Delta {
        let mut delta = Delta::default();
        let now: BTreeMap<_, _> = listing.into_iter().map(|o| (o.key, o.etag)).collect();
        for (key, etag) in &now {
            match self.etags.get(key) {
                None => {
                    delta.new.insert(key.clone(), etag.clone());
                }
                Some(before) if before != etag => {
                    delta.changed.insert(key.clone(), (before.clone(), etag.clone()));
                }
                Some(_) => {}
            }
        }
        delta.gone = self.etags.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        self.etags = now;
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(objects: &[(&str, &str)]) -> Option<Vec<Listed>> {
        let listed = objects
            .iter()
            .map(|(key, etag)| Listed { key: (*key).to_owned(), etag: (*etag).to_owned() });
        Some(listed.collect())
    }

    fn head(batch: u64) -> Option<SeenHead> {
        Some(SeenHead { batch, ..SeenHead::default() })
    }

    #[test]
    fn only_what_changed_is_kept() {
        let mut differ = Differ::new();
        let first = differ.look(1, listed(&[]), None).unwrap();
        assert_eq!(first.head, Look::Missing);
        assert_eq!(differ.look(2, listed(&[]), None), None);
        let second = differ.look(3, listed(&[("a", "1"), ("b", "1")]), head(1)).unwrap();
        assert_eq!(second.delta.new.len(), 2);
        assert_eq!(differ.look(4, None, head(1)), None);
        let third = differ.look(5, listed(&[("b", "2")]), head(1)).unwrap();
        assert_eq!(third.head, Look::Same);
        assert_eq!(third.delta.gone, ["a"]);
        assert_eq!(third.delta.changed["b"], ("1".to_owned(), "2".to_owned()));
    }

    #[test]
    fn samples_survive_the_file() {
        let mut differ = Differ::new();
        let samples: Vec<_> =
            [differ.look(1, listed(&[("a", "1")]), None), differ.look(2, listed(&[]), head(1))]
                .into_iter()
                .flatten()
                .collect();
        let coverage = Coverage { num_listings: 2, ..Coverage::default() };
        let seen = Observations { samples, coverage };
        let mut text: String =
            seen.samples.iter().map(|sample| Observations::sample_line(sample) + "\n").collect();
        text += &Observations::coverage_line(&coverage);
        assert_eq!(Observations::parse(&(text.clone() + "\n")).unwrap(), seen);
        let cut = Observations::parse(&text[..text.len() - 3]).unwrap();
        assert_eq!(cut.samples, seen.samples);
        assert!(Observations::parse("{}\n").is_err());
    }
}
