//! Any text is an application file, which survives its message, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_common::application::{ApplicationSpec, parse_toml};

#[path = "../properties/application.rs"]
mod property;

fuzz_target!(|text: &str| property::any_text(text, &[]));
