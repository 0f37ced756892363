//! A head as DynamoDB keeps it: what conditions speak of in the open, the rest packed, and large
//! bodies in chunks of their own.
//!
//! Promises: an item that is not a head is refused with what is wrong about it; a head is unpacked
//! only from all of its bytes. Never does: talk to anyone.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_proto::v1;
use prost::Message;

use super::before::RepairRequest;
use super::codec::{self, Body, CodecError, HEAD_VERSION, INLINE_LIMIT};
use super::state::{Head, ResetRequest};
use crate::error::{Code, Error};
use crate::id::ApplicationName;
use crate::table;

/// An item as DynamoDB answers it.
pub type Item = HashMap<String, AttributeValue>;

/// Names of the attributes that only the driver writes; the others stand in [`table`].
pub mod attribute {
    /// A string: the process that owns the head.
    pub const OWNER: &str = "owner";
    /// A number: version of the packing.
    pub const VERSION: &str = "version";
    /// A string: hash of the specification that computed the batch.
    pub const SPEC_HASH: &str = "spec_hash";
    /// Binary: the packed body, where it fits.
    pub const BODY: &str = "body";
    /// A number: how many chunks hold the body.
    pub const CHUNK_COUNT: &str = "chunk_count";
    /// Binary: SHA-256 of all chunks, one after the other.
    pub const CHUNK_HASH: &str = "chunk_hash";
    /// Binary: the packed starts of the sources.
    pub const STARTS: &str = "starts";
    /// Binary: the bytes of a chunk item.
    pub const DATA: &str = "data";
}

/// A head as it is stored: what conditions speak of in the open, the rest packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadItem {
    /// The attempt that owns the head.
    pub epoch: u64,
    /// The process of that attempt.
    pub owner: String,
    /// The cluster whose master may start drivers for it.
    pub cluster: String,
    /// The last committed batch; 0 before the first.
    pub batch: u64,
    /// Id of the commit that wrote the batch; empty before the first.
    pub commit_id: String,
    /// Version of the packing; 0 before the first commit.
    pub version: u32,
    /// Hash of the specification that computed the batch; empty before the first.
    pub spec_hash: String,
    /// Positions, pending uploads and state.
    pub body: StoredBody,
    /// Packed starts of the sources; empty when none was fixed.
    pub starts: Vec<u8>,
    /// The master's wish to begin elsewhere: an encoded `StartPosition`.
    pub reset: Option<Vec<u8>>,
    /// An operator's word about the last batch: an encoded `RepairRequest`.
    pub repair: Option<Vec<u8>>,
    /// Id of the last commit that was marked as published; empty when none was.
    pub published: String,
}

impl HeadItem {
    /// True when the batch that the item holds is marked as published.
    #[must_use]
    pub fn is_published(&self) -> bool {
        !self.commit_id.is_empty() && self.published == self.commit_id
    }
}

/// Where the packed body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredBody {
    /// Nothing was committed yet.
    None,
    /// In the head's own item.
    Inline(Vec<u8>),
    /// In chunks of their own.
    Chunked {
        /// How many.
        count: u32,
        /// SHA-256 of all of them, one after the other.
        hash: [u8; 32],
    },
}

/// A chunk's place: which commit wrote it, and its index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkName {
    /// Batch of the commit that wrote it.
    pub batch: u64,
    /// Id of that commit.
    pub commit_id: String,
    /// From 0.
    pub index: u32,
}

impl ChunkName {
    /// The range key of the chunk's item.
    #[must_use]
    pub fn sk(&self) -> String {
        table::chunk_sk(self.batch, &self.commit_id, self.index)
    }

    /// The chunk of a range key; none when the key is not a chunk's.
    #[must_use]
    pub fn of_sk(sk: &str) -> Option<Self> {
        let mut fields = sk.strip_prefix(table::CHUNK_SK_PREFIX)?.splitn(3, '#');
        let batch = fields.next()?.parse().ok()?;
        let commit_id = fields.next()?.to_owned();
        let index = fields.next()?.parse().ok()?;
        Some(Self { batch, commit_id, index })
    }
}

