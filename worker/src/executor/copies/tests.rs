//! Copies between two stores over a real server.

use std::time::Duration;

use millrace_proto::v1::block_service_server::BlockServiceServer;
use millrace_proto::v1::{ExecutorMessage, OutOfRangePolicy};
use millrace_sql::scan::block::BlockSource as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::*;
use crate::executor::block_store::Budgets;
use crate::executor::block_store::core::Purpose;
use crate::executor::receiver::block_builder::{BlockBuilder, BlockContext, prepare};
use crate::executor::receiver::core::Limits;
use crate::executor::receiver::kinesis::tests::fake::{Fake, record};
use crate::executor::receiver::pace::Paces;
use crate::executor::receiver::shared::{BlockNames, Outbox, SourceRules};

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// An executor as far as its blocks go.
struct Side {
    shared: Arc<Shared>,
    wire: mpsc::Receiver<ExecutorMessage>,
    _directory: tempfile::TempDir,
}

impl Side {
    fn new(memory: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let budgets = Budgets { memory, disk: 0 };
        let store = BlockStore::open(directory.path().join("blocks"), budgets).unwrap();
        let (outbox, wire) = mpsc::channel(16);
        let rules = SourceRules { out_of_range: OutOfRangePolicy::Auto, may_spill: false };
        let shared = Arc::new(Shared {
            kinesis: Arc::new(Fake::default()),
            store,
            outbox: Outbox::new(outbox),
            names: BlockNames::new("app-a1-e1"),
            paces: Paces::new(Duration::from_millis(1)),
            limits: Limits::KINESIS,
            sources: [("logs".to_owned(), rules)].into(),
            io: Handle::current(),
        });
        Self { shared, wire, _directory: directory }
    }

    /// Serves its blocks; gives the address.
    async fn serve(&self) -> String {
        let (incoming, address) = rpc::bind("127.0.0.1:0").await.unwrap();
        let service = BlockServiceServer::new(BlockServer::new(self.shared.store.clone()));
        tokio::spawn(rpc::server().add_service(service).serve_with_incoming(incoming));
        address.to_string()
    }

    /// Puts a block in that is several chunks long; gives its announcement.
    async fn put(&self, id: &str) -> v1::BlockDescriptor {
        let context = BlockContext {
            source: "logs".into(),
            shard: "shard-0".into(),
            range: None,
            drops_out_of_range: true,
        };
        let mut builder = BlockBuilder::new(context);
        for value in 1..=30 {
            let mut record = record(value);
            record.data = vec![u8::try_from(value).unwrap(); 100 << 10].into();
            let prepared = prepare(builder.context(), &record);
            builder.push(None, &prepared);
        }
        let block = builder.close(BlockId::new(id), None).block;
        let descriptor = v1::BlockDescriptor {
            block_id: id.to_owned(),
            shard: Some(v1::ShardKey {
                source: "logs".to_owned(),
                shard_id: "shard-0".to_owned(),
                ..v1::ShardKey::default()
            }),
            first_seq: "1".to_owned(),
            last_seq: "30".to_owned(),
            num_records: 30,
            num_raw_records: block.raw_records,
            crc32c: block.crc32c,
            ..v1::BlockDescriptor::default()
        };
        let room = self.shared.store.reserve(4 * MIB, Purpose::Receive).await.unwrap();
        let keep = Keep { may_spill: false, is_evictable: true };
        self.shared.store.insert(block, room, keep);
        descriptor
    }

    async fn get(&self, id: &str) -> Option<Arc<RawBlock>> {
        self.shared.store.get(&BlockId::new(id)).await.ok()
    }

    /// Has this block copied, and gives the answer.
    async fn copy(&mut self, block: &v1::BlockDescriptor, from: &str) -> v1::BlockCopied {
        let mut copies = Copies::new(Arc::clone(&self.shared), None);
        let holder_address = from.to_owned();
        copies.add(vec![v1::BlockCopy { block: Some(block.clone()), holder_address }]);
        let answer = tokio::time::timeout(PATIENCE, self.wire.recv()).await.unwrap().unwrap();
        let Some(executor_message::Body::Copied(copied)) = answer.body else {
            panic!("{answer:?}")
        };
        assert_eq!(copied.block_id, block.block_id);
        copied
    }
}

#[tokio::test]
async fn a_block_is_copied_in_chunks_and_is_the_same() {
    let (holder, mut other) = (Side::new(64 * MIB), Side::new(64 * MIB));
    let address = holder.serve().await;
    let block = holder.put("b1").await;
    assert_eq!(other.copy(&block, &address).await.failure, None);
    let (one, two) = (holder.get("b1").await.unwrap(), other.get("b1").await.unwrap());
    assert_eq!((&one.data, &one.sequence_numbers), (&two.data, &two.sequence_numbers));
    assert_eq!((&one.partition_keys, &one.arrival_ms), (&two.partition_keys, &two.arrival_ms));
    assert_eq!(
        (one.first_seq, one.last_seq, one.crc32c),
        (two.first_seq, two.last_seq, two.crc32c)
    );
    assert_eq!((&*two.source, &*two.shard), ("logs", "shard-0"));
    // Asked for again, it is there already, whoever is to give it.
    assert_eq!(other.copy(&block, "127.0.0.1:1").await.failure, None);
}

#[tokio::test]
async fn what_can_not_be_copied_is_answered_for_and_takes_no_room() {
    let (holder, mut other) = (Side::new(64 * MIB), Side::new(64 * MIB));
    let address = holder.serve().await;
    let block = holder.put("b1").await;
    let gone = v1::BlockDescriptor { block_id: "b2".to_owned(), ..block.clone() };
    assert!(other.copy(&gone, &address).await.failure.is_some(), "its holder has no such block");
    assert!(other.copy(&block, "127.0.0.1:1").await.failure.is_some(), "nobody is there");
    let shorter = v1::BlockDescriptor { num_records: 29, ..block.clone() };
    assert!(other.copy(&shorter, &address).await.failure.is_some(), "it is another block");
    let mut full = Side::new(4 * MIB);
    assert!(full.copy(&block, &address).await.failure.is_some(), "twice 3 MiB do not fit");
    for side in [&other, &full] {
        assert_eq!(side.shared.store.usage().memory_bytes, 0);
        assert_eq!(side.shared.store.ids(), []);
    }
}

#[tokio::test]
async fn what_is_released_while_it_waits_is_not_copied() {
    let other = Side::new(64 * MIB);
    let mut copies = Copies::new(Arc::clone(&other.shared), None);
    let copy = |id: String| v1::BlockCopy {
        block: Some(v1::BlockDescriptor { block_id: id, ..v1::BlockDescriptor::default() }),
        holder_address: "127.0.0.1:1".to_owned(),
    };
    copies.add((0..10).map(|number| copy(format!("b{number}"))).collect());
    assert_eq!((copies.running.len(), copies.waiting.len()), (COPIES_MAX, 8));
    copies.forget(&[BlockId::new("b5"), BlockId::new("b0")]);
    assert_eq!(copies.waiting.len(), 7);
}
