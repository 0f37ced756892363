//! Tests of readers, receivers and their host, over a Kinesis that lies, with the real store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millrace_common::Code;
use millrace_common::position::ShardKey;
use millrace_proto::v1::{self, ExecutorMessage, OutOfRangePolicy, executor_message};
use millrace_sql::scan::block::{BlockId, BlockSource as _, RawBlock};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::executor::block_store::{BlockStore, Budgets};
use crate::executor::receiver::actor::Panic;
use crate::executor::receiver::core::Limits;
use crate::executor::receiver::host::ReceiverHost;
use crate::executor::receiver::kinesis::tests::fake::{Fake, FakeShard, record};
use crate::executor::receiver::kinesis::tests::liar::{Liar, Mood};
use crate::executor::receiver::kinesis::{
    Answer, CallFailure, ChildShard, IteratorAt, Kinesis, ShardRef,
};
use crate::executor::receiver::pace::Paces;
use crate::executor::receiver::reread::reread;
use crate::executor::receiver::shard_reader::BLOCK_OPEN_MAX;
use crate::executor::receiver::shared::{BlockNames, Outbox, Shared, SourceRules};
use crate::kpl::tests::aggregate;

const PATIENCE: Duration = Duration::from_secs(20);
const BUDGET: u64 = 64 << 20;

struct Scene {
    shared: Arc<Shared>,
    host: ReceiverHost,
    wire: mpsc::Receiver<ExecutorMessage>,
    blocks: Vec<v1::BlockDescriptor>,
    _directory: tempfile::TempDir,
}

fn key(shard: &str) -> v1::ShardKey {
    ShardKey {
        source: "logs".to_owned(),
        stream_arn: "arn".to_owned(),
        stream_created_ms: 1,
        shard_id: shard.to_owned(),
    }
    .to_proto()
}

fn assign(receiver: &str, shard: &str, generation: u64) -> v1::ShardAssignment {
    v1::ShardAssignment {
        receiver_id: receiver.to_owned(),
        shard: Some(key(shard)),
        stream_name: "app-logs".to_owned(),
        generation,
        from: Some(v1::ReadFrom { at: Some(v1::read_from::At::TrimHorizon(true)) }),
        keyed: true,
        ..v1::ShardAssignment::default()
    }
}

impl Scene {
    fn new(kinesis: Arc<dyn Kinesis>, budget: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let budgets = Budgets { memory: budget, disk: 0 };
        let store = BlockStore::open(directory.path().join("blocks"), budgets).unwrap();
        let (outbox, wire) = mpsc::channel(1_000);
        let rules = SourceRules { out_of_range: OutOfRangePolicy::Auto, may_spill: false };
        let shared = Arc::new(Shared {
            kinesis,
            store,
            outbox: Outbox::new(outbox),
            names: BlockNames::new("app-a1-e1"),
            paces: Paces::new(Duration::from_millis(1)),
            limits: Limits { idle_pause: Duration::from_millis(5), ..Limits::KINESIS },
            sources: [("logs".to_owned(), rules)].into(),
            io: Handle::current(),
        });
        let host = ReceiverHost::new(Arc::clone(&shared));
        Self { shared, host, wire, blocks: Vec::new(), _directory: directory }
    }

