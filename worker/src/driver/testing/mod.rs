//! A world for whole drivers in tests: a stream, a head, a bucket, a runner, a master, executors.
//!
//! Promises: the runner computes nothing but which records a batch holds, so that a test can say
//! which records became visible, and how often. Never does: stand in for a test with real processes.

mod executor;
mod master;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use millrace_common::application::{ApplicationSpec, S3Location};
use millrace_common::clock::{Clock, SharedClock, SystemClock};
use millrace_common::error::{Code, Error};
use millrace_common::position::{HashKeyRange, SequenceNumber};
use millrace_sql::plan::upload::Upload;
use tokio_util::sync::CancellationToken;

use super::commit::core::CompleteAnswer;
use super::commit::{Completed, Seen, StoredParts, UploadStore};
use super::head::{
    AcquireWrite, ChunkName, CommitWrite, HeadItem, HeadStore, PendingUpload, PublishedMark,
    StoreFailure, WriteFailure,
};
use super::kcl::LeaseTables;
use super::kcl::core::{Checkpoint, Found, Lease};
use super::receivers::core::Stream;
use super::receivers::discovery::{Description, Filter, Shards, Streams};
use super::receivers::lineage::ListedShard;
use super::runner::{BatchOutput, BatchPlan, BatchRunner, RecordPlace, RunError, SourceCounts};
use super::start::check::Buckets;
use super::world::{Runners, Times, World};

pub(super) use executor::FakeExecutor;
pub(super) use master::FakeMaster;

/// A shard of the one stream: its records are their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeShard {
    pub(super) parents: Vec<String>,
    pub(super) closed: bool,
    pub(super) records: Vec<u64>,
}

#[derive(Debug, Default)]
struct State {
    shards: BTreeMap<String, FakeShard>,
    leases: Vec<Lease>,
    /// Blocks by executor: the records that each holds.
    blocks: BTreeMap<String, BTreeMap<String, Vec<u64>>>,
    head: Option<HeadItem>,
    /// Uploads by key, and whether they are complete.
    objects: BTreeMap<String, (Vec<u64>, bool)>,
    /// Runs that are to fail like this, the next one first.
    failures: Vec<RunError>,
    /// A record that makes every run over it fail.
    poison: Option<u64>,
    num_runs: u32,
    /// Calls that mark the head's batch as published.
    num_marks: u32,
    runs_held: bool,
    /// S3 answers 503 to every Complete.
    completes_refused: bool,
}

/// The machine's clock, turned forward.
#[derive(Debug)]
pub(super) struct TurnedClock {
    clock: SharedClock,
    turned: Mutex<Duration>,
}

impl TurnedClock {
    pub(super) fn shared() -> Arc<Self> {
        Arc::new(Self { clock: SystemClock::shared(), turned: Mutex::default() })
    }

    pub(super) fn turn(&self, by: Duration) {
        *self.turned.lock().unwrap() += by;
    }
}

impl Clock for TurnedClock {
    fn now_ms(&self) -> i64 {
        let turned = self.turned.lock().unwrap().as_millis();
        self.clock.now_ms() + i64::try_from(turned).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic() + *self.turned.lock().unwrap()
    }
}

/// Everything outside the driver.
#[derive(Clone, Debug, Default)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

pub(super) fn stream() -> Stream {
    Stream { arn: "arn:logs".into(), name: "app-logs".into(), created_ms: 1_000, keyed: true }
}

