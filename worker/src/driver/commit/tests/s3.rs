//! A bucket in memory that knows multipart uploads, and the same as a liar.
//!
//! Promises: an object is visible from the moment its Complete is applied.
//! Never does: forget an upload unless it was completed or aborted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use millrace_common::clock::Clock;
use millrace_common::error::{Code, Error};

use super::super::core::CompleteAnswer;
use super::super::uploads::{Completed, Seen, StoredParts, UploadStore};
use super::time::{self, VirtualClock};
use crate::driver::head::{PendingPart, PendingUpload};

/// What the bucket does with one Complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whim {
    Honest,
    /// Not applied, and answered with this.
    Refuse(CompleteAnswer),
    /// Applied, and not answered.
    LoseAnswer,
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
    pub(super) is_open: bool,
    /// The parts as they are stored; a Complete must name these.
    pub(super) parts: Vec<PendingPart>,
}

#[derive(Clone, Debug)]
pub(super) struct FakeObject {
    pub(super) token: String,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) uploads: BTreeMap<String, FakeUpload>,
    pub(super) objects: BTreeMap<String, FakeObject>,
}

/// A part under SSE-KMS: its ETag is of the sending, its checksum of the bytes.
pub(super) fn part(number: u32, etag: &str) -> PendingPart {
    PendingPart { number, etag: etag.into(), crc32c: format!("bytes of {number}") }
}

#[derive(Clone)]
pub(super) struct FakeS3 {
    pub(super) bucket: Arc<Mutex<Bucket>>,
    whims: Whims,
    sight: Sight,
}

impl FakeS3 {
    pub(super) fn new(whims: Whims, sight: Sight) -> Self {
        Self { bucket: Arc::default(), whims, sight }
    }

    /// Stores the parts of an upload that nobody can read yet.
    pub(super) fn upload(&self, key: String, id: String) -> PendingUpload {
        let token = format!("token of {id}");
        let parts = vec![part(1, "first sending"), part(2, "only sending")];
        let stored = parts.clone();
        let upload =
            FakeUpload { key: key.clone(), token: token.clone(), is_open: true, parts: stored };
        self.bucket.lock().unwrap().uploads.insert(id.clone(), upload);
        PendingUpload {
            bucket: "results".into(),
            region: "local".into(),
            key,
            upload_id: id,
            parts,
            rows: 1,
            bytes: 8,
            token,
            created_ms: VirtualClock.now_ms(),
        }
    }

    pub(super) fn abort(&self, upload_id: &str) {
        if let Some(upload) = self.bucket.lock().unwrap().uploads.get_mut(upload_id) {
            upload.is_open = false;
        }
    }

    /// A part that is replaced: by another sending of the same bytes, or by other bytes.
    pub(super) fn replace_part(&self, upload_id: &str, by: PendingPart) {
        let bucket = &mut *self.bucket.lock().unwrap();
        let parts = &mut bucket.uploads.get_mut(upload_id).unwrap().parts;
        let at = parts.iter().position(|part| part.number == by.number).unwrap();
        parts[at] = by;
    }

    /// A second Complete of an upload answers NoSuchUpload, as S3 does when some time has passed.
    fn apply(&self, named: &PendingUpload) -> CompleteAnswer {
        let bucket = &mut *self.bucket.lock().unwrap();
        let open = bucket.uploads.get_mut(&named.upload_id).filter(|upload| upload.is_open);
        let Some(upload) = open else { return CompleteAnswer::NoSuchUpload };
        if upload.parts != named.parts {
            return CompleteAnswer::Refused;
        }
        upload.is_open = false;
        let object = FakeObject { token: upload.token.clone() };
        bucket.objects.insert(upload.key.clone(), object);
        CompleteAnswer::Done
    }
}

#[async_trait]
impl UploadStore for FakeS3 {
    async fn complete(&self, upload: &PendingUpload) -> Completed {
        let (latency, whim) = (self.whims)();
        time::sleep(latency).await;
        let answer = match whim {
            Whim::Honest => self.apply(upload),
            Whim::Refuse(answer) => answer,
            Whim::LoseAnswer => {
                self.apply(upload);
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

    async fn parts(&self, upload: &PendingUpload) -> StoredParts {
        let (latency, whim) = (self.whims)();
        time::sleep(latency).await;
        if whim == Whim::LoseAnswer {
            return StoredParts::Unknown(Error::new(Code::AwsUnreachable, "no answer", "wait"));
        }
        if self.sight == Sight::Nothing {
            return StoredParts::Forbidden;
        }
        let bucket = self.bucket.lock().unwrap();
        match bucket.uploads.get(&upload.upload_id).filter(|upload| upload.is_open) {
            Some(upload) => StoredParts::Parts(upload.parts.clone()),
            None => StoredParts::Gone,
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
