//! k6 and k1: completes every upload of a committed batch, however long that takes.
//!
//! Promises: an upload is given up only when it is certain that S3 no longer has it and that its
//! object never came to be; the others of its batch are completed first. Owned by the committer.
//! Never does: abort, delete, list a bucket, or complete what no commit names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use millrace_common::error::Error;

use super::core::{
    CompleteAnswer, Completer, DEGRADED_PAUSE, Next, UploadProgress, Verification, renamed_parts,
};
use super::pace::Pace;
use super::status::{CommitStatus, Count};
use super::uploads::{Completed, Seen, StoredParts, UploadStore};
use crate::driver::head::PendingUpload;

/// Completes under way at once: enough to hide S3's latency, few enough to need no more
/// connections than a client keeps.
const CONCURRENT_COMPLETES: usize = 32;

/// An upload that can not be completed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostUpload {
    /// `s3://bucket/key`.
    pub(super) object: String,
    /// Rows that it held.
    pub(super) rows: u64,
    /// What S3 said last.
    pub(super) why: String,
}

/// How one upload ended.
enum End {
    Seen,
    Unverified,
    Lost(LostUpload),
}

/// Completes uploads.
pub(super) struct Publisher {
    uploads: Arc<dyn UploadStore>,
    status: CommitStatus,
    pace: Pace,
    /// By bucket and region, the key of an object that a commit named and that is there: looking
    /// at it tells whether a 403 on another key means "no right" or "no object".
    visible: Mutex<HashMap<(String, String), String>>,
}

impl Publisher {
    pub(super) fn new(uploads: Arc<dyn UploadStore>, status: CommitStatus, pace: Pace) -> Self {
        Self { uploads, status, pace, visible: Mutex::default() }
    }

    /// Completes all of them and says which could not be. Ends only when each is decided.
    pub(super) async fn complete_all(
        &self,
        uploads: &[PendingUpload],
        completer: Completer,
    ) -> Vec<LostUpload> {
        let (mut lost, unverified) = self.pass(uploads, completer).await;
        // By now an object may be known that tells a missing right from a missing object.
        let (decidable, undecidable): (Vec<_>, Vec<_>) =
            unverified.into_iter().partition(|upload| self.visible_beside(upload).is_some());
        let again = match completer {
            Completer::Publisher | Completer::Recovery => Completer::Recovery,
            Completer::Repair { .. } => completer,
        };
        let (more_lost, still_unverified) = self.pass(&decidable, again).await;
        lost.extend(more_lost);
        for upload in undecidable.iter().chain(&still_unverified) {
            tracing::warn!(key = upload.key, "taken for complete: S3 does not let us look");
            self.status.add(Count::CompletedUnverified);
        }
        lost
    }

    async fn pass(
        &self,
        uploads: &[PendingUpload],
        completer: Completer,
    ) -> (Vec<LostUpload>, Vec<PendingUpload>) {
        let ends: Vec<_> = futures::stream::iter(uploads.iter().cloned())
            .map(|upload| async move {
                let end = self.complete_one(&upload, completer).await;
                (upload, end)
            })
            .buffer_unordered(CONCURRENT_COMPLETES)
            .collect()
            .await;
        let (mut lost, mut unverified) = (Vec::new(), Vec::new());
        for (upload, end) in ends {
            match end {
                End::Seen => self.status.add(Count::Completed),
                End::Unverified => unverified.push(upload),
                End::Lost(upload) => lost.push(upload),
            }
        }
        (lost, unverified)
    }

