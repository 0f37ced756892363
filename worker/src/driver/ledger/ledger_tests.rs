//! The ledger by the chain rule: examples, and receivers that lose, double, delay and lie.

use millrace_proto::v1;
use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::ZERO;

fn shard() -> ShardKey {
    ShardKey {
        source: "logs".into(),
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        shard_id: "shardId-0".into(),
    }
}

fn number(n: u64) -> Option<SequenceNumber> {
    (n > 0).then(|| n.to_string().parse().unwrap())
}

/// A block of a second or later chain.
fn block_of(id: &str, generation: u64, chain: u64, after: u64, last: u64) -> Block {
    Block { chain, ..block(id, generation, after, last) }
}

/// The block of records `after + 1 ..= last`, of chain 0.
fn block(id: &str, generation: u64, after: u64, last: u64) -> Block {
    let text = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    Block::from_proto(v1::BlockDescriptor {
        block_id: id.into(),
        shard: Some(shard().to_proto()),
        generation,
        after_seq: text(after),
        first_seq: text(after + 1),
        last_seq: text(last),
        num_records: last - after,
        num_raw_records: last - after,
        num_bytes: (last - after) * 10,
        ..Default::default()
    })
    .unwrap()
}

fn executor(n: usize) -> ContainerId {
    ContainerId::new(format!("e{n}"))
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.open(shard(), Position::default(), NOW);
    ledger.assign(&shard(), executor(1), NOW).unwrap();
    ledger
}

#[test]
fn blocks_must_chain() {
    let mut ledger = ledger();
    assert_eq!(ledger.accept(&executor(1), block("a", 1, 0, 5), NOW), Verdict::Accepted);
    let gap = ledger.accept(&executor(1), block("c", 1, 7, 9), NOW);
    assert_eq!(gap, Verdict::Refused { generation: 1, tail: number(5) });
    let overlap = ledger.accept(&executor(1), block_of("d", 1, 1, 3, 9), NOW);
    assert_eq!(overlap, Verdict::Refused { generation: 1, tail: number(5) });
    let next = ledger.accept(&executor(1), block_of("b", 1, 2, 5, 9), NOW);
    assert_eq!(next, Verdict::Accepted);
    let advances = ledger.plan(1);
    assert_eq!(advances, [Advance { shard: shard(), from: None, to: number(9), ends: false }]);
}

#[test]
fn a_block_announced_again_is_known_and_counted_once() {
    let mut ledger = ledger();
    ledger.accept(&executor(1), block("a", 1, 0, 5), NOW);
    assert_eq!(ledger.accept(&executor(1), block("a", 1, 0, 5), NOW), Verdict::Known);
    ledger.plan(1);
    assert_eq!(ledger.accept(&executor(1), block("a", 1, 0, 5), NOW), Verdict::Known);
    assert_eq!(ledger.blocks(1).len(), 1);
}

#[test]
fn a_zombie_reader_is_refused() {
    let mut ledger = ledger();
    ledger.assign(&shard(), executor(2), NOW).unwrap();
    let old = ledger.accept(&executor(1), block("a", 1, 0, 5), NOW);
    assert_eq!(old, Verdict::Refused { generation: 2, tail: None });
    let liar = ledger.accept(&executor(1), block("b", 2, 0, 5), NOW);
    assert_eq!(liar, Verdict::Refused { generation: 2, tail: None });
    assert_eq!(ledger.accept(&executor(2), block("c", 2, 0, 5), NOW), Verdict::Accepted);
}

