//! User records out of a KPL aggregate, read from the published format and by no code of the
//! product, so that a defect there can not hide itself.
//!
//! The format: magic `F3 89 9A C2`, a protobuf message (1: partition keys, 2: explicit hash keys,
//! 3: records of {1: index of the partition key, 2: index of the explicit hash key, 3: data}), and
//! the MD5 of that message. What does not fit in every respect is a plain record, and so is a bomb:
//! an aggregate of more than [`RECORDS_MAX`] records or [`BYTES_MAX`] bytes.

use md5::{Digest as _, Md5};

const MAGIC: &[u8] = &[0xF3, 0x89, 0x9A, 0xC2];
const MD5_LEN: usize = 16;
/// Most user records, partition keys or explicit hash keys of one aggregate.
const RECORDS_MAX: usize = 1_000_000;
/// Most bytes that its user records may come to: payload, partition key and [`OVERHEAD`] of each.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a user record counts beside its payload and key.
const OVERHEAD: usize = 48;

/// A record within an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    /// What decides over its shard: the explicit hash key, or MD5 of the partition key.
    pub hash_key: u128,
    /// Its payload.
    pub data: &'a [u8],
}

/// The user records of an aggregate, in order; none when `raw` is a plain record.
#[must_use]
pub fn take_apart(raw: &[u8]) -> Option<Vec<UserRecord<'_>>> {
    let body = raw.strip_prefix(MAGIC)?;
    let (message, sum) = body.split_at_checked(body.len().checked_sub(MD5_LEN)?)?;
    if Md5::digest(message).as_slice() != sum {
        return None;
    }
    let (mut keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for field in fields(message)? {
        match field {
            (1, Field::Bytes(key)) => keys.push(std::str::from_utf8(key).ok()?),
            (2, Field::Bytes(key)) => {
                hash_keys.push(std::str::from_utf8(key).ok()?.parse::<u128>().ok()?);
            }
            (3, Field::Bytes(record)) => records.push(fields(record)?),
            (1..=3, _) => return None,
            _ => {}
        }
    }
    if keys.len().max(hash_keys.len()).max(records.len()) > RECORDS_MAX {
        return None;
    }
    let hashes: Vec<u128> = keys.iter().map(|key| md5_of(key)).collect();
    let mut num_bytes = 0;
    let users = records.into_iter().map(|record| {
        let (key, explicit, data) = parts(record)?;
        num_bytes += keys.get(key)?.len() + data.len() + OVERHEAD;
        let hash_key = match explicit {
            Some(index) => *hash_keys.get(index)?,
            None => hashes[key],
        };
        (num_bytes <= BYTES_MAX).then_some(UserRecord { hash_key, data })
    });
    users.collect()
}

