//! Tests of the store with its disk and its waiting receivers.

use std::time::Duration;

use arrow::array::UInt64Array;
use millrace_common::Code;

use super::*;
use crate::executor::receiver::block_builder::{BlockBuilder, BlockContext, prepare};
use crate::executor::receiver::kinesis::Record;
use crate::executor::receiver::kinesis::tests::fake::record;

const KEEP: Keep = Keep { may_spill: true, is_evictable: true };

fn block(id: &str, num_records: u64) -> RawBlock {
    let context = BlockContext {
        source: "logs".into(),
        shard: "shard-0".into(),
        range: None,
        drops_out_of_range: true,
    };
    let mut builder = BlockBuilder::new(context);
    let records: Vec<Record> = (1..=num_records).map(record).collect();
    for record in &records {
        let prepared = prepare(builder.context(), record);
        builder.push(None, &prepared);
    }
    builder.close(BlockId::new(id), None).block
}

fn store(memory: u64, disk: u64) -> (BlockStore, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks");
    (BlockStore::open(path, Budgets { memory, disk }).unwrap(), directory)
}

async fn put(store: &BlockStore, block: RawBlock, keep: Keep) {
    let bytes = block.memory_bytes() as u64;
    let reservation = store.reserve(bytes, Purpose::Receive).await.unwrap();
    store.insert(block, reservation, keep);
}

fn files(directory: &tempfile::TempDir) -> usize {
    std::fs::read_dir(directory.path().join("blocks")).unwrap().count()
}

#[tokio::test]
async fn a_block_comes_back_until_it_is_released() {
    let (store, _directory) = store(1 << 20, 0);
    let id = BlockId::new("b1");
    put(&store, block("b1", 10), KEEP).await;
    assert_eq!(store.get(&id).await.unwrap().num_records(), 10);
    store.release([&id]);
    assert!(matches!(store.get(&id).await, Err(BlockError::Missing { .. })));
    assert_eq!(store.usage(), Usage::default());
}

#[tokio::test]
async fn a_spilled_block_is_the_same_block() {
    let original = block("b1", 100);
    let bytes = original.memory_bytes() as u64;
    let (store, directory) = store(2 * bytes, 10 * bytes);
    put(&store, original.clone(), KEEP).await;
    put(&store, block("b2", 100), KEEP).await;
    assert_eq!(files(&directory), 1);
    let back = store.get(&BlockId::new("b1")).await.unwrap();
    assert_eq!(back.data, original.data);
    assert_eq!(back.sequence_numbers, original.sequence_numbers);
    assert_eq!(back.partition_keys, original.partition_keys);
    assert_eq!(back.arrival_ms, original.arrival_ms);
    assert_eq!((back.crc32c, back.raw_records), (original.crc32c, original.raw_records));
    assert!(store.usage().memory_bytes <= store.budgets().memory);
    drop(back);
    store.release([&BlockId::new("b1"), &BlockId::new("b2")]);
    assert_eq!((files(&directory), store.usage()), (0, Usage::default()));
}

#[tokio::test]
async fn a_damaged_file_is_an_unreadable_block() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, directory) = store(2 * bytes, 10 * bytes);
    put(&store, block("b1", 100), KEEP).await;
    put(&store, block("b2", 100), KEEP).await;
    let file = std::fs::read_dir(directory.path().join("blocks")).unwrap().next().unwrap().unwrap();
    let mut content = std::fs::read(file.path()).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(file.path(), content).unwrap();
    let error = store.get(&BlockId::new("b1")).await.unwrap_err();
    assert!(matches!(error, BlockError::Unreadable { .. }), "{error}");
}