impl Fake {
    pub(super) fn with_shards(ids: &[&str]) -> Self {
        let fake = Self::default();
        for id in ids {
            fake.lock().shards.insert((*id).to_owned(), FakeShard::default());
        }
        fake
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn put(&self, shard: &str, records: impl IntoIterator<Item = u64>) {
        self.lock().shards.get_mut(shard).unwrap().records.extend(records);
    }

    pub(super) fn split(&self, parent: &str, children: &[&str]) {
        let mut state = self.lock();
        state.shards.get_mut(parent).unwrap().closed = true;
        for child in children {
            let shard = FakeShard { parents: vec![parent.to_owned()], ..FakeShard::default() };
            state.shards.insert((*child).to_owned(), shard);
        }
    }

    /// A free lease of the shard in the one lease table.
    pub(super) fn lease(&self, shard: &str, checkpoint: &str) {
        self.lock().leases.push(Lease {
            key: shard.to_owned(),
            owner: None,
            counter: "1".into(),
            checkpoint: Checkpoint::parse(checkpoint).unwrap(),
            sub_sequence_number: 0,
        });
    }

    pub(super) fn shard(&self, id: &str) -> FakeShard {
        self.lock().shards[id].clone()
    }

    pub(super) fn store(&self, executor: &str, block: &str, records: Vec<u64>) {
        self.lock().blocks.entry(executor.into()).or_default().insert(block.into(), records);
    }

    pub(super) fn release(&self, executor: &str, block: &str) {
        if let Some(blocks) = self.lock().blocks.get_mut(executor) {
            blocks.remove(block);
        }
    }

    pub(super) fn drop_executor(&self, executor: &str) {
        self.lock().blocks.remove(executor);
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.lock().blocks.values().map(BTreeMap::len).sum()
    }

    pub(super) fn fail_next_runs(&self, errors: Vec<RunError>) {
        self.lock().failures = errors;
    }

    /// Every run over this record fails.
    pub(super) fn poison(&self, record: u64) {
        self.lock().poison = Some(record);
    }

    /// While held, runs wait for their cancellation or the end of the hold.
    pub(super) fn hold_runs(&self, held: bool) {
        self.lock().runs_held = held;
    }

    /// While refused, S3 answers 503 to every Complete.
    pub(super) fn refuse_completes(&self, refused: bool) {
        self.lock().completes_refused = refused;
    }

    /// Calls that marked the head's batch as published, and whether it is marked.
    pub(super) fn marks(&self) -> (u32, bool) {
        let state = self.lock();
        (state.num_marks, state.head.as_ref().is_some_and(HeadItem::is_published))
    }

    pub(super) fn num_runs(&self) -> u32 {
        self.lock().num_runs
    }

    pub(super) fn head(&self) -> Option<HeadItem> {
        self.lock().head.clone()
    }

    pub(super) fn fence(&self, epoch: u64) {
        self.lock().head.as_mut().unwrap().epoch = epoch;
    }

    /// Every record in a complete object, sorted.
    pub(super) fn visible(&self) -> Vec<u64> {
        let state = self.lock();
        let complete = state.objects.values().filter(|(_, complete)| *complete);
        let mut records: Vec<u64> = complete.flat_map(|(records, _)| records.clone()).collect();
        records.sort_unstable();
        records
    }

    pub(super) fn world(&self) -> World {
        let mut times = Times::with_heartbeat(Duration::from_millis(100));
        times.discovery_interval = Duration::from_millis(200);
        times.cut_wait = Duration::from_millis(100);
        times.report_interval = Duration::from_millis(50);
        // Nobody is lost because the machine is busy; an executor that is to be lost goes away.
        times.limits.lost_after = Duration::from_secs(3_600);
        World {
            streams: Arc::new(self.clone()),
            buckets: Arc::new(self.clone()),
            uploads: Arc::new(self.clone()),
            heads: Arc::new(self.clone()),
            leases: Arc::new(self.clone()),
            runners: Arc::new(self.clone()),
            clock: SystemClock::shared(),
            times,
        }
    }
}

#[async_trait]
impl Streams for Fake {
    async fn describe(&self, name: &str) -> Result<Description, Error> {
        assert_eq!(name, "app-logs");
        let retention = Duration::from_secs(86_400);
        Ok(Description { stream: stream(), active: true, status: "ACTIVE".into(), retention })
    }

    async fn list(&self, _: &Stream, _: Filter) -> Result<Shards, Error> {
        let listed = |(id, shard): (&String, &FakeShard)| ListedShard {
            shard_id: id.clone(),
            parents: shard.parents.clone(),
            range: HashKeyRange { starting: 0, ending: u128::MAX },
            open: !shard.closed,
        };
        // A Date has whole seconds.
        let server_ms = now_ms() / 1000 * 1000;
        Ok(Shards { shards: self.lock().shards.iter().map(listed).collect(), server_ms })
    }
}

#[async_trait]
impl LeaseTables for Fake {
    async fn leases(&self, table: &str) -> Result<Vec<Lease>, Error> {
        assert_eq!(table, "app-logs-kcl");
        Ok(self.lock().leases.clone())
    }

    async fn look(&self, _: &Stream, shard_id: &str, at: SequenceNumber) -> Result<Found, Error> {
        // The number of a record is how many there are up to it.
        let num = self.lock().shards[shard_id].records.len();
        let is_there = (1..=num).any(|number| number.to_string().parse().ok() == Some(at));
        Ok(if is_there { Found::UserRecords(1) } else { Found::NeverThere })
    }
}

#[async_trait]
impl Buckets for Fake {
    async fn check(&self, _: &S3Location) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl UploadStore for Fake {
    async fn complete(&self, upload: &PendingUpload) -> Completed {
        let mut state = self.lock();
        if state.completes_refused {
            let error = Error::new(Code::Throttled, "s3 is slowed down", "wait");
            return Completed { answer: CompleteAnswer::Open, server_ms: None, error: Some(error) };
        }
        let object = state.objects.get_mut(&upload.key).expect("an upload that was made");
        object.1 = true;
        Completed { answer: CompleteAnswer::Done, server_ms: None, error: None }
    }

    async fn parts(&self, _: &PendingUpload) -> StoredParts {
        StoredParts::Forbidden
    }

    async fn look(&self, _: &str, _: &str, _: &str) -> Seen {
        Seen::Forbidden
    }
}

#[async_trait]
impl HeadStore for Fake {
    async fn read(&self) -> Result<Option<HeadItem>, StoreFailure> {
        Ok(self.lock().head.clone())
    }

