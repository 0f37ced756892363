//! The world of one seed: stream, table, bucket, clock, dice, and what must hold of them.
//!
//! Promises: all randomness comes from the seed. Never does: help a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_common::clock::Clock;
use millrace_common::position::{Position, SequenceNumber, ShardKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::core::CompleteAnswer;
use super::super::pace::Pace;
use super::heads::{FakeHeads, Whim};
use super::s3::{self, FakeS3, Record, Sight};
use super::time;
use crate::driver::head::{
    Body, PendingUpload, Positions, SourceStart, StartFrom, StoredBody, decode_body,
};

/// A pace in virtual time whose ids are random.
pub(super) fn virtual_pace() -> Pace {
    pace_with(Arc::new(uuid::Uuid::new_v4))
}

fn pace_with(uuids: Arc<dyn Fn() -> uuid::Uuid + Send + Sync>) -> Pace {
    let sleep = |pause| Box::pin(time::sleep(pause)) as BoxFuture<'static, ()>;
    Pace::simulated(Arc::new(VirtualClock), Arc::new(sleep), uuids)
}

/// When every world begins, Unix time in milliseconds.
pub(super) const START_MS: i64 = 1_767_225_600_000;

const NUM_SHARDS: usize = 2;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// A record that no visible object holds.
    Lost(Record),
    /// A record that is visible more than once.
    Double(Record),
    /// Anything else.
    Broken(String),
}

pub(super) struct World {
    pub(super) heads: FakeHeads,
    pub(super) s3: FakeS3,
    random: Arc<Mutex<StdRng>>,
    is_calm: Arc<AtomicBool>,
    /// Records of each shard; they are numbered from 1.
    num_records: u64,
    /// Heads are too large for one item.
    big: bool,
    reported: Mutex<Vec<Finding>>,
}

/// The clock of virtual time.
#[derive(Clone, Copy, Debug)]
pub(super) struct VirtualClock;

impl Clock for VirtualClock {
    fn now_ms(&self) -> i64 {
        START_MS + i64::try_from(time::now().as_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        time::now()
    }
}

impl World {
    pub(super) fn new(seed: u64, big: bool) -> Arc<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let trouble = random.random_range(0.0..0.6);
        let sight = [Sight::All, Sight::ObjectsOnly, Sight::Nothing][random.random_range(0..3)];
        let repeatable = random.random_bool(0.5);
        let num_records = random.random_range(5..40);
        let random = Arc::new(Mutex::new(random));
        let is_calm = Arc::new(AtomicBool::new(false));
        let (dice, calm) = (random.clone(), is_calm.clone());
        let heads = FakeHeads::with_whims(Arc::new(move |call| {
            let mut random = dice.lock().unwrap();
            let kind = calm.load(Ordering::Relaxed) || !random.random_bool(trouble);
            (latency(&mut random), if kind { Whim::Honest } else { unkind(call, &mut random) })
        }));
        let (dice, calm) = (random.clone(), is_calm.clone());
        let unkind_s3 = move || {
            let mut random = dice.lock().unwrap();
            let kind = calm.load(Ordering::Relaxed) || !random.random_bool(trouble);
            (latency(&mut random), if kind { s3::Whim::Honest } else { unkind_s3(&mut random) })
        };
        let s3 = FakeS3::new(heads.table.clone(), Arc::new(unkind_s3), sight, repeatable);
        let reported = Mutex::default();
        Arc::new(Self { heads, s3, random, is_calm, num_records, big, reported })
    }

