//! The head as the driver sees it: typed, unpacked, ordered.
//!
//! Promises: equal heads have equal bytes (every collection is ordered).
//! Never does: know how it is packed (`codec`) or where it is kept (`store`).

use std::collections::{BTreeMap, BTreeSet};

use super::before::{Before, RepairRequest};
use crate::position::{Position, ShardKey};

/// Progress of every shard that has an entry, by (source, stream ARN, creation time, shard).
pub type Positions = BTreeMap<ShardKey, Position>;

/// Everything that is true about an application between two commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The attempt that owns the head; it never falls.
    pub epoch: u64,
    /// The process of that attempt: a UUID made at its start.
    pub owner: String,
    /// The cluster whose master may start drivers for it.
    pub cluster: String,
    /// Number of the last committed batch; 0 before the first.
    pub batch: u64,
    /// Id of the commit that wrote `batch`; empty before the first.
    pub commit_id: String,
    /// Where the next batch starts.
    pub positions: Positions,
    /// Uploads of the last batch. They are complete, or must be completed before the next commit.
    pub pending: Vec<PendingUpload>,
    /// True when a driver has said that all of `pending` are complete: whoever reads the files may
    /// have removed them since. False says nothing: the mark is written late, or never.
    pub is_published: bool,
    /// Where the last batch began, so that it can be read again should its uploads be lost. None
    /// when it has no uploads, or an older Millrace wrote it.
    pub before: Option<Before>,
    /// Losses that the application went on after, by its policy, since its positions began. A shard
    /// stays here when it leaves the positions.
    pub gaps: BTreeMap<ShardKey, Gaps>,
    /// What the batches amount to since the positions began. A head that an older Millrace wrote
    /// begins to count at its next commit.
    pub totals: Totals,
    /// Key of the state that belongs to `positions`, where the query has one.
    pub state_ptr: Option<String>,
    /// Hash of the specification that computed the last batch; empty before the first.
    pub spec_hash: String,
    /// Where each source began, fixed before its first read, by source name.
    pub starts: BTreeMap<String, SourceStart>,
    /// An operator asks that the next start gives up the positions.
    pub reset: Option<ResetRequest>,
    /// An operator's word about the last batch, should its uploads be lost.
    pub repair: Option<RepairRequest>,
}

/// The losses of a shard that the application went on after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Ranges that were lost.
    pub count: u64,
    /// What was said of the last one: which records.
    pub last: String,
}

/// What committed batches amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records read.
    pub records: u64,
    /// Rows written, dead letters included.
    pub rows: u64,
    /// Objects written, those of dead letters included.
    pub files: u64,
}

impl Totals {
    /// With a batch that read so many records and wrote these uploads.
    #[must_use]
    pub fn and(self, records: u64, uploads: &[PendingUpload]) -> Self {
        Self {
            records: self.records + records,
            rows: self.rows + uploads.iter().map(|upload| upload.rows).sum::<u64>(),
            files: self.files + uploads.len() as u64,
        }
    }
}

/// Where a source began. Until a shard has an entry in the positions, this decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStart {
    /// ARN of the stream.
    pub stream_arn: String,
    /// When the stream was created, Unix time in milliseconds.
    pub stream_created_ms: i64,
    /// The moment T: the Date of a Kinesis answer at the first start, Unix time in milliseconds.
    pub fixed_ms: i64,
    /// What the application asked for at T.
    pub from: StartFrom,
}

/// The start position of a source as it was at its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// Everything the stream held.
    Earliest,
    /// From T on, in the shards that were open at T and in their descendants.
    Latest {
        /// Ids of the shards open at T. Their ancestors are never read.
        open_shards: BTreeSet<String>,
    },
    /// From a moment on, in the shards that were open at that moment and in their descendants.
    Timestamp {
        /// The moment, Unix time in milliseconds.
        at_ms: i64,
        /// Ids of the shards open at the moment. Their ancestors are never read.
        open_shards: BTreeSet<String>,
    },
    /// Where a consumer of another kind had left off.
    TakenOver {
        /// By shard; they count until the source's first commit. Shards that are not here are
        /// descendants of these.
        positions: BTreeMap<String, Position>,
    },
}

/// A wish to begin again elsewhere, left in the head by the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRequest {
    /// From the oldest record that the stream still holds.
    Earliest,
    /// From the moment of the next start.
    Latest,
    /// From this Unix time in milliseconds on.
    Timestamp(i64),
}

/// One multipart upload of a committed batch: all that is needed to complete it, by anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUpload {
    /// Bucket of the object.
    pub bucket: String,
    /// Region of the bucket; empty when the endpoint needs none.
    pub region: String,
    /// Key of the object; unique to the run that wrote it.
    pub key: String,
    /// S3's name for the upload.
    pub upload_id: String,
    /// Every part, by rising number.
    pub parts: Vec<PendingPart>,
    /// Rows in the object.
    pub rows: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// What the object's metadata says under `millrace-token`; tells this object from any other
    /// of its key. Empty when the upload was created without one.
    pub token: String,
    /// The Date of S3's answer to CreateMultipartUpload, Unix time in milliseconds; 0 when not
    /// known.
    pub created_ms: i64,
}

/// One stored part of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPart {
    /// Part number, counted from 1.
    pub number: u32,
    /// ETag as S3 answered it, quotes included.
    pub etag: String,
    /// CRC-32C of the part in base64; empty when the upload was created without part checksums.
    pub crc32c: String,
}
