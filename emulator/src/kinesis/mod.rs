//! Kinesis Data Streams: streams, shards, records and iterators as the real service has them.
//!
//! Promise: what is acknowledged is on disk (with the operating system) and is read exactly once by
//! a reader that follows its iterators through every reshard. The rules live in pure modules
//! (`topology`, `listing`, `shard_log`, `sequence`, `iterator`, [`crate::limits`]); `stream` joins
//! them with files; this module names the operations. Calls are synchronous and short: a stream is
//! held under a lock while it is read or written.

mod admin;
mod answers;
mod descriptions;
mod error;
mod frame;
mod iterator;
mod journal;
mod listing;
mod read;
mod requests;
mod sequence;
mod shard_log;
mod stream;
mod topology;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::Serialize;

use self::error::{ErrorKind, KinesisError, KinesisResult};
use self::requests::StreamRef;
use self::stream::Stream;
use crate::clock::Clock;

/// The content type of requests and answers.
pub(crate) const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// What the service is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Directory of the streams.
    pub(crate) dir: PathBuf,
    /// Region and account, for ARNs.
    pub(crate) region: String,
    pub(crate) account_id: String,
    /// Whether the limits of the real service hold.
    pub(crate) limited: bool,
    /// How long a stream stays CREATING, UPDATING and DELETING, until the control endpoint says
    /// otherwise.
    pub(crate) transition_ms: u64,
}

type SharedStream = Arc<Mutex<Stream>>;

/// All streams of the account.
pub(crate) struct Kinesis {
    options: Options,
    clock: Arc<dyn Clock>,
    streams: RwLock<BTreeMap<String, SharedStream>>,
    /// How often all iterators were made to expire; iterators carry it.
    expiries: AtomicU64,
    /// How far Kinesis' time is ahead of the clock.
    ahead_ms: AtomicU64,
    transition_ms: AtomicU64,
}