    /// From now on everybody answers, and tells the truth.
    pub(super) fn calm_down(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    pub(super) fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.random.lock().unwrap())
    }

    pub(super) fn pace(&self) -> Pace {
        let random = self.random.clone();
        let uuids = move || {
            let bytes: [u8; 16] = random.lock().unwrap().random();
            uuid::Builder::from_random_bytes(bytes).into_uuid()
        };
        pace_with(Arc::new(uuids))
    }

    pub(super) fn head_exists(&self) -> bool {
        self.heads.item().is_some()
    }

    pub(super) fn report(&self, finding: Finding) {
        self.reported.lock().unwrap().push(finding);
    }

    /// Proposed by each driver; the head must keep the first.
    pub(super) fn starts(&self, epoch: u64) -> BTreeMap<String, SourceStart> {
        let start = SourceStart {
            stream_arn: "arn".into(),
            stream_created_ms: 1,
            fixed_ms: i64::try_from(epoch).unwrap(),
            from: StartFrom::Earliest,
        };
        BTreeMap::from([("logs".to_owned(), start)])
    }

    /// Long and random where the head is to need chunks.
    pub(super) fn state_ptr(&self) -> Option<String> {
        self.big.then(|| {
            self.random(|random| {
                (0..400_000).map(|_| char::from(random.random_range(b'!'..=b'~'))).collect()
            })
        })
    }

    /// Runs a batch from `positions` on: new positions and uploads, or none when all is read.
    pub(super) async fn run_batch(
        &self,
        positions: &Positions,
        epoch: u64,
        batch: u64,
    ) -> Option<(Positions, Vec<PendingUpload>)> {
        let run = self.pace().uuid();
        let key = move |task: usize| format!("sim-e{epoch}-b{batch}-t{task}-{run}.json");
        self.run_batch_into(positions, key).await
    }

    pub(super) async fn run_batch_into(
        &self,
        positions: &Positions,
        key: impl Fn(usize) -> String,
    ) -> Option<(Positions, Vec<PendingUpload>)> {
        let mut after = positions.clone();
        let mut records: Vec<Record> = Vec::new();
        for shard in 0..NUM_SHARDS {
            let read = number_in(positions, shard);
            let count = self.random(|random| random.random_range(0..8));
            let until = (read + count).min(self.num_records);
            records.extend((read + 1..=until).map(|number| (shard, number)));
            let position =
                Position { sequence_number: Some(sequence_number(until)), ..Position::default() };
            after.insert(shard_key(shard), position);
        }
        let is_at_end = (0..NUM_SHARDS).all(|s| number_in(positions, s) == self.num_records);
        if is_at_end {
            return None;
        }
        let num_tasks = self.random(|random| random.random_range(1..4));
        let mut shares = vec![Vec::new(); num_tasks];
        for record in records {
            shares[self.random(|random| random.random_range(0..num_tasks))].push(record);
        }
        let mut uploads = Vec::new();
        for (task, share) in shares.into_iter().enumerate().filter(|(_, share)| !share.is_empty()) {
            let took = self.random(|random| random.random_range(0..100));
            time::sleep(Duration::from_millis(took)).await;
            let id = self.pace().uuid().to_string();
            uploads.push(self.s3.upload(key(task), id, share));
        }
        Some((after, uploads))
    }

    /// The applied writes in short, to compare histories.
    pub(super) fn trace(&self) -> String {
        let table = self.heads.table.lock().unwrap();
        let writes = table.history.iter().map(|item| (item.epoch, item.batch, &item.commit_id));
        format!("{:?} at {} ms", writes.collect::<Vec<_>>(), time::now().as_millis())
    }

    /// Everything that is wrong at the end.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.reported.lock().unwrap().clone();
        self.check_records(&mut findings);
        self.check_history(&mut findings);
        findings
    }

    fn check_records(&self, findings: &mut Vec<Finding>) {
        let bucket = self.s3.bucket.lock().unwrap();
        let mut seen: BTreeMap<Record, u32> = BTreeMap::new();
        for record in bucket.objects.values().flat_map(|object| &object.records) {
            *seen.entry(*record).or_default() += 1;
        }
        let all = (0..NUM_SHARDS).flat_map(|s| (1..=self.num_records).map(move |n| (s, n)));
        findings.extend(all.filter(|r| !seen.contains_key(r)).map(Finding::Lost));
        findings.extend(seen.iter().filter(|(_, n)| **n > 1).map(|(r, _)| Finding::Double(*r)));
        let replaced = bucket.replaced.iter();
        findings.extend(replaced.map(|key| Finding::Broken(format!("{key} was replaced"))));
    }

    /// Batches step by one, epochs never fall, positions only move forward, starts stay, and every
    /// visible object was named by a commit before it became visible.
    fn check_history(&self, findings: &mut Vec<Finding>) {
        let table = self.heads.table.lock().unwrap();
        let mut broken = |what: String| findings.push(Finding::Broken(what));
        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        let mut before: Option<(u64, u64, Vec<u8>, Positions)> = None;
        for (nth, item) in table.history.iter().enumerate() {
            let body = match &item.body {
                StoredBody::None => Body::default(),
                StoredBody::Inline(packed) => decode_body(packed).unwrap(),
                // Of heads in chunks only the last is still there to be looked into.
                StoredBody::Chunked { .. } => return self.check_chunks(&table, findings),
            };
            for upload in &body.pending {
                named.entry(upload.upload_id.clone()).or_insert(nth);
            }
            if let Some((epoch, batch, starts, positions)) = &before {
                if item.epoch < *epoch {
                    broken(format!("epoch {} follows {epoch}", item.epoch));
                }
                if item.batch != *batch && item.batch != batch + 1 {
                    broken(format!("batch {} follows {batch}", item.batch));
                }
                if item.starts != *starts {
                    broken(format!("the starts changed in batch {}", item.batch));
                }
                let back = positions.iter().any(|(key, old)| {
                    body.positions
                        .get(key)
                        .is_none_or(|new| new.sequence_number < old.sequence_number)
                });
                if back {
                    broken(format!("positions go back in batch {}", item.batch));
                }
            }
            before = Some((item.epoch, item.batch, item.starts.clone(), body.positions));
        }
        for (key, object) in &self.s3.bucket.lock().unwrap().objects {
            if named.get(&object.upload_id).is_none_or(|nth| *nth >= object.after_writes) {
                broken(format!("{key} was visible before its commit"));
            }
        }
    }

    fn check_chunks(&self, table: &super::heads::Table, findings: &mut Vec<Finding>) {
        let Some(item) = &table.item else { return };
        let owners: BTreeSet<_> = table.chunks.keys().map(|name| &name.commit_id).collect();
        if let StoredBody::Chunked { count, .. } = item.body {
            let own = table.chunks.keys().filter(|name| name.commit_id == item.commit_id).count();
            if own != count as usize {
                findings.push(Finding::Broken(format!("{own} of {count} chunks are there")));
            }
        }
        // One commit's chunks may still wait for the next start to delete them.
        if owners.len() > table.history.len() {
            findings.push(Finding::Broken(format!("chunks of {} commits stay", owners.len())));
        }
    }
}

