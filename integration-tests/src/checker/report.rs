//! What the checker found: a verdict per invariant, the first differing records, a table.

use std::fmt;

use serde::Serialize;

use super::name::ObjectName;
use super::truth::RecordName;

/// Findings kept per invariant; the rest is counted.
pub const FINDINGS_MAX: usize = 20;
/// Findings that the table shows per invariant.
const FINDINGS_SHOWN: usize = 5;

/// What must hold of every application, whatever happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Invariant {
    /// Every record up to the committed positions stands in the output once, unchanged.
    I1,
    /// Every object belongs to one committed batch, with the rows that its commit says.
    I2,
    /// Batches step by one, epochs never fall, positions go forward, parents end before children.
    I3,
    /// What is visible stays as it is, and is named by a commit.
    I4,
    /// Per shard, the sequence ranges of batches never overlap and only grow.
    I5,
    /// Aggregates equal a reference over the records.
    I6,
    /// No process, port or temporary file is left, and no committed upload is open.
    I7,
}

impl Invariant {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::I1, Self::I2, Self::I3, Self::I4, Self::I5, Self::I6, Self::I7];

    /// What it says, in a few words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::I1 => "each record exactly once",
            Self::I2 => "each object of one commit",
            Self::I3 => "progress only forward",
            Self::I4 => "visible stays visible",
            Self::I5 => "ranges never overlap",
            Self::I6 => "aggregates are exact",
            Self::I7 => "nothing is left behind",
        }
    }
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong, in a word or two: `lost`, `doubled`, `invented`.
    pub what: &'static str,
    /// The record it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordName>,
    /// The objects it is about, with batch, task and epoch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectName>,
    /// The rest, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Finding {
    /// A finding of this kind.
    #[must_use]
    pub fn new(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, detail: detail.into(), ..Self::default() }
    }

    /// The finding, about this record.
    #[must_use]
    pub fn of_record(mut self, record: &RecordName) -> Self {
        self.record = Some(record.clone());
        self
    }

    /// The finding, about one more object. A key that says nothing stands in the detail.
    #[must_use]
    pub fn in_object(mut self, object: &super::output::Object) -> Self {
        match &object.name {
            Ok(name) => self.objects.push(name.clone()),
            Err(what) if self.detail.is_empty() => self.detail.clone_from(what),
            Err(what) => self.detail = format!("{}; {what}", self.detail),
        }
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(record) = &self.record {
            write!(f, " {record}")?;
        }
        for (index, object) in self.objects.iter().enumerate() {
            write!(f, "{} {object}", if index == 0 { " in" } else { " and" })?;
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// What was found about one invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which.
    pub invariant: Invariant,
    /// Why it was not judged, when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<String>,
    /// What was looked at, in numbers.
    pub seen: String,
    /// How many things are wrong.
    pub num_findings: usize,
    /// The first of them, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// A verdict over everything that was found.
    #[must_use]
    pub fn new(invariant: Invariant, seen: String, mut findings: Vec<Finding>) -> Self {
        let num_findings = findings.len();
        findings.truncate(FINDINGS_MAX);
        Self { invariant, not_judged: None, seen, num_findings, findings }
    }

    /// An invariant that there is nothing to judge by.
    #[must_use]
    pub fn not_judged(invariant: Invariant, why: &str) -> Self {
        let not_judged = Some(why.to_owned());
        Self { not_judged, ..Self::new(invariant, String::new(), Vec::new()) }
    }

    /// `holds`, `BROKEN`, or `-` when it was not judged.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (&self.not_judged, self.num_findings) {
            (Some(_), _) => "-",
            (None, 0) => "holds",
            (None, _) => "BROKEN",
        }
    }
}

/// What was found about all invariants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The application.
    pub application: String,
    /// One per invariant, in order.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// True when no invariant is broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken().is_empty()
    }

    /// The invariants that are broken.
    #[must_use]
    pub fn broken(&self) -> Vec<Invariant> {
        let broken = self.verdicts.iter().filter(|verdict| verdict.num_findings > 0);
        broken.map(|verdict| verdict.invariant).collect()
    }

    /// The verdict over one invariant.
    ///
    /// # Panics
    /// Never: there is one for each.
    #[must_use]
    pub fn verdict(&self, invariant: Invariant) -> &Verdict {
        let found = self.verdicts.iter().find(|verdict| verdict.invariant == invariant);
        found.expect("a report has a verdict for each invariant")
    }

    /// Prints the table, and fails the test when an invariant is broken.
    ///
    /// # Panics
    /// When one is broken, with the table and the first findings.
    pub fn assert_clean(&self) {
        println!("{self}");
        assert!(self.is_clean(), "{:?} broken\n{self}", self.broken());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.application)?;
        for verdict in &self.verdicts {
            let Verdict { invariant, not_judged, seen, num_findings, findings } = verdict;
            let said = not_judged.as_ref().unwrap_or(seen);
            let (title, word) = (invariant.title(), verdict.word());
            writeln!(f, "  {invariant:?}  {title:<26} {word:<7} {said}")?;
            for finding in findings.iter().take(FINDINGS_SHOWN) {
                writeln!(f, "        {finding}")?;
            }
            if *num_findings > FINDINGS_SHOWN {
                writeln!(f, "        and {} more", num_findings - FINDINGS_SHOWN)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: usize) -> Report {
        let findings = vec![Finding::new("lost", "x"); findings];
        let verdict = Verdict::new(Invariant::I1, "3 records".into(), findings);
        let silent = Verdict::not_judged(Invariant::I4, "nobody watched");
        Report { application: "app".into(), verdicts: vec![verdict, silent] }
    }

    #[test]
    fn a_clean_report_says_so() {
        let text = report(0).to_string();
        assert!(text.contains("I1  each record exactly once   holds   3 records"), "{text}");
        assert!(text.contains("-       nobody watched"), "{text}");
        report(0).assert_clean();
    }

    #[test]
    #[should_panic(expected = "[I1] broken")]
    fn a_broken_one_fails_the_test() {
        let report = report(30);
        assert_eq!(report.verdict(Invariant::I1).findings.len(), FINDINGS_MAX);
        assert!(report.to_string().contains("and 25 more"), "{report}");
        report.assert_clean();
    }
}