/// What a full or read-only disk does, with a directory that is not there.
#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_costs_no_block_and_is_asked_again() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, directory) = store(2 * bytes, 10 * bytes);
    let blocks = directory.path().join("blocks");
    std::fs::remove_dir(&blocks).unwrap();
    put(&store, block("b1", 100), KEEP).await;
    let waiter = tokio::spawn({
        let store = store.clone();
        async move { put(&store, block("b2", 100), KEEP).await }
    });
    wait_until(|| store.num_spills_refused() >= 2).await;
    let refused = store.spill_refused().expect("it is told");
    assert!(refused.starts_with("MR6002: block b1 can not be spilled"), "{refused}");
    assert!(store.is_over_budget() && !waiter.is_finished(), "receivers wait");
    assert!(store.usage().memory_bytes <= store.budgets().memory);
    assert_eq!(store.get(&BlockId::new("b1")).await.unwrap().num_records(), 100);
    std::fs::create_dir(&blocks).unwrap();
    waiter.await.unwrap();
    assert_eq!((files(&directory), store.spill_refused()), (1, None));
    assert_eq!(store.get(&BlockId::new("b2")).await.unwrap().num_records(), 100);
}

#[tokio::test]
async fn a_receiver_waits_for_room_and_goes_on_when_a_block_is_released() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, _directory) = store(bytes, 0);
    put(&store, block("b1", 100), KEEP).await;
    let waiter = tokio::spawn({
        let store = store.clone();
        async move { store.reserve(bytes, Purpose::Receive).await.map(|r| r.bytes()) }
    });
    wait_until(|| store.is_over_budget()).await;
    store.release([&BlockId::new("b1")]);
    assert_eq!(waiter.await.unwrap().unwrap(), bytes);
    assert!(!store.is_over_budget());
    assert_eq!(store.usage(), Usage::default(), "the reservation was given back");
}

#[tokio::test]
async fn a_block_that_a_batch_waits_for_takes_the_place_of_the_youngest() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, _directory) = store(2 * bytes, 0);
    put(&store, block("b1", 100), KEEP).await;
    put(&store, block("b2", 100), KEEP).await;
    let reservation = store.reserve(bytes, Purpose::Reread).await.unwrap();
    store.insert(block("b0", 100), reservation, Keep { may_spill: false, is_evictable: false });
    assert!(store.contains(&BlockId::new("b0")) && store.contains(&BlockId::new("b1")));
    assert!(!store.contains(&BlockId::new("b2")));
}

#[tokio::test]
async fn a_full_disk_leaves_blocks_in_memory() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, directory) = store(3 * bytes, 10 * bytes);
    std::fs::remove_dir_all(directory.path().join("blocks")).unwrap();
    put(&store, block("b1", 100), KEEP).await;
    put(&store, block("b2", 100), KEEP).await;
    let waiter = tokio::spawn({
        let store = store.clone();
        async move { store.reserve(bytes, Purpose::Receive).await.map(|r| r.bytes()) }
    });
    wait_until(|| store.is_over_budget()).await;
    assert!(store.get(&BlockId::new("b1")).await.is_ok());
    assert!(store.get(&BlockId::new("b2")).await.is_ok());
    store.release([&BlockId::new("b1")]);
    assert_eq!(waiter.await.unwrap().unwrap(), bytes);
}

#[tokio::test]
async fn what_a_task_reads_counts_until_it_lets_go() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, _directory) = store(8 * bytes, 0);
    put(&store, block("b1", 100), KEEP).await;
    let read = store.get(&BlockId::new("b1")).await.unwrap();
    store.release([&BlockId::new("b1")]);
    assert_eq!(store.usage().memory_bytes, bytes, "released, but read");
    drop(read);
    assert_eq!(store.usage(), Usage::default());
}

#[tokio::test]
async fn a_block_read_back_from_disk_counts_once_for_all_who_read_it() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, _directory) = store(12 * bytes, 10 * bytes);
    for number in 1..=10 {
        put(&store, block(&format!("b{number}"), 100), KEEP).await;
    }
    let spilled = BlockId::new("b9");
    assert_eq!(store.usage().disk_bytes, bytes);
    let before = store.usage().memory_bytes;
    let (one, two) = tokio::join!(store.get(&spilled), store.get(&spilled));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.data, two.data);
    let loaded = store.usage().memory_bytes - before;
    assert!((bytes / 2..2 * bytes).contains(&loaded), "{loaded} for {bytes}");
    assert!(store.usage().memory_bytes <= store.budgets().memory);
    drop((one, two));
    assert_eq!(store.usage().memory_bytes, before);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_finds_no_room_gives_its_block_up_in_time() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, _directory) = store(5 * bytes, 10 * bytes);
    for id in ["b1", "b2", "b3", "b4"] {
        put(&store, block(id, 100), KEEP).await;
    }
    // A batch that reads other blocks again takes what is left.
    let free = store.budgets().memory - store.usage().memory_bytes;
    let room = store.reserve(free, Purpose::Reread).await.unwrap();
    let keep = Keep { may_spill: false, is_evictable: false };
    for id in ["b1", "b2", "b4"] {
        let block = block(id, 100);
        let room = room_of(&store, id).await;
        store.insert(block, room, keep);
    }
    let error = store.get(&BlockId::new("b3")).await.unwrap_err();
    assert!(matches!(error, BlockError::NoRoom { .. }), "{error}");
    drop(room);
    assert!(store.get(&BlockId::new("b3")).await.is_ok());
}

