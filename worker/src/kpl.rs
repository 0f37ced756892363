//! Taking KPL aggregates apart: one Kinesis record that holds many user records.
//!
//! Promises: what is not an aggregate in every respect (magic, MD5, protobuf) is a plain record and
//! passes through as it is; an aggregate's user records keep their places, dropped or not; a bomb
//! costs no more memory than [`USER_RECORDS_MAX`] and [`EXPANDED_BYTES_MAX`] allow. Never does:
//! copy payloads.

use md5::{Digest as _, Md5};
use millrace_common::position::HashKeyRange;

/// What an aggregate begins with.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
/// Bytes of the MD5 it ends with.
const DIGEST_BYTES: usize = 16;
/// Most user records that one aggregate may hold; one with more is passed on as a plain record.
pub const USER_RECORDS_MAX: usize = 1_000_000;
/// Most bytes, keys and overhead included, that one aggregate may expand to; one that would take
/// more is passed on as a plain record. Two-byte references to a long key would do it.
pub const EXPANDED_BYTES_MAX: usize = 32 << 20;
/// What a user record takes beside its payload and key: numbers, offsets, arrival.
pub const RECORD_OVERHEAD_BYTES: usize = 48;

/// A record as SQL sees it, within the raw record it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    /// Its place in the aggregate, from 0.
    pub sub_sequence_number: u64,
    /// Its partition key.
    pub partition_key: &'a str,
    /// Its payload.
    pub data: &'a [u8],
    /// False when its hash key lies outside the shard's range.
    pub is_in_range: bool,
}

/// The user records of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate<'a> {
    /// All of them, in order, those out of range included.
    pub records: Vec<UserRecord<'a>>,
}

/// The user records in `data`; none when it is a plain record. `range` is the shard's, none when it
/// is not known: then every user record is in range.
#[must_use]
pub fn split(data: &[u8], range: Option<HashKeyRange>) -> Option<Aggregate<'_>> {
    let body = data.strip_prefix(&MAGIC)?;
    let (message, digest) = body.split_at_checked(body.len().checked_sub(DIGEST_BYTES)?)?;
    if Md5::digest(message).as_slice() != digest {
        return None;
    }
    let parts = Parts::parse(message)?;
    let records = parts.user_records(range)?;
    Some(Aggregate { records })
}

/// The three lists of an aggregate's message.
#[derive(Debug, Default)]
struct Parts<'a> {
    partition_keys: Vec<&'a str>,
    /// Explicit hash keys, as numbers.
    hash_keys: Vec<u128>,
    records: Vec<RawUserRecord<'a>>,
}

/// A user record as it stands in the message.
#[derive(Clone, Copy, Debug)]
struct RawUserRecord<'a> {
    partition_key_index: usize,
    hash_key_index: Option<usize>,
    data: &'a [u8],
}

impl<'a> Parts<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let mut parts = Self::default();
        let mut fields = Fields { rest: message };
        while !fields.rest.is_empty() {
            match fields.next()? {
                (1, Value::Bytes(key)) => {
                    parts.partition_keys.push(std::str::from_utf8(key).ok()?);
                }
                (2, Value::Bytes(key)) => {
                    parts.hash_keys.push(std::str::from_utf8(key).ok()?.parse().ok()?);
                }
                (3, Value::Bytes(record)) => parts.records.push(RawUserRecord::parse(record)?),
                (1..=3, _) => return None,
                _ => {}
            }
            let longest = parts.partition_keys.len().max(parts.hash_keys.len());
            if longest.max(parts.records.len()) > USER_RECORDS_MAX {
                return None;
            }
        }
        Some(parts)
    }

    fn user_records(&self, range: Option<HashKeyRange>) -> Option<Vec<UserRecord<'a>>> {
        // One MD5 per key and not per record: keys repeat.
        let mut known = vec![None; self.partition_keys.len()];
        let mut num_bytes = 0usize;
        let mut records = Vec::with_capacity(self.records.len());
        for (sub_sequence_number, record) in (0u64..).zip(&self.records) {
            let index = record.partition_key_index;
            let partition_key = *self.partition_keys.get(index)?;
            let hash_key = match record.hash_key_index {
                Some(explicit) => *self.hash_keys.get(explicit)?,
                None => *known[index].get_or_insert_with(|| hash_key(partition_key)),
            };
            num_bytes += record.data.len() + partition_key.len() + RECORD_OVERHEAD_BYTES;
            if num_bytes > EXPANDED_BYTES_MAX {
                return None;
            }
            records.push(UserRecord {
                sub_sequence_number,
                partition_key,
                data: record.data,
                is_in_range: range.is_none_or(|range| range.contains(hash_key)),
            });
        }
        Some(records)
    }
}