/// Reads an item as a head; the error says what is wrong about it.
///
/// # Errors
/// What is missing or of another type.
pub fn parse_head(item: &Item) -> Result<HeadItem, String> {
    let text_or_empty = |name: &str| match item.get(name) {
        None => Ok(String::new()),
        Some(AttributeValue::S(value)) => Ok(value.clone()),
        Some(other) => Err(format!("{name} is {other:?}, not a string")),
    };
    let number_or = |name: &str, absent: Option<u64>| match (item.get(name), absent) {
        (None, Some(absent)) => Ok(absent),
        (None, None) => Err(format!("{name} is missing")),
        (Some(AttributeValue::N(digits)), _) => {
            digits.parse::<u64>().map_err(|_| format!("{name} is {digits}"))
        }
        (Some(other), _) => Err(format!("{name} is {other:?}, not a number")),
    };
    let bytes = |name: &str| match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::B(blob)) => Ok(Some(blob.as_ref().to_vec())),
        Some(other) => Err(format!("{name} is {other:?}, not binary")),
    };
    let narrow = |name: &str, n: u64| u32::try_from(n).map_err(|_| format!("{name} is {n}"));
    let body = match (bytes(attribute::BODY)?, bytes(attribute::CHUNK_HASH)?) {
        (None, None) => StoredBody::None,
        (Some(body), None) => StoredBody::Inline(body),
        (None, Some(hash)) => StoredBody::Chunked {
            count: narrow(attribute::CHUNK_COUNT, number_or(attribute::CHUNK_COUNT, None)?)?,
            hash: hash
                .try_into()
                .map_err(|_| format!("{} is not 32 bytes", attribute::CHUNK_HASH))?,
        },
        (Some(_), Some(_)) => {
            return Err(format!("it has both {} and {}", attribute::BODY, attribute::CHUNK_HASH));
        }
    };
    Ok(HeadItem {
        epoch: number_or(table::HEAD_EPOCH, None)?,
        owner: text_or_empty(attribute::OWNER)?,
        cluster: text_or_empty(table::HEAD_CLUSTER)?,
        batch: number_or(table::HEAD_BATCH, None)?,
        commit_id: text_or_empty(table::HEAD_COMMIT_ID)?,
        version: narrow(attribute::VERSION, number_or(attribute::VERSION, Some(0))?)?,
        spec_hash: text_or_empty(attribute::SPEC_HASH)?,
        body,
        starts: bytes(attribute::STARTS)?.unwrap_or_default(),
        reset: bytes(table::HEAD_RESET)?,
        repair: bytes(table::HEAD_REPAIR)?,
        published: text_or_empty(table::HEAD_PUBLISHED)?,
    })
}

/// The bytes of a chunk's item; none when the item is not a chunk.
#[must_use]
pub fn parse_chunk_data(item: &Item) -> Option<&[u8]> {
    item.get(attribute::DATA)?.as_b().ok().map(AsRef::as_ref)
}

/// Unpacks an item. `chunks` are the bytes of all its chunks, one after the other, where its body
/// is in chunks; they are not looked at where it is not.
///
/// # Errors
/// [`CodecError`] when a newer Millrace wrote it, or its bytes are not those of a head.
pub fn unpack(item: &HeadItem, chunks: &[u8]) -> Result<Head, CodecError> {
    if item.version > HEAD_VERSION {
        return Err(CodecError::Newer { found: item.version });
    }
    let body = match &item.body {
        StoredBody::None => Body::default(),
        StoredBody::Inline(packed) => codec::decode_body(packed)?,
        StoredBody::Chunked { hash, .. } if codec::hash_of(chunks) != *hash => {
            return Err(CodecError::Damaged("its chunks do not fit their hash".to_owned()));
        }
        StoredBody::Chunked { .. } => codec::decode_body(chunks)?,
    };
    let starts = match item.starts.as_slice() {
        [] => BTreeMap::new(),
        packed => codec::decode_starts(packed)?,
    };
    Ok(Head {
        epoch: item.epoch,
        owner: item.owner.clone(),
        cluster: item.cluster.clone(),
        batch: item.batch,
        commit_id: item.commit_id.clone(),
        positions: body.positions,
        pending: body.pending,
        is_published: item.is_published(),
        before: body.before,
        gaps: body.gaps,
        totals: body.totals,
        state_ptr: body.state_ptr,
        spec_hash: item.spec_hash.clone(),
        starts,
        reset: item.reset.as_deref().map(decode_reset).transpose()?,
        repair: item.repair.as_deref().map(decode_repair).transpose()?,
    })
}