/// The room of a block that is taken out.
async fn room_of(store: &BlockStore, id: &str) -> Reservation {
    let bytes = block(id, 100).memory_bytes() as u64;
    store.release([&BlockId::new(id)]);
    store.reserve(bytes, Purpose::Reread).await.unwrap()
}

#[tokio::test]
async fn a_copy_is_the_same_block_and_never_waits_for_room() {
    let original = block("b1", 100);
    let bytes = original.memory_bytes() as u64;
    let (from, _one) = store(4 * bytes, 0);
    let (to, _two) = store(4 * bytes, 0);
    put(&from, original.clone(), KEEP).await;
    let id = BlockId::new("b1");
    let encoded = from.encoded(&id).await.unwrap();
    assert!(from.usage().memory_bytes > bytes, "what is on its way counts");
    let room = to.reserve_for_copy(2 * encoded.bytes().len() as u64).await.unwrap();
    let head = RawBlock { data: block("b1", 0).data, ..original.clone() };
    to.insert_copy(head.clone(), encoded.bytes().to_vec(), room, KEEP, 100).await.unwrap();
    drop(encoded);
    assert_eq!(from.usage().memory_bytes, bytes);
    let copy = to.get(&id).await.unwrap();
    assert_eq!((&copy.data, copy.crc32c), (&original.data, original.crc32c));
    assert_eq!(copy.sequence_numbers, original.sequence_numbers);

    let room = to.reserve_for_copy(bytes).await.unwrap();
    let wrong = to.insert_copy(head, b"no file".to_vec(), room, KEEP, 100).await.unwrap_err();
    assert_eq!(wrong.code(), Code::Protocol);
    put(&from, block("b2", 100), KEEP).await;
    put(&from, block("b3", 100), KEEP).await;
    let refused = from.encoded(&id).await.unwrap_err();
    assert!(matches!(refused, BlockError::NoRoom { .. }), "{refused}");
}

#[test]
fn a_file_is_never_larger_than_what_is_reserved_for_it() {
    for num_records in (0..20).chain([63, 64, 65, 1_000]) {
        for numbered in [false, true] {
            let mut block = block("b", num_records);
            let numbers = UInt64Array::from_iter_values(0..num_records);
            block.sub_sequence_numbers = numbered.then_some(numbers);
            let (bytes, bound) =
                (spill::encode(&block).unwrap(), spill::encoded_bytes_at_most(&block));
            assert!(bytes.len() <= bound, "{num_records} records: {} of {bound}", bytes.len());
        }
    }
}

