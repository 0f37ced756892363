//! User records out of a KPL aggregate, read from the published format and by no code of the
//! product, so that a defect there can not hide itself.
//!
//! The format: magic `F3 89 9A C2`, a protobuf message (1: partition keys, 2: explicit hash keys,
//! 3: records of {1: index of the partition key, 2: index of the explicit hash key, 3: data}), and
//! the MD5 of that message. What does not fit in every respect is a plain record.

use md5::{Digest as _, Md5};

const MAGIC: &[u8] = &[0xF3, 0x89, 0x9A, 0xC2];
const MD5_LEN: usize = 16;

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
            (1, Field::Bytes(key)) => keys.push(md5_of(std::str::from_utf8(key).ok()?)),
            (2, Field::Bytes(key)) => {
                hash_keys.push(std::str::from_utf8(key).ok()?.parse::<u128>().ok()?);
            }
            (3, Field::Bytes(record)) => records.push(fields(record)?),
            (1..=3, Field::Number(_)) => return None,
            _ => {}
        }
    }
    records.into_iter().map(|record| user(record, &keys, &hash_keys)).collect()
}

/// A user record from its fields; the keys are the aggregate's.
fn user<'a>(
    record: Vec<(u64, Field<'a>)>,
    keys: &[u128],
    hash_keys: &[u128],
) -> Option<UserRecord<'a>> {
    let (mut key, mut explicit, mut data) = (None, None, None);
    for field in record {
        match field {
            (1, Field::Number(index)) => key = Some(index),
            (2, Field::Number(index)) => explicit = Some(index),
            (3, Field::Bytes(bytes)) => data = Some(bytes),
            (1..=3, _) => return None,
            _ => {}
        }
    }
    let of_key = *keys.get(usize::try_from(key?).ok()?)?;
    let hash_key = match explicit {
        Some(index) => *hash_keys.get(usize::try_from(index).ok()?)?,
        None => of_key,
    };
    Some(UserRecord { hash_key, data: data? })
}

fn md5_of(key: &str) -> u128 {
    Md5::digest(key.as_bytes()).iter().fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a message; none when it is broken. Fixed-width fields are passed over.
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
            1 => after.get(8..)?,
            2 => {
                let (length, after) = varint(after)?;
                let (bytes, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                found.push((number, Field::Bytes(bytes)));
                after
            }
            5 => after.get(4..)?,
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
    use super::*;

    /// Two user records, the second with an explicit hash key, written byte by byte.
    fn aggregate() -> Vec<u8> {
        let mut message = vec![0x0A, 1, b'k', 0x12, 1, b'7'];
        message.extend([0x1A, 7, 0x08, 0, 0x1A, 3, b'o', b'n', b'e']);
        message.extend([0x1A, 9, 0x08, 0, 0x10, 0, 0x1A, 3, b't', b'w', b'o']);
        let mut raw = MAGIC.to_vec();
        raw.extend(&message);
        raw.extend(Md5::digest(&message).iter());
        raw
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
}
