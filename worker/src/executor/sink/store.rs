//! Multipart uploads, as far as a task may go with them.
//!
//! Promises: two calls, both with a deadline of the client; an error keeps its AWS code.
//! Never does: complete or abort. There is no way to do either through this trait.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use millrace_common::aws::{self, Clients, ServerDate, rights};
use millrace_sql::plan::upload::UploadPart;

/// Metadata key of the token on every object: `<application>/<epoch>/<batch>/<run>`.
pub const TOKEN: &str = "millrace-token";

/// The object that an upload is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectTarget {
    /// Bucket.
    pub bucket: String,
    /// Region of the bucket; empty for the process's own.
    pub region: String,
    /// Key, unique to the run.
    pub key: String,
    /// Value of the metadata [`TOKEN`].
    pub token: String,
    /// Media type.
    pub content_type: &'static str,
}

/// Why a call to the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct StoreError {
    /// AWS error code, or `timeout` or `connect`.
    pub code: String,
    /// What was said, and about which key.
    pub detail: String,
    /// True when the same call may succeed later.
    pub retryable: bool,
    /// What the user can do about it; empty when nothing is known.
    pub next_move: String,
}

impl StoreError {
    /// An error after which the same call may succeed.
    pub fn retryable(code: &str, detail: impl Into<String>) -> Self {
        let next_move = String::new();
        Self { code: code.to_owned(), detail: detail.into(), retryable: true, next_move }
    }
}

/// An upload that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The store's name for it.
    pub upload_id: String,
    /// Date of the answer, Unix time in milliseconds; 0 if it had none.
    pub created_ms: i64,
}

/// The two calls a task may make.
#[async_trait]
pub trait UploadStore: fmt::Debug + Send + Sync + 'static {
    /// CreateMultipartUpload.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn create(&self, target: &ObjectTarget) -> Result<Created, StoreError>;

    /// UploadPart. Sending a part again replaces it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn upload_part(
        &self,
        target: &ObjectTarget,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<UploadPart, StoreError>;
}

/// S3 itself.
#[derive(Debug, Clone)]
pub struct S3Store {
    clients: Clients,
}

impl S3Store {
    /// A store over the process's clients.
    #[must_use]
    pub fn new(clients: Clients) -> Self {
        Self { clients }
    }
}

#[async_trait]
impl UploadStore for S3Store {
    async fn create(&self, target: &ObjectTarget) -> Result<Created, StoreError> {
        let date = ServerDate::new();
        let answer = self
            .clients
            .s3_in(&target.region)
            .create_multipart_upload()
            .bucket(&target.bucket)
            .key(&target.key)
            .content_type(target.content_type)
            .metadata(TOKEN, &target.token)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .customize()
            .interceptor(date.clone())
            .send()
            .await
            .map_err(|error| store_error("CreateMultipartUpload", target, &error))?;
        let Some(upload_id) = answer.upload_id else {
            let detail = format!("CreateMultipartUpload of {} gave no upload id", target.key);
            return Err(StoreError::retryable("InvalidResponse", detail));
        };
        Ok(Created { upload_id, created_ms: date.get_ms().unwrap_or(0) })
    }

