//! KPL aggregates, written from the published description of the format and by no code of the
//! product.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// A user record: its partition key, the hash key that decides over its shard where that is not the
/// partition key's MD5, and its payload.
#[derive(Clone, Debug)]
pub struct User<'a> {
    /// Its partition key.
    pub key: &'a str,
    /// Its explicit hash key.
    pub hash_key: Option<u128>,
    /// Its payload.
    pub data: &'a [u8],
}

/// One record that holds these, in order.
#[must_use]
pub fn of(users: &[User<'_>]) -> Vec<u8> {
    let (mut keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let mut places = BTreeMap::new();
    let mut num_hash_keys = 0;
    for user in users {
        let next = places.len() as u64;
        let place = *places.entry(user.key).or_insert_with(|| {
            bytes(&mut keys, 1, user.key.as_bytes());
            next
        });
        let mut record = Vec::new();
        number(&mut record, 1, place);
        if let Some(hash_key) = user.hash_key {
            bytes(&mut hash_keys, 2, hash_key.to_string().as_bytes());
            number(&mut record, 2, num_hash_keys);
            num_hash_keys += 1;
        }
        bytes(&mut record, 3, user.data);
        bytes(&mut records, 3, &record);
    }
    let message = [keys, hash_keys, records].concat();
    let sum = Md5::digest(&message);
    [&MAGIC, &message[..], sum.as_slice()].concat()
}

/// A field that holds a number.
fn number(into: &mut Vec<u8>, field: u8, value: u64) {
    into.push(field << 3);
    varint(into, value);
}

/// A field that holds bytes.
fn bytes(into: &mut Vec<u8>, field: u8, value: &[u8]) {
    into.push(field << 3 | 2);
    varint(into, value.len() as u64);
    into.extend_from_slice(value);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::kpl::take_apart;

    #[test]
    fn what_is_put_in_comes_out() {
        let long = vec![7; 300];
        let users = [
            User { key: "a", hash_key: None, data: b"one" },
            User { key: "b", hash_key: Some(u128::MAX), data: &long },
            User { key: "a", hash_key: None, data: b"" },
        ];
        let raw = of(&users);
        let found = take_apart(&raw).unwrap();
        assert_eq!((found[0].data, found[1].data), (&b"one"[..], &long[..]));
        assert_eq!(found[1].hash_key, u128::MAX);
        assert_eq!((found[2].hash_key, found.len()), (found[0].hash_key, 3));
    }
}
