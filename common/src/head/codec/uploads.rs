//! Packing the uploads of a batch.

use prost::Message;

use super::{CodecError, damaged};
use crate::head::state::{PendingPart, PendingUpload};
use crate::head::text;

/// An upload with its parts in columns.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PackedUpload {
    #[prost(string, tag = "1")]
    bucket: String,
    #[prost(string, tag = "2")]
    region: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(string, tag = "4")]
    upload_id: String,
    #[prost(uint32, repeated, tag = "5")]
    numbers: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    etags: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    crc32cs: Vec<Vec<u8>>,
    #[prost(uint64, tag = "8")]
    rows: u64,
    #[prost(uint64, tag = "9")]
    num_bytes: u64,
    #[prost(bytes = "vec", tag = "10")]
    token: Vec<u8>,
    #[prost(sint64, tag = "11")]
    created_ms: i64,
}

pub(super) fn pack(upload: &PendingUpload) -> PackedUpload {
    PackedUpload {
        bucket: upload.bucket.clone(),
        region: upload.region.clone(),
        key: upload.key.clone(),
        upload_id: upload.upload_id.clone(),
        numbers: upload.parts.iter().map(|part| part.number).collect(),
        etags: upload.parts.iter().map(|part| text::pack(&part.etag)).collect(),
        crc32cs: upload.parts.iter().map(|part| text::pack(&part.crc32c)).collect(),
        rows: upload.rows,
        num_bytes: upload.bytes,
        token: text::pack(&upload.token),
        created_ms: upload.created_ms,
    }
}

pub(super) fn unpack(packed: PackedUpload) -> Result<PendingUpload, CodecError> {
    let count = packed.numbers.len();
    if packed.etags.len() != count || packed.crc32cs.len() != count {
        return Err(damaged("the parts of an upload are incomplete"));
    }
    let text = |bytes: &[u8]| text::unpack(bytes).ok_or_else(|| damaged("a text does not unpack"));
    let parts = packed.numbers.iter().zip(&packed.etags).zip(&packed.crc32cs);
    Ok(PendingUpload {
        parts: parts
            .map(|((number, etag), crc32c)| {
                Ok(PendingPart { number: *number, etag: text(etag)?, crc32c: text(crc32c)? })
            })
            .collect::<Result<_, CodecError>>()?,
        token: text(&packed.token)?,
        bucket: packed.bucket,
        region: packed.region,
        key: packed.key,
        upload_id: packed.upload_id,
        rows: packed.rows,
        bytes: packed.num_bytes,
        created_ms: packed.created_ms,
    })
}
