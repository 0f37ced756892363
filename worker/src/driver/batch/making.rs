//! A batch in the making: what it covers, what its runs said, and what its commit will say.
//!
//! Promises: the numbers of a commit are those of its own run. Owned by the batch actor.
//! Never does: decide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::error::{Code, Error};
use millrace_common::id::{BlockId, ContainerId};
use millrace_common::position::{ShardKey, sequence_number_text};
use millrace_proto::v1;
use millrace_sql::plan::upload::{Upload, UploadPart};

use crate::driver::commit::{BatchCommit, RecordCounts};
use crate::driver::head::{self, PendingPart, PendingUpload};
use crate::driver::ledger::Advance;
use crate::driver::receivers::core::{Planned, PlannedBlock};
use crate::driver::runner::{BatchOutput, RunError};

/// Shards that an error names at most.
const SHARDS_NAMED: usize = 3;

/// A batch in the making.
#[derive(Debug)]
pub struct Making {
    batch: u64,
    cut_ms: i64,
    planned: Planned,
    num_records: u64,
    num_bytes: u64,
    num_blocks: usize,
    num_out_of_range: u64,
    /// Source and shard of each block.
    shards: BTreeMap<BlockId, (String, String)>,
    run_began: Option<Duration>,
    output: BatchOutput,
    last_error: Option<RunError>,
}

/// What was done in this attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of the last committed batch.
    pub batch: u64,
    /// When it was committed, Unix milliseconds; 0 before the first of this attempt.
    pub last_commit_ms: i64,
    /// Records that did not fit and were skipped or dead-lettered.
    pub bad_records: u64,
    /// The same by source and shard; none where there was none.
    pub bad_by_shard: BTreeMap<(String, String), u64>,
    /// KPL user records outside their shard's range, dropped or not.
    pub out_of_range_records: u64,
    /// What the head says of all batches, earlier attempts' included.
    pub overall: head::Totals,
    /// True while a batch is cut and its outcome is open.
    pub in_flight: bool,
    /// The executors of the run that is on its way.
    pub running_on: BTreeSet<ContainerId>,
    /// The open batch and why its last run failed, until a run succeeds.
    pub failing: Option<(u64, v1::Failure)>,
}

impl Totals {
    /// Nothing yet, after this batch of an attempt before.
    #[must_use]
    pub fn since(batch: u64) -> Self {
        Self { batch, ..Self::default() }
    }

    /// Counts a committed batch in.
    pub fn add(&mut self, making: &Making, now_ms: i64) {
        self.batch = making.batch;
        self.last_commit_ms = now_ms;
        self.bad_records += making.num_bad_records();
        for (shard, num) in making.bad_by_shard() {
            *self.bad_by_shard.entry(shard).or_default() += num;
        }
        self.out_of_range_records += making.num_out_of_range;
    }
}

/// A committed batch, for the master.
#[derive(Debug)]
pub struct Published {
    batch: v1::Batch,
}

impl Published {
    /// As a message, published now.
    #[must_use]
    pub fn to_proto(self, now_ms: i64) -> v1::Batch {
        v1::Batch { published_ms: now_ms, ..self.batch }
    }
}

impl Making {
    /// A batch that was just planned.
    #[must_use]
    pub fn new(batch: u64, cut_ms: i64, planned: Planned) -> Self {
        Self {
            batch,
            cut_ms,
            planned,
            num_records: 0,
            num_bytes: 0,
            num_blocks: 0,
            num_out_of_range: 0,
            shards: BTreeMap::new(),
            run_began: None,
            output: BatchOutput::default(),
            last_error: None,
        }
    }

    /// Its number.
    #[must_use]
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// When it was cut, Unix milliseconds.
    #[must_use]
    pub fn cut_ms(&self) -> i64 {
        self.cut_ms
    }

    /// Shards that it advances; none for a renewal, which has nothing to run.
    #[must_use]
    pub fn num_shards(&self) -> usize {
        self.planned.advances.len()
    }

    /// A run over these blocks begins.
    pub fn begin(&mut self, blocks: &[PlannedBlock], now: Duration) {
        self.num_blocks = blocks.len();
        self.num_records = blocks.iter().map(|block| block.num_records).sum();
        self.num_bytes = blocks.iter().map(|block| block.num_bytes).sum();
        self.num_out_of_range = blocks.iter().map(|block| block.num_out_of_range).sum();
        let place = |block: &PlannedBlock| (block.source.clone(), block.shard_id.clone());
        self.shards = blocks.iter().map(|block| (block.id.clone(), place(block))).collect();
        self.run_began = Some(now);
    }

    /// Its run has a result.
    pub fn succeed(&mut self, output: BatchOutput) {
        self.output = output;
    }

    /// Its run has none.
    pub fn fail(&mut self, error: RunError) {
        self.last_error = Some(error);
    }

    fn num_bad_records(&self) -> u64 {
        self.output.sources.values().map(|counts| counts.bad_records).sum()
    }

    /// Bad records with their source and shard.
    fn bad_by_shard(&self) -> impl Iterator<Item = ((String, String), u64)> {
        let blocks = self.output.sources.values().flat_map(|counts| &counts.bad_blocks);
        blocks.filter_map(|(block, num)| Some((self.shards.get(block)?.clone(), *num)))
    }

    /// What k5 will write.
    #[must_use]
    pub fn commit(&self, spec_hash: &str, now: Duration) -> BatchCommit {
        let read = self.output.sources.values().map(|counts| counts.records).sum();
        BatchCommit {
            positions: self.planned.positions.clone(),
            gaps: self.planned.gaps.clone(),
            uploads: self.output.uploads.iter().cloned().map(pending).collect(),
            state_ptr: None,
            spec_hash: spec_hash.to_owned(),
            dropped_sources: BTreeSet::new(),
            records: RecordCounts { planned: self.num_records, read },
            run_age: self.run_began.map_or(Duration::ZERO, |began| now.saturating_sub(began)),
        }
    }

