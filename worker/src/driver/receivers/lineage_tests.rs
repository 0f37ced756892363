//! The graph of shards against a simple model of a stream that is split and merged at random.

use proptest::prelude::*;

use super::*;

fn listed(id: &str, parents: &[&str], open: bool) -> ListedShard {
    ListedShard {
        shard_id: id.into(),
        parents: parents.iter().map(|p| (*p).to_owned()).collect(),
        range: HashKeyRange { starting: 0, ending: u128::MAX },
        open,
    }
}

fn readable(lineage: &Lineage) -> Vec<String> {
    lineage.readable().map(|(id, _)| id.to_owned()).collect()
}

fn at(ids: &[&str]) -> Start {
    Start::At { timestamp_ms: 1_000, shards: ids.iter().map(|id| (*id).to_owned()).collect() }
}

#[test]
fn children_wait_for_every_parent_and_begin_at_their_start() {
    let mut lineage = Lineage::new(at(&["a", "b"]), []);
    let listing =
        vec![listed("a", &[], false), listed("b", &[], false), listed("c", &["a", "b"], true)];
    assert_eq!(lineage.list(listing), []);
    assert_eq!(readable(&lineage), ["a", "b"]);
    assert_eq!(lineage.origin("a"), Origin::Timestamp(1_000));
    lineage.plan_end("a");
    assert_eq!(readable(&lineage), ["b"]);
    lineage.plan_end("b");
    assert_eq!(readable(&lineage), ["c"]);
    assert_eq!(lineage.origin("c"), Origin::TrimHorizon);
}

#[test]
fn ancestors_of_the_beginning_are_never_read() {
    let mut lineage = Lineage::new(at(&["b", "c"]), []);
    let listing = vec![
        listed("0", &[], false),
        listed("a", &["0"], false),
        listed("b", &["a"], true),
        listed("c", &["a"], true),
    ];
    assert_eq!(lineage.list(listing.clone()), []);
    assert_eq!(readable(&lineage), ["b", "c"]);
    // The same after a restart, when only the entries are known.
    let mut lineage =
        Lineage::new(at(&["b", "c"]), [("b".to_owned(), false), ("c".to_owned(), false)]);
    assert_eq!(lineage.list(listing), []);
    assert_eq!(readable(&lineage), ["b", "c"]);
}

#[test]
fn earliest_begins_with_the_oldest_listed_shards() {
    let mut lineage = Lineage::new(Start::Earliest, []);
    // Shard a's parent is listed no more.
    let listing = vec![listed("a", &["gone"], false), listed("b", &["a"], true)];
    assert_eq!(lineage.list(listing), []);
    assert_eq!(readable(&lineage), ["a"]);
    assert_eq!(lineage.origin("a"), Origin::TrimHorizon);
}

#[test]
fn a_shard_without_relatives_is_lost() {
    let mut lineage = Lineage::new(Start::Earliest, [("a".to_owned(), false)]);
    let listing = vec![listed("a", &[], true), listed("x", &["gone"], true)];
    assert_eq!(lineage.list(listing.clone()), [Loss::Orphan("x".into())]);
    assert_eq!(readable(&lineage), ["a"]);
    lineage.accept(&Loss::Orphan("x".into()));
    assert_eq!(lineage.list(listing), []);
    assert_eq!(readable(&lineage), ["a", "x"]);
}

#[test]
fn a_position_in_a_shard_that_is_gone_is_lost() {
    let mut lineage = Lineage::new(Start::Earliest, [("a".to_owned(), false)]);
    let listing = vec![listed("b", &["a"], true)];
    assert_eq!(lineage.list(listing), [Loss::Vanished("a".into())]);
    lineage.accept(&Loss::Vanished("a".into()));
    assert_eq!(readable(&lineage), ["b"]);
}

#[test]
fn a_merge_with_a_parent_that_was_never_read_is_lost() {
    let mut lineage = Lineage::new(Start::Earliest, [("a".to_owned(), true)]);
    let loss = Loss::MissingParent { parent: "b".into(), child: "c".into() };
    assert_eq!(lineage.list(vec![listed("c", &["a", "b"], true)]), std::slice::from_ref(&loss));
    assert_eq!(readable(&lineage), Vec::<String>::new());
    lineage.accept(&loss);
    assert_eq!(readable(&lineage), ["c"]);
}

