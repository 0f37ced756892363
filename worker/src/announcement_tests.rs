//! A receiver's book against the driver's ledger: over a wire that loses, delays and doubles, every
//! record is accepted once and in order, and the executor holds exactly the blocks that were.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::id::ContainerId;
use millrace_common::position::{Position, SequenceNumber, ShardKey};
use millrace_proto::v1;
use millrace_sql::scan::block::BlockId;
use proptest::prelude::*;

use crate::driver::ledger::{self, Block, Ledger};
use crate::executor::receiver::assignment::{Assignment, shard_ref};
use crate::executor::receiver::book::{Book, UNANSWERED_MAX, Verdict};
use crate::executor::receiver::core::{EmptyAnswer, Start};

fn seq(number: u64) -> SequenceNumber {
    number.to_string().parse().unwrap()
}

fn shard() -> ShardKey {
    ShardKey {
        source: "logs".to_owned(),
        stream_arn: "arn".to_owned(),
        stream_created_ms: 1,
        shard_id: "shard-0".to_owned(),
    }
}

fn assignment(generation: u64, start: Start) -> Assignment {
    let shard = shard();
    Assignment {
        shard_ref: shard_ref(&shard, "s"),
        shard,
        generation,
        start,
        range: None,
        keyed: true,
        retention_ms: 0,
        gap_after: None,
        rest: Duration::ZERO,
        num_readers: 1,
        until_ms: None,
    }
}

fn tail_message(tail: Option<SequenceNumber>) -> v1::ReadFrom {
    let at = match tail {
        None => v1::read_from::At::TrimHorizon(true),
        Some(_) => v1::read_from::At::Position(
            Position { sequence_number: tail, ..Position::default() }.to_proto(),
        ),
    };
    v1::ReadFrom { at: Some(at) }
}

/// The driver: its ledger, and the wire's form of what it says.
struct Driver {
    ledger: Ledger,
    num_batches: u64,
    /// Every block that was accepted, in that order, and those that are released again.
    accepted: Vec<Block>,
    released: BTreeSet<String>,
}

fn executor() -> ContainerId {
    ContainerId::new("c")
}

impl Driver {
    fn new() -> Self {
        let mut ledger = Ledger::default();
        ledger.open(shard(), Position::default(), Duration::ZERO);
        Self { ledger, num_batches: 0, accepted: Vec::new(), released: BTreeSet::new() }
    }

    fn assign(&mut self, to: ContainerId) -> Assignment {
        let (generation, from) = self.ledger.assign(&shard(), to, Duration::ZERO).unwrap();
        let start = from.sequence_number.map_or(Start::TrimHorizon, |_| Start::Position(from));
        assignment(generation, start)
    }

    fn hears(&mut self, announcement: &v1::BlockAnnouncement) -> v1::AnnouncementAcknowledged {
        let mut refused = Vec::new();
        for descriptor in &announcement.blocks {
            let block = Block::from_proto(descriptor.clone()).unwrap();
            match self.ledger.accept(&executor(), block.clone(), Duration::ZERO) {
                ledger::Verdict::Accepted => self.accepted.push(block),
                ledger::Verdict::Known => {}
                ledger::Verdict::Refused { generation, tail } => refused.push(v1::RefusedBlock {
                    block_id: descriptor.block_id.clone(),
                    shard: descriptor.shard.clone(),
                    generation,
                    tail: Some(tail_message(tail)),
                }),
            }
        }
        v1::AnnouncementAcknowledged {
            receiver_id: announcement.receiver_id.clone(),
            sequence: announcement.sequence,
            refused,
        }
    }

    /// Plans, commits and releases everything that was accepted.
    fn finishes_batch(&mut self) -> Vec<BlockId> {
        self.num_batches += 1;
        self.ledger.plan(self.num_batches);
        self.ledger.commit(self.num_batches, &BTreeMap::new(), Duration::ZERO);
        let blocks: Vec<_> =
            self.ledger.release(self.num_batches).into_values().flatten().collect();
        self.released.extend(blocks.iter().map(|id| id.as_str().to_owned()));
        blocks
    }
}

/// What happens next between receiver and driver.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The reader closes a block of so many records.
    Close(u64),
    /// Time passes and news is sent.
    Announce,
    /// The driver hears the message at this place of the wire, which stays there when `again`.
    Hear {
        place: usize,
        again: bool,
    },
    LoseMessage(usize),
    /// The receiver hears the answer at this place.
    Answer {
        place: usize,
        again: bool,
    },
    LoseAnswer(usize),
    Reconnect,
    Cut,
    /// The receiver's actor or its reader dies and a new one begins.
    Begin,
    /// A batch of everything accepted is committed.
    Batch,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1u64..4).prop_map(Event::Close),
        4 => Just(Event::Announce),
        5 => (0usize..4, prop::bool::weighted(0.2)).prop_map(|(place, again)| Event::Hear { place, again }),
        1 => (0usize..4).prop_map(Event::LoseMessage),
        5 => (0usize..4, prop::bool::weighted(0.2)).prop_map(|(place, again)| Event::Answer { place, again }),
        1 => (0usize..4).prop_map(Event::LoseAnswer),
        1 => Just(Event::Reconnect),
        1 => Just(Event::Cut),
        1 => Just(Event::Begin),
        1 => Just(Event::Batch),
    ]
}

