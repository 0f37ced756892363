//! Receivers against a Kinesis with real limits, paging, iterators and resharding: each record once,
//! in order, and no call throttled in a steady run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::primitives::Blob;
use millrace_common::aws::StreamClients;
use millrace_common::position::ShardKey;
use millrace_integration_tests::aws::Aws;
use millrace_integration_tests::emulator;
use millrace_proto::v1::{self, ExecutorMessage, OutOfRangePolicy, executor_message};
use millrace_sql::scan::block::{BlockId, BlockSource as _};
use millrace_worker::executor::block_store::{BlockStore, Budgets};
use millrace_worker::executor::receiver::host::ReceiverHost;
use millrace_worker::executor::receiver::kinesis::{
    Answer, CallFailure, FailureKind, IteratorAt, Kinesis, SdkKinesis, ShardRef,
};
use millrace_worker::executor::receiver::pace::Paces;
use millrace_worker::executor::receiver::reread::reread;
use millrace_worker::executor::receiver::shared::{BlockNames, Outbox, Shared, SourceRules, Tempo};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const STREAM: &str = "app-logs";

/// Counts the throttles on the way.
#[derive(Debug)]
struct Counting {
    inner: SdkKinesis,
    num_throttles: AtomicU32,
}

impl Counting {
    fn count<T>(&self, outcome: Result<T, CallFailure>) -> Result<T, CallFailure> {
        if matches!(&outcome, Err(failure) if failure.kind == FailureKind::Throttled) {
            self.num_throttles.fetch_add(1, Ordering::SeqCst);
        }
        outcome
    }
}

#[async_trait]
impl Kinesis for Counting {
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure> {
        self.count(self.inner.get_shard_iterator(shard, at).await)
    }

    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator: &str,
        limit: u32,
    ) -> Result<Answer, CallFailure> {
        self.count(self.inner.get_records(shard, iterator, limit).await)
    }
}

/// The part of an executor that receives, and the driver's part of that.
struct Scene {
    kinesis: Arc<Counting>,
    shared: Arc<Shared>,
    host: ReceiverHost,
    wire: mpsc::Receiver<ExecutorMessage>,
    blocks: Vec<v1::BlockDescriptor>,
}

fn key(shard: &str) -> v1::ShardKey {
    ShardKey {
        source: "logs".to_owned(),
        stream_arn: String::new(),
        stream_created_ms: 1,
        shard_id: shard.to_owned(),
    }
    .to_proto()
}

fn assignment(shard: &str, from: v1::read_from::At) -> v1::ShardAssignment {
    v1::ShardAssignment {
        receiver_id: "logs/0".to_owned(),
        shard: Some(key(shard)),
        stream_name: STREAM.to_owned(),
        generation: 1,
        from: Some(v1::ReadFrom { at: Some(from) }),
        keyed: true,
        ..v1::ShardAssignment::default()
    }
}

impl Scene {
    fn new(aws: &Aws, directory: &Path) -> Self {
        Self::named(aws, directory, "app-a1-e1")
    }

    /// An executor of the given container id, which is part of the names of its blocks.
    fn named(aws: &Aws, directory: &Path, container: &str) -> Self {
        let config = aws.endpoint.kinesis().config().to_builder();
        // As in production: the shard's core decides about every throttle.
        let config = config.retry_config(RetryConfig::disabled()).build();
        let kinesis = Arc::new(Counting {
            inner: SdkKinesis::new(StreamClients::one(aws_sdk_kinesis::Client::from_conf(config))),
            num_throttles: AtomicU32::new(0),
        });
        let budgets = Budgets { memory: 128 << 20, disk: 0 };
        let store = BlockStore::open(directory.join("blocks"), budgets).expect("a store");
        let (outbox, wire) = mpsc::channel(1_000);
        let rules = SourceRules { out_of_range: OutOfRangePolicy::Auto, may_spill: false };
        let shared = Arc::new(Shared {
            kinesis: Arc::clone(&kinesis) as Arc<dyn Kinesis>,
            store,
            outbox: Outbox::new(outbox),
            names: BlockNames::new(container),
            paces: Paces::new(Tempo::KINESIS.call_interval),
            limits: Tempo::KINESIS.limits,
            sources: BTreeMap::from([("logs".to_owned(), rules)]),
            io: Handle::current(),
        });
        let host = ReceiverHost::new(Arc::clone(&shared));
        Self { kinesis, shared, host, wire, blocks: Vec::new() }
    }

