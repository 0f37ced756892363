//! Tests of the store with its disk and its waiting receivers.

use std::time::Duration;

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
    let (store, directory) = store(bytes + bytes / 2, 10 * bytes);
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
    store.release([&BlockId::new("b1"), &BlockId::new("b2")]);
    assert_eq!((files(&directory), store.usage()), (0, Usage::default()));
}

#[tokio::test]
async fn a_damaged_file_is_an_unreadable_block() {
    let bytes = block("b1", 100).memory_bytes() as u64;
    let (store, directory) = store(bytes + bytes / 2, 10 * bytes);
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
    let (store, directory) = store(2 * bytes, 10 * bytes);
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
