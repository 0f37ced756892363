//! Executors on ports of this process: real servers, real engine, blocks and uploads in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use actix::{ArbiterHandle, System};
use arrow::array::{BinaryArray, FixedSizeBinaryArray, StringArray, TimestampMillisecondArray};
use async_trait::async_trait;
use millrace_sql::plan::{Compression, SinkFormat};
use millrace_sql::scan::block::{BlockError, BlockId, BlockSource, RawBlock};
use millrace_sql::schema::{BadRecordPolicy, ColumnDef, RecordFormat, SourceDef};
use millrace_worker::driver::runner::{
    BatchOutput, BatchPlan, BatchRunner, BlockInput, DistributedRunner, ExecutorTarget, RunError,
    RunnerOptions, SinkSettings, SourceInput,
};
use millrace_worker::executor::compute::ComputePool;
use millrace_worker::executor::sink::{MemoryStore, UploadStore};
use millrace_worker::executor::task::{TaskOptions, Tasks};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// What a test makes a block do when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Good,
    Panic,
    /// Keeps its compute thread busy, without giving way.
    Spin(Duration),
    /// Waits, giving way.
    Wait(Duration),
}

/// A block store in memory.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: Mutex<HashMap<BlockId, (Arc<RawBlock>, Behaviour)>>,
    pub(crate) num_gets: AtomicU64,
}

#[async_trait]
impl BlockSource for Blocks {
    async fn get(&self, id: &BlockId) -> Result<Arc<RawBlock>, BlockError> {
        self.num_gets.fetch_add(1, Ordering::SeqCst);
        let found = self.blocks.lock().unwrap().get(id).cloned();
        let (block, behaviour) = found.ok_or_else(|| BlockError::Missing { block: id.clone() })?;
        match behaviour {
            Behaviour::Good => {}
            Behaviour::Panic => panic!("on purpose, in block {id}"),
            Behaviour::Spin(time) => {
                let until = Instant::now() + time;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            Behaviour::Wait(time) => tokio::time::sleep(time).await,
        }
        Ok(block)
    }
}

pub(crate) struct Executor {
    pub(crate) target: ExecutorTarget,
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) pool: Arc<ComputePool>,
    server: AbortHandle,
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) struct Cluster {
    pub(crate) executors: Vec<Executor>,
    pub(crate) store: Arc<MemoryStore>,
    inputs: Vec<SourceInput>,
    batch: u64,
    pub(crate) deadline: Duration,
    _spill: tempfile::TempDir,
}

/// A thread for actors, as the executor's main has one.
fn arbiter() -> ArbiterHandle {
    let (give, take) = mpsc::channel();
    std::thread::spawn(move || {
        let system = System::new();
        give.send(System::current().arbiter().clone()).unwrap();
        system.run().unwrap();
    });
    take.recv().unwrap()
}

impl Cluster {
    pub(crate) async fn start(cores: &[usize]) -> Self {
        let spill = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::default());
        let arbiter = arbiter();
        let mut executors = Vec::new();
        for (number, &cores) in cores.iter().enumerate() {
            let pool = Arc::new(ComputePool::start(cores).unwrap());
            let blocks = Arc::new(Blocks::default());
            let tasks = Tasks::new(TaskOptions {
                io: tokio::runtime::Handle::current(),
                pool: Arc::clone(&pool),
                arbiter: arbiter.clone(),
                blocks: Arc::clone(&blocks) as Arc<dyn BlockSource>,
                store: Arc::clone(&store) as Arc<dyn UploadStore>,
                memory_bytes: 256 << 20,
                spill_dir: spill.path().to_owned(),
                token: None,
            })
            .unwrap();
            let (incoming, address) = millrace_common::rpc::bind("127.0.0.1:0").await.unwrap();
            let mut routes = tonic::service::Routes::builder();
            tasks.add_services(&mut routes);
            let serve = millrace_common::rpc::server()
                .add_routes(routes.routes())
                .serve_with_incoming(incoming);
            let server = tokio::spawn(async move { serve.await.unwrap() }).abort_handle();
            let target = ExecutorTarget {
                container: format!("app-a1-e{}", number + 1).into(),
                url: format!("http://{address}").into(),
                cores,
            };
            executors.push(Executor { target, blocks, pool, server });
        }
        Self {
            executors,
            store,
            inputs: Vec::new(),
            batch: 0,
            deadline: Duration::from_secs(60),
            _spill: spill,
        }
    }

    /// Puts records on an executor as one block of a source, for the batches to come.
    pub(crate) fn put(
        &mut self,
        executor: usize,
        source: &str,
        records: &[String],
        behaviour: Behaviour,
    ) {
        let number: usize = self.inputs.iter().map(|input| input.blocks.len()).sum();
        let block = block(source, number, records);
        let input = BlockInput {
            executor,
            id: block.id.clone(),
            records: records.len() as u64,
            bytes: records.iter().map(|record| record.len() as u64).sum(),
        };
        let held = &self.executors[executor].blocks.blocks;
        held.lock().unwrap().insert(block.id.clone(), (Arc::new(block), behaviour));
        match self.inputs.iter_mut().find(|known| &*known.source == source) {
            Some(known) => known.blocks.push(input),
            None => self.inputs.push(SourceInput { source: source.into(), blocks: vec![input] }),
        }
    }

    pub(crate) fn plan(&mut self) -> BatchPlan {
        self.batch += 1;
        BatchPlan {
            batch: self.batch,
            epoch: 1,
            run: uuid::Uuid::new_v4(),
            batch_time_ms: 1_700_000_000_000,
            deadline: self.deadline,
            executors: self.executors.iter().map(|executor| executor.target.clone()).collect(),
            sources: self.inputs.clone(),
        }
    }

    pub(crate) async fn run(
        &mut self,
        runner: &DistributedRunner,
    ) -> Result<BatchOutput, RunError> {
        let plan = self.plan();
        runner.run(plan, CancellationToken::new()).await
    }

    /// Rows of the result objects as JSON, with the keys of their objects.
    pub(crate) fn rows(&self, output: &BatchOutput) -> Vec<(String, serde_json::Value)> {
        let mut rows = Vec::new();
        for upload in &output.uploads {
            let bytes = self.store.bytes(&upload.upload_id).unwrap();
            assert_eq!(bytes.len() as u64, upload.bytes);
            for line in String::from_utf8(bytes).unwrap().lines() {
                rows.push((upload.key.clone(), serde_json::from_str(line).unwrap()));
            }
        }
        rows
    }
}