    /// The batch as committed now.
    #[must_use]
    pub fn published(self, epoch: u64, num_runs: u32, now_ms: i64) -> Published {
        let num_bad_records = self.num_bad_records();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let files: Vec<String> = self
            .output
            .uploads
            .iter()
            .map(|upload| format!("s3://{}/{}", upload.bucket, upload.key))
            .collect();
        Published {
            batch: v1::Batch {
                number: self.batch,
                epoch,
                cut_ms: self.cut_ms,
                committed_ms: now_ms,
                published_ms: 0,
                num_records: self.num_records,
                num_bytes: self.num_bytes,
                num_rows: self.output.rows,
                num_files: count(files.len()),
                num_blocks: count(self.num_blocks),
                num_tasks: count(self.output.num_tasks),
                num_runs,
                num_bad_records,
                recovered: false,
                files,
                run_ms: millis(self.output.elapsed),
                store_ms: millis(self.output.with_store),
            },
        }
    }

    /// What it covers, for people.
    fn ranges(&self) -> String {
        let advances = &self.planned.advances;
        let mut ranges: Vec<String> = advances.iter().take(SHARDS_NAMED).map(range).collect();
        if advances.len() > SHARDS_NAMED {
            ranges.push(format!("and {} more shards", advances.len() - SHARDS_NAMED));
        }
        ranges.join(", ")
    }

    /// Why its last run failed, while it is run again; none where that is told of the executor.
    #[must_use]
    pub fn trouble(&self, application: &str) -> Option<Error> {
        let said = || format!("a run of batch {} of {application} failed", self.batch);
        match self.last_error.as_ref()? {
            RunError::ExecutorSuspected { .. } | RunError::Cancelled => None,
            error @ RunError::BlockLost { .. } => Some(Error::new(
                Code::BlockLost,
                format!("{}: {error}", said()),
                "wait: it is read again from Kinesis",
            )),
            error @ RunError::Disk { .. } => Some(Error::new(
                Code::NodeUnhealthy,
                format!("{}: {error}", said()),
                "make room on the disk that `millrace nodes` names",
            )),
            RunError::Sink { retryable: true, code, detail, .. } => Some(Error::new(
                put_off_by_s3(code),
                format!("{}: the sink failed ({code}): {detail}", said()),
                "see to the bucket and the way to it",
            )),
            _ => Some(self.failed(application)),
        }
    }

    /// Why the application stops at this batch, naming shards and ranges.
    #[must_use]
    pub fn failed(&self, application: &str) -> Error {
        let code = match &self.last_error {
            Some(RunError::Deadline { .. }) => Code::BatchDeadline,
            Some(RunError::Sink { code, .. }) => refused_by_s3(code),
            Some(RunError::BadRecord { .. }) => Code::BadRecord,
            _ => Code::BatchFailed,
        };
        let detail = self.last_error.as_ref().map(ToString::to_string).unwrap_or_default();
        let place = match &self.last_error {
            Some(RunError::BadRecord { place, .. }) => {
                format!(", at record {} of {}/{}", place.sequence_number, place.source, place.shard)
            }
            _ => String::new(),
        };
        let next_move = match &self.last_error {
            Some(RunError::Sink { next_move, .. }) if !next_move.is_empty() => next_move,
            Some(RunError::Sink { .. }) => "see to the bucket",
            Some(RunError::BadRecord { .. }) => {
                "set on_bad_record to dead_letter or skip, or widen the schema"
            }
            _ => "correct the query",
        };
        // What S3 refuses, it refuses whatever the records are.
        let records = match &self.last_error {
            Some(RunError::Sink { .. }) => String::new(),
            _ => format!("; it covers {}", self.ranges()),
        };
        Error::new(
            code,
            format!("batch {} of {application} failed{place}: {detail}{records}", self.batch),
            format!(
                "{next_move}, and submit again: nothing of this batch is written, nothing is lost"
            ),
        )
    }
}

/// The page for what S3 said that may be other the next time.
fn put_off_by_s3(code: &str) -> Code {
    match code {
        "SlowDown" | "ServiceUnavailable" | "RequestLimitExceeded" => Code::Throttled,
        "timeout" | "connect" => Code::AwsUnreachable,
        _ => Code::AwsOther,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The page for what S3 said to a task.
fn refused_by_s3(code: &str) -> Code {
    match code {
        "AccessDenied" | "AllAccessDisabled" => Code::Forbidden,
        code if code.starts_with("KMS.") => Code::Forbidden,
        "NoSuchBucket" => Code::BucketMissing,
        "PermanentRedirect" => Code::BucketRegion,
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => Code::Credentials,
        _ => Code::BatchFailed,
    }
}

/// An upload as the head names it.
fn pending(upload: Upload) -> PendingUpload {
    let part = |part: UploadPart| PendingPart {
        number: part.number,
        etag: part.etag,
        crc32c: part.crc32c,
    };
    PendingUpload {
        bucket: upload.bucket,
        region: upload.region,
        key: upload.key,
        upload_id: upload.upload_id,
        parts: upload.parts.into_iter().map(part).collect(),
        rows: upload.rows,
        bytes: upload.bytes,
        token: upload.token,
        created_ms: upload.created_ms,
    }
}

fn range(advance: &Advance) -> String {
    let shard: &ShardKey = &advance.shard;
    let from = match advance.from {
        Some(from) => sequence_number_text(Some(from)),
        None => "its start".to_owned(),
    };
    format!("{shard} from {from} to {}", sequence_number_text(advance.to))
}
