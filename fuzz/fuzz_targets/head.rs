//! Any bytes are a packed head, which comes back when it is packed again, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_common::head::{decode_body, decode_starts, encode_body, encode_starts};

fuzz_target!(|data: &[u8]| {
    if let Ok(body) = decode_body(data) {
        assert_eq!(decode_body(&encode_body(&body)), Ok(body));
    }
    if let Ok(starts) = decode_starts(data) {
        assert_eq!(decode_starts(&encode_starts(&starts)), Ok(starts));
    }
});