fn next_after(start: Start) -> u64 {
    match start {
        Start::Position(position) => {
            position.sequence_number.map_or(1, |tail| tail.to_string().parse::<u64>().unwrap() + 1)
        }
        _ => 1,
    }
}

/// A receiver of one shard whose records are 1, 2, 3, ...
struct Scene {
    book: Book,
    driver: Driver,
    reading: u64,
    next: u64,
    num_blocks: u64,
    now: Duration,
    messages: Vec<v1::BlockAnnouncement>,
    answers: Vec<v1::AnnouncementAcknowledged>,
    stored: BTreeSet<String>,
}

impl Scene {
    fn new() -> Self {
        let mut driver = Driver::new();
        let mut book = Book::new("logs/0");
        assert_eq!(book.assign(driver.assign(executor())), Some(Vec::new()));
        let (_, reading, _) = book.begin(&shard()).unwrap();
        Self {
            book,
            driver,
            reading,
            next: 1,
            num_blocks: 0,
            now: Duration::ZERO,
            messages: Vec::new(),
            answers: Vec::new(),
            stored: BTreeSet::new(),
        }
    }

    fn block(&mut self, num_records: u64) -> v1::BlockDescriptor {
        let after = self.next - 1;
        self.next += num_records;
        self.num_blocks += 1;
        v1::BlockDescriptor {
            block_id: format!("c/{}", self.num_blocks),
            shard: Some(shard().to_proto()),
            generation: 1,
            after_seq: if after == 0 { String::new() } else { after.to_string() },
            first_seq: (after + 1).to_string(),
            last_seq: (self.next - 1).to_string(),
            num_records,
            num_raw_records: num_records,
            ..v1::BlockDescriptor::default()
        }
    }

    fn close(&mut self, num_records: u64) {
        let block = self.block(num_records);
        self.stored.insert(block.block_id.clone());
        assert!(self.book.closed(self.reading, &shard(), block));
    }

    fn begin(&mut self) {
        let (_, reading, start) = self.book.begin(&shard()).unwrap();
        self.reading = reading;
        self.next = next_after(start);
    }

    fn answered(&mut self, answer: v1::AnnouncementAcknowledged) {
        for verdict in self.book.acknowledged(answer.sequence, answer.refused).unwrap() {
            match verdict {
                Verdict::Drop(id) => {
                    self.stored.remove(id.as_str());
                }
                Verdict::Restart { reading, start, .. } => {
                    self.reading = reading;
                    self.next = next_after(start);
                }
                Verdict::Stop(_) => panic!("nobody else reads the shard"),
            }
        }
    }

    fn perform(&mut self, event: Event) {
        self.now += Duration::from_millis(500);
        match event {
            Event::Close(num_records) => self.close(num_records),
            Event::Announce => self.messages.extend(self.book.announce(self.now)),
            Event::Cut => self.messages.extend(self.book.cut(1, self.now)),
            Event::Reconnect => self.book.reconnected(),
            Event::Begin => self.begin(),
            Event::Batch => {
                for id in self.driver.finishes_batch() {
                    self.stored.remove(id.as_str());
                }
            }
            Event::Hear { place, again } if place < self.messages.len() => {
                let message = self.messages[place].clone();
                if !again {
                    self.messages.remove(place);
                }
                self.answers.push(self.driver.hears(&message));
            }
            Event::LoseMessage(place) if place < self.messages.len() => {
                self.messages.remove(place);
            }
            Event::Answer { place, again } if place < self.answers.len() => {
                let answer = self.answers[place].clone();
                if !again {
                    self.answers.remove(place);
                }
                self.answered(answer);
            }
            Event::LoseAnswer(place) if place < self.answers.len() => {
                self.answers.remove(place);
            }
            _ => {}
        }
    }

    /// Lets everything arrive, until nothing is open any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.now += Duration::from_secs(3);
            self.messages.extend(self.book.announce(self.now));
            if self.messages.is_empty() && self.answers.is_empty() {
                return;
            }
            while !self.messages.is_empty() {
                self.perform(Event::Hear { place: 0, again: false });
            }
            while !self.answers.is_empty() {
                self.perform(Event::Answer { place: 0, again: false });
            }
        }
        panic!("receiver and driver do not come to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn over_any_wire_the_driver_gets_every_record_once_and_finds_its_blocks(
        events in prop::collection::vec(event(), 0..80)
    ) {
        let mut scene = Scene::new();
        for event in events {
            scene.perform(event);
        }
        scene.settle();
        // A last block proves that the receiver goes on from where the driver is.
        scene.close(1);
        scene.settle();
        let mut tail = None;
        let mut held = BTreeSet::new();
        for block in &scene.driver.accepted {
            prop_assert_eq!(block.after, tail);
            tail = block.last;
            if !scene.driver.released.contains(block.id.as_str()) {
                held.insert(block.id.as_str().to_owned());
            }
        }
        prop_assert_eq!(tail, Some(seq(scene.next - 1)));
        prop_assert_eq!(&scene.stored, &held);
    }
}

