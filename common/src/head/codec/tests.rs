//! What is packed comes back, what is damaged is refused, and a batch costs what it may (F9).

use std::io::Read as _;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::head::{Before, HeadItem, PendingPart, Sizes, StoredBody, write_units};

fn shard_id() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0u64..1_000_000_000_000).prop_map(|n| format!("shardId-{n:012}")),
        1 => "[a-zA-Z0-9_.-]{1,128}",
    ]
}

fn shard_key() -> impl Strategy<Value = ShardKey> {
    ("[a-c]{1,2}", "arn:[a-z]{0,3}", any::<i64>(), shard_id()).prop_map(
        |(source, stream_arn, stream_created_ms, shard_id)| ShardKey {
            source,
            stream_arn,
            stream_created_ms,
            shard_id,
        },
    )
}

fn position() -> impl Strategy<Value = Position> {
    (option::of(any::<[u8; 24]>()), any::<i64>(), any::<bool>()).prop_map(
        |(number, empty_until_ms, ended)| Position {
            sequence_number: number.map(SequenceNumber::from_bytes),
            empty_until_ms,
            ended,
        },
    )
}

fn part() -> impl Strategy<Value = PendingPart> {
    (any::<u32>(), "\"[0-9a-f]{32}(-[0-9]{1,3})?\"|.{0,9}", "[A-Za-z0-9+/]{6}==|.{0,9}")
        .prop_map(|(number, etag, crc32c)| PendingPart { number, etag, crc32c })
}

