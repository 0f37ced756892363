//! Where in a shard we are. Sequence numbers are numbers of up to 57 decimal digits, compared as
//! numbers, kept in 24 bytes; intervals are half-open `(after, last]` and checked when applied.

use std::fmt;
use std::str::FromStr;

use millrace_proto::v1;

use crate::error::{Code, Error};

/// Bytes of a packed sequence number.
pub const SEQUENCE_NUMBER_BYTES: usize = 24;

/// A Kinesis sequence number: an unsigned number below 2^192, kept big-endian so that the order of
/// the bytes is the order of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceNumber([u8; SEQUENCE_NUMBER_BYTES]);

impl SequenceNumber {
    /// From its packed form.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SEQUENCE_NUMBER_BYTES]) -> Self {
        Self(bytes)
    }

    /// Packed, big-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SEQUENCE_NUMBER_BYTES] {
        &self.0
    }
}

impl FromStr for SequenceNumber {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::new(
                Code::InvalidValue,
                format!("{text:?} is not a sequence number"),
                "a sequence number is a decimal number below 2^192",
            )
        };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse());
        }
        let mut limbs = [0u64; 3];
        for digit in text.bytes() {
            let mut carry = u128::from(digit - b'0');
            for limb in limbs.iter_mut().rev() {
                let wide = u128::from(*limb) * 10 + carry;
                *limb = wide as u64;
                carry = wide >> 64;
            }
            if carry != 0 {
                return Err(refuse());
            }
        }
        let mut bytes = [0; SEQUENCE_NUMBER_BYTES];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(limbs) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Base 10^18 digits of the number, lowest first; 2^192 has at most four of them.
        const BASE: u128 = 1_000_000_000_000_000_000;
        let mut limbs = [0u64; 3];
        for (limb, chunk) in limbs.iter_mut().zip(self.0.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            *limb = u64::from_be_bytes(eight);
        }
        let mut groups = Vec::with_capacity(4);
        while limbs != [0; 3] || groups.is_empty() {
            let mut remainder = 0u128;
            for limb in &mut limbs {
                let wide = (remainder << 64) | u128::from(*limb);
                *limb = (wide / BASE) as u64;
                remainder = wide % BASE;
            }
            groups.push(remainder);
        }
        let mut groups = groups.into_iter().rev();
        if let Some(first) = groups.next() {
            write!(f, "{first}")?;
        }
        groups.try_for_each(|group| write!(f, "{group:018}"))
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for SequenceNumber {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads an optional sequence number from a message's text, in which empty means none.
///
/// # Errors
/// When the text is neither empty nor a sequence number.
pub fn optional_sequence_number(text: &str) -> Result<Option<SequenceNumber>, Error> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// Writes an optional sequence number as a message's text, in which empty means none.
#[must_use]
pub fn sequence_number_text(number: Option<SequenceNumber>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// A shard of a stream that one source of an application reads. A stream that was deleted and made
/// again under its old name has another creation time and so other keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    /// Name of the source in the application.
    pub source: String,
    /// ARN of the stream.
    pub stream_arn: String,
    /// When the stream was created, Unix time in milliseconds.
    pub stream_created_ms: i64,
    /// Shard id within the stream.
    pub shard_id: String,
}

impl ShardKey {
    /// As a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::ShardKey {
        v1::ShardKey {
            source: self.source.clone(),
            stream_arn: self.stream_arn.clone(),
            stream_created_ms: self.stream_created_ms,
            shard_id: self.shard_id.clone(),
        }
    }

    /// From a message.
    ///
    /// # Errors
    /// [`Code::Protocol`] when the message or its source or shard id is absent.
    pub fn from_proto(message: Option<v1::ShardKey>) -> Result<Self, Error> {
        match message {
            Some(m) if !m.source.is_empty() && !m.shard_id.is_empty() => Ok(Self {
                source: m.source,
                stream_arn: m.stream_arn,
                stream_created_ms: m.stream_created_ms,
                shard_id: m.shard_id,
            }),
            other => Err(Error::new(
                Code::Protocol,
                format!("a message names no shard: {other:?}"),
                "see that all processes run the same version",
            )),
        }
    }
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.shard_id)
    }
}

/// Progress of one shard: every record up to and including `sequence_number` has been dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The last record dealt with; none when nothing of the shard has been read yet.
    pub sequence_number: Option<SequenceNumber>,
    /// Server time (Unix, milliseconds) up to which the shard is known to hold nothing past
    /// `sequence_number`; 0 when not known.
    pub empty_until_ms: i64,
    /// True when the shard has ended and every record of it is dealt with.
    pub ended: bool,
}

impl Position {
    /// As a message.
    #[must_use]
    pub fn to_proto(self) -> v1::Position {
        v1::Position {
            sequence_number: sequence_number_text(self.sequence_number),
            empty_until_ms: self.empty_until_ms,
            ended: self.ended,
        }
    }