    /// The next announcement, acknowledged.
    async fn announcement(&mut self) -> v1::BlockAnnouncement {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.wire.recv());
            let message = message.await.expect("nothing is announced").unwrap();
            if let Some(executor_message::Body::Announcement(announcement)) = message.body {
                self.blocks.extend(announcement.blocks.iter().cloned());
                self.host.acknowledged(v1::AnnouncementAcknowledged {
                    receiver_id: announcement.receiver_id.clone(),
                    sequence: announcement.sequence,
                    refused: Vec::new(),
                });
                return announcement;
            }
        }
    }

    /// Cuts until `num_records` are announced.
    async fn receive(&mut self, num_records: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.blocks.iter().map(|block| block.num_records).sum::<u64>() < num_records {
            assert!(Instant::now() < deadline, "only {:?}", self.blocks);
            self.host.cut(1);
            while self.announcement().await.cut_id != 1 {}
        }
    }

    /// The payloads of all announced blocks of a shard, whose chain must be whole.
    async fn payloads(&self, shard: &str) -> Vec<String> {
        let (mut payloads, mut tail) = (Vec::new(), String::new());
        for block in self.blocks.iter().filter(|b| b.shard == Some(key(shard))) {
            assert_eq!(block.after_seq, tail, "the chain is broken");
            if !block.last_seq.is_empty() {
                tail.clone_from(&block.last_seq);
            }
            let id = BlockId::new(block.block_id.as_str());
            payloads.extend(texts(&self.shared.store.get(&id).await.unwrap()));
        }
        payloads
    }
}

fn texts(block: &RawBlock) -> Vec<String> {
    block.data.iter().flatten().map(|data| String::from_utf8_lossy(data).into_owned()).collect()
}

fn expected(values: std::ops::RangeInclusive<u64>) -> Vec<String> {
    values.map(|value| format!("record {value}")).collect()
}

#[tokio::test]
async fn a_receiver_reads_its_shards_through_every_mood() {
    LocalSet::new()
        .run_until(async {
            let mut child = FakeShard::of(1..=40);
            child.children =
                Some(vec![ChildShard { shard_id: "c".to_owned(), parents: vec!["a".to_owned()] }]);
            let fake = Fake::with([("a", child), ("b", FakeShard::of(1..=60))]);
            let moods = [
                Mood::Throttle,
                Mood::Short(3),
                Mood::Empty,
                Mood::Expire,
                Mood::Double,
                Mood::Lose,
                Mood::Short(1),
                Mood::Refuse,
            ];
            let moods = moods.into_iter().cycle().take(60);
            let mut scene =
                Scene::new(Arc::new(Liar::new(fake, moods, Duration::from_millis(1))), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1), assign("r0", "b", 1)]).unwrap();
            scene.receive(100).await;
            assert_eq!(scene.payloads("a").await, expected(1..=40));
            assert_eq!(scene.payloads("b").await, expected(1..=60));
            let is_end = |block: &&v1::BlockDescriptor| block.ends_shard;
            let end = scene.blocks.iter().find(is_end).expect("the shard's end is announced");
            assert_eq!(end.children[0].shard_id, "c");
        })
        .await;
}