    async fn upload_part(
        &self,
        target: &ObjectTarget,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<UploadPart, StoreError> {
        let answer = self
            .clients
            .s3_in(&target.region)
            .upload_part()
            .bucket(&target.bucket)
            .key(&target.key)
            .upload_id(upload_id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .body(body.into())
            .send()
            .await
            .map_err(|error| store_error("UploadPart", target, &error))?;
        let Some(etag) = answer.e_tag else {
            let detail = format!("UploadPart {number} of {} gave no ETag", target.key);
            return Err(StoreError::retryable("InvalidResponse", detail));
        };
        Ok(UploadPart { number, etag, crc32c: answer.checksum_crc32_c.unwrap_or_default() })
    }
}

/// The error of a call, with its code and whether to try again.
fn store_error<E>(call: &str, target: &ObjectTarget, error: &SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let code = match error {
        SdkError::TimeoutError(_) => "timeout".to_owned(),
        SdkError::DispatchFailure(_) => "connect".to_owned(),
        other => aws::error_code(other).unwrap_or("unknown").to_owned(),
    };
    let refused = [
        "AccessDenied",
        "AllAccessDisabled",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "NoSuchBucket",
        "PermanentRedirect",
        "SignatureDoesNotMatch",
        "KMS.AccessDeniedException",
        "NoSuchUpload",
    ];
    let retryable = !refused.contains(&code.as_str());
    let message = aws::detail(error);
    let next_move = match aws::kind(error) {
        aws::Kind::Forbidden => rights::on_s3(call, &place(target), &message),
        aws::Kind::Region => aws::region_of(error).map(aws::in_region).unwrap_or_default(),
        _ => String::new(),
    };
    let detail = format!("{call} of s3://{}/{}: {message}", target.bucket, target.key);
    StoreError { code, detail, retryable, next_move }
}

/// Bucket and prefix that all objects of the application lie under: without the file's name and
/// the directories of partitions.
fn place(target: &ObjectTarget) -> String {
    let (directories, _) = target.key.rsplit_once('/').unwrap_or_default();
    let prefix = directories.split('/').take_while(|name| !name.is_empty() && !name.contains('='));
    std::iter::once(target.bucket.as_str()).chain(prefix).map(|name| format!("{name}/")).collect()
}

/// A store in memory, for tests of what stands above it.
#[derive(Debug, Default)]
pub struct MemoryStore {
    uploads: Mutex<HashMap<String, MemoryUpload>>,
    fail_next: Mutex<Vec<StoreError>>,
}

/// An upload as [`MemoryStore`] keeps it.
#[derive(Debug, Clone)]
pub struct MemoryUpload {
    /// What it is to become.
    pub target: ObjectTarget,
    /// Parts by number.
    pub parts: HashMap<u32, Bytes>,
}

impl MemoryStore {
    /// The next calls fail with these errors, the last one first.
    pub fn fail_next(&self, errors: Vec<StoreError>) {
        *self.fail_next.lock().unwrap_or_else(PoisonError::into_inner) = errors;
    }

    /// The bytes of an upload, its parts put together.
    #[must_use]
    pub fn bytes(&self, upload_id: &str) -> Option<Vec<u8>> {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = uploads.get(upload_id)?;
        let mut numbers: Vec<_> = upload.parts.keys().copied().collect();
        numbers.sort_unstable();
        Some(numbers.iter().flat_map(|number| upload.parts[number].to_vec()).collect())
    }

    /// All uploads by id.
    #[must_use]
    pub fn uploads(&self) -> HashMap<String, MemoryUpload> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failure(&self) -> Result<(), StoreError> {
        let next = self.fail_next.lock().unwrap_or_else(PoisonError::into_inner).pop();
        next.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl UploadStore for MemoryStore {
    async fn create(&self, target: &ObjectTarget) -> Result<Created, StoreError> {
        self.failure()?;
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("upload-{}", uploads.len());
        let upload = MemoryUpload { target: target.clone(), parts: HashMap::new() };
        uploads.insert(id.clone(), upload);
        Ok(Created { upload_id: id, created_ms: 0 })
    }

    async fn upload_part(
        &self,
        target: &ObjectTarget,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<UploadPart, StoreError> {
        self.failure()?;
        let crc32c = base64_simd::STANDARD.encode_to_string(crc32c::crc32c(&body).to_be_bytes());
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(upload) = uploads.get_mut(upload_id) else {
            let detail = format!("UploadPart of {}", target.key);
            let next_move = String::new();
            let code = "NoSuchUpload".to_owned();
            return Err(StoreError { code, detail, retryable: false, next_move });
        };
        upload.parts.insert(number, body);
        Ok(UploadPart { number, etag: format!("\"{upload_id}-{number}\""), crc32c })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_object_is_what_all_of_them_share() {
        let target = |key: &str| ObjectTarget {
            bucket: "results".to_owned(),
            region: String::new(),
            key: key.to_owned(),
            token: String::new(),
            content_type: "",
        };
        let of = |key: &str| place(&target(key));
        assert_eq!(of("out/day=1/word=a/app-e1-b1-t0-x.json"), "results/out/");
        assert_eq!(of("out/deep/app-e1-b1-t0-x.json"), "results/out/deep/");
        assert_eq!(of("app-e1-b1-t0-x.json"), "results/");
    }
}
