//! The load on a stage: a producer at a steady pace and a reader that lists what is visible.
//!
//! Promises: both run until they are stopped, whatever happens to the cluster, and tell their
//! findings to one [`Flow`]. Owned by a scene; dropping it ends both.
//! Never does: put a record again whose put was not answered; the stream itself is the truth.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::flow::Flow;
use crate::aws::Endpoint;

/// Between two puts.
const PUT_EVERY: Duration = Duration::from_millis(100);
/// Records of one put: 60 a second, so that every shard has some in every batch.
const RECORDS_PER_PUT: usize = 6;
/// Between two looks at the bucket; the watcher of the checker has the same pace.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A flow that several tasks write to.
#[derive(Clone, Debug, Default)]
pub struct SharedFlow(Arc<Mutex<Flow>>);

impl SharedFlow {
    /// The flow, for one look or one note.
    pub fn lock(&self) -> MutexGuard<'_, Flow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends when dropped.
#[derive(Debug)]
struct Ends(JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Producer and reader of one application.
#[derive(Debug)]
pub struct Load {
    /// What they found.
    pub flow: SharedFlow,
    /// Bytes that are added to each record.
    padding: Arc<AtomicUsize>,
    producer: Option<Ends>,
    _reader: Option<Ends>,
}

impl Load {
    /// Starts both: records go into `stream`, objects are looked for under `prefix` of `bucket`.
    #[must_use]
    pub fn start(aws: &Endpoint, stream: &str, bucket: &str, prefix: &str) -> Self {
        let flow = SharedFlow::default();
        let padding = Arc::<AtomicUsize>::default();
        let producer = produce(aws.clone(), stream.to_owned(), flow.clone(), Arc::clone(&padding));
        let reader = read(aws.clone(), bucket.to_owned(), prefix.to_owned(), flow.clone());
        Self {
            flow,
            padding,
            producer: Some(Ends(tokio::spawn(producer))),
            _reader: Some(Ends(tokio::spawn(reader))),
        }
    }

    /// No load: the test puts what it wants to be counted.
    #[must_use]
    pub fn none() -> Self {
        Self { flow: SharedFlow::default(), padding: Arc::default(), producer: None, _reader: None }
    }

    /// Makes every record from now on longer by `num_bytes`.
    pub fn widen(&self, num_bytes: usize) {
        self.padding.store(num_bytes, Ordering::Relaxed);
    }

    /// Ends the producer. A put that is on its way may still be applied, as after any crash.
    pub fn stop_producing(&mut self) {
        self.producer = None;
    }
}

async fn produce(aws: Endpoint, stream: String, flow: SharedFlow, padding: Arc<AtomicUsize>) {
    let kinesis = aws.kinesis();
    let mut ticks = tokio::time::interval(PUT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_usize.. {
        ticks.tick().await;
        let at = Instant::now();
        let padding = "x".repeat(padding.load(Ordering::Relaxed));
        let entries = (0..RECORDS_PER_PUT).map(|index| {
            // Consecutive keys hash to all shards.
            let key = (number * RECORDS_PER_PUT + index).to_string();
            PutRecordsRequestEntry::builder()
                .data(Blob::new(format!("record {key} of {stream} \u{fc}{padding}")))
                .partition_key(key)
                .build()
                .expect("key and data are set")
        });
        let put = kinesis.put_records().stream_name(&stream).set_records(Some(entries.collect()));
        // A producer that is refused goes on with other records; `PutRecords` may also refuse some.
        let Ok(answer) = put.send().await else { continue };
        for result in answer.records() {
            let (shard, number) = (result.shard_id(), result.sequence_number());
            if let (Some(shard), Some(number)) = (shard, number) {
                flow.lock().put((shard.to_owned(), number.to_owned()), at);
            }
        }
    }
}

async fn read(aws: Endpoint, bucket: String, prefix: String, flow: SharedFlow) {
    let s3 = aws.s3();
    let mut known = HashSet::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for key in new_keys(&s3, &bucket, &prefix, &known).await {
            let object = s3.get_object().bucket(&bucket).key(&key).send().await;
            let Ok(object) = object else { continue };
            let Ok(body) = object.body.collect().await else { continue };
            note(&body.into_bytes(), &flow);
            known.insert(key);
        }
        flow.lock().sample(Instant::now());
    }
}

/// Keys that are not known yet; fewer when S3 does not answer, the next look finds them.
async fn new_keys(
    s3: &aws_sdk_s3::Client,
    bucket: &str,
    prefix: &str,
    known: &HashSet<String>,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut pages = s3.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
    while let Some(Ok(page)) = pages.next().await {
        let keys = page.contents().iter().filter_map(|object| object.key());
        found.extend(keys.filter(|key| !known.contains(*key)).map(str::to_owned));
    }
    found
}

/// Notes the records in an object of rows of [`crate::application::EVERY_RECORD`].
fn note(bytes: &[u8], flow: &SharedFlow) {
    let rows = serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>();
    for row in rows.flatten() {
        if let (Some(shard), Some(number)) = (row["shard"].as_str(), row["seq"].as_str()) {
            flow.lock().seen((shard.to_owned(), number.to_owned()));
        }
    }
}
