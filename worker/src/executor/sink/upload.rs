//! One object on its way: parts of at least 5 MiB, the last one smaller.
//!
//! Promises: no upload without a byte; every call is tried again until its deadline; parts keep
//! their order. Never does: complete or abort.

use std::time::Duration;

use bytes::Bytes;
use millrace_common::retry::Backoff;
use millrace_sql::plan::upload::{Upload, UploadPart};
use tokio::time::{Instant, sleep};

use super::store::{Created, ObjectTarget, StoreError, UploadStore};

/// Bytes of a part. S3 takes no smaller one but the last; larger ones would hold more memory.
pub const PART_BYTES: usize = 8 << 20;
/// How long one call may be tried again. The batch's own deadline is far above.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// Writes one object.
pub struct UploadWriter<'a> {
    store: &'a dyn UploadStore,
    target: ObjectTarget,
    upload: Option<Created>,
    parts: Vec<UploadPart>,
    bytes: u64,
}

impl<'a> UploadWriter<'a> {
    /// Nothing is created before the first part.
    pub fn new(store: &'a dyn UploadStore, target: ObjectTarget) -> Self {
        Self { store, target, upload: None, parts: Vec::new(), bytes: 0 }
    }

    /// Uploads a part of at least 5 MiB.
    ///
    /// # Errors
    /// What the store said, when trying again did not help.
    pub async fn push(&mut self, part: Bytes) -> Result<(), StoreError> {
        let (store, target) = (self.store, &self.target);
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let created = again(|| store.create(target)).await?;
                self.upload = Some(created.clone());
                created
            }
        };
        let id = &upload.upload_id;
        let number = u32::try_from(self.parts.len() + 1).unwrap_or(u32::MAX);
        let length = part.len() as u64;
        let stored = again(|| store.upload_part(target, id, number, part.clone())).await?;
        self.parts.push(stored);
        self.bytes += length;
        Ok(())
    }

    /// Uploads what is left and gives the description of the upload.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn finish(mut self, rest: Bytes, rows: u64) -> Result<Upload, StoreError> {
        if !rest.is_empty() || self.parts.is_empty() {
            self.push(rest).await?;
        }
        let Some(created) = self.upload else {
            let detail = format!("{} has no part", self.target.key);
            return Err(StoreError::retryable("internal", detail));
        };
        Ok(Upload {
            bucket: self.target.bucket,
            region: self.target.region,
            key: self.target.key,
            upload_id: created.upload_id,
            token: self.target.token,
            created_ms: created.created_ms,
            parts: self.parts,
            rows,
            bytes: self.bytes,
            dead_letters: false,
        })
    }
}

/// Calls until it succeeds, cannot succeed, or the deadline has passed.
async fn again<T, F, Fut>(mut call: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + CALL_DEADLINE;
    let mut failures = 0;
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error) if !error.retryable => return Err(error),
            Err(error) => {
                failures += 1;
                let delay = Backoff::CALL.random_delay(failures);
                if Instant::now() + delay >= deadline {
                    return Err(error);
                }
                sleep(delay).await;
            }
        }
    }
}