fn latency(random: &mut StdRng) -> Duration {
    let slow = random.random_bool(0.02);
    Duration::from_millis(random.random_range(0..if slow { 5_000 } else { 60 }))
}

fn unkind(call: &'static str, random: &mut StdRng) -> Whim {
    let later = Duration::from_millis(random.random_range(0..6_000));
    if !matches!(call, "acquire" | "commit") {
        return Whim::LoseRequest;
    }
    match random.random_range(0..5) {
        0 => Whim::LoseRequest,
        1 => Whim::LoseAnswer,
        2 => Whim::Late(later),
        3 => Whim::Twice(later),
        _ => Whim::Throttle,
    }
}

fn unkind_s3(random: &mut StdRng) -> s3::Whim {
    let later = Duration::from_millis(random.random_range(0..6_000));
    match random.random_range(0..4) {
        0 => s3::Whim::Refuse(CompleteAnswer::Open),
        1 => s3::Whim::Refuse(CompleteAnswer::NotNow),
        2 => s3::Whim::LoseAnswer,
        _ => s3::Whim::Late(later),
    }
}

fn shard_key(shard: usize) -> ShardKey {
    ShardKey {
        source: "logs".into(),
        stream_arn: "arn".into(),
        stream_created_ms: 1,
        shard_id: format!("shardId-{shard:012}"),
    }
}

fn sequence_number(number: u64) -> SequenceNumber {
    number.to_string().parse().unwrap()
}

fn number_in(positions: &Positions, shard: usize) -> u64 {
    let position = positions.get(&shard_key(shard)).and_then(|p| p.sequence_number);
    position.map_or(0, |number| number.to_string().parse().unwrap())
}
