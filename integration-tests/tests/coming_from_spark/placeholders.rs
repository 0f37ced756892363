//! What differs from one run to the next, each thing by a narrow pattern of its own. All else must
//! stand in the document as it is printed.

use std::path::Path;

use regex::Regex;

/// How the directory of a run stands in the document.
pub(crate) const DIRECTORY: &str = "/home/you/demo";

/// Pattern and what stands for it, in order.
const RULES: [(&str, &str); 18] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"\bpid \d+", "pid PID"),
    // The run in the name of an object.
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "RUN"),
    (r"\btoken [0-9a-f]{12}\b", "token ID"),
    (r"\breplay-[0-9a-f]{8}\b", "replay-ID"),
    // Rows and files are as many as batches were cut.
    (r"\bwrote \d+ rows in \d+ files\b", "wrote ROWS in FILES"),
    (r"\brecords, \d+ rows,", "records, ROWS,"),
    (r"\brecords=\d+ rows=\d+ files=\d+\b", "records=RECORDS rows=ROWS files=FILES"),
    // Durations that were measured have a blank before the unit; those of settings have none.
    (r"\b\d+(\.\d+)? (ms|s)\b", "DURATION"),
    (r"\bmemory at most \d+ MiB of", "memory at most MEMORY of"),
    // Resident memory, in the last column of an executor.
    (r"(?m)^(word-count-a\d+-e\d+ .* )\d+MiB$", "${1}MEMORY"),
    // What a drain waits for meanwhile depends on when it is looked at.
    (r"(?m)^node-\d+: .*\n", ""),
    // Which executor reads which shards: whoever registered first.
    (r"(?m)^(logs/\d+ +logs +)word-count-a(\d+)-e\d+( .*)$", "${1}EXECUTOR of attempt $2"),
    // Batches are cut by the clock.
    (r"\bbatch \d+", "batch NUMBER"),
    (r"(?m)^(batch +)\d+,", "${1}NUMBER,"),
    // Tables are as wide as what stands in them.
    (r" {2,}", "  "),
    (r"-{4,}", "----"),
];

/// A text with placeholders for all that differs.
pub(crate) fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, placeholder) in RULES {
        let pattern = Regex::new(pattern).expect("the patterns are constants");
        text = pattern.replace_all(&text, placeholder).into_owned();
    }
    text
}

/// An output as it may stand in the document: without the directory of this run.
pub(crate) fn shown(output: &str, directory: &Path) -> String {
    output.replace(&directory.display().to_string(), DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_put_aside_and_what_was_set_is_not() {
        for (text, expected) in [
            ("alive 0/4 2026-11-23T05:14:28Z", "alive 0/4 TIME"),
            ("aws  http://127.0.0.1:46503", "aws  http://ADDRESS"),
            ("node-1, pid 9499", "node-1, pid PID"),
            ("1000 records, 0 retries, 0.1 s", "1000 records, 0 retries, DURATION"),
            ("every 1s = 2.0/s, 96MiB process", "every 1s = 2.0/s, 96MiB process"),
            ("a    b", "a  b"),
            ("1000 records, 1001 rows, 0 bad records", "1000 records, ROWS, 0 bad records"),
            (
                "batch=1 records=754 rows=755 files=2",
                "batch=1 records=RECORDS rows=ROWS files=FILES",
            ),
            ("memory at most 124 MiB of 256 MiB", "memory at most MEMORY of 256 MiB"),
            ("token fad647e61059 is in ann.token", "token ID is in ann.token"),
            (
                "word-count-a1-e1  node-2  0/1  1  0B/1383MiB  118MiB",
                "word-count-a1-e1  node-2  0/1  1  0B/1383MiB  MEMORY",
            ),
            (
                "logs/1  logs  word-count-a1-e2  2  shardId-000000000000",
                "logs/1  logs  EXECUTOR of attempt 1",
            ),
            ("batch        7, committed", "batch  NUMBER, committed"),
            ("node-1: the driver finishes its batch\nnode-1 drained\n", "node-1 drained\n"),
        ] {
            assert_eq!(normal(text), expected);
        }
    }
}