#[test]
fn an_executors_death_takes_back_what_was_not_planned_and_asks_for_what_was() {
    let mut ledger = ledger();
    ledger.accept(&executor(1), block("a", 1, 0, 5), NOW);
    ledger.plan(1);
    ledger.accept(&executor(1), block("b", 1, 5, 7), NOW);
    ledger.assign(&shard(), executor(2), NOW).unwrap();
    ledger.accept(&executor(2), block("c", 2, 7, 9), NOW);
    let lost = ledger.lose(&executor(1), NOW);
    assert_eq!(lost.reread.iter().map(|b| b.id.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(lost.rolled_back, [shard()]);
    assert_eq!(lost.dropped, BTreeMap::from([(executor(2), vec![BlockId::new("c")])]));
    assert_eq!(ledger.reading(&shard()).unwrap().1.sequence_number, number(5));
    assert!(ledger.blocks(1)[0].is_lost());
    ledger.found(&BlockId::new("a"), &executor(2));
    assert_eq!(ledger.blocks(1)[0].holders(), [executor(2)]);
}

#[test]
fn committed_blocks_are_not_asked_for_again() {
    let mut ledger = ledger();
    ledger.accept(&executor(1), block("a", 1, 0, 5), NOW);
    ledger.plan(1);
    ledger.commit(1, &BTreeMap::new(), NOW);
    assert_eq!(ledger.lose(&executor(1), NOW).reread, []);
    assert_eq!(ledger.release(1), BTreeMap::new());
}

#[test]
fn emptiness_is_known_only_at_the_position() {
    let mut ledger = ledger();
    let read = |after, server_ms| EmptyRead {
        generation: 1,
        after: number(after),
        server_ms,
        millis_behind_latest: 0,
        nothing_before_ms: 0,
    };
    assert!(ledger.empty_read(&executor(1), &shard(), read(0, 1_000_000), NOW));
    assert_eq!(ledger.planned_position(&shard()).unwrap().empty_until_ms, 940_000);
    ledger.accept(&executor(1), block("a", 1, 0, 5), NOW);
    assert!(!ledger.empty_read(&executor(1), &shard(), read(0, 2_000_000), NOW), "an old position");
    ledger.plan(1);
    assert_eq!(ledger.planned_position(&shard()).unwrap().empty_until_ms, 0);
    assert!(ledger.empty_read(&executor(1), &shard(), read(5, 3_000_000), NOW));
    assert_eq!(ledger.planned_position(&shard()).unwrap().empty_until_ms, 2_940_000);
    let late = EmptyRead { millis_behind_latest: 5, ..read(5, 9_000_000) };
    ledger.empty_read(&executor(1), &shard(), late, NOW);
    assert_eq!(ledger.planned_position(&shard()).unwrap().empty_until_ms, 2_940_000);
}

#[test]
fn silence_and_renewal_are_noticed() {
    let mut ledger = ledger();
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let silent = ledger.silent(second * 30, second * 30);
    assert_eq!(silent, [(shard(), executor(1))]);
    let read = EmptyRead {
        generation: 1,
        after: None,
        server_ms: 1_000_000,
        millis_behind_latest: 0,
        nothing_before_ms: 0,
    };
    ledger.empty_read(&executor(1), &shard(), read, second * 29);
    assert_eq!(ledger.silent(second * 30, second * 30), []);
    assert!(!ledger.renewal_is_due(second * 29, hour));
    assert!(ledger.renewal_is_due(second * 60, hour), "the head says nothing of emptiness yet");
    let position = ledger.planned_position(&shard()).unwrap();
    ledger.plan(1);
    ledger.commit(1, &BTreeMap::from([(shard(), position)]), second * 60);
    assert!(!ledger.renewal_is_due(hour * 3, hour), "nothing newer is known");
    let read_at = |server_ms| EmptyRead { server_ms, ..read };
    ledger.empty_read(&executor(1), &shard(), read_at(1_100_000), second * 160);
    assert!(!ledger.renewal_is_due(second * 160, hour), "too little newer");
    ledger.empty_read(&executor(1), &shard(), read_at(1_000_000 + 3_600_000), second * 161);
    assert!(ledger.renewal_is_due(second * 161, hour), "an hour of Kinesis' own time");
}

#[test]
fn a_position_with_a_record_is_renewed_by_the_age_of_the_record() {
    let mut ledger = ledger();
    let hour = Duration::from_secs(3600);
    let mut last = block("a", 1, 0, 5);
    last.last_arrival_ms = 1_000_000;
    ledger.accept(&executor(1), last, NOW);
    ledger.plan(1);
    let position = ledger.planned_position(&shard()).unwrap();
    ledger.commit(1, &BTreeMap::from([(shard(), position)]), NOW);
    let read_at = |server_ms| EmptyRead {
        generation: 1,
        after: number(5),
        server_ms,
        millis_behind_latest: 0,
        nothing_before_ms: 0,
    };
    ledger.empty_read(&executor(1), &shard(), read_at(1_100_000), NOW);
    assert!(!ledger.renewal_is_due(NOW, hour));
    ledger.empty_read(&executor(1), &shard(), read_at(1_060_000 + 3_600_000), NOW);
    assert!(ledger.renewal_is_due(NOW, hour));
}

#[test]
fn nothing_follows_the_end() {
    let mut ledger = ledger();
    let mut end = block("a", 1, 0, 5);
    end.ends_shard = true;
    assert_eq!(ledger.accept(&executor(1), end, NOW), Verdict::Accepted);
    assert!(matches!(
        ledger.accept(&executor(1), block("b", 1, 5, 6), NOW),
        Verdict::Refused { .. }
    ));
    assert!(ledger.plan(1)[0].ends);
    assert!(ledger.planned_position(&shard()).unwrap().ended);
}

#[test]
fn a_block_out_of_order_is_no_block() {
    let descriptor = block("a", 1, 3, 5).descriptor;
    let backwards = v1::BlockDescriptor { last_seq: "2".into(), ..descriptor.clone() };
    assert!(Block::from_proto(backwards).is_err());
    let nothing =
        v1::BlockDescriptor { num_raw_records: 0, last_seq: String::new(), ..descriptor.clone() };
    assert!(Block::from_proto(nothing.clone()).is_err());
    let end = v1::BlockDescriptor { ends_shard: true, ..nothing };
    assert_eq!(Block::from_proto(end).unwrap().last, number(3));
}

/// A receiver as bad as they come: it reads on from wherever it believes to be.
#[derive(Clone, Debug)]
struct Receiver {
    generation: u64,
    chain: u64,
    at: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// A receiver makes a block of this many records and sends it.
    Read(usize, u64),
    /// The oldest message on its way arrives.
    Deliver(usize),
    /// A message on its way is lost.
    Lose(usize),
    /// A message on its way is doubled.
    Double(usize),
    Assign(usize),
    Plan,
    Commit,
    Die(usize),
    Reread,
    /// Some block that is held is to be copied to this executor.
    Copy(usize, usize),
    /// A copy under way has come about, or has not.
    Copied(usize, bool),
}

/// What really is in the stores, block by block, and which copies are under way.
#[derive(Debug, Default)]
struct Stores {
    held: BTreeMap<BlockId, BTreeSet<ContainerId>>,
    copies: Vec<(BlockId, ContainerId)>,
}

impl Stores {
    fn drop_blocks(&mut self, dropped: BTreeMap<ContainerId, Vec<BlockId>>) {
        for (holder, ids) in dropped {
            for id in ids {
                self.held.entry(id).or_default().remove(&holder);
            }
        }
    }

    fn die(&mut self, executor: &ContainerId) {
        self.copies.retain(|(_, to)| to != executor);
        for holders in self.held.values_mut() {
            holders.remove(executor);
        }
    }

    /// Nothing is held that nobody will ever ask to be dropped, and nothing is counted on that is
    /// not held.
    fn check(&self, ledger: &Ledger, batches: u64) -> Result<(), TestCaseError> {
        for (id, holders) in &self.held {
            prop_assert!(
                holders.is_empty() || ledger.descriptor(id).is_some(),
                "{id} is left behind in {holders:?}"
            );
        }
        for held in (1..=batches).flat_map(|batch| ledger.blocks(batch)) {
            for holder in held.holders() {
                let really = self.held.get(&held.block.id);
                prop_assert!(really.is_some_and(|h| h.contains(holder)), "{held:?}");
            }
        }
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..3, 1u64..5).prop_map(|(who, count)| Step::Read(who, count)),
        6 => any::<usize>().prop_map(Step::Deliver),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Double),
        1 => (0usize..3).prop_map(Step::Assign),
        3 => Just(Step::Plan),
        2 => Just(Step::Commit),
        1 => (0usize..3).prop_map(Step::Die),
        1 => Just(Step::Reread),
        3 => (any::<usize>(), 0usize..3).prop_map(|(pick, to)| Step::Copy(pick, to)),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(pick, is_held)| Step::Copied(pick, is_held)),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #[test]
    fn the_planned_sequence_covers_each_record_once(steps in steps()) {
        let mut ledger = ledger();
        let mut receivers = vec![Receiver { generation: 0, chain: 0, at: 0 }; 3];
        receivers[0].generation = 1;
        let mut on_its_way: Vec<(usize, Block)> = Vec::new();
        let mut covered = 0;
        let (mut batch, mut committed, mut names) = (0, 0, 0);
        let mut lost_blocks: Vec<Block> = Vec::new();
        let mut stores = Stores::default();
        for step in steps {
            match step {
                Step::Read(who, count) => {
                    names += 1;
                    let receiver = &mut receivers[who];
                    let read = block_of(&format!("b{names}"), receiver.generation, receiver.chain, receiver.at, receiver.at + count);
                    receiver.at += count;
                    on_its_way.push((who, read));
                }
                Step::Deliver(pick) if !on_its_way.is_empty() => {
                    // Any order: sessions break and begin again.
                    let (who, read) = on_its_way.remove(pick % on_its_way.len());
                    let id = read.id.clone();
                    match ledger.accept(&executor(who + 1), read, NOW) {
                        Verdict::Accepted => {
                            stores.held.entry(id).or_default().insert(executor(who + 1));
                        }
                        Verdict::Refused { generation, tail } if receivers[who].generation == generation => {
                            receivers[who].chain += 1;
                            receivers[who].at = tail.map_or(0, |t| t.to_string().parse().unwrap());
                        }
                        Verdict::Refused { .. } | Verdict::Known => {}
                    }
                }
                Step::Lose(pick) if !on_its_way.is_empty() => {
                    on_its_way.remove(pick % on_its_way.len());
                }
                Step::Double(pick) if !on_its_way.is_empty() => {
                    let again = on_its_way[pick % on_its_way.len()].clone();
                    on_its_way.push(again);
                }
                Step::Deliver(_) | Step::Lose(_) | Step::Double(_) => {}
                Step::Assign(who) => {
                    let (generation, from) = ledger.assign(&shard(), executor(who + 1), NOW).unwrap();
                    let at = from.sequence_number.map_or(0, |t| t.to_string().parse().unwrap());
                    receivers[who] = Receiver { generation, chain: 0, at };
                }
                Step::Plan => {
                    batch += 1;
                    for advance in ledger.plan(batch) {
                        prop_assert_eq!(advance.from, number(covered));
                        let mut at = advance.from;
                        for held in ledger.blocks(batch) {
                            prop_assert_eq!(held.block.after, at);
                            at = held.block.last;
                        }
                        prop_assert_eq!(at, advance.to);
                        covered = advance.to.map_or(0, |t| t.to_string().parse().unwrap());
                    }
                }
                Step::Commit if committed < batch => {
                    committed += 1;
                    ledger.commit(committed, &BTreeMap::new(), NOW);
                    stores.drop_blocks(ledger.release(committed));
                }
                Step::Commit => {}
                Step::Die(who) => {
                    let lost = ledger.lose(&executor(who + 1), NOW);
                    stores.die(&executor(who + 1));
                    stores.drop_blocks(lost.dropped);
                    lost_blocks.extend(lost.reread);
                    receivers[who].generation = 0;
                }
                Step::Reread => {
                    for lost in lost_blocks.drain(..) {
                        if ledger.descriptor(&lost.id).is_some() {
                            ledger.found(&lost.id, &executor(9));
                            stores.held.entry(lost.id).or_default().insert(executor(9));
                        }
                    }
                }
                Step::Copy(pick, to) => {
                    let held: Vec<&BlockId> =
                        stores.held.keys().filter(|id| ledger.descriptor(id).is_some()).collect();
                    if !held.is_empty() {
                        let id = held[pick % held.len()].clone();
                        ledger.copying(&id, &executor(to + 1));
                        stores.copies.push((id, executor(to + 1)));
                    }
                }
                Step::Copied(pick, is_held) if !stores.copies.is_empty() => {
                    let at = pick % stores.copies.len();
                    let (id, to) = stores.copies.remove(at);
                    let holders = stores.held.entry(id.clone()).or_default();
                    // Its executor leaves a block alone that it has already.
                    let is_held = is_held || holders.contains(&to);
                    if is_held {
                        holders.insert(to.clone());
                    }
                    if !ledger.copied(&id, &to, is_held) && is_held {
                        holders.remove(&to);
                    }
                }
                Step::Copied(..) => {}
            }
            stores.check(&ledger, batch)?;
        }
        for lost in &lost_blocks {
            ledger.found(&lost.id, &executor(9));
        }
        for open in committed + 1..=batch {
            for held in ledger.blocks(open) {
                prop_assert!(!held.is_lost(), "block {} is lost and nobody was told", held.block.id);
            }
        }
    }
}
