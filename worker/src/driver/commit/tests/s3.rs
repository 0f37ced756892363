//! A bucket in memory that knows multipart uploads, and the same as a liar.
//!
//! Promises: an object is visible from the moment its Complete is applied, and remembers when.
//! Never does: forget an upload unless it was completed or aborted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use millrace_common::clock::Clock;
use millrace_common::error::{Code, Error};

use super::super::core::CompleteAnswer;
use super::super::uploads::{Completed, Seen, UploadStore};
use super::heads::Table;
use super::time;
use super::world::VirtualClock;
use crate::driver::head::PendingUpload;

/// A record of the simulated stream: shard and number.
pub(super) type Record = (usize, u64);

/// What the bucket does with one Complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whim {
    Honest,
    /// Not applied, and answered with this.
    Refuse(CompleteAnswer),
    /// Applied, and not answered.
    LoseAnswer,
    /// Not answered, and applied this much later.
    Late(Duration),
}

pub(super) type Whims = Arc<dyn Fn() -> (Duration, Whim) + Send + Sync>;

/// What the credentials may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// GetObject and ListBucket: a missing key is a 404.
    All,
    /// GetObject: a missing key is a 403.
    ObjectsOnly,
    /// PutObject only: everything is a 403.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct FakeUpload {
    pub(super) key: String,
    pub(super) token: String,
    pub(super) records: Vec<Record>,
    pub(super) is_open: bool,
}

#[derive(Clone, Debug)]
pub(super) struct FakeObject {
    pub(super) token: String,
    pub(super) records: Vec<Record>,
    pub(super) upload_id: String,
    /// Writes that the head had seen when the object became visible.
    pub(super) after_writes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) uploads: BTreeMap<String, FakeUpload>,
    pub(super) objects: BTreeMap<String, FakeObject>,
    /// Objects that were replaced by others of their key.
    pub(super) replaced: Vec<String>,
}

#[derive(Clone)]
pub(super) struct FakeS3 {
    pub(super) bucket: Arc<Mutex<Bucket>>,
    table: Arc<Mutex<Table>>,
    whims: Whims,
    sight: Sight,
    /// True where a second Complete of an upload answers success, as S3 does; false where it
    /// answers NoSuchUpload, as others do.
    repeatable: bool,
}

impl FakeS3 {
    pub(super) fn new(
        table: Arc<Mutex<Table>>,
        whims: Whims,
        sight: Sight,
        repeatable: bool,
    ) -> Self {
        Self { bucket: Arc::default(), table, whims, sight, repeatable }
    }

    /// Stores the parts of an upload that nobody can read yet.
    pub(super) fn upload(&self, key: String, id: String, records: Vec<Record>) -> PendingUpload {
        let token = format!("token of {id}");
        let rows = records.len() as u64;
        let upload = FakeUpload { key: key.clone(), token: token.clone(), records, is_open: true };
        self.bucket.lock().unwrap().uploads.insert(id.clone(), upload);
        PendingUpload {
            bucket: "results".into(),
            region: "local".into(),
            key,
            upload_id: id,
            parts: Vec::new(),
            rows,
            bytes: rows * 8,
            token,
            created_ms: VirtualClock.now_ms(),
        }
    }

    pub(super) fn abort(&self, upload_id: &str) {
        if let Some(upload) = self.bucket.lock().unwrap().uploads.get_mut(upload_id) {
            upload.is_open = false;
        }
    }

    fn apply(&self, upload_id: &str) -> CompleteAnswer {
        let after_writes = self.table.lock().unwrap().history.len();
        let bucket = &mut *self.bucket.lock().unwrap();
        let Some(upload) = bucket.uploads.get_mut(upload_id) else {
            return CompleteAnswer::NoSuchUpload;
        };
        let was_completed =
            bucket.objects.get(&upload.key).is_some_and(|object| object.upload_id == upload_id);
        match (upload.is_open, was_completed && self.repeatable) {
            (true, _) => {
                upload.is_open = false;
                let object = FakeObject {
                    token: upload.token.clone(),
                    records: upload.records.clone(),
                    upload_id: upload_id.to_owned(),
                    after_writes,
                };
                if bucket.objects.insert(upload.key.clone(), object).is_some() {
                    bucket.replaced.push(upload.key.clone());
                }
                CompleteAnswer::Done
            }
            (false, true) => CompleteAnswer::Done,
            (false, false) => CompleteAnswer::NoSuchUpload,
        }
    }
}

#[async_trait]
impl UploadStore for FakeS3 {
    async fn complete(&self, upload: &PendingUpload) -> Completed {
        let (latency, whim) = (self.whims)();
        time::sleep(latency).await;
        let answer = match whim {
            Whim::Honest => self.apply(&upload.upload_id),
            Whim::Refuse(answer) => answer,
            Whim::LoseAnswer => {
                self.apply(&upload.upload_id);
                CompleteAnswer::Open
            }
            Whim::Late(by) => {
                let (s3, id) = (self.clone(), upload.upload_id.clone());
                time::spawn(async move {
                    time::sleep(by).await;
                    s3.apply(&id);
                });
                CompleteAnswer::Open
            }
        };
        time::sleep(latency).await;
        let error = Error::new(Code::AwsOther, format!("{answer:?}"), "wait");
        Completed {
            answer,
            server_ms: Some(VirtualClock.now_ms()),
            error: (answer != CompleteAnswer::Done).then_some(error),
        }
    }

    async fn look(&self, _bucket: &str, _region: &str, key: &str) -> Seen {
        let (latency, whim) = (self.whims)();
        time::sleep(latency).await;
        if whim == Whim::LoseAnswer {
            return Seen::Unknown(Error::new(Code::AwsUnreachable, "no answer", "wait"));
        }
        let token = self.bucket.lock().unwrap().objects.get(key).map(|o| o.token.clone());
        match (self.sight, token) {
            (Sight::All | Sight::ObjectsOnly, Some(token)) => Seen::Object { token: Some(token) },
            (Sight::All, None) => Seen::Missing,
            (Sight::ObjectsOnly, None) | (Sight::Nothing, _) => Seen::Forbidden,
        }
    }
}
