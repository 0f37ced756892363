//! What a task leaves behind: uploads that exist but that nobody can read yet.
//!
//! Promises: an [`Upload`] holds all that the driver needs to complete it, now or after a restart.
//! Never does: complete or abort anything.

use serde::{Deserialize, Serialize};

/// A multipart upload whose parts are stored and which waits to be completed by the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Bucket the object will be in.
    pub bucket: String,
    /// Region of the bucket; empty when the endpoint needs none.
    pub region: String,
    /// Key of the object, unique to the run that wrote it.
    pub key: String,
    /// S3's name for the upload.
    pub upload_id: String,
    /// What the object carries as metadata `millrace-token`, so that a completed object can be told
    /// from another of its key.
    pub token: String,
    /// The Date of S3's answer that created the upload, Unix time in milliseconds; 0 if it had none.
    pub created_ms: i64,
    /// Every part, by rising number.
    pub parts: Vec<UploadPart>,
    /// Rows in the object.
    pub rows: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// True for an object of bad records, false for one of results.
    pub dead_letters: bool,
}

/// One stored part, as CompleteMultipartUpload wants it named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPart {
    /// Part number, counted from 1.
    pub number: u32,
    /// ETag as S3 answered it, quotes included.
    pub etag: String,
    /// CRC-32C of the part in base64; empty where the store answered none.
    pub crc32c: String,
}
