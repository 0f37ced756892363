//! What holds of the records that are taken out of any bytes.
//!
//! Shared by the fuzzer and by the unit tests of the parser: each has the parser's names beside it.

use md5::{Digest as _, Md5};

use super::{EXPANDED_BYTES_MAX, RECORD_OVERHEAD_BYTES, USER_RECORDS_MAX, UserRecord, split};

/// What an aggregate begins with.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// Any bytes are an aggregate or a plain record; an aggregate's payloads are parts of them. Tried as
/// they are, and sealed: nobody finds an MD5 by chance, and without one the parser is not reached.
pub(crate) fn any_bytes(data: &[u8]) {
    check(data);
    check(&[&MAGIC, data, Md5::digest(data).as_slice()].concat());
}

fn check(data: &[u8]) {
    let Some(aggregate) = split(data, None) else { return };
    assert!(aggregate.records.len() <= USER_RECORDS_MAX);
    let places = aggregate.records.iter().map(|record| record.sub_sequence_number);
    assert!(places.eq(0..aggregate.records.len() as u64));
    let bytes = |record: &UserRecord<'_>| {
        record.data.len() + record.partition_key.len() + RECORD_OVERHEAD_BYTES
    };
    assert!(aggregate.records.iter().map(bytes).sum::<usize>() <= EXPANDED_BYTES_MAX);
    let taken: usize = aggregate.records.iter().map(|record| record.data.len()).sum();
    assert!(taken <= data.len(), "payloads are parts of what came");
}
