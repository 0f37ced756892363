//! Tests of a stream with its files: random puts, reshards and restarts.

use super::*;
use proptest::prelude::*;

const NOW_MS: u64 = 1_700_000_000_000;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u128>),
    Split(usize, u128),
    Merge(usize),
    Scale(u32),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u128>(), 1..20).prop_map(Step::Put),
        1 => (any::<usize>(), any::<u128>()).prop_map(|(at, key)| Step::Split(at, key)),
        1 => any::<usize>().prop_map(Step::Merge),
        1 => (1u32..6).prop_map(Step::Scale),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

fn meta(shards: u32) -> StreamMeta {
    StreamMeta {
        name: "logs".into(),
        created_ms: NOW_MS,
        status: Status::Active,
        retention_hours: 24,
        on_demand: false,
        max_record_kib: 1024,
        tags: BTreeMap::new(),
        topology: Topology::uniform(shards, NOW_MS),
        trimmed: BTreeMap::new(),
    }
}

/// Carries out a step that is not a put; a refusal is fine, it must only change nothing.
fn reshard(stream: &mut Stream, step: &Step, now_ms: u64) {
    let mut open: Vec<_> = stream.meta.topology.open_shards().cloned().collect();
    open.sort_by_key(|s| s.range.start);
    let change = |topology: &mut Topology| match step {
        Step::Split(at, key) => {
            let shard = &open[at % open.len()];
            topology.split(shard.index, shard.range.start + key % (u128::MAX / 8), now_ms)
        }
        Step::Merge(at) => {
            let first = at % open.len();
            let second = (first + 1) % open.len();
            topology.merge(open[first].index, open[second].index, now_ms)
        }
        Step::Scale(count) => topology.scale_to(*count, now_ms),
        Step::Put(_) | Step::Restart => Ok(()),
    };
    stream.reshard(now_ms, 0, change).ok();
}

/// Reads every shard of the stream in pages: sequence number and data of each record.
fn read_all(stream: &mut Stream, now_ms: u64) -> Vec<(SequenceNumber, Vec<u8>)> {
    let shards: Vec<u32> = stream.meta.topology.shards().iter().map(|s| s.index).collect();
    let mut all = Vec::new();
    for shard in shards {
        let (mut next, mut last) = (0, None);
        loop {
            let read = stream.read(shard, next, 7, now_ms, |stamp, frame| {
                let number = SequenceNumber::new(stamp, frame.index, frame.arrival_ms / 1000);
                assert!(last < Some(number), "sequence numbers of a shard must grow");
                last = Some(number);
                all.push((number, frame.data.to_vec()));
            });
            let read = read.expect("read");
            if read.behind_ms == 0 {
                let is_open = stream.meta.topology.get(shard).is_some_and(ShardEntry::is_open);
                assert_eq!(read.at_end, !is_open);
                break;
            }
            next = read.next_index;
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every acknowledged put is read exactly once, under the number it was acknowledged with,
    /// after any history of reshards and restarts.
    #[test]
    fn each_acknowledged_record_is_read_once(first in 1u32..4, steps in steps()) {
        let root = tempfile::tempdir().expect("temp dir");
        let mut stream = Stream::create(root.path(), meta(first)).expect("create");
        let mut acknowledged = BTreeMap::new();
        for (n, step) in steps.iter().enumerate() {
            let now_ms = NOW_MS + n as u64;
            match step {
                Step::Put(keys) => {
                    let data: Vec<_> = (0..keys.len()).map(|m| format!("{n}-{m}")).collect();
                    let record = |(key, data): (&u128, &'_ String)| (*key, data.clone());
                    let pairs: Vec<_> = keys.iter().zip(&data).map(record).collect();
                    let records: Vec<_> = pairs
                        .iter()
                        .map(|(hash_key, data)| NewRecord {
                            key: "k",
                            hash_key: *hash_key,
                            data: data.as_bytes(),
                        })
                        .collect();
                    for (outcome, data) in stream.put(&records, now_ms, false).iter().zip(data) {
                        let PutOutcome::Stored { sequence, .. } = outcome else {
                            panic!("not stored: {outcome:?}");
                        };
                        let twice = acknowledged.insert(*sequence, data.into_bytes());
                        prop_assert_eq!(twice, None);
                    }
                }
                Step::Restart => {
                    let dir = stream.dir.clone();
                    drop(stream);
                    stream = Stream::recover(dir, now_ms).expect("recover").expect("a stream");
                }
                reshaping => reshard(&mut stream, reshaping, now_ms),
            }
        }
        let read = read_all(&mut stream, NOW_MS + 100);
        prop_assert_eq!(read.len(), acknowledged.len());
        prop_assert_eq!(read.into_iter().collect::<BTreeMap<_, _>>(), acknowledged);
    }
}

#[test]
fn records_past_the_retention_are_gone_and_their_shards_with_them() {
    let root = tempfile::tempdir().expect("temp dir");
    let mut stream = Stream::create(root.path(), meta(1)).expect("create");
    let record = |data| NewRecord { key: "k", hash_key: 0, data };
    stream.put(&[record(b"old")], NOW_MS, false);
    stream.put(&[record(b"young")], NOW_MS + 1000, false);
    stream.reshard(NOW_MS + 1000, 0, |t| t.split(0, 5, NOW_MS + 1000)).expect("split");
    let after = |ms: u64| NOW_MS + 24 * HOUR_MS + ms;
    let shards = |stream: &mut Stream, now_ms| {
        stream.settle(now_ms);
        stream.meta.topology.shards().iter().map(|s| s.index).collect::<Vec<_>>()
    };
    assert_eq!(shards(&mut stream, after(1)), [0, 1, 2]);
    let left: Vec<_> = read_all(&mut stream, after(1)).into_iter().map(|(_, d)| d).collect();
    assert_eq!(left, [b"young".to_vec()]);
    assert_eq!(shards(&mut stream, after(1001)), [1, 2]);
    assert!(!stream.dir.join(shard_id(0)).exists());
}

#[test]
fn a_trim_is_remembered() {
    let root = tempfile::tempdir().expect("temp dir");
    let mut stream = Stream::create(root.path(), meta(1)).expect("create");
    let records: Vec<_> =
        [b"a", b"b", b"c"].iter().map(|d| NewRecord { key: "k", hash_key: 0, data: *d }).collect();
    stream.put(&records, NOW_MS, false);
    stream.trim(0, 3).expect("trim");
    let dir = stream.dir.clone();
    drop(stream);
    let mut stream = Stream::recover(dir, NOW_MS).expect("recover").expect("a stream");
    let left: Vec<_> = read_all(&mut stream, NOW_MS).into_iter().map(|(_, d)| d).collect();
    assert_eq!(left, [b"c".to_vec()]);
}

#[test]
fn an_answer_ends_before_ten_mib() {
    let root = tempfile::tempdir().expect("temp dir");
    let mut stream = Stream::create(root.path(), meta(1)).expect("create");
    let data = vec![b'x'; 1_000_000];
    for _ in 0..12 {
        stream.put(&[NewRecord { key: "k", hash_key: 0, data: &data }], NOW_MS, false);
    }
    let read = stream.read(0, 0, 10_000, NOW_MS, |_, _| {}).expect("read");
    assert_eq!(read.next_index, 11);
    assert!(read.is_full && read.bytes <= FULL_ANSWER_BYTES && read.behind_ms > 0);
}
