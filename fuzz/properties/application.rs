//! What holds of any text that is read as an application file.
//!
//! Shared by the fuzzer and by the unit tests of the file: each has the functions beside it.

use super::{ApplicationSpec, parse_toml};

/// Any text is an application file, which survives its message, or refused.
pub(crate) fn any_text(text: &str, overrides: &[String]) {
    if let Ok(spec) = parse_toml("any.toml", text, overrides) {
        let again = ApplicationSpec::from_proto(&spec.to_proto());
        assert_eq!(again.expect("a spec's own message is understood"), spec);
    }
}
