//! Texts of AWS in fewer bytes: MD5 ETags, base64 checksums, UUIDs and shard numbers as what they
//! are.
//!
//! Promises: a text that is packed comes back letter by letter; one that is none of these is kept
//! as it is. Never does: fail on a text that S3 may answer tomorrow.

use uuid::Uuid;

const PLAIN: u8 = 0;
const QUOTED_HEX: u8 = 1;
const BASE64: u8 = 2;
const UUID: u8 = 3;

/// Digits of a shard's number, as Kinesis writes them.
const SHARD_DIGITS: usize = 12;
const SHARD_PREFIX: &str = "shardId-";

/// The text in as few bytes as it can be told in.
pub(super) fn pack(text: &str) -> Vec<u8> {
    let candidates = [
        (QUOTED_HEX, quoted_hex(text)),
        (BASE64, base64_simd::STANDARD.decode_to_vec(text).ok().filter(|b| !b.is_empty())),
        (UUID, Uuid::try_parse(text).ok().map(|uuid| uuid.as_bytes().to_vec())),
    ];
    for (kind, bytes) in candidates {
        let Some(bytes) = bytes else { continue };
        let mut packed = vec![kind];
        packed.extend_from_slice(&bytes);
        if unpack(&packed).as_deref() == Some(text) {
            return packed;
        }
    }
    let mut packed = vec![PLAIN];
    packed.extend_from_slice(text.as_bytes());
    packed
}

/// The text that was packed; none when the bytes are not a packed text.
pub(super) fn unpack(packed: &[u8]) -> Option<String> {
    let (kind, bytes) = packed.split_first()?;
    match *kind {
        PLAIN => String::from_utf8(bytes.to_vec()).ok(),
        QUOTED_HEX => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("\"{hex}\""))
        }
        BASE64 => Some(base64_simd::STANDARD.encode_to_string(bytes)),
        UUID => Some(Uuid::from_slice(bytes).ok()?.hyphenated().to_string()),
        _ => None,
    }
}

fn quoted_hex(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix('"')?.strip_suffix('"')?;
    if !hex.is_ascii() || hex.len() % 2 != 0 {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

/// The number of a shard whose id is written as Kinesis writes them.
pub(super) fn shard_number(id: &str) -> Option<u64> {
    let digits = id.strip_prefix(SHARD_PREFIX)?;
    let well_formed = digits.len() == SHARD_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}

/// The id of the shard with this number; none when the number has more digits than ids have.
pub(super) fn shard_id(number: u64) -> Option<String> {
    let id = format!("{SHARD_PREFIX}{number:0width$}", width = SHARD_DIGITS);
    (id.len() == SHARD_PREFIX.len() + SHARD_DIGITS).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_forms_shrink_to_their_bytes() {
        for (text, len) in [
            ("\"d41d8cd98f00b204e9800998ecf8427e\"", 17),
            ("yZRlqg==", 5),
            ("67e55044-10b1-426f-9247-bb680e5fe0c8", 17),
            ("\"d41d8cd98f00b204e9800998ecf8427e-3\"", 37),
            ("", 1),
        ] {
            assert_eq!(pack(text).len(), len, "{text:?}");
            assert_eq!(unpack(&pack(text)).as_deref(), Some(text));
        }
    }

    #[test]
    fn only_ids_of_twelve_digits_are_numbers() {
        assert_eq!(shard_number("shardId-000000000042"), Some(42));
        assert_eq!(shard_id(42).as_deref(), Some("shardId-000000000042"));
        for other in ["shardId-42", "shardId-+00000000042", "shard-000000000042", ""] {
            assert_eq!(shard_number(other), None, "{other:?}");
        }
        assert_eq!(shard_id(1_000_000_000_000), None);
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in "\\PC{0,40}|\"[0-9a-fA-F]{0,34}\"|[A-Za-z0-9+/]{0,12}={0,2}") {
            prop_assert_eq!(unpack(&pack(&text)), Some(text));
        }

        #[test]
        fn every_shard_number_comes_back(number in 0u64..1_000_000_000_000) {
            prop_assert_eq!(shard_number(&shard_id(number).unwrap()), Some(number));
        }
    }
}