    /// From a message.
    ///
    /// # Errors
    /// When its sequence number is not one.
    pub fn from_proto(message: &v1::Position) -> Result<Self, Error> {
        Ok(Self {
            sequence_number: optional_sequence_number(&message.sequence_number)?,
            empty_until_ms: message.empty_until_ms,
            ended: message.ended,
        })
    }
}

/// The keys that a shard takes: from `starting` to `ending`, both included, as Kinesis has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashKeyRange {
    /// First key.
    pub starting: u128,
    /// Last key.
    pub ending: u128,
}

impl HashKeyRange {
    /// From the decimal texts of Kinesis.
    ///
    /// # Errors
    /// When one of them is not a number below 2^128, or they are the wrong way round.
    pub fn parse(starting: &str, ending: &str) -> Result<Self, Error> {
        match (starting.parse(), ending.parse()) {
            (Ok(starting), Ok(ending)) if starting <= ending => Ok(Self { starting, ending }),
            _ => Err(Error::new(
                Code::Protocol,
                format!("{starting:?} to {ending:?} is not a range of hash keys"),
                "see that all processes run the same version",
            )),
        }
    }

    /// The first key of the upper half, where Kinesis would split it evenly.
    #[must_use]
    pub fn middle(self) -> u128 {
        self.starting + (self.ending - self.starting).div_ceil(2)
    }

    /// True when the key is in the range.
    #[must_use]
    pub fn contains(self, key: u128) -> bool {
        (self.starting..=self.ending).contains(&key)
    }
}

#[cfg(test)]
#[path = "../../fuzz/properties/sequence_number.rs"]
mod property;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_is_numeric_and_not_lexical() {
        let nine: SequenceNumber = "9".parse().unwrap();
        let ten: SequenceNumber = "10".parse().unwrap();
        assert!(nine < ten);
    }

    #[test]
    fn a_real_number_survives_and_the_limit_is_kept() {
        let real = "49590338271490256608559692538361571095921575989136588898";
        assert_eq!(real.parse::<SequenceNumber>().unwrap().to_string(), real);
        let largest = "6277101735386680763835789423207666416102355444464034512895";
        assert_eq!(largest.parse::<SequenceNumber>().unwrap().to_string(), largest);
        let above = "6277101735386680763835789423207666416102355444464034512896";
        assert!(above.parse::<SequenceNumber>().is_err());
        assert!("".parse::<SequenceNumber>().is_err());
        assert!("-1".parse::<SequenceNumber>().is_err());
        assert!("LATEST".parse::<SequenceNumber>().is_err());
    }

    proptest! {
        #[test]
        fn numbers_print_as_they_parse(bytes: [u8; SEQUENCE_NUMBER_BYTES]) {
            let number = SequenceNumber::from_bytes(bytes);
            prop_assert_eq!(number.to_string().parse::<SequenceNumber>().unwrap(), number);
        }

        #[test]
        fn any_text_is_a_number_or_refused(text in "\\PC{0,80}|[0-9]{0,80}|[0-9]{0,59}-[0-9]{0,59}") {
            property::any_text(&text);
            property::any_text(&format!("{text}-{text}"));
            if let Err(error) = text.parse::<SequenceNumber>() {
                prop_assert_eq!(error.code(), Code::InvalidValue);
            }
        }

        #[test]
        fn a_damaged_number_is_another_or_refused(
            bytes: [u8; SEQUENCE_NUMBER_BYTES],
            other: [u8; SEQUENCE_NUMBER_BYTES],
            damage in prop::collection::vec(
                (any::<prop::sample::Index>(), 0usize..3, "\\PC{0,2}|[0-9]{0,2}"), 1..4,
            ),
        ) {
            let pair = [bytes, other].map(|bytes| SequenceNumber::from_bytes(bytes).to_string());
            let mut text: Vec<char> = pair.join("-").chars().collect();
            for (at, removed, added) in damage {
                let at = at.index(text.len().max(1)).min(text.len());
                let until = (at + removed).min(text.len());
                text.splice(at..until, added.chars());
            }
            let text: String = text.into_iter().collect();
            property::any_text(&text);
            text.split('-').for_each(property::any_text);
        }

        #[test]
        fn order_is_that_of_the_bytes(
            a: [u8; SEQUENCE_NUMBER_BYTES], b: [u8; SEQUENCE_NUMBER_BYTES],
        ) {
            let (x, y) = (SequenceNumber::from_bytes(a), SequenceNumber::from_bytes(b));
            let (p, q) = (x.to_string(), y.to_string());
            let numeric = p.len().cmp(&q.len()).then(p.cmp(&q));
            prop_assert_eq!(x.cmp(&y), numeric);
        }

        #[test]
        fn order_is_that_of_the_numbers(a: u128, b: u128) {
            let packed = |n: u128| n.to_string().parse::<SequenceNumber>().unwrap();
            prop_assert_eq!(packed(a).cmp(&packed(b)), a.cmp(&b));
            prop_assert_eq!(packed(a).to_string(), a.to_string());
        }
    }
}