    async fn acquire(&self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
        let mut state = self.lock();
        let Some(item) = write.applied_to(state.head.as_ref()) else {
            return Err(WriteFailure::Refused(state.head.clone().map(Box::new)));
        };
        state.head = Some(item.clone());
        Ok(item)
    }

    async fn commit(&self, write: &CommitWrite) -> Result<(), WriteFailure> {
        let mut state = self.lock();
        match &state.head {
            Some(item) if item.epoch == write.epoch && item.batch + 1 == write.batch => {
                state.head = Some(write.applied_to(item));
                Ok(())
            }
            other => Err(WriteFailure::Refused(other.clone().map(Box::new))),
        }
    }

    async fn mark_published(&self, mark: &PublishedMark) -> Result<(), WriteFailure> {
        let mut state = self.lock();
        state.num_marks += 1;
        let Some(item) = mark.applied_to(state.head.as_ref()) else {
            return Err(WriteFailure::Refused(state.head.clone().map(Box::new)));
        };
        state.head = Some(item);
        Ok(())
    }

    async fn put_chunk(&self, _: &ChunkName, _: &[u8]) -> Result<(), StoreFailure> {
        panic!("heads of tests are small")
    }

    async fn read_chunk(&self, _: &ChunkName) -> Result<Option<Vec<u8>>, StoreFailure> {
        panic!("heads of tests are small")
    }

    async fn delete_chunk(&self, _: &ChunkName) -> Result<(), StoreFailure> {
        panic!("heads of tests are small")
    }

    async fn list_chunks(&self) -> Result<Vec<ChunkName>, StoreFailure> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Runners for Fake {
    async fn prepare(&self, _: &ApplicationSpec) -> Result<Arc<dyn BatchRunner>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

impl Fake {
    /// The records of a plan's blocks, as far as their executors hold them.
    fn compute(&self, plan: &BatchPlan) -> Result<Vec<u64>, RunError> {
        let state = self.lock();
        let mut records = Vec::new();
        for input in plan.sources.iter().flat_map(|source| &source.blocks) {
            let executor = &plan.executors[input.executor].container;
            let blocks = state.blocks.get(&**executor);
            let Some(blocks) = blocks else {
                return Err(RunError::ExecutorSuspected {
                    executor: executor.clone(),
                    detail: "gone".into(),
                });
            };
            let Some(block) = blocks.get(input.id.as_str()) else {
                return Err(RunError::BlockLost {
                    block: input.id.clone(),
                    executor: executor.clone(),
                    detail: "not in the store".into(),
                });
            };
            assert_eq!(block.len() as u64, input.records);
            records.extend(block);
        }
        Ok(records)
    }
}

#[async_trait]
impl BatchRunner for Fake {
    async fn run(
        &self,
        plan: BatchPlan,
        cancel: CancellationToken,
    ) -> Result<BatchOutput, RunError> {
        self.lock().num_runs += 1;
        while self.lock().runs_held {
            if cancel.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(error) = self.lock().failures.pop() {
            return Err(error);
        }
        let records = self.compute(&plan)?;
        if self.lock().poison.is_some_and(|poison| records.contains(&poison)) {
            return Err(query_error());
        }
        let key = format!("e{}-b{}-{}", plan.epoch, plan.batch, plan.run);
        let counts = SourceCounts { records: records.len() as u64, ..SourceCounts::default() };
        let upload = Upload {
            bucket: "results".into(),
            region: String::new(),
            key: key.clone(),
            upload_id: key.clone(),
            parts: Vec::new(),
            rows: counts.records,
            bytes: counts.records,
            token: String::new(),
            created_ms: 0,
            dead_letters: false,
        };
        self.lock().objects.insert(key, (records, false));
        Ok(BatchOutput {
            rows: counts.records,
            uploads: vec![upload],
            sources: BTreeMap::from([(Arc::from("logs"), counts)]),
            ..BatchOutput::default()
        })
    }
}

/// What a query says of a record that it can not take.
pub(super) fn query_error() -> RunError {
    RunError::Query { detail: "division by zero".into() }
}

/// What a scan says of a record that is no JSON.
pub(super) fn bad_record() -> RunError {
    let (source, shard) = ("logs".into(), "a".into());
    let place = RecordPlace { source, shard, sequence_number: "3".into() };
    RunError::BadRecord { place, detail: "not JSON".into() }
}

/// What a task says of an S3 that refuses for now.
pub(super) fn slow_down() -> RunError {
    RunError::Sink {
        retryable: true,
        code: "SlowDown".into(),
        detail: "503".into(),
        next_move: String::new(),
    }
}

/// Waits until `holds`, at most ten seconds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
