//! Sequence numbers: 56 decimal digits that start with 49, as AWS writes them, ordered as numbers.
//!
//! The number holds, from its highest bits down: a version, the second at which the shard was
//! created, the shard, the index of the record in the shard, the second of its arrival, the shard
//! again. So numbers of one shard grow strictly, and a number names the shard it came from. Readers
//! must not rely on any of this.

use std::fmt;
use std::str::FromStr;

/// The value of the highest and of the lowest four bits.
const VERSION: u64 = 2;
/// The index in the ending sequence number of a closed shard: above every record's.
pub(crate) const ENDING_INDEX: u64 = 0x7fff_ffff_ffff_ffff;
/// Ten to the power 19, the largest power of ten in 64 bits.
const TEN_19: u128 = 10_000_000_000_000_000_000;

/// A 188-bit sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SequenceNumber {
    high: u64,
    low: u128,
}

/// The part of a shard's sequence numbers that does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardStamp {
    pub(crate) shard: u32,
    pub(crate) created_s: u64,
}

impl SequenceNumber {
    /// The number of the record at `index` that arrived in the second `arrival_s`.
    pub(crate) fn new(stamp: ShardStamp, index: u64, arrival_s: u64) -> Self {
        let high = (VERSION << 56)
            | ((stamp.created_s & 0xf_ffff_ffff) << 20)
            | (u64::from(stamp.shard & 0xf) << 16)
            | (index >> 48);
        let low = (u128::from(index & 0xffff_ffff_ffff) << 80)
            | (u128::from(arrival_s & 0xf_ffff_ffff) << 36)
            | (u128::from(stamp.shard) << 4)
            | u128::from(VERSION);
        Self { high, low }
    }

    /// The index of the record in its shard.
    pub(crate) fn index(self) -> u64 {
        let low = u64::try_from(self.low >> 80).expect("48 bits fit 64");
        ((self.high & 0xffff) << 48) | low
    }

    /// The shard that the number came from.
    pub(crate) fn stamp(self) -> ShardStamp {
        let shard = u32::try_from((self.low >> 4) & 0xffff_ffff).expect("masked to 32 bits");
        ShardStamp { shard, created_s: (self.high >> 20) & 0xf_ffff_ffff }
    }

    /// Writes the decimal digits to the end of `out`.
    pub(crate) fn write_decimal(self, out: &mut Vec<u8>) {
        let (top, middle, bottom) = self.limbs();
        let mut digits = [b'0'; 20 + 19 + 19];
        fill_digits(&mut digits[..20], top);
        fill_digits(&mut digits[20..39], middle);
        fill_digits(&mut digits[39..], bottom);
        let leading = digits.iter().position(|d| *d != b'0').unwrap_or(digits.len() - 1);
        out.extend_from_slice(&digits[leading..]);
    }

    /// The number in base 10^19, highest limb first.
    fn limbs(self) -> (u64, u64, u64) {
        let words = [self.high, (self.low >> 64) as u64, self.low as u64];
        let (words, bottom) = divide(words);
        let (words, middle) = divide(words);
        (words[2], middle, bottom)
    }
}

/// Divides a 192-bit number by 10^19 and returns quotient and remainder.
fn divide(words: [u64; 3]) -> ([u64; 3], u64) {
    let mut quotient = [0; 3];
    let mut rest: u128 = 0;
    for (word, digit) in words.iter().zip(&mut quotient) {
        let value = (rest << 64) | u128::from(*word);
        *digit = (value / TEN_19) as u64;
        rest = value % TEN_19;
    }
    (quotient, rest as u64)
}

fn fill_digits(out: &mut [u8], mut value: u64) {
    for slot in out.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = Vec::with_capacity(58);
        self.write_decimal(&mut digits);
        f.write_str(std::str::from_utf8(&digits).expect("digits are ASCII"))
    }
}

/// The text is not a decimal number of a size that a sequence number can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotASequenceNumber;

impl FromStr for SequenceNumber {
    type Err = NotASequenceNumber;

    fn from_str(text: &str) -> Result<Self, NotASequenceNumber> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotASequenceNumber);
        }
        let mut words = [0u64; 3];
        for digit in text.bytes() {
            let mut carry = u128::from(digit - b'0');
            for word in words.iter_mut().rev() {
                let value = u128::from(*word) * 10 + carry;
                *word = value as u64;
                carry = value >> 64;
            }
            if carry != 0 {
                return Err(NotASequenceNumber);
            }
        }
        Ok(Self { high: words[0], low: (u128::from(words[1]) << 64) | u128::from(words[2]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_parts_round_trip(
            shard in any::<u32>(),
            // Streams that are made before the year 2050: later ones start with 50.
            created_s in 1_600_000_000u64..2_500_000_000,
            index in 0..ENDING_INDEX,
            arrival_s in 1_600_000_000u64..4_000_000_000,
        ) {
            let stamp = ShardStamp { shard, created_s };
            let number = SequenceNumber::new(stamp, index, arrival_s);
            let text = number.to_string();
            prop_assert_eq!(text.len(), 56);
            prop_assert!(text.starts_with("49"));
            prop_assert_eq!(text.parse::<SequenceNumber>(), Ok(number));
            prop_assert_eq!(number.index(), index);
            prop_assert_eq!(number.stamp(), stamp);
        }

        #[test]
        fn numbers_of_a_shard_grow_with_the_index(
            index in 0..ENDING_INDEX - 1,
            step in 1u64..1000,
            earlier in 0u64..4_000_000_000,
            later in 0u64..4_000_000_000,
        ) {
            let stamp = ShardStamp { shard: 3, created_s: 1_700_000_000 };
            let first = SequenceNumber::new(stamp, index, earlier);
            let second = SequenceNumber::new(stamp, index.saturating_add(step), later);
            prop_assert!(first < second);
            prop_assert!(second < SequenceNumber::new(stamp, ENDING_INDEX + 1, 0));
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in ["", "abc", "12a", "-1", &"9".repeat(59), &"9".repeat(200)] {
            assert_eq!(text.parse::<SequenceNumber>(), Err(NotASequenceNumber), "{text}");
        }
    }
}