#[test]
fn a_refused_block_starts_a_new_chain_at_the_tail() {
    let mut scene = Scene::new();
    scene.close(2);
    scene.close(3);
    let mut messages = scene.book.announce(scene.now);
    // The first block is lost on the wire: the second one does not chain.
    messages[0].blocks.remove(0);
    let answer = scene.driver.hears(&messages[0]);
    assert_eq!(answer.refused.len(), 1);
    let verdicts = scene.book.acknowledged(answer.sequence, answer.refused).unwrap();
    assert!(matches!(&verdicts[..], [Verdict::Drop(id), Verdict::Restart { start, .. }]
        if *id == BlockId::new("c/2") && *start == Start::TrimHorizon));
}

#[test]
fn what_was_refused_once_stays_refused_when_it_would_chain() {
    let mut scene = Scene::new();
    scene.close(2);
    let first = scene.book.announce(scene.now).remove(0);
    scene.close(3);
    let second = scene.book.announce(scene.now).remove(0);
    let answer = scene.driver.hears(&second);
    scene.answered(answer);
    // The first comes late. Its chain was given up, so that no copy of its fellow can chain.
    assert_eq!(scene.driver.hears(&first).refused.len(), 1);
    assert_eq!(scene.driver.hears(&second).refused.len(), 1);
    assert!(scene.driver.accepted.is_empty());
}

#[test]
fn a_copy_of_a_released_block_starts_nothing() {
    let mut scene = Scene::new();
    scene.close(2);
    let message = scene.book.announce(scene.now).remove(0);
    assert_eq!(scene.driver.hears(&message).refused, []);
    assert_eq!(scene.driver.finishes_batch(), [BlockId::new("c/1")]);
    assert_eq!(scene.driver.hears(&message).refused, []);
}

#[test]
fn a_shard_of_another_generation_is_given_up() {
    let mut scene = Scene::new();
    scene.close(1);
    scene.driver.assign(ContainerId::new("another"));
    let messages = scene.book.announce(Duration::from_secs(1));
    scene.close(1);
    let answer = scene.driver.hears(&messages[0]);
    let verdicts = scene.book.acknowledged(answer.sequence, answer.refused).unwrap();
    let expected = [
        Verdict::Drop(BlockId::new("c/1")),
        Verdict::Drop(BlockId::new("c/2")),
        Verdict::Stop(shard()),
    ];
    assert_eq!(verdicts, expected);
    assert!(scene.book.shards().is_empty());
}

#[test]
fn a_reading_that_was_given_up_is_not_announced() {
    let mut scene = Scene::new();
    let block = scene.block(1);
    scene.book.begin(&shard()).unwrap();
    assert!(!scene.book.closed(scene.reading, &shard(), block));
    assert!(scene.book.cut(1, Duration::ZERO)[0].blocks.is_empty());
}

#[test]
fn a_new_reading_goes_on_after_the_last_closed_block() {
    let mut scene = Scene::new();
    scene.close(5);
    let (_, _, start) = scene.book.begin(&shard()).unwrap();
    let expected = Position { sequence_number: Some(seq(5)), ..Position::default() };
    assert_eq!(start, Start::Position(expected));
}

#[test]
fn the_same_assignment_twice_changes_nothing_and_a_later_one_does() {
    let mut scene = Scene::new();
    scene.close(1);
    assert_eq!(scene.book.assign(assignment(1, Start::TrimHorizon)), None);
    let dropped = scene.book.assign(assignment(2, Start::TrimHorizon));
    assert_eq!(dropped, Some(vec![BlockId::new("c/1")]));
}

#[test]
fn a_cut_is_answered_even_with_nothing_new_and_tells_the_latest_empty_read() {
    let mut scene = Scene::new();
    let empty = EmptyAnswer {
        after_seq: None,
        server_ms: 5,
        millis_behind_latest: 0,
        nothing_before_ms: 0,
    };
    scene.book.empty(scene.reading, &shard(), empty);
    assert_eq!(scene.book.announce(Duration::ZERO)[0].empty_reads.len(), 1);
    let newer = EmptyAnswer { server_ms: 9, ..empty };
    scene.book.empty(scene.reading, &shard(), newer);
    assert!(scene.book.announce(Duration::from_millis(200)).is_empty(), "told too often");
    let cut = scene.book.cut(3, Duration::from_millis(300));
    assert_eq!((cut[0].cut_id, cut[0].empty_reads[0].server_ms), (3, 9));
    let again = scene.book.cut(4, Duration::from_millis(400));
    assert_eq!((again[0].cut_id, again[0].empty_reads.len()), (4, 0));
}

#[test]
fn a_driver_that_never_answers_does_not_fill_the_memory() {
    let mut scene = Scene::new();
    for _ in 0..10 * UNANSWERED_MAX {
        scene.close(1);
        scene.now += Duration::from_millis(1);
        let now = scene.now;
        scene.book.announce(now);
    }
    scene.book.reconnected();
    let now = scene.now;
    assert!(scene.book.announce(now).len() <= UNANSWERED_MAX);
}