#[test]
fn an_ended_shard_stays_until_it_is_unlisted_and_its_children_have_entries() {
    let mut lineage = Lineage::new(Start::Earliest, []);
    lineage.list(vec![
        listed("a", &[], false),
        listed("z", &[], true),
        listed("c", &["a", "z"], true),
    ]);
    lineage.plan_end("a");
    lineage.commit_end("a");
    assert_eq!(lineage.forget(), Vec::<String>::new(), "still listed");
    lineage.list(vec![listed("z", &[], true), listed("c", &["a", "z"], true)]);
    assert_eq!(lineage.forget(), Vec::<String>::new(), "child c has no entry");
    lineage.plan_end("z");
    assert_eq!(readable(&lineage), ["c"]);
    assert_eq!(lineage.forget(), ["a"]);
}

#[test]
fn a_child_named_by_its_parents_end_waits_for_its_listing() {
    let mut lineage = Lineage::new(Start::Earliest, []);
    lineage.list(vec![listed("a", &[], true)]);
    lineage.announce_child("b".into(), vec!["a".into()]);
    lineage.plan_end("a");
    assert_eq!(readable(&lineage), Vec::<String>::new(), "its keys are not known");
    assert!(lineage.unended().any(|id| id == "b"), "but it is waited for");
    lineage.list(vec![listed("a", &[], false), listed("b", &["a"], true)]);
    assert_eq!(readable(&lineage), ["b"]);
}

/// A stream: shards in the order they came to be, each with its records' numbers.
#[derive(Clone, Debug, Default)]
struct Stream {
    shards: Vec<ModelShard>,
    num_records: u32,
}

#[derive(Clone, Debug)]
struct ModelShard {
    parents: Vec<usize>,
    open: bool,
    records: Vec<u32>,
    listed: bool,
}

fn id(index: usize) -> String {
    format!("shardId-{index:012}")
}

impl Stream {
    fn new(shards: usize) -> Self {
        let mut stream = Self::default();
        for _ in 0..shards {
            stream.add(vec![]);
        }
        stream
    }

    fn add(&mut self, parents: Vec<usize>) {
        for parent in &parents {
            self.shards[*parent].open = false;
        }
        self.shards.push(ModelShard { parents, open: true, records: Vec::new(), listed: true });
    }

    fn open(&self) -> Vec<usize> {
        (0..self.shards.len()).filter(|index| self.shards[*index].open).collect()
    }

    fn listing(&self) -> Vec<ListedShard> {
        let listed_now = self.shards.iter().enumerate().filter(|(_, shard)| shard.listed);
        listed_now
            .map(|(index, shard)| ListedShard {
                shard_id: id(index),
                parents: shard.parents.iter().map(|parent| id(*parent)).collect(),
                range: HashKeyRange { starting: 0, ending: u128::MAX },
                open: shard.open,
            })
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Split(usize),
    Merge(usize, usize),
    List,
    /// Read this many records of some readable shard and plan them as a batch.
    Read(usize, usize),
    /// Commit everything planned.
    Commit,
    /// The driver dies: everything that is not committed is forgotten.
    Crash,
    /// Kinesis forgets the oldest closed shard, if its end is committed.
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<usize>().prop_map(Step::Put),
        1 => any::<usize>().prop_map(Step::Split),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Step::Merge(a, b)),
        2 => Just(Step::List),
        6 => (any::<usize>(), 1usize..4).prop_map(|(shard, count)| Step::Read(shard, count)),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => Just(Step::Expire),
    ];
    prop::collection::vec(step, 1..120)
}

/// A driver reduced to what concerns the graph.
struct Reader {
    start: Start,
    lineage: Lineage,
    /// Records read of each shard, planned and committed; true when its end was reached.
    planned: BTreeMap<String, (usize, bool)>,
    committed: BTreeMap<String, (usize, bool)>,
    seen: Vec<u32>,
    seen_committed: Vec<u32>,
    /// Shards of which nothing will be read any more: those before the beginning, and those whose
    /// end is committed.
    through: BTreeSet<String>,
}

impl Reader {
    fn new(start: Start, stream: &Stream) -> Self {
        let mut lineage = Lineage::new(start.clone(), []);
        assert_eq!(lineage.list(stream.listing()), []);
        let through = match &start {
            Start::Earliest => BTreeSet::new(),
            Start::At { shards, .. } => {
                (0..stream.shards.len()).map(id).filter(|id| !shards.contains(id)).collect()
            }
        };
        Self {
            through,
            start,
            lineage,
            planned: BTreeMap::new(),
            committed: BTreeMap::new(),
            seen: Vec::new(),
            seen_committed: Vec::new(),
        }
    }