    /// Cuts and collects until the blocks are as wanted.
    async fn receive(&mut self, enough: impl Fn(&[v1::BlockDescriptor]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.blocks) {
            assert!(Instant::now() < deadline, "only {} blocks came", self.blocks.len());
            self.host.cut(1);
            loop {
                let message = tokio::time::timeout(PATIENCE, self.wire.recv()).await;
                let message = message.expect("nothing is announced").expect("the host lives");
                let Some(executor_message::Body::Announcement(announcement)) = message.body else {
                    continue;
                };
                self.host.acknowledged(v1::AnnouncementAcknowledged {
                    receiver_id: announcement.receiver_id,
                    sequence: announcement.sequence,
                    refused: Vec::new(),
                });
                self.blocks.extend(announcement.blocks);
                if announcement.cut_id == 1 {
                    break;
                }
            }
        }
    }

    /// The payloads of a shard's blocks, whose chain must be whole.
    async fn payloads(&self, shard: &str) -> Vec<String> {
        let mut payloads = Vec::new();
        let mut tail: Option<&str> = None;
        for block in self.blocks.iter().filter(|block| block.shard == Some(key(shard))) {
            if let Some(tail) = tail {
                assert_eq!(block.after_seq, tail, "the chain of {shard} is broken");
            }
            if !block.last_seq.is_empty() {
                tail = Some(&block.last_seq);
            }
            let id = BlockId::new(block.block_id.as_str());
            let block = self.shared.store.get(&id).await.expect("an announced block is here");
            let texts = block.data.iter().flatten();
            payloads.extend(texts.map(|data| String::from_utf8_lossy(data).into_owned()));
        }
        payloads
    }
}

fn num_records(blocks: &[v1::BlockDescriptor]) -> u64 {
    blocks.iter().map(|block| block.num_records).sum()
}

async fn shards(aws: &Aws) -> Vec<String> {
    let answer = aws.endpoint.kinesis().list_shards().stream_name(STREAM).send().await;
    let answer = answer.expect("the shards are listed");
    answer.shards().iter().map(|shard| shard.shard_id.clone()).collect()
}

/// Puts records one after the other, so that their order is known.
async fn put_in_order(aws: &Aws, payloads: impl IntoIterator<Item = String>) {
    for payload in payloads {
        let put = aws.endpoint.kinesis().put_record().stream_name(STREAM).partition_key("k");
        put.data(Blob::new(payload)).send().await.expect("a record is put");
    }
}

fn lines(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("line {number:05}")).collect()
}

#[tokio::test]
async fn a_steady_run_reads_every_record_once_and_is_never_throttled() {
    let directory = tempfile::tempdir().expect("a directory");
    let aws = emulator::start(directory.path()).await;
    aws.create_stream(STREAM, 4).await;
    let lines = lines(0..3_000);
    aws.put_lines(STREAM, &lines).await;
    LocalSet::new()
        .run_until(async {
            let mut scene = Scene::new(&aws, directory.path());
            let shards = shards(&aws).await;
            let all = shards.iter().map(|id| assignment(id, v1::read_from::At::TrimHorizon(true)));
            scene.host.assign(all.collect()).expect("the assignments are good");
            scene.receive(|blocks| num_records(blocks) == 3_000).await;
            // The shards are idle now; reading them for a while more must not be too much either.
            let begun = Instant::now();
            scene.receive(|_| begun.elapsed() > Duration::from_secs(3)).await;
            let mut seen = Vec::new();
            for shard in &shards {
                seen.extend(scene.payloads(shard).await);
            }
            seen.sort();
            assert_eq!(seen, lines);
            assert_eq!(scene.kinesis.num_throttles.load(Ordering::SeqCst), 0);
        })
        .await;
}

