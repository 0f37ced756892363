//! What holds of any text that is read as a sequence number or as a range of hash keys.
//!
//! Shared by the fuzzer and by the unit tests of the numbers: each has the types beside it.

use super::{HashKeyRange, SequenceNumber};

/// Any text is a sequence number, which prints as it was written and keeps its order when it is
/// packed, or refused.
pub(crate) fn any_text(text: &str) {
    if let Ok(number) = text.parse::<SequenceNumber>() {
        let digits = text.trim_start_matches('0');
        assert_eq!(number.to_string(), if digits.is_empty() { "0" } else { digits });
        assert_eq!(SequenceNumber::from_bytes(*number.as_bytes()), number);
    }
    if let Some((starting, ending)) = text.split_once('-') {
        let number = |text: &str| text.parse::<SequenceNumber>();
        if let (Ok(a), Ok(b)) = (number(starting), number(ending)) {
            let (shown, other) = (a.to_string(), b.to_string());
            let by_digits = shown.len().cmp(&other.len()).then(shown.cmp(&other));
            assert_eq!(a.cmp(&b), by_digits);
        }
        let is_range = HashKeyRange::parse(starting, ending).is_ok();
        let ends = starting.parse::<u128>().ok().zip(ending.parse::<u128>().ok());
        assert_eq!(is_range, ends.is_some_and(|(starting, ending)| starting <= ending));
    }
}
