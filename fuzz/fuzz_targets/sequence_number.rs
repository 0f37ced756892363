//! Any text is a sequence number, which prints as it was written, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_common::position::{HashKeyRange, SequenceNumber};

#[path = "../properties/sequence_number.rs"]
mod property;

fuzz_target!(|text: &str| property::any_text(text));