impl Kinesis {
    /// Reads back the streams of a former process, if there are any.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn open(options: Options, clock: Arc<dyn Clock>) -> io::Result<Self> {
        fs::create_dir_all(&options.dir)?;
        let mut streams = BTreeMap::new();
        for entry in fs::read_dir(&options.dir)? {
            if let Some(stream) = Stream::recover(entry?.path(), clock.now_ms())? {
                streams.insert(stream.meta.name.clone(), Arc::new(Mutex::new(stream)));
            }
        }
        let transition_ms = AtomicU64::new(options.transition_ms);
        Ok(Self {
            options,
            clock,
            streams: RwLock::new(streams),
            expiries: AtomicU64::new(0),
            ahead_ms: AtomicU64::new(0),
            transition_ms,
        })
    }

    /// Answers one call: the HTTP status and the JSON body.
    pub(crate) fn call(&self, operation: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.dispatch(operation, body).map_or_else(|e| refusal(&e), |answer| (200, answer))
    }

    fn dispatch(&self, operation: &str, body: &[u8]) -> KinesisResult<Vec<u8>> {
        match operation {
            "PutRecord" => self.put_record(body),
            "PutRecords" => self.put_records(body),
            "GetRecords" => self.get_records(body, true),
            "GetShardIterator" => self.get_shard_iterator(body, false),
            "ListShards" => self.list_shards(body),
            "CreateStream" => self.create_stream(body),
            "DeleteStream" => self.delete_stream(body),
            "DescribeStream" => self.describe_stream(body),
            "DescribeStreamSummary" => self.describe_stream_summary(body),
            "ListStreams" => self.list_streams(body),
            "SplitShard" => self.split_shard(body),
            "MergeShards" => self.merge_shards(body),
            "UpdateShardCount" => self.update_shard_count(body),
            "IncreaseStreamRetentionPeriod" => self.change_retention(body, true),
            "DecreaseStreamRetentionPeriod" => self.change_retention(body, false),
            "UpdateMaxRecordSize" => self.update_max_record_size(body),
            "AddTagsToStream" => self.add_tags(body),
            "RemoveTagsFromStream" => self.remove_tags(body),
            "ListTagsForStream" => self.list_tags(body),
            _ => Err(KinesisError::new(
                ErrorKind::UnknownOperation,
                format!("The emulator does not know Kinesis {operation}; see docs/emulator.md."),
            )),
        }
    }

    /// Answers a GetRecords without records, whether there are any or not, as the real service may.
    pub(crate) fn empty_page(&self, body: &[u8]) -> (u16, Vec<u8>) {
        self.get_records(body, false).map_or_else(|e| refusal(&e), |answer| (200, answer))
    }

    /// Answers a GetShardIterator at a trimmed record with an iterator that gives nothing for ever, as
    /// the real service has been seen to.
    pub(crate) fn stuck_iterator(&self, body: &[u8]) -> (u16, Vec<u8>) {
        self.get_shard_iterator(body, true).map_or_else(|e| refusal(&e), |answer| (200, answer))
    }

    /// Forgets the records of a shard below the given sequence number, as if they had passed the
    /// retention: for the control endpoint.
    ///
    /// # Errors
    /// With the reason, when there is no such stream or shard.
    pub(crate) fn trim(&self, stream: &str, shard: &str, keep_from: &str) -> Result<(), String> {
        let trim = || {
            let shared = self.stream_named(stream)?;
            let mut stream = self.lock(&shared);
            let index = read::shard_index(&stream, shard)?;
            let number = read::parse_sequence(keep_from)?;
            stream.trim(index, number.index())
        };
        trim().map_err(|e: KinesisError| e.to_string())
    }

    /// Makes every iterator that is out expire: for the control endpoint.
    pub(crate) fn expire_iterators(&self) {
        self.expiries.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets time pass for Kinesis alone, at once: for the control endpoint.
    pub(crate) fn advance_clock(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Time as Kinesis shows it, once it has been moved on.
    pub(crate) fn moved_time_ms(&self) -> Option<u64> {
        (self.ahead_ms.load(Ordering::Relaxed) > 0).then(|| self.now_ms())
    }

    /// How long a change of a stream that begins from now on takes: for the control endpoint.
    pub(crate) fn set_transition(&self, ms: u64) {
        self.transition_ms.store(ms, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms() + self.ahead_ms.load(Ordering::Relaxed)
    }

    fn transition_ms(&self) -> u64 {
        self.transition_ms.load(Ordering::Relaxed)
    }

    fn find(&self, stream: &StreamRef) -> KinesisResult<SharedStream> {
        self.stream_named(stream.required()?)
    }

    fn stream_named(&self, name: &str) -> KinesisResult<SharedStream> {
        self.remove_deleted(name)?;
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(name).cloned().ok_or_else(|| {
            KinesisError::new(
                ErrorKind::ResourceNotFound,
                format!("Stream {name} under account {} not found.", self.options.account_id),
            )
        })
    }

    /// Removes the stream of this name if the time of its deletion has come.
    fn remove_deleted(&self, name: &str) -> KinesisResult<()> {
        let now_ms = self.now_ms();
        let is_due = |shared: &SharedStream| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).is_deleted(now_ms)
        };
        let due = {
            let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
            streams.get(name).is_some_and(is_due)
        };
        if !due {
            return Ok(());
        }
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        // Another call may have removed it meanwhile, and made another of its name.
        let Some(shared) = streams.get(name).filter(|shared| is_due(shared)).cloned() else {
            return Ok(());
        };
        self.lock(&shared)
            .delete_files()
            .map_err(|error| KinesisError::internal("Cannot remove the stream's files", &error))?;
        streams.remove(name);
        Ok(())
    }

    /// Locks a stream and brings it up to the present.
    fn lock<'s>(&self, stream: &'s SharedStream) -> MutexGuard<'s, Stream> {
        let mut guard = stream.lock().unwrap_or_else(PoisonError::into_inner);
        guard.settle(self.now_ms());
        guard
    }

    fn arn(&self, name: &str) -> String {
        let Options { region, account_id, .. } = &self.options;
        format!("arn:aws:kinesis:{region}:{account_id}:stream/{name}")
    }

    /// The refusal of a call that was too much for a shard.
    fn rate_exceeded(&self, stream: &str, shard: u32) -> KinesisError {
        KinesisError::new(
            ErrorKind::ProvisionedThroughputExceeded,
            format!(
                "Rate exceeded for shard {} in stream {stream} under account {}.",
                topology::shard_id(shard),
                self.options.account_id
            ),
        )
    }
}

fn refusal(error: &KinesisError) -> (u16, Vec<u8>) {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(rename = "__type")]
        kind: &'a str,
        message: &'a str,
    }
    let body = Body { kind: error.kind.name(), message: &error.message };
    (error.kind.status(), to_json(&body))
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers are text, numbers and lists of them")
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