mod stalled_sink {
    //! Whatever receivers, tasks and commits do, and however long the sink stands still.

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Event {
        /// A receiver has this many records.
        Receive(u64, bool),
        /// A task reads a block, and holds it.
        Read(usize),
        /// A task lets go of what it read first.
        LetGo,
        /// A batch is published.
        Release(usize),
        /// A block is read again for a batch.
        Reread(u64),
        /// Another executor copies a block; the answer stands in its send buffer.
        Copy(usize),
        /// The oldest copy is sent.
        Sent,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            5 => (1u64..120, any::<bool>()).prop_map(|(n, spills)| Event::Receive(n, spills)),
            4 => any::<usize>().prop_map(Event::Read),
            2 => Just(Event::LetGo),
            2 => any::<usize>().prop_map(Event::Release),
            1 => (1u64..60).prop_map(Event::Reread),
            1 => any::<usize>().prop_map(Event::Copy),
            1 => Just(Event::Sent),
        ]
    }

    async fn play(events: Vec<Event>) -> Result<(), TestCaseError> {
        let bytes = block("b", 100).memory_bytes() as u64;
        let (store, _directory) = store(5 * bytes, 6 * bytes);
        let (mut names, mut ids) = (0, Vec::<BlockId>::new());
        let (mut reads, mut sending) = (Vec::new(), Vec::new());
        for event in events {
            names += 1;
            let name = format!("b{names}");
            let pick = |at: usize| (!ids.is_empty()).then(|| ids[at % ids.len()].clone());
            match event {
                Event::Receive(num_records, may_spill) => {
                    let block = block(&name, num_records);
                    let room = store.reserve(block.memory_bytes() as u64, Purpose::Receive);
                    if let Ok(Ok(room)) = tokio::time::timeout(Duration::from_secs(1), room).await {
                        store.insert(block, room, Keep { may_spill, is_evictable: true });
                        ids.push(BlockId::new(name));
                    }
                }
                Event::Reread(num_records) => {
                    let block = block(&name, num_records);
                    let room = store.reserve(block.memory_bytes() as u64, Purpose::Reread);
                    if let Ok(Ok(room)) = tokio::time::timeout(Duration::from_secs(1), room).await {
                        store.insert(block, room, Keep { may_spill: true, is_evictable: false });
                        ids.push(BlockId::new(name));
                    }
                }
                Event::Read(at) => {
                    if let Some(id) = pick(at) {
                        match store.get(&id).await {
                            Ok(block) => reads.push(block),
                            Err(BlockError::NoRoom { .. }) => {}
                            // Evicted for one that a batch waited for.
                            Err(error) => prop_assert!(!store.contains(&id), "{error}"),
                        }
                    }
                }
                Event::LetGo if !reads.is_empty() => drop(reads.remove(0)),
                Event::Release(at) => {
                    if let Some(id) = pick(at) {
                        store.release([&id]);
                        ids.retain(|other| *other != id);
                    }
                }
                Event::Copy(at) => {
                    if let Some(id) = pick(at) {
                        sending.extend(store.encoded(&id).await);
                    }
                }
                Event::Sent if !sending.is_empty() => drop(sending.remove(0)),
                Event::LetGo | Event::Sent => {}
            }
            let usage = store.usage();
            prop_assert!(usage.memory_bytes <= 5 * bytes, "{usage:?} of {}", 5 * bytes);
            prop_assert!(usage.disk_bytes <= 6 * bytes, "{usage:?} of {}", 6 * bytes);
            // What really is in memory, by the buffers that tasks hold.
            let mut held = BTreeMap::new();
            for block in &reads {
                held.insert(Arc::as_ptr(block) as usize, block.data.value_data().len() as u64);
            }
            let sent: u64 = sending.iter().map(|encoded| encoded.bytes().len() as u64).sum();
            prop_assert!(held.values().sum::<u64>() + sent <= usage.memory_bytes);
        }
        drop((reads, sending));
        store.release(&ids);
        prop_assert_eq!(store.usage(), Usage::default());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_budgets_hold(events in prop::collection::vec(event(), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(play(events))?;
        }
    }
}

#[tokio::test]
async fn more_than_the_budget_is_refused() {
    let (store, _directory) = store(100, 0);
    let error = store.reserve(101, Purpose::Receive).await.unwrap_err();
    assert_eq!(error.code(), Code::DoesNotFit);
}

#[test]
fn the_budget_follows_the_container() {
    let small = Budgets::of_container(ByteSize::mib(64), false);
    assert_eq!((small.memory, small.disk), (48 << 20, 0));
    let large = Budgets::of_container(ByteSize::mib(3_000), true);
    assert!(large.memory > 800 << 20 && large.memory < 1_000 << 20);
    assert_eq!(large.disk, 8 * large.memory);
}

/// Polls for a state, at most ten seconds.
async fn wait_until(state: impl Fn() -> bool) {
    let wait = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the state never came");
}
