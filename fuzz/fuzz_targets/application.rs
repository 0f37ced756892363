//! Any text is an application file, which survives its message, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_common::application::{ApplicationSpec, parse_toml};

fuzz_target!(|text: &str| {
    if let Ok(spec) = parse_toml("fuzz.toml", text, &[]) {
        let again = ApplicationSpec::from_proto(&spec.to_proto());
        assert_eq!(again.expect("a spec's own message is understood"), spec);
    }
});
