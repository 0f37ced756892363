//! Any text is a sequence number, which prints as it was written, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_common::position::{HashKeyRange, SequenceNumber};

fuzz_target!(|text: &str| {
    if let Ok(number) = text.parse::<SequenceNumber>() {
        let digits = text.trim_start_matches('0');
        assert_eq!(number.to_string(), if digits.is_empty() { "0" } else { digits });
        assert_eq!(SequenceNumber::from_bytes(*number.as_bytes()), number);
    }
    if let Some((starting, ending)) = text.split_once('-') {
        let _refused = HashKeyRange::parse(starting, ending);
    }
});