fn block(source: &str, number: usize, records: &[String]) -> RawBlock {
    let count = records.len();
    let mut packed = Vec::with_capacity(count);
    for at in 0..count {
        let mut bytes = [0_u8; 24];
        bytes[16..].copy_from_slice(&((number as u64) << 32 | at as u64).to_be_bytes());
        packed.push(bytes);
    }
    RawBlock {
        id: format!("{source}-{number}").into(),
        source: source.into(),
        shard: format!("shardId-{number:012}").into(),
        after_seq: None,
        first_seq: packed.first().copied().unwrap_or_default(),
        last_seq: packed.last().copied().unwrap_or_default(),
        raw_records: count as u64,
        crc32c: 0,
        data: BinaryArray::from_iter_values(records),
        sequence_numbers: FixedSizeBinaryArray::try_from_iter(packed.iter().copied()).unwrap(),
        sub_sequence_numbers: None,
        partition_keys: StringArray::from_iter((0..count).map(|_| Some("k"))),
        arrival_ms: TimestampMillisecondArray::from_iter_values((0..count).map(|at| at as i64)),
        lease: None,
    }
}

pub(crate) fn source(name: &str, columns: &[(&str, &str)], policy: BadRecordPolicy) -> SourceDef {
    SourceDef {
        name: name.to_owned(),
        format: RecordFormat::Json,
        columns: columns
            .iter()
            .map(|(name, data_type)| ColumnDef {
                name: (*name).to_owned(),
                data_type: (*data_type).to_owned(),
            })
            .collect(),
        on_bad_record: policy,
    }
}

pub(crate) fn options(sources: Vec<SourceDef>, sql: &str) -> RunnerOptions {
    RunnerOptions {
        application: "app".to_owned(),
        sources,
        sql: sql.to_owned(),
        params: millrace_sql::Parameters::default(),
        sink: SinkSettings {
            dead_letter_region: String::new(),
            bucket: "results".to_owned(),
            prefix: "out".to_owned(),
            region: String::new(),
            format: SinkFormat::Json,
            compression: Compression::None,
            partition_by: Vec::new(),
            max_open_partitions: 10,
            files_per_batch: 0,
            dead_letters: None,
        },
        io: tokio::runtime::Handle::current(),
        token: None,
    }
}

pub(crate) async fn runner(sql: &str) -> DistributedRunner {
    let columns = [("k", "long"), ("v", "long"), ("s", "string")];
    let sources = ["logs", "users"].map(|name| source(name, &columns, BadRecordPolicy::Fail));
    DistributedRunner::prepare(options(sources.to_vec(), sql)).await.unwrap()
}

/// JSON records with `k` in `0..keys` and `v` counting up from `first`.
pub(crate) fn records(first: u64, count: u64, keys: u64) -> Vec<String> {
    (first..first + count)
        .map(|v| format!(r#"{{"k":{},"v":{v},"s":"s{}"}}"#, v % keys, v % 7))
        .collect()
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
