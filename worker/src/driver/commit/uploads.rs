//! The calls to S3 that publishing needs, behind a trait.
//!
//! Promises: a Complete carries no condition and names every part as it was recorded; every answer
//! is sorted into what it says about the upload. Owned by the committer.
//! Never does: retry, abort, delete, or list anything but the parts of an upload.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use millrace_common::aws::{self, Clients, Kind, ServerDate};
use millrace_common::error::Error;

use super::core::CompleteAnswer;
use crate::driver::head::{PendingPart, PendingUpload};

/// Key of an object's metadata under which its upload's token stands.
pub const TOKEN_METADATA: &str = "millrace-token";

/// An answer to Complete.
#[derive(Debug)]
pub struct Completed {
    /// What it says about the upload.
    pub answer: CompleteAnswer,
    /// The Date of the answer, Unix time in milliseconds; none without an answer.
    pub server_ms: Option<i64>,
    /// The error, for people; none when it is done.
    pub error: Option<Error>,
}

/// An answer to a look at a key.
#[derive(Debug)]
pub enum Seen {
    /// An object, with its token if it has one.
    Object {
        /// Value of [`TOKEN_METADATA`].
        token: Option<String>,
    },
    /// There is none.
    Missing,
    /// 403: we may not look, or (without the right to list) there is none.
    Forbidden,
    /// No answer this time.
    Unknown(Error),
}

/// An answer to the question which parts there are.
#[derive(Debug)]
pub enum StoredParts {
    /// All of them, by rising number.
    Parts(Vec<PendingPart>),
    /// The upload is not there any more.
    Gone,
    /// We may not ask.
    Forbidden,
    /// No answer this time.
    Unknown(Error),
}

/// S3 as far as publishing needs it.
#[async_trait]
pub trait UploadStore: Send + Sync + 'static {
    /// One CompleteMultipartUpload.
    async fn complete(&self, upload: &PendingUpload) -> Completed;

    /// The parts that S3 holds of the upload, by ListParts.
    async fn parts(&self, upload: &PendingUpload) -> StoredParts;

    /// One HeadObject on the upload's key.
    async fn look(&self, bucket: &str, region: &str, key: &str) -> Seen;
}

/// S3 itself.
pub struct S3Uploads {
    client_in: Box<dyn Fn(&str) -> Client + Send + Sync>,
    /// One client per region that a pending upload named; an application has one or two.
    by_region: Mutex<HashMap<String, Client>>,
}

impl S3Uploads {
    /// Through these clients; connects to nothing yet.
    #[must_use]
    pub fn new(clients: Clients) -> Self {
        Self::with(move |region| clients.s3_in(region))
    }

    /// Through the client that `client_in` gives for a region's name.
    #[must_use]
    pub fn with(client_in: impl Fn(&str) -> Client + Send + Sync + 'static) -> Self {
        Self { client_in: Box::new(client_in), by_region: Mutex::new(HashMap::new()) }
    }

    fn client(&self, region: &str) -> Client {
        let mut by_region = self.by_region.lock().unwrap_or_else(PoisonError::into_inner);
        by_region.entry(region.to_owned()).or_insert_with(|| (self.client_in)(region)).clone()
    }
}

