//! Any bytes are a packed head, which comes back when it is packed again, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_common::head::{decode_body, decode_starts, encode_body, encode_starts};

#[path = "../properties/head.rs"]
mod property;

fuzz_target!(|data: &[u8]| property::any_bytes(data));
