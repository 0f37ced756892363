//! The table of outcomes: for a terminal, as markdown, and as JSON.
//!
//! Promises: a row that was not run, and one that was not kept, are named again at the end.
//! Never does: run anything.

use std::fmt::Write as _;
use std::path::Path;

use super::run::{Outcome, Verdict};

/// The word for a verdict.
#[must_use]
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Kept => "kept",
        Verdict::Weak => "WEAK",
        Verdict::Broken => "BROKEN",
        Verdict::Skipped => "SKIPPED",
    }
}

/// The table in markdown, which is readable on a terminal too.
#[must_use]
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| row | fault | recovery | bound | lost | duplicate | seen | verdict | notes |\n\
         |---:|---|---:|---:|---:|---:|---|---|---|\n",
    );
    for outcome in outcomes {
        writeln!(text, "{}", line(outcome)).expect("a string takes all text");
    }
    text
}

/// One line of the table.
#[must_use]
pub fn line(outcome: &Outcome) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let notes: Vec<String> =
        outcome.notes.iter().map(|note| note.replace(['\n', '|'], " ")).collect();
    let ran = outcome.verdict != Verdict::Skipped;
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        outcome.row,
        outcome.name,
        or_dash(outcome.recovery_seconds.map(|seconds| format!("{seconds:.1} s"))),
        or_dash(outcome.bound_seconds.map(|seconds| format!("{seconds} s"))),
        or_dash(outcome.lost.map(|num| num.to_string())),
        or_dash(outcome.duplicate.map(|num| num.to_string())),
        if !ran {
            "-"
        } else if outcome.seen {
            "yes"
        } else {
            "NO"
        },
        word(outcome.verdict),
        notes.join("; ")
    )
}

/// Writes `faults.md` and `faults.json` into `directory`.
///
/// # Errors
/// What could not be written.
pub fn write(directory: &Path, outcomes: &[Outcome]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("faults.md"), markdown(outcomes))?;
    let json = serde_json::to_string_pretty(outcomes).map_err(std::io::Error::other)?;
    std::fs::write(directory.join("faults.json"), json)
}

/// What must not be passed over in silence: rows that ran and are not kept.
#[must_use]
pub fn complaints(outcomes: &[Outcome]) -> Vec<String> {
    let open = outcomes.iter().filter(|outcome| match outcome.verdict {
        Verdict::Kept | Verdict::Skipped => false,
        Verdict::Weak | Verdict::Broken => true,
    });
    open.map(|outcome| format!("row {}: {}", outcome.row, word(outcome.verdict))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(row: u32, verdict: Verdict) -> Outcome {
        Outcome {
            row,
            name: "a fault".to_owned(),
            recovery_seconds: Some(1.25),
            bound_seconds: Some(5),
            lost: Some(0),
            duplicate: Some(0),
            seen: true,
            verdict,
            notes: vec!["a|b\nc".to_owned()],
        }
    }

    #[test]
    fn a_line_has_all_columns() {
        let line = line(&outcome(1, Verdict::Kept));
        assert_eq!(line, "| 1 | a fault | 1.2 s | 5 s | 0 | 0 | yes | kept | a b c |");
    }

    #[test]
    fn only_what_is_kept_or_can_not_run_is_quiet() {
        let outcomes = [
            outcome(1, Verdict::Kept),
            outcome(2, Verdict::Weak),
            outcome(3, Verdict::Broken),
            outcome(4, Verdict::Skipped),
        ];
        let expected = ["row 2: WEAK", "row 3: BROKEN"];
        assert_eq!(complaints(&outcomes), expected);
    }

    #[test]
    fn the_table_is_written_in_both_forms() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &[outcome(1, Verdict::Kept)]).unwrap();
        let text = std::fs::read_to_string(directory.path().join("faults.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json[0]["row"], &json[0]["verdict"]), (&1.into(), &"kept".into()));
        let text = std::fs::read_to_string(directory.path().join("faults.md")).unwrap();
        assert_eq!(text.lines().count(), 3);
    }
}