#[async_trait]
impl UploadStore for S3Uploads {
    async fn complete(&self, upload: &PendingUpload) -> Completed {
        let parts = upload.parts.iter().map(|part| {
            let checksum = (!part.crc32c.is_empty()).then(|| part.crc32c.clone());
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(&part.etag)
                .set_checksum_crc32_c(checksum)
                .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let date = ServerDate::new();
        let sent = self
            .client(&upload.region)
            .complete_multipart_upload()
            .bucket(&upload.bucket)
            .key(&upload.key)
            .upload_id(&upload.upload_id)
            .multipart_upload(parts)
            .customize()
            .interceptor(date.clone())
            .send()
            .await;
        let server_ms = date.get_ms();
        let Err(error) = sent else {
            return Completed { answer: CompleteAnswer::Done, server_ms, error: None };
        };
        let answer = sort_answer(aws::error_code(&error).unwrap_or_default(), aws::kind(&error));
        let resource = format!("s3://{}/{}", upload.bucket, upload.key);
        let error = aws::explain("s3", "CompleteMultipartUpload", &resource, &error);
        Completed { answer, server_ms, error: Some(error) }
    }

    async fn parts(&self, upload: &PendingUpload) -> StoredParts {
        let mut pages = self
            .client(&upload.region)
            .list_parts()
            .bucket(&upload.bucket)
            .key(&upload.key)
            .upload_id(&upload.upload_id)
            .into_paginator()
            .items()
            .send();
        let mut parts = Vec::new();
        while let Some(answer) = pages.next().await {
            let part = match answer {
                Ok(part) => part,
                Err(error) if aws::error_code(&error) == Some("NoSuchUpload") => {
                    return StoredParts::Gone;
                }
                Err(error) if aws::kind(&error) == Kind::Forbidden => {
                    return StoredParts::Forbidden;
                }
                Err(error) => {
                    let resource = format!("s3://{}/{}", upload.bucket, upload.key);
                    return StoredParts::Unknown(aws::explain(
                        "s3",
                        "ListParts",
                        &resource,
                        &error,
                    ));
                }
            };
            parts.push(PendingPart {
                number: part.part_number.and_then(|number| number.try_into().ok()).unwrap_or(0),
                etag: part.e_tag.unwrap_or_default(),
                crc32c: part.checksum_crc32_c.unwrap_or_default(),
            });
        }
        StoredParts::Parts(parts)
    }

    async fn look(&self, bucket: &str, region: &str, key: &str) -> Seen {
        let sent = self.client(region).head_object().bucket(bucket).key(key).send().await;
        let error = match sent {
            Ok(object) => {
                let token = object.metadata().and_then(|all| all.get(TOKEN_METADATA)).cloned();
                return Seen::Object { token };
            }
            Err(error) => error,
        };
        match aws::kind(&error) {
            Kind::Missing => Seen::Missing,
            Kind::Forbidden => Seen::Forbidden,
            _ => {
                let resource = format!("s3://{bucket}/{key}");
                Seen::Unknown(aws::explain("s3", "HeadObject", &resource, &error))
            }
        }
    }
}

/// Sorts a failed Complete by the error's name, then by its kind.
fn sort_answer(code: &str, kind: Kind) -> CompleteAnswer {
    match code {
        "NoSuchUpload" => return CompleteAnswer::NoSuchUpload,
        "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "EntityTooLarge" | "BadDigest"
        | "MalformedXML" => return CompleteAnswer::Refused,
        "OperationAborted" => return CompleteAnswer::NotNow,
        "RequestTimeout" => return CompleteAnswer::Open,
        _ => {}
    }
    match kind {
        // SlowDown is a 503, and a 5xx leaves open whether the call was applied.
        Kind::Throttled | Kind::Timeout | Kind::Unreachable | Kind::ServerFault => {
            CompleteAnswer::Open
        }
        // Complete carries no condition, so that a conflict is S3's own, with another call.
        Kind::Conditional | Kind::ClockSkew => CompleteAnswer::NotNow,
        Kind::Missing
        | Kind::Forbidden
        | Kind::Credentials
        | Kind::Region
        | Kind::ExpiredIterator
        | Kind::Other => CompleteAnswer::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_before_kinds() {
        assert_eq!(sort_answer("NoSuchUpload", Kind::Missing), CompleteAnswer::NoSuchUpload);
        assert_eq!(sort_answer("NoSuchBucket", Kind::Missing), CompleteAnswer::Denied);
        assert_eq!(sort_answer("InvalidPart", Kind::Other), CompleteAnswer::Refused);
        assert_eq!(sort_answer("InternalError", Kind::ServerFault), CompleteAnswer::Open);
        assert_eq!(sort_answer("SlowDown", Kind::Throttled), CompleteAnswer::Open);
        assert_eq!(sort_answer("", Kind::Timeout), CompleteAnswer::Open);
        assert_eq!(sort_answer("AccessDenied", Kind::Forbidden), CompleteAnswer::Denied);
        assert_eq!(sort_answer("RequestTimeTooSkewed", Kind::ClockSkew), CompleteAnswer::NotNow);
        assert_eq!(
            sort_answer("ConditionalRequestConflict", Kind::Conditional),
            CompleteAnswer::NotNow
        );
    }
}