/// Index of the partition key, index of the explicit hash key, and payload of a user record.
fn parts(record: Vec<(u64, Field<'_>)>) -> Option<(usize, Option<usize>, &[u8])> {
    let (mut key, mut explicit, mut data) = (None, None, None);
    for field in record {
        match field {
            (1, Field::Number(index)) => key = Some(usize::try_from(index).ok()?),
            (2, Field::Number(index)) => explicit = Some(usize::try_from(index).ok()?),
            (3, Field::Bytes(bytes)) => data = Some(bytes),
            (1..=3, _) => return None,
            _ => {}
        }
    }
    Some((key?, explicit, data?))
}

fn md5_of(key: &str) -> u128 {
    Md5::digest(key.as_bytes()).iter().fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of four or eight bytes: an aggregate has none of these.
    Fixed,
}

/// Fields of a message; none when it is broken.
fn fields(mut rest: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (key, after) = varint(rest)?;
        let (number, kind) = (key >> 3, key & 7);
        if number == 0 {
            return None;
        }
        rest = match kind {
            0 => {
                let (value, after) = varint(after)?;
                found.push((number, Field::Number(value)));
                after
            }
            1 | 5 => {
                found.push((number, Field::Fixed));
                after.get(if kind == 1 { 8 } else { 4 }..)?
            }
            2 => {
                let (length, after) = varint(after)?;
                let (bytes, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                found.push((number, Field::Bytes(bytes)));
                after
            }
            _ => return None,
        };
    }
    Some(found)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let last = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (digits, rest) = bytes.split_at(last + 1);
    let value = digits.iter().rev().fold(0, |sum, byte| (sum << 7) | u64::from(byte & 0x7F));
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use millrace_common::position::HashKeyRange;
    use millrace_worker::kpl;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// An aggregate around a message.
    fn sealed(message: &[u8]) -> Vec<u8> {
        [MAGIC, message, Md5::digest(message).as_slice()].concat()
    }

    /// A field that holds bytes, fewer than 128.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        [&[number << 3 | 2, length], bytes].concat()
    }

    fn record(key: u8, explicit: Option<u8>, data: &[u8]) -> Vec<u8> {
        let explicit = explicit.map(|index| [2 << 3, index]);
        [&[1 << 3, key][..], explicit.as_ref().map_or(&[], |bytes| bytes), &field(3, data)].concat()
    }

    /// Two user records, the second with an explicit hash key.
    fn aggregate() -> Vec<u8> {
        let records = [record(0, None, b"one"), record(0, Some(0), b"two")];
        let records = records.map(|record| field(3, &record)).concat();
        sealed(&[field(1, b"k"), field(2, b"7"), records].concat())
    }

    #[test]
    fn user_records_come_out_in_order() {
        let raw = aggregate();
        let users = take_apart(&raw).unwrap();
        assert_eq!(users[0], UserRecord { hash_key: md5_of("k"), data: b"one" });
        assert_eq!(users[1], UserRecord { hash_key: 7, data: b"two" });
        assert_eq!(md5_of("k"), 0x8ce4_b16b_22b5_8894_aa86_c421_e875_9df3);
    }

    #[test]
    fn what_is_no_aggregate_in_every_respect_is_plain() {
        let whole = aggregate();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert!(take_apart(&broken).is_none(), "byte {at} changed");
            assert!(take_apart(&whole[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_bomb_is_plain() {
        let long = "k".repeat(100);
        let small = field(3, &record(0, None, b""));
        let of = |num: usize| sealed(&[field(1, long.as_bytes()), small.repeat(num)].concat());
        let most = BYTES_MAX / (long.len() + OVERHEAD);
        assert_eq!(take_apart(&of(most)).unwrap().len(), most);
        assert!(take_apart(&of(most + 1)).is_none());
    }

    proptest! {
        /// The reader here and the product's agree on whatever may come, broken or not.
        #[test]
        fn two_readers_agree(
            keys in vec("[a-c]{0,3}", 0..3),
            hash_keys in vec(any::<u128>(), 0..3),
            users in vec((0_u8..3, option::of(0_u8..3), vec(any::<u8>(), 0..4)), 0..5),
            flips in vec((any::<Index>(), any::<u8>()), 0..3),
            is_sealed_after in any::<bool>(),
        ) {
            let mut message = keys.iter().map(|key| field(1, key.as_bytes())).collect::<Vec<_>>();
            message.extend(hash_keys.iter().map(|key| field(2, key.to_string().as_bytes())));
            message.extend(users.iter().map(|(k, e, data)| field(3, &record(*k, *e, data))));
            let mut message = message.concat();
            let mut raw = sealed(&message);
            let broken = if is_sealed_after { &mut message } else { &mut raw };
            for (at, byte) in flips.iter().filter(|_| !broken.is_empty()).collect::<Vec<_>>() {
                let at = at.index(broken.len());
                broken[at] ^= byte;
            }
            if is_sealed_after {
                raw = sealed(&message);
            }
            let range = HashKeyRange { starting: 0, ending: u128::MAX / 2 };
            let theirs = kpl::split(&raw, Some(range)).map(|aggregate| {
                let users = aggregate.records.into_iter();
                users.map(|user| (user.data, user.is_in_range)).collect::<Vec<_>>()
            });
            let ours = take_apart(&raw).map(|users| {
                let users = users.into_iter();
                users.map(|user| (user.data, range.contains(user.hash_key))).collect::<Vec<_>>()
            });
            prop_assert_eq!(ours, theirs);
        }
    }
}