    fn read(&mut self, stream: &Stream, pick: usize, count: usize) {
        let ids = readable(&self.lineage);
        if ids.is_empty() {
            return;
        }
        let shard_id = ids[pick % ids.len()].clone();
        let index: usize = shard_id.trim_start_matches("shardId-").parse().unwrap();
        let shard = &stream.shards[index];
        for parent in &shard.parents {
            let read = self.planned.get(&id(*parent));
            let before_begin =
                matches!(&self.start, Start::At { shards, .. } if shards.contains(&shard_id));
            let ended = read.is_some_and(|(_, ended)| *ended);
            assert!(
                ended || before_begin || !stream.shards[*parent].listed,
                "{shard_id} before its parent"
            );
        }
        let (position, ended) = self.planned.get(&shard_id).copied().unwrap_or((0, false));
        assert!(!ended, "{shard_id} is read after its end");
        let next = (position + count).min(shard.records.len());
        self.seen.extend(&shard.records[position..next]);
        let ends = !shard.open && next == shard.records.len();
        self.planned.insert(shard_id.clone(), (next, ends));
        if ends {
            self.lineage.plan_end(&shard_id);
        }
    }

    fn commit(&mut self) {
        for gone in self.lineage.forget() {
            self.planned.remove(&gone);
        }
        let entries: BTreeSet<String> = self.lineage.entries().map(str::to_owned).collect();
        self.committed = entries
            .into_iter()
            .map(|id| {
                let position = self.planned.get(&id).copied().unwrap_or((0, false));
                (id, position)
            })
            .collect();
        self.seen_committed = self.seen.clone();
        for (shard, (_, ended)) in &self.committed {
            if *ended {
                self.through.insert(shard.clone());
                self.lineage.commit_end(shard);
            }
        }
    }

    fn crash(&mut self, stream: &Stream) {
        self.planned = self.committed.clone();
        self.seen = self.seen_committed.clone();
        let entries: Vec<_> =
            self.committed.iter().map(|(id, (_, ended))| (id.clone(), *ended)).collect();
        self.lineage = Lineage::new(self.start.clone(), entries);
        assert_eq!(self.lineage.list(stream.listing()), []);
    }
}

fn play(mut stream: Stream, start: Start, steps: Vec<Step>, mut expected: Vec<u32>) {
    let mut reader = Reader::new(start, &stream);
    for step in steps {
        let open = stream.open();
        match step {
            Step::Put(pick) => {
                let number = stream.num_records;
                stream.num_records += 1;
                stream.shards[open[pick % open.len()]].records.push(number);
                expected.push(number);
            }
            Step::Split(pick) => {
                let parent = open[pick % open.len()];
                stream.add(vec![parent]);
                stream.add(vec![parent]);
            }
            Step::Merge(a, b) if open.len() > 1 => {
                let first = open[a % open.len()];
                let rest: Vec<usize> = open.into_iter().filter(|shard| *shard != first).collect();
                let second = rest[b % rest.len()];
                stream.add(vec![first, second]);
            }
            Step::Merge(..) => {}
            Step::List => assert_eq!(reader.lineage.list(stream.listing()), []),
            Step::Read(pick, count) => reader.read(&stream, pick, count),
            Step::Commit => reader.commit(),
            Step::Crash => reader.crash(&stream),
            Step::Expire => {
                let oldest = stream.shards.iter().position(|shard| shard.listed);
                if let Some(oldest) = oldest
                    && !stream.shards[oldest].open
                    && reader.through.contains(&id(oldest))
                {
                    stream.shards[oldest].listed = false;
                }
            }
        }
    }
    // At last everything is listed, read and committed.
    for _ in 0..stream.shards.len() * 2 + 2 {
        assert_eq!(reader.lineage.list(stream.listing()), []);
        for pick in 0..readable(&reader.lineage).len() {
            reader.read(&stream, pick, usize::MAX / 2);
        }
        reader.commit();
    }
    let mut seen = reader.seen_committed.clone();
    seen.sort_unstable();
    assert_eq!(seen, expected, "every record once");
}

proptest! {
    #[test]
    fn every_record_is_read_once_and_parents_before_children(
        shards in 1usize..4,
        steps in steps(),
    ) {
        play(Stream::new(shards), Start::Earliest, steps, Vec::new());
    }

    #[test]
    fn latest_reads_what_was_put_after_the_beginning(
        shards in 1usize..4,
        before in prop::collection::vec(any::<usize>(), 0..6),
        steps in steps(),
    ) {
        let mut stream = Stream::new(shards);
        for pick in before {
            let open = stream.open();
            let parent = open[pick % open.len()];
            stream.add(vec![parent]);
            stream.add(vec![parent]);
        }
        let open = stream.open().into_iter().map(id).collect();
        let start = Start::At { timestamp_ms: 0, shards: open };
        play(stream, start, steps, Vec::new());
    }
}