#[tokio::test]
async fn a_restart_goes_on_after_the_position_and_a_lost_block_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let aws = emulator::start(directory.path()).await;
    aws.create_stream(STREAM, 1).await;
    put_in_order(&aws, lines(0..50)).await;
    LocalSet::new()
        .run_until(async {
            let shard = shards(&aws).await.remove(0);
            let mut first = Scene::new(&aws, directory.path());
            let from = v1::read_from::At::TrimHorizon(true);
            first.host.assign(vec![assignment(&shard, from)]).expect("a good assignment");
            first.receive(|blocks| num_records(blocks) == 50).await;
            assert_eq!(first.payloads(&shard).await, lines(0..50));
            first.host.stop();

            put_in_order(&aws, lines(50..60)).await;
            let last_seq = first.blocks.last().expect("a block").last_seq.clone();
            let position = v1::Position { sequence_number: last_seq, ..v1::Position::default() };
            let from = v1::read_from::At::Position(position);
            let other = directory.path().join("other");
            let mut second = Scene::named(&aws, &other, "app-a1-e2");
            second.host.assign(vec![assignment(&shard, from)]).expect("a good assignment");
            second.receive(|blocks| num_records(blocks) == 10).await;
            assert_eq!(second.payloads(&shard).await, lines(50..60));

            // The first executor is gone, and with it its blocks.
            let block = first.blocks[0].clone();
            let id = BlockId::new(block.block_id.as_str());
            let command = v1::RereadBlock {
                block: Some(block),
                stream_name: STREAM.to_owned(),
                keyed: true,
                ..v1::RereadBlock::default()
            };
            reread(&second.shared, command).await.expect("the range is still there");
            let (lost, found) =
                (first.shared.store.get(&id).await, second.shared.store.get(&id).await);
            assert_eq!(lost.expect("held").data, found.expect("read again").data);
        })
        .await;
}

#[tokio::test]
async fn a_shard_that_moves_again_and_again_is_never_throttled() {
    let directory = tempfile::tempdir().expect("a directory");
    let aws = emulator::start(directory.path()).await;
    aws.create_stream(STREAM, 1).await;
    put_in_order(&aws, lines(0..10)).await;
    LocalSet::new()
        .run_until(async {
            let shard = shards(&aws).await.remove(0);
            let other = directory.path().join("other");
            let mut executors =
                [Scene::new(&aws, directory.path()), Scene::named(&aws, &other, "app-a1-e2")];
            for generation in 1..=10 {
                let [one, two] = &mut executors;
                let (from, to) = if generation % 2 == 0 { (one, two) } else { (two, one) };
                from.host.revoke(vec![key(&shard)]).expect("a good key");
                let num_before = num_records(&to.blocks);
                let start = v1::read_from::At::TrimHorizon(true);
                let moved = v1::ShardAssignment {
                    generation,
                    // As the driver says it of a shard that changes executors.
                    rest_ms: if generation == 1 { 0 } else { 600 },
                    ..assignment(&shard, start)
                };
                to.host.assign(vec![moved]).expect("a good assignment");
                to.receive(|blocks| num_records(blocks) == num_before + 10).await;
            }
            for executor in &executors {
                assert_eq!(executor.kinesis.num_throttles.load(Ordering::SeqCst), 0);
            }
        })
        .await;
}

#[tokio::test]
async fn a_split_shard_ends_and_names_its_children() {
    let directory = tempfile::tempdir().expect("a directory");
    let aws = emulator::start(directory.path()).await;
    aws.create_stream(STREAM, 1).await;
    put_in_order(&aws, lines(0..20)).await;
    LocalSet::new()
        .run_until(async {
            let shard = shards(&aws).await.remove(0);
            let mut scene = Scene::new(&aws, directory.path());
            let from = v1::read_from::At::TrimHorizon(true);
            scene.host.assign(vec![assignment(&shard, from)]).expect("a good assignment");
            scene.receive(|blocks| num_records(blocks) == 20).await;
            let middle = (u128::MAX / 2).to_string();
            let split = aws.endpoint.kinesis().split_shard().stream_name(STREAM);
            let split = split.shard_to_split(&shard).new_starting_hash_key(middle);
            split.send().await.expect("the shard is split");
            scene.receive(|blocks| blocks.iter().any(|block| block.ends_shard)).await;
            let end = scene.blocks.iter().find(|block| block.ends_shard).expect("the end");
            assert_eq!(end.children.len(), 2);
            assert!(end.children.iter().all(|child| child.parents == [shard.clone()]));
            assert_eq!(scene.payloads(&shard).await, lines(0..20));
        })
        .await;
}