fn decode_reset(bytes: &[u8]) -> Result<ResetRequest, CodecError> {
    use v1::start_position::At;
    let position = v1::StartPosition::decode(bytes)
        .map_err(|error| CodecError::Damaged(format!("its reset does not parse: {error}")))?;
    match position.at {
        Some(At::Earliest(_)) => Ok(ResetRequest::Earliest),
        Some(At::Latest(_)) => Ok(ResetRequest::Latest),
        Some(At::TimestampMs(at_ms)) => Ok(ResetRequest::Timestamp(at_ms)),
        Some(At::KclTable(_)) | None => {
            Err(CodecError::Damaged("its reset names no position".into()))
        }
    }
}

fn decode_repair(bytes: &[u8]) -> Result<RepairRequest, CodecError> {
    let message = v1::RepairRequest::decode(bytes)
        .map_err(|error| CodecError::Damaged(format!("its repair does not parse: {error}")))?;
    RepairRequest::from_proto(&message)
        .ok_or_else(|| CodecError::Damaged("its repair names no choice".into()))
}

/// MR4006 for a head that can not be unpacked.
#[must_use]
pub fn unreadable(application: &ApplicationName, error: &CodecError) -> Error {
    let next = match error {
        CodecError::Newer { .. } => "run the version of Millrace that wrote it, or a newer one",
        CodecError::Damaged(_) => {
            "restore the item from a backup, or delete it and submit again with a start position"
        }
    };
    let message = format!("the head of {application} can not be read: {error}");
    Error::new(Code::HeadUnreadable, message, next)
}

/// From which size on a body is stored in chunks, and how large those are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The largest body that stays in the head's own item.
    pub inline: usize,
    /// The size of each chunk but the last.
    pub chunk: usize,
}

impl Sizes {
    /// Those that a table of DynamoDB takes.
    pub const TABLE: Self = Self { inline: INLINE_LIMIT, chunk: codec::CHUNK_BYTES };

    /// How a packed body is to be stored.
    #[must_use]
    pub fn place(self, packed: &[u8]) -> StoredBody {
        if packed.len() <= self.inline {
            return StoredBody::Inline(packed.to_vec());
        }
        let count = packed.len().div_ceil(self.chunk);
        StoredBody::Chunked {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            hash: codec::hash_of(packed),
        }
    }
}

/// Bytes that the item occupies in DynamoDB: names and values, as its capacity is charged.
#[must_use]
pub fn item_bytes(pk: &str, item: &HeadItem) -> usize {
    // A number takes a byte for two digits and one more; a map three, and one per entry.
    let number = |n: u64| n.to_string().len().div_ceil(2) + 1;
    let body = match &item.body {
        StoredBody::None => 0,
        StoredBody::Inline(bytes) => "body".len() + bytes.len(),
        StoredBody::Chunked { count, hash } => {
            "chunk_count".len() + number(u64::from(*count)) + "chunk_hash".len() + hash.len()
        }
    };
    let texts = [
        ("pk", pk),
        ("sk", "head"),
        ("owner", &item.owner),
        ("cluster", &item.cluster),
        ("commit_id", &item.commit_id),
        ("spec_hash", &item.spec_hash),
    ];
    let numbers =
        [("epoch", item.epoch), ("batch", item.batch), ("version", u64::from(item.version))];
    texts.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>()
        + numbers.iter().map(|(name, n)| name.len() + number(*n)).sum::<usize>()
        + body
        + if item.starts.is_empty() { 0 } else { "starts".len() + item.starts.len() }
        + item.reset.as_ref().map_or(0, |reset| "reset".len() + reset.len())
        + item.repair.as_ref().map_or(0, |repair| "repair".len() + repair.len())
        + if item.published.is_empty() { 0 } else { "published".len() + item.published.len() }
}

/// Write units of a write that leaves this item behind: one per KiB, rounded up.
#[must_use]
pub fn write_units(pk: &str, item: &HeadItem) -> usize {
    item_bytes(pk, item).div_ceil(1024)
}