fn upload() -> impl Strategy<Value = PendingUpload> {
    let names = ("[a-z]{3,9}", "[a-z0-9-]{0,14}", ".{0,60}", "[A-Za-z0-9._-]{0,128}", ".{0,40}");
    (names, vec(part(), 0..4), any::<u64>(), any::<u64>(), any::<i64>()).prop_map(
        |((bucket, region, key, upload_id, token), parts, rows, bytes, created_ms)| PendingUpload {
            bucket,
            region,
            key,
            upload_id,
            parts,
            rows,
            bytes,
            token,
            created_ms,
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let moved = || btree_map(shard_key(), option::of(position()), 0..9);
    // Some of what was before is of shards that are still there, some is not.
    let before = (moved(), option::of(".{0,20}"), vec(option::of(position()), 0..40));
    let pending = vec(upload(), 0..5);
    let positions = btree_map(shard_key(), position(), 0..40);
    let gap = (1u64.., ".{0,60}").prop_map(|(count, last)| Gaps { count, last });
    let gaps = btree_map(shard_key(), gap, 0..3);
    let totals =
        any::<(u64, u64, u64)>().prop_map(|(records, rows, files)| Totals { records, rows, files });
    (positions, pending, option::of(".{0,20}"), option::of(before), gaps, totals).prop_map(
        |(positions, pending, state_ptr, before, gaps, totals)| {
            let before = before.map(|(mut moved, state_ptr, old)| {
                moved.extend(positions.keys().cloned().zip(old));
                Before { positions: moved, state_ptr, totals }
            });
            Body { positions, pending, before, gaps, totals, state_ptr }
        },
    )
}

fn start() -> impl Strategy<Value = SourceStart> {
    let open = || btree_set(shard_id(), 0..9);
    let from = prop_oneof![
        Just(StartFrom::Earliest),
        open().prop_map(|open_shards| StartFrom::Latest { open_shards }),
        (any::<i64>(), open())
            .prop_map(|(at_ms, open_shards)| StartFrom::Timestamp { at_ms, open_shards }),
        btree_map(shard_id(), position(), 0..9)
            .prop_map(|positions| StartFrom::TakenOver { positions }),
    ];
    (".{0,30}", any::<i64>(), any::<i64>(), from).prop_map(
        |(stream_arn, stream_created_ms, fixed_ms, from)| SourceStart {
            stream_arn,
            stream_created_ms,
            fixed_ms,
            from,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_body_comes_back(body in body()) {
        let packed = encode_body(&body).unwrap();
        prop_assert_eq!(decode_body(&packed), Ok(body));
    }

    #[test]
    fn every_start_comes_back(starts in btree_map("[a-z]{1,4}", start(), 0..4)) {
        prop_assert_eq!(decode_starts(&encode_starts(&starts)), Ok(starts));
    }

    #[test]
    fn equal_bodies_have_equal_bytes_whatever_the_order_of_their_making(
        entries in vec((shard_key(), position()), 0..30),
    ) {
        let forward: Positions = entries.iter().cloned().collect();
        let unique: Vec<_> = forward.clone().into_iter().collect();
        let backward: Positions = unique.into_iter().rev().collect();
        let pack = |positions| encode_body(&Body { positions, ..Body::default() }).unwrap();
        prop_assert_eq!(pack(forward), pack(backward));
    }

    #[test]
    fn a_changed_or_missing_byte_is_noticed(
        body in body(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let packed = encode_body(&body).unwrap();
        let mut flipped = packed.clone();
        flipped[at.index(packed.len())] ^= 1 << bit;
        // Some bits of a frame's header say nothing about its content.
        if let Ok(other) = decode_body(&flipped) {
            prop_assert_eq!(other, body);
        }
        prop_assert!(decode_body(&packed[..at.index(packed.len())]).is_err());
    }

    #[test]
    fn damage_behind_a_good_frame_never_panics(
        body in body(), starts in btree_map("[a-z]{1,4}", start(), 0..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for packed in [encode_body(&body).unwrap(), encode_starts(&starts)] {
            let mut plain = decompress(&packed).unwrap();
            for (at, byte) in &damage {
                let at = at.index(plain.len().max(1));
                plain.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            property::any_bytes(&compress(&plain));
        }
    }

    #[test]
    fn noise_is_refused_and_never_panics(noise in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_body(&noise).is_err());
        prop_assert!(decode_starts(&noise).is_err());
        property::any_bytes(&noise);
        // The same behind a good frame: now the columns have to defend themselves.
        property::any_bytes(&compress(&noise));
    }
}

#[test]
fn what_could_not_be_read_back_is_not_packed() {
    let of = |num_bytes: usize| Body { state_ptr: Some("x".repeat(num_bytes)), ..Body::default() };
    // The text's own tag and length take five bytes.
    let largest = of(UNPACKED_LIMIT - 5);
    assert_eq!(decode_body(&encode_body(&largest).unwrap()), Ok(largest));
    let num_bytes = UNPACKED_LIMIT + 1;
    assert_eq!(encode_body(&of(num_bytes - 5)), Err(TooLarge { num_bytes }));
}

#[test]
fn columns_that_do_not_fit_one_another_are_refused() {
    let ids = |numbers: Vec<u64>| Some(PackedIds { numbers, names: Vec::new() });
    let good = PackedStream {
        source: "logs".into(),
        ids: ids(vec![1, 1]),
        flags: vec![HAS_NUMBERED_ID, HAS_NUMBERED_ID],
        ..PackedStream::default()
    };
    let read = |stream: PackedStream| unpack_positions(stream, &mut Positions::new());
    assert_eq!(read(good.clone()), Ok(()));
    let bad = [
        PackedStream { ids: ids(vec![1]), ..good.clone() },
        PackedStream { ids: ids(vec![1, 1, 1]), ..good.clone() },
        PackedStream { ids: ids(vec![1, 0]), ..good.clone() },
        PackedStream { ids: ids(vec![1, u64::MAX / 2]), ..good.clone() },
        PackedStream { flags: vec![HAS_NUMBERED_ID, 0x80], ..good.clone() },
        PackedStream { flags: vec![HAS_NUMBERED_ID | HAS_SEQUENCE_NUMBER; 2], ..good.clone() },
        PackedStream { flags: vec![HAS_NUMBERED_ID | HAS_EMPTY_UNTIL; 2], ..good.clone() },
        PackedStream { sequence_planes: vec![0; 24], ..good.clone() },
        PackedStream { empty_until: vec![1], ..good },
    ];
    for stream in bad {
        assert!(read(stream.clone()).is_err(), "{stream:?}");
    }
}

/// A head as a busy application has it: nothing in it repeats that S3 and Kinesis do not repeat.
fn busy_head(shards: u64, files: u64) -> HeadItem {
    let mut random = StdRng::seed_from_u64(9);
    let mut letters = |n: usize| -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
        (0..n).map(|_| char::from(alphabet[random.random_range(0..alphabet.len())])).collect()
    };
    let upload_ids: Vec<_> = (0..files).map(|_| letters(128)).collect();
    let mut random = StdRng::seed_from_u64(10);
    let run = uuid::Builder::from_random_bytes(random.random()).into_uuid();
    let mut body = Body {
        positions: (0..shards)
            .map(|n| {
                let mut number: [u8; 24] = random.random();
                number[0] = 0;
                let key = ShardKey {
                    source: "logs".into(),
                    stream_arn: "arn:aws:kinesis:eu-central-1:123456789012:stream/app-logs".into(),
                    stream_created_ms: 1_767_225_600_123,
                    shard_id: format!("shardId-{n:012}"),
                };
                let position = Position {
                    sequence_number: Some(SequenceNumber::from_bytes(number)),
                    empty_until_ms: 1_767_300_000_000 + random.random_range(0..60) * 1_000,
                    ended: false,
                };
                (key, position)
            })
            .collect(),
        totals: Totals { records: 9_000_000_000, rows: 8_000_000_000, files: 70_000 },
        pending: (0..files)
            .zip(upload_ids)
            .map(|(task, upload_id)| PendingUpload {
                bucket: "results".into(),
                region: "eu-central-1".into(),
                key: format!("word-count/word-count-e12-b123456-t{task}-{run}.json"),
                upload_id,
                parts: vec![PendingPart {
                    number: 1,
                    etag: format!("\"{:032x}\"", random.random::<u128>()),
                    crc32c: base64_simd::STANDARD.encode_to_string(random.random::<[u8; 4]>()),
                }],
                rows: random.random_range(0..1_000_000),
                bytes: random.random_range(0..100_000_000),
                token: uuid::Builder::from_random_bytes(random.random()).into_uuid().to_string(),
                created_ms: 1_767_300_000_000,
            })
            .collect(),
        before: None,
        gaps: BTreeMap::new(),
        state_ptr: None,
    };
    // Numbers of one shard that are seconds apart differ in about their lowest 91 bits, of which the
    // last four are the shard's: the two in Kinesis' own documentation do.
    let before = body.positions.iter().map(|(shard, position)| {
        let mut bytes = *position.sequence_number.unwrap().as_bytes();
        random.fill(&mut bytes[13..]);
        let sequence_number = Some(SequenceNumber::from_bytes(bytes));
        (shard.clone(), Some(Position { sequence_number, ..Position::default() }))
    });
    body.before = Some(Before { positions: before.collect(), ..Before::default() });
    let start = SourceStart {
        stream_arn: "arn:aws:kinesis:eu-central-1:123456789012:stream/app-logs".into(),
        stream_created_ms: 1_767_225_600_123,
        fixed_ms: 1_767_225_700_000,
        from: StartFrom::Latest {
            open_shards: (0..shards).map(|n| format!("shardId-{n:012}")).collect(),
        },
    };
    HeadItem {
        epoch: 12,
        owner: "67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
        cluster: "production".into(),
        batch: 123_456,
        commit_id: "0d9f3f6e-6d8c-4dbb-8f0e-2b1b8f3c9a11".into(),
        version: HEAD_VERSION,
        spec_hash: format!("{:064x}", 7),
        body: Sizes::TABLE.place(&encode_body(&body).unwrap()),
        starts: encode_starts(&BTreeMap::from([("logs".to_owned(), start)])),
        reset: None,
        repair: None,
        // Of the commit before: the most that a busy head carries.
        published: "5a3f0f7e-1d8c-4c1b-9f0e-7b1b8f3c9a22".into(),
    }
}

#[test]
fn a_batch_costs_no_more_than_its_write_units() {
    for (shards, files, limit) in [(1, 1, 1), (36, 16, 6), (500, 16, 22)] {
        let item = busy_head(shards, files);
        assert!(matches!(item.body, StoredBody::Inline(_)), "{shards} shards need chunks");
        let units = write_units("application#word-count", &item);
        assert!(units <= limit, "{shards} shards and {files} files cost {units} units");
    }
}

#[test]
fn six_thousand_shards_still_fit_one_item_and_more_go_to_chunks() {
    assert!(matches!(busy_head(6_000, 64).body, StoredBody::Inline(_)));
    let StoredBody::Chunked { count, .. } = busy_head(12_000, 64).body else {
        panic!("12,000 shards are too many for one item");
    };
    assert_eq!(count, 2);
}

#[test]
fn a_bomb_is_refused_before_it_has_unfolded() {
    let bomb = zstd::encode_all(std::io::repeat(0).take(4 * UNPACKED_LIMIT as u64), 1).unwrap();
    assert!(bomb.len() < UNPACKED_LIMIT / 100);
    assert!(decode_body(&bomb).is_err());
    assert!(decode_starts(&bomb).is_err());
}