impl<'a> RawUserRecord<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let (mut partition_key_index, mut hash_key_index, mut data) = (None, None, None);
        let mut fields = Fields { rest: message };
        while !fields.rest.is_empty() {
            match fields.next()? {
                (1, Value::Number(index)) => partition_key_index = Some(index),
                (2, Value::Number(index)) => hash_key_index = Some(index),
                (3, Value::Bytes(bytes)) => data = Some(bytes),
                (1..=3, _) => return None,
                _ => {}
            }
        }
        Some(Self {
            partition_key_index: usize::try_from(partition_key_index?).ok()?,
            hash_key_index: hash_key_index.map(usize::try_from).transpose().ok()?,
            data: data?,
        })
    }
}

/// The hash key by which Kinesis chooses the shard of a partition key.
#[must_use]
pub fn hash_key(partition_key: &str) -> u128 {
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(Md5::digest(partition_key.as_bytes()).as_slice());
    u128::from_be_bytes(bytes)
}

/// A value of a protobuf field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a type that an aggregate does not use.
    Fixed,
}

/// The fields of a protobuf message, one after the other, without copying: an aggregate of 10 MiB
/// may hold millions of them.
#[derive(Debug)]
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The next field's number and value; none when the message is broken.
    fn next(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        let number = key >> 3;
        (number > 0).then_some((number, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "../../fuzz/properties/kpl.rs"]
mod property;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// The aggregate's message as its producers declare it.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct AggregatedRecord {
        #[prost(string, repeated, tag = "1")]
        pub(crate) partition_key_table: Vec<String>,
        #[prost(string, repeated, tag = "2")]
        pub(crate) explicit_hash_key_table: Vec<String>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) records: Vec<Inner>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Inner {
        #[prost(uint64, required, tag = "1")]
        pub(crate) partition_key_index: u64,
        #[prost(uint64, optional, tag = "2")]
        pub(crate) explicit_hash_key_index: Option<u64>,
        #[prost(bytes = "vec", required, tag = "3")]
        pub(crate) data: Vec<u8>,
        #[prost(message, repeated, tag = "4")]
        pub(crate) tags: Vec<Tag>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Tag {
        #[prost(string, required, tag = "1")]
        pub(crate) key: String,
        #[prost(string, optional, tag = "2")]
        pub(crate) value: Option<String>,
    }

    pub(crate) fn seal(message: &[u8]) -> Vec<u8> {
        [&MAGIC[..], message, Md5::digest(message).as_slice()].concat()
    }

    /// An aggregate of these (partition key, payload) pairs.
    pub(crate) fn aggregate(records: &[(&str, &str)]) -> Vec<u8> {
        let message = AggregatedRecord {
            partition_key_table: records.iter().map(|(key, _)| (*key).to_owned()).collect(),
            explicit_hash_key_table: Vec::new(),
            records: (0u64..)
                .zip(records)
                .map(|(index, (_, data))| Inner {
                    partition_key_index: index,
                    data: data.as_bytes().to_vec(),
                    tags: vec![Tag { key: "t".to_owned(), value: None }],
                    ..Inner::default()
                })
                .collect(),
        };
        seal(&message.encode_to_vec())
    }

    #[test]
    fn user_records_keep_key_payload_and_place() {
        let data = aggregate(&[("a", "one"), ("b", ""), ("a", "three")]);
        let split = split(&data, None).unwrap();
        let seen: Vec<_> = split
            .records
            .iter()
            .map(|r| (r.sub_sequence_number, r.partition_key, r.data))
            .collect();
        assert_eq!(seen, [(0, "a", &b"one"[..]), (1, "b", b""), (2, "a", b"three")]);
    }

    #[test]
    fn the_hash_key_is_the_md5_of_the_partition_key() {
        assert_eq!(hash_key(""), 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e);
    }

    #[test]
    fn records_of_another_shard_are_marked_one_by_one() {
        let data = aggregate(&[("a", "1"), ("b", "2")]);
        let key = hash_key("b");
        let range = HashKeyRange { starting: key, ending: key };
        let records = split(&data, Some(range)).unwrap().records;
        assert_eq!(records.iter().map(|r| r.is_in_range).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn an_explicit_hash_key_wins() {
        let message = AggregatedRecord {
            partition_key_table: vec!["a".to_owned()],
            explicit_hash_key_table: vec!["7".to_owned()],
            records: vec![Inner { explicit_hash_key_index: Some(0), ..Inner::default() }],
        };
        let range = HashKeyRange { starting: 7, ending: 7 };
        let data = seal(&message.encode_to_vec());
        assert!(split(&data, Some(range)).unwrap().records[0].is_in_range);
    }

    #[test]
    fn a_wrong_md5_or_message_is_a_plain_record() {
        let mut data = aggregate(&[("a", "one")]);
        *data.last_mut().unwrap() ^= 1;
        assert_eq!(split(&data, None), None);
        assert_eq!(split(&seal(b"\x1a\xff\xff"), None), None, "a length beyond the end");
        assert_eq!(split(&seal(b"\x1b"), None), None, "a group");
        assert_eq!(split(&seal(b"\x1a\x02\x08\x00"), None), None, "a record without a payload");
        assert_eq!(split(&MAGIC, None), None, "too short");
        assert_eq!(split(b"", None), None, "empty");
        let unknown_key =
            AggregatedRecord { records: vec![Inner::default()], ..Default::default() };
        assert_eq!(split(&seal(&unknown_key.encode_to_vec()), None), None, "no such key");
    }

    #[test]
    fn an_aggregate_without_records_has_none() {
        assert_eq!(split(&seal(b""), None), Some(Aggregate { records: Vec::new() }));
    }

    #[test]
    fn an_aggregate_of_a_hundred_thousand_records_is_taken_apart() {
        let records = vec![("k", "x"); 100_000];
        assert_eq!(split(&aggregate(&records), None).unwrap().records.len(), 100_000);
    }

    #[test]
    fn a_bomb_is_a_plain_record() {
        let inner = Inner { partition_key_index: 0, ..Inner::default() };
        let message = AggregatedRecord {
            partition_key_table: vec!["k".repeat(256)],
            explicit_hash_key_table: Vec::new(),
            records: vec![inner; 500_000],
        };
        assert_eq!(split(&seal(&message.encode_to_vec()), None), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            property::any_bytes(&bytes);
        }

        #[test]
        fn a_damaged_message_costs_no_more_than_it_may(
            records in prop::collection::vec(("[a-z]{0,9}", "[ -~]{0,20}"), 1..30),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let pairs: Vec<(&str, &str)> =
                records.iter().map(|(k, d)| (k.as_str(), d.as_str())).collect();
            let whole = aggregate(&pairs);
            let mut message = whole[MAGIC.len()..whole.len() - DIGEST_BYTES].to_vec();
            for (at, byte) in damage {
                let at = at.index(message.len());
                message[at] = byte;
            }
            if let Some(cut) = cut {
                message.truncate(cut.index(message.len()));
            }
            // Sealed again, so that nothing but the parser stands between it and the records.
            property::any_bytes(&message);
        }

        #[test]
        fn what_is_packed_comes_out(
            records in prop::collection::vec(("[a-z]{0,9}", "[ -~]{0,20}"), 0..30)
        ) {
            let pairs: Vec<(&str, &str)> =
                records.iter().map(|(k, d)| (k.as_str(), d.as_str())).collect();
            let data = aggregate(&pairs);
            let split = split(&data, None).unwrap();
            let seen: Vec<(&str, &[u8])> =
                split.records.iter().map(|r| (r.partition_key, r.data)).collect();
            let expected: Vec<(&str, &[u8])> =
                pairs.iter().map(|(k, d)| (*k, d.as_bytes())).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
