//! Sequence numbers between their packed and their decimal form.
//!
//! Promises: exact for every number of up to 57 digits; order of bytes is order of numbers.
//! Never does: use floating point, or compare decimal text.

use crate::scan::block::{PackedSequenceNumber, SEQUENCE_NUMBER_BYTES};

/// The largest power of ten below 2^63; decimal text is made and read in pieces of this size.
const PIECE: u64 = 1_000_000_000_000_000_000;
/// Decimal digits of a piece.
const PIECE_DIGITS: usize = 18;

/// Packs decimal digits; `None` for other text and for numbers of 2^192 and more.
#[must_use]
pub fn pack(decimal: &str) -> Option<PackedSequenceNumber> {
    if decimal.is_empty() {
        return None;
    }
    let mut limbs = [0_u64; 3];
    for digit in decimal.bytes() {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        let mut carry = u128::from(digit);
        for limb in limbs.iter_mut().rev() {
            let product = u128::from(*limb) * 10 + carry;
            *limb = low_half(product);
            carry = product >> 64;
        }
        if carry != 0 {
            return None;
        }
    }
    let mut packed = [0; SEQUENCE_NUMBER_BYTES];
    for (bytes, limb) in packed.chunks_exact_mut(8).zip(limbs) {
        bytes.copy_from_slice(&limb.to_be_bytes());
    }
    Some(packed)
}

/// The decimal digits of a packed number, without leading zeros.
///
/// Bytes beyond the first [`SEQUENCE_NUMBER_BYTES`] are not looked at; missing ones count as 0.
#[must_use]
pub fn unpack(packed: &[u8]) -> String {
    let mut limbs = [0_u64; 3];
    for (limb, bytes) in limbs.iter_mut().zip(packed.chunks(8)) {
        *limb = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    }
    let mut pieces = Vec::with_capacity(4);
    while limbs != [0; 3] {
        let mut rest = 0_u128;
        for limb in &mut limbs {
            let dividend = rest << 64 | u128::from(*limb);
            *limb = low_half(dividend / u128::from(PIECE));
            rest = dividend % u128::from(PIECE);
        }
        pieces.push(rest);
    }
    let Some(first) = pieces.pop() else { return "0".to_owned() };
    let mut text = first.to_string();
    for piece in pieces.into_iter().rev() {
        text.push_str(&format!("{piece:0width$}", width = PIECE_DIGITS));
    }
    text
}

/// The lower 64 bits.
fn low_half(value: u128) -> u64 {
    u64::try_from(value & u128::from(u64::MAX)).expect("masked to 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_keeps_number_and_order(a in "[1-9][0-9]{0,55}", b in "[1-9][0-9]{0,55}") {
            let (packed_a, packed_b) = (pack(&a).unwrap(), pack(&b).unwrap());
            prop_assert_eq!(unpack(&packed_a), a.clone());
            let numeric = a.len().cmp(&b.len()).then_with(|| a.cmp(&b));
            prop_assert_eq!(packed_a.cmp(&packed_b), numeric);
        }
    }

    #[test]
    fn edges() {
        assert_eq!(unpack(&pack("0").unwrap()), "0");
        assert_eq!(unpack(&pack(&"9".repeat(56)).unwrap()), "9".repeat(56));
        for bad in ["", "x", "1a", "-1", &"9".repeat(60)] {
            assert_eq!(pack(bad), None, "{bad}");
        }
    }
}
