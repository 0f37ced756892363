//! What holds of any bytes that are read as a packed head.
//!
//! Shared by the fuzzer and by the unit tests of the packing: each has the functions beside it.

use super::{decode_body, decode_starts, encode_body, encode_starts};

/// Any bytes are a packed head, which comes back when it is packed again, or refused.
pub(crate) fn any_bytes(data: &[u8]) {
    if let Ok(body) = decode_body(data)
        && let Ok(packed) = encode_body(&body)
    {
        assert_eq!(decode_body(&packed), Ok(body));
    }
    if let Ok(starts) = decode_starts(data) {
        assert_eq!(decode_starts(&encode_starts(&starts)), Ok(starts));
    }
}