#[tokio::test]
async fn an_idle_shard_is_reported_empty_with_the_servers_date() {
    LocalSet::new()
        .run_until(async {
            let mut scene = Scene::new(Arc::new(Fake::with([("a", FakeShard::default())])), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 3)]).unwrap();
            let empty = loop {
                if let Some(empty) = scene.announcement().await.empty_reads.pop() {
                    break empty;
                }
            };
            assert_eq!((empty.generation, empty.millis_behind_latest), (3, 0));
            assert_eq!(empty.server_ms, crate::executor::receiver::kinesis::tests::fake::SERVER_MS);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_block_is_announced_without_a_cut_before_the_shard_looks_silent() {
    LocalSet::new()
        .run_until(async {
            let fake = Fake::with([("a", FakeShard::of(1..=5))]);
            let mut scene = Scene::new(Arc::new(fake), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            let begun = Instant::now();
            while scene.blocks.is_empty() {
                assert_eq!(scene.announcement().await.cut_id, 0);
            }
            let open = begun.elapsed();
            assert!(open >= BLOCK_OPEN_MAX && open < BLOCK_OPEN_MAX * 2, "{open:?}");
            assert_eq!(scene.payloads("a").await, expected(1..=5));
        })
        .await;
}

#[tokio::test]
async fn a_dead_receiver_is_made_anew_where_its_closed_blocks_end() {
    LocalSet::new()
        .run_until(async {
            let fake = Arc::new(Fake::with([("a", FakeShard::of(1..=5))]));
            let mut scene = Scene::new(fake.clone(), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            scene.receive(5).await;
            let dead = scene.host.receiver("r0").unwrap();
            assert!(dead.send(Panic).await.is_err(), "it did not die");
            fake.shards().insert("a".to_owned(), FakeShard::of(1..=9));
            let deadline = Instant::now() + PATIENCE;
            while !scene.host.receiver("r0").unwrap().connected() {
                assert!(Instant::now() < deadline, "it is not made anew");
                scene.host.tend().unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            scene.receive(9).await;
            assert_eq!(scene.payloads("a").await, expected(1..=9));
        })
        .await;
}

/// Panics at one of its calls, and is a truthful Kinesis at all others.
#[derive(Debug)]
struct Fragile {
    fake: Fake,
    num_calls: AtomicU32,
    panics_at: u32,
}

#[async_trait::async_trait]
impl Kinesis for Fragile {
    async fn get_shard_iterator(
        &self,
        shard: &ShardRef,
        at: IteratorAt,
    ) -> Result<String, CallFailure> {
        self.fake.get_shard_iterator(shard, at).await
    }

    async fn get_records(
        &self,
        shard: &ShardRef,
        iterator: &str,
        _limit: u32,
    ) -> Result<Answer, CallFailure> {
        let call = self.num_calls.fetch_add(1, Ordering::SeqCst);
        assert_ne!(call, self.panics_at, "on purpose");
        self.fake.get_records(shard, iterator, 3).await
    }
}

#[tokio::test]
async fn a_dead_reader_is_made_anew_and_nothing_is_read_twice() {
    LocalSet::new()
        .run_until(async {
            let fake = Fake::with([("a", FakeShard::of(1..=20))]);
            let fragile = Fragile { fake, num_calls: AtomicU32::new(0), panics_at: 3 };
            let mut scene = Scene::new(Arc::new(fragile), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            scene.receive(20).await;
            assert_eq!(scene.payloads("a").await, expected(1..=20));
        })
        .await;
}

#[tokio::test]
async fn over_the_budget_nothing_is_read_and_a_cut_is_answered_all_the_same() {
    const MIB: usize = 1 << 20;
    LocalSet::new()
        .run_until(async {
            let mut shard = FakeShard::default();
            for value in 1..=60 {
                let mut big = record(value);
                big.data = vec![b'x'; MIB].into();
                shard.records.push(big);
            }
            let mut scene = Scene::new(Arc::new(Fake::with([("a", shard)])), 30 << 20);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            let store = scene.shared.store.clone();
            let mut num_received = 0;
            while num_received < 60 {
                let deadline = Instant::now() + PATIENCE;
                while !store.is_over_budget() && num_received + 18 < 60 {
                    assert!(Instant::now() < deadline, "the budget is never reached");
                    assert!(store.usage().memory_bytes <= 30 << 20, "{:?}", store.usage());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                scene.host.cut(1);
                while scene.announcement().await.cut_id != 1 {}
                let blocks = std::mem::take(&mut scene.blocks);
                num_received += blocks.iter().map(|block| block.num_records).sum::<u64>();
                let ids: Vec<_> =
                    blocks.iter().map(|block| BlockId::new(block.block_id.as_str())).collect();
                store.release(&ids);
            }
            assert_eq!(num_received, 60);
        })
        .await;
}

#[tokio::test]
async fn aggregates_are_read_as_their_user_records() {
    LocalSet::new()
        .run_until(async {
            let mut shard = FakeShard::of(1..=2);
            shard.records[0].data = aggregate(&[("a", "one"), ("b", "two")]).into();
            let mut scene = Scene::new(Arc::new(Fake::with([("a", shard)])), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            scene.receive(3).await;
            assert_eq!(scene.payloads("a").await, ["one", "two", "record 2"]);
            assert_eq!(scene.blocks.iter().map(|block| block.num_raw_records).sum::<u64>(), 2);
        })
        .await;
}

#[tokio::test]
async fn a_shard_that_moves_within_the_executor_has_one_reader() {
    LocalSet::new()
        .run_until(async {
            let fake = Fake::with([("a", FakeShard::of(1..=5))]);
            let mut scene = Scene::new(Arc::new(fake), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            scene.receive(5).await;
            scene.host.assign(vec![assign("r1", "a", 2)]).unwrap();
            scene.blocks.clear();
            scene.receive(5).await;
            let of_r1 = scene.blocks.iter().filter(|block| block.generation == 2);
            assert_eq!(of_r1.map(|block| block.num_records).sum::<u64>(), 5);
        })
        .await;
}

#[tokio::test]
async fn a_revocation_that_a_full_mailbox_refuses_is_told_later() {
    LocalSet::new()
        .run_until(async {
            let fake = Fake::with([("a", FakeShard::of(1..=5)), ("b", FakeShard::of(1..=5))]);
            let mut scene = Scene::new(Arc::new(fake), BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1), assign("r0", "b", 1)]).unwrap();
            scene.receive(10).await;
            assert_eq!(scene.host.shards_of("r0").len(), 2);
            // Nothing is awaited: the receiver's actor can not run, and its mailbox fills.
            let fill = |host: &ReceiverHost| (0..100).for_each(|_| host.reconnected());
            fill(&scene.host);
            scene.host.assign(vec![assign("r1", "a", 2)]).unwrap();
            let b = assign("r0", "b", 1).shard.unwrap();
            scene.host.revoke(vec![b]).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while !scene.host.shards_of("r0").is_empty() {
                assert!(Instant::now() < deadline, "{:?}", scene.host.shards_of("r0"));
                scene.host.tend().unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(scene.host.shards_of("r1").len(), 1);
            fill(&scene.host);
            let b = assign("r0", "b", 2);
            scene.host.revoke(vec![b.shard.clone().unwrap()]).unwrap();
            // The mailbox has room again before the host has looked: the new assignment counts.
            tokio::time::sleep(Duration::from_millis(20)).await;
            scene.host.assign(vec![b]).unwrap();
            for _ in 0..20 {
                scene.host.tend().unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(scene.host.shards_of("r0").len(), 1, "the older word is void");
        })
        .await;
}

#[tokio::test]
async fn a_lost_record_is_told_with_its_range_again_and_again() {
    LocalSet::new()
        .run_until(async {
            let mut shard = FakeShard::of([10, 20, 30]);
            shard.num_trimmed = 2;
            let mut scene = Scene::new(Arc::new(Fake::with([("a", shard)])), BUDGET);
            let position = v1::Position { sequence_number: "10".to_owned(), ..Default::default() };
            let from = v1::ReadFrom { at: Some(v1::read_from::At::Position(position)) };
            let assignment = v1::ShardAssignment { from: Some(from), ..assign("r0", "a", 1) };
            scene.host.assign(vec![assignment]).unwrap();
            let trouble = loop {
                let message = tokio::time::timeout(PATIENCE, scene.wire.recv()).await.unwrap();
                if let Some(executor_message::Body::Trouble(trouble)) = message.unwrap().body {
                    break trouble;
                }
            };
            assert_eq!(trouble.kind(), v1::shard_trouble::Kind::DataLost);
            assert_eq!((&*trouble.lost_after_seq, &*trouble.lost_before_seq), ("10", "30"));
            assert!(trouble.failure.unwrap().message.contains("app-logs"));
        })
        .await;
}

#[tokio::test]
async fn a_shard_that_is_gone_is_told_with_what_was_read_of_it_which_is_announced() {
    LocalSet::new()
        .run_until(async {
            let fake = Arc::new(Fake::with([("a", FakeShard::of([10, 20, 30]))]));
            let mut scene = Scene::new(Arc::clone(&fake) as Arc<dyn Kinesis>, BUDGET);
            scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
            let open_bytes = async || {
                while scene.shared.store.block_bytes() == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, open_bytes()).await.expect("nothing is read");
            fake.shards().clear();
            let (mut announced, mut told) = (None, None);
            while announced.is_none() || told.is_none() {
                let message = tokio::time::timeout(PATIENCE, scene.wire.recv()).await.unwrap();
                match message.unwrap().body {
                    Some(executor_message::Body::Announcement(announcement)) => {
                        announced = announced.or(announcement.blocks.first().cloned());
                    }
                    Some(executor_message::Body::Trouble(trouble)) => told = Some(trouble),
                    _ => {}
                }
            }
            let (announced, told) = (announced.unwrap(), told.unwrap());
            assert_eq!(told.kind(), v1::shard_trouble::Kind::StreamGone);
            assert_eq!((&*told.lost_after_seq, &*announced.last_seq), ("30", "30"));
        })
        .await;
}

/// Reads everything, loses one of the blocks, and has it read again by `change`d Kinesis.
async fn read_again(
    change: impl FnOnce(&mut FakeShard),
    moods: Vec<Mood>,
) -> (millrace_common::Result<()>, Vec<String>, Vec<String>) {
    let mut shard = FakeShard::of(1..=30);
    // One in the middle, and one whose tail ends the range.
    for at in [9, 29] {
        shard.records[at].data = aggregate(&[("a", "one"), ("b", "two")]).into();
    }
    let fake = Arc::new(Fake::with([("a", shard.clone())]));
    let mut scene = Scene::new(fake, BUDGET);
    scene.host.assign(vec![assign("r0", "a", 1)]).unwrap();
    scene.receive(32).await;
    let block = scene.blocks.remove(0);
    let id = BlockId::new(block.block_id.as_str());
    let before = texts(&scene.shared.store.get(&id).await.unwrap());
    change(&mut shard);
    let liar = Liar::new(Fake::with([("a", shard)]), moods, Duration::ZERO);
    let other = Scene::new(Arc::new(liar), BUDGET);
    let command = v1::RereadBlock {
        block: Some(block),
        stream_name: "app-logs".to_owned(),
        keyed: true,
        ..v1::RereadBlock::default()
    };
    let outcome = reread(&other.shared, command).await;
    let after = match other.shared.store.get(&id).await {
        Ok(block) => texts(&block),
        Err(_) => Vec::new(),
    };
    (outcome, before, after)
}

#[tokio::test]
async fn a_lost_block_comes_back_through_every_mood() {
    LocalSet::new()
        .run_until(async {
            let moods = vec![
                Mood::Truth,
                Mood::Short(2),
                Mood::Empty,
                Mood::Double,
                Mood::Expire,
                Mood::Throttle,
                Mood::Short(1),
                Mood::Lose,
            ];
            let (outcome, before, after) = read_again(|_| {}, moods).await;
            outcome.unwrap();
            assert!(!before.is_empty());
            assert_eq!(before, after);
        })
        .await;
}

#[tokio::test]
async fn a_range_that_was_trimmed_or_differs_is_data_lost() {
    LocalSet::new()
        .run_until(async {
            let (outcome, _, after) = read_again(|shard| shard.num_trimmed = 3, vec![]).await;
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), Code::DataLost);
            assert!(error.message().contains("logs/a from 1 to"), "{error}");
            assert!(after.is_empty(), "a damaged block was put back");
            let spoil = |shard: &mut FakeShard| shard.records[1].data = "other".into();
            assert_eq!(read_again(spoil, vec![]).await.0.unwrap_err().code(), Code::DataLost);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_range_whose_first_record_gives_nothing_for_ever_is_looked_for_and_lost() {
    LocalSet::new()
        .run_until(async {
            let silence = |shard: &mut FakeShard| {
                shard.num_trimmed = 3;
                shard.is_silent_at_trimmed = Some(86_400_000);
            };
            let (outcome, _, after) = read_again(silence, vec![]).await;
            assert_eq!(outcome.unwrap_err().code(), Code::DataLost);
            assert!(after.is_empty());
        })
        .await;
}