    async fn complete_one(&self, upload: &PendingUpload, completer: Completer) -> End {
        let object = format!("s3://{}/{}", upload.bucket, upload.key);
        let mut progress = UploadProgress::new(completer);
        // Its parts may come to have other names.
        let mut upload = upload.clone();
        let end = loop {
            let Completed { answer, server_ms, error } = self.uploads.complete(&upload).await;
            let next = match progress.on_answer(answer, self.pace.now()) {
                Next::Verify => {
                    let seen = self.verify(&upload).await;
                    progress.on_verification(seen, age(&upload, server_ms), self.pace.now())
                }
                Next::Lost if answer == CompleteAnswer::Refused => self.rename(&mut upload).await,
                next => next,
            };
            let pause = match next {
                Next::Done => break End::Seen,
                Next::DoneUnverified => break End::Unverified,
                Next::Lost => {
                    let why = error.map_or_else(|| "unknown".to_owned(), |e| e.message().into());
                    break End::Lost(LostUpload { object: object.clone(), rows: upload.rows, why });
                }
                Next::Again | Next::Verify => self.pace.back_off(progress.failures()),
                Next::Degraded => DEGRADED_PAUSE,
            };
            self.status.add(Count::CompletesRepeated);
            let error = error.unwrap_or_else(|| Error::internal("S3 gave no reason"));
            self.status.waits(&object, &error);
            self.pace.sleep(pause).await;
        };
        if matches!(end, End::Seen) {
            let place = (upload.bucket.clone(), upload.region.clone());
            self.lock_visible().insert(place, upload.key.clone());
        }
        self.status.goes_on(&object);
        end
    }

    /// S3 refuses the parts that the upload names: looks for those that took their places.
    async fn rename(&self, upload: &mut PendingUpload) -> Next {
        match self.uploads.parts(upload).await {
            StoredParts::Parts(stored) => match renamed_parts(&upload.parts, &stored) {
                Some(parts) => {
                    tracing::warn!(key = upload.key, "a part came twice and has another ETag now");
                    upload.parts = parts;
                    Next::Again
                }
                None => Next::Lost,
            },
            // Then the next Complete says so too.
            StoredParts::Gone => Next::Again,
            StoredParts::Forbidden => Next::Lost,
            StoredParts::Unknown(error) => {
                tracing::debug!(key = upload.key, %error, "no answer about parts");
                Next::Again
            }
        }
    }

    async fn verify(&self, upload: &PendingUpload) -> Verification {
        match self.uploads.look(&upload.bucket, &upload.region, &upload.key).await {
            // The key is unique to the run, so that an object without a token is ours as well
            // where the upload was made without one.
            Seen::Object { .. } if upload.token.is_empty() => Verification::Present,
            Seen::Object { token } if token.as_deref() == Some(upload.token.as_str()) => {
                Verification::Present
            }
            Seen::Object { .. } => Verification::Foreign,
            Seen::Missing => Verification::Absent,
            Seen::Unknown(error) => {
                tracing::debug!(key = upload.key, %error, "no answer to a look");
                Verification::Unknown
            }
            Seen::Forbidden => self.verify_by_another(upload).await,
        }
    }

    /// Without the right to list, a missing key answers 403 like a missing right: an object that
    /// is surely there tells the two apart.
    async fn verify_by_another(&self, upload: &PendingUpload) -> Verification {
        let Some(key) = self.visible_beside(upload) else { return Verification::NoRight };
        match self.uploads.look(&upload.bucket, &upload.region, &key).await {
            Seen::Object { .. } => Verification::Absent,
            Seen::Missing | Seen::Forbidden => Verification::NoRight,
            Seen::Unknown(_) => Verification::Unknown,
        }
    }

    fn visible_beside(&self, upload: &PendingUpload) -> Option<String> {
        let place = (upload.bucket.clone(), upload.region.clone());
        self.lock_visible().get(&place).cloned()
    }

    fn lock_visible(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), String>> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Age of the upload by S3's own dates; none when one of the two is not known.
fn age(upload: &PendingUpload, server_ms: Option<i64>) -> Option<Duration> {
    let server_ms = server_ms.filter(|_| upload.created_ms > 0)?;
    Some(Duration::from_millis(u64::try_from(server_ms - upload.created_ms).unwrap_or(0)))
}
