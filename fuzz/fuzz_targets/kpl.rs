//! Any bytes are an aggregate or a plain record; an aggregate's payloads are parts of them.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The file itself: the crate around it takes many minutes to instrument.
#[path = "../../worker/src/kpl.rs"]
mod kpl;
#[path = "../properties/kpl.rs"]
mod property;

use kpl::{EXPANDED_BYTES_MAX, RECORD_OVERHEAD_BYTES, USER_RECORDS_MAX, UserRecord, split};

fuzz_target!(|data: &[u8]| property::any_bytes(data));
