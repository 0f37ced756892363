//! Word counts by another program: `reference/count_words.py`, which knows nothing of Millrace and
//! uses only Python's standard library.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::command;

/// How often each word stands in a text.
pub type Counts = BTreeMap<String, i64>;

/// The reference count of words over all lines of `files`; a file named twice counts twice.
///
/// # Panics
/// When the program fails.
pub async fn reference(files: &[PathBuf]) -> Counts {
    let program =
        crate::dataset::repository_root().join("integration-tests/reference/count_words.py");
    let arguments: Vec<&std::ffi::OsStr> =
        std::iter::once(&program).chain(files).map(|path| path.as_os_str()).collect();
    let python = PathBuf::from("python3");
    let environment = command::base_environment();
    let counted = command::run(&python, &arguments, &environment, Duration::from_secs(60)).await;
    serde_json::from_str(&counted.success().stdout).expect("the program prints one JSON object")
}

/// Asserts that both counts are equal, word by word, naming the first words that differ.
///
/// # Panics
/// When a word is lost, invented, or counted another number of times.
pub fn assert_equal(found: &Counts, expected: &Counts) {
    let words: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differ: Vec<String> = words
        .into_iter()
        .filter(|word| found.get(*word) != expected.get(*word))
        .map(|word| format!("{word:?}: {:?} for {:?}", found.get(word), expected.get(word)))
        .collect();
    let totals = (found.values().sum::<i64>(), expected.values().sum::<i64>());
    assert!(
        differ.is_empty(),
        "{} words differ; {} counted for {}; found for expected: {}",
        differ.len(),
        totals.0,
        totals.1,
        differ[..differ.len().min(10)].join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, i64)]) -> Counts {
        pairs.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect()
    }

    #[tokio::test]
    async fn the_reference_counts_every_word_of_every_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lines");
        std::fs::write(&file, "a b  a\r\nb\nc a").unwrap();
        let found = reference(&[file.clone(), file]).await;
        assert_equal(&found, &counts(&[("a", 6), ("b", 4), ("", 2), ("c", 2)]));
    }

    #[test]
    #[should_panic(expected = "1 words differ; 3 counted for 4; found for expected: \"b\"")]
    fn a_lost_word_is_named() {
        assert_equal(&counts(&[("a", 2), ("b", 1)]), &counts(&[("a", 2), ("b", 2)]));
    }
}
