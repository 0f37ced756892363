//! Tests of the token buckets and shard limits under a turned clock.

use super::*;
use proptest::prelude::*;

proptest! {
    /// Over any history of calls, a bucket lets through at most its capacity plus what it gained.
    #[test]
    fn a_bucket_never_gives_more_than_it_gained(
        capacity in 1u64..2000,
        rate in 1u64..2000,
        calls in prop::collection::vec((0u64..500, 1u64..50), 1..200),
    ) {
        let mut bucket = TokenBucket::full(capacity, rate, 0);
        let (mut now, mut taken, mut largest) = (0u64, 0u64, 0u64);
        for (wait_ms, tokens) in calls {
            now += wait_ms;
            if bucket.allows(tokens, now) {
                bucket.take_into_debt(tokens, now);
                taken += tokens;
                largest = largest.max(tokens.saturating_sub(capacity));
            }
            prop_assert!(taken <= capacity + rate * now / 1000 + largest);
        }
    }

    /// A refused bucket lets the same call through once enough time has passed.
    #[test]
    fn a_bucket_pays_back_any_debt(debt in 0u64..100_000, rate in 1u64..5000) {
        let mut bucket = TokenBucket::full(10, rate, 0);
        bucket.take_into_debt(10 + debt, 0);
        let paid_at = (debt + 1) * 1000 / rate + 1;
        prop_assert!(!bucket.is_positive(0));
        prop_assert!(bucket.is_positive(paid_at));
    }

    /// Whatever readers do, a shard hands out at most 2 MiB/s over a long run, plus one answer.
    #[test]
    fn reads_stay_below_two_mib_a_second(
        calls in prop::collection::vec((0u64..400, 0u64..FULL_ANSWER_BYTES + 1), 1..300),
    ) {
        let mut limits = ShardLimits::new(0);
        let (mut now, mut read) = (0u64, 0u64);
        for (wait_ms, bytes) in calls {
            now += wait_ms;
            if limits.admit_read(now) {
                limits.count_answer(bytes, bytes == FULL_ANSWER_BYTES, now);
                read += bytes;
            }
            let gained = READ_BYTES_PER_S + READ_BYTES_PER_S * now / 1000;
            prop_assert!(read <= gained + FULL_ANSWER_BYTES);
        }
    }
}

#[test]
fn five_reads_a_second_and_no_sixth() {
    let mut limits = ShardLimits::new(0);
    let admitted = (0..20).filter(|_| limits.admit_read(0)).count();
    assert_eq!(admitted, 5);
    assert!(!limits.admit_read(199));
    assert!(limits.admit_read(200));
}

#[test]
fn a_full_answer_blocks_the_shard_for_five_seconds() {
    let mut limits = ShardLimits::new(0);
    assert!(limits.admit_read(0));
    limits.count_answer(FULL_ANSWER_BYTES - 500, true, 0);
    assert!(!limits.admit_read(4999));
    assert!(limits.admit_read(5000));
}

#[test]
fn an_overdrawn_answer_blocks_the_shard_for_one_second() {
    let mut limits = ShardLimits::new(0);
    assert!(limits.admit_read(0));
    limits.count_answer(READ_BYTES_PER_S + 1, false, 0);
    assert!(!limits.admit_read(999));
    assert!(limits.admit_read(1000));
}

#[test]
fn writes_stop_at_a_thousand_records_or_one_mib() {
    let mut limits = ShardLimits::new(0);
    assert_eq!((0..2000).filter(|_| limits.admit_record(10, 0)).count(), 1000);
    let mut limits = ShardLimits::new(0);
    assert_eq!((0..100).filter(|_| limits.admit_record(100 << 10, 0)).count(), 10);
    assert!(limits.admit_record(100 << 10, 1000));
}

#[test]
fn a_record_larger_than_a_second_passes_alone_and_is_paid_for() {
    let mut limits = ShardLimits::new(0);
    assert!(limits.admit_record(4 << 20, 0));
    assert!(!limits.admit_record(1, 2900));
    assert!(limits.admit_record(1, 3100));
}
