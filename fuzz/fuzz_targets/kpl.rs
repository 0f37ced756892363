//! Any bytes are an aggregate or a plain record; an aggregate's payloads are parts of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use md5::{Digest as _, Md5};

// The file itself: the crate around it takes many minutes to instrument.
#[path = "../../worker/src/executor/receiver/kpl.rs"]
mod kpl;

use kpl::{EXPANDED_BYTES_MAX, USER_RECORDS_MAX};

/// What an aggregate begins with.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

fuzz_target!(|data: &[u8]| {
    check(data);
    // No fuzzer finds an MD5: sealed, so that the parser is reached.
    check(&[&MAGIC, data, Md5::digest(data).as_slice()].concat());
});

fn check(data: &[u8]) {
    let Some(aggregate) = kpl::split(data, None) else { return };
    assert!(aggregate.records.len() <= USER_RECORDS_MAX);
    let places = aggregate.records.iter().map(|record| record.sub_sequence_number);
    assert!(places.eq(0..aggregate.records.len() as u64));
    let overhead = kpl::RECORD_OVERHEAD_BYTES;
    let bytes =
        |record: &kpl::UserRecord<'_>| record.data.len() + record.partition_key.len() + overhead;
    assert!(aggregate.records.iter().map(bytes).sum::<usize>() <= EXPANDED_BYTES_MAX);
    let taken: usize = aggregate.records.iter().map(|record| record.data.len()).sum();
    assert!(taken <= data.len());
}
