//! The bad records of a run, written beside its results.
//!
//! Promises: each bad record once, however many scans met it; the object becomes visible with the
//! batch's other objects or never. Never does: complete it.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_common::position::SequenceNumber;
use millrace_proto::v1::{DeadLetterTarget, TaskUpload, TaskUploadPart};
use millrace_sql::scan::RejectedRecord;

use crate::executor::sink::{ObjectTarget, PART_BYTES, StoreError, UploadStore, UploadWriter};

/// Name of a record: source, shard, packed sequence number, sub-sequence number.
type RecordKey<'a> = (&'a str, &'a str, &'a [u8], u64);

/// Uploads the records; none when there are none.
///
/// # Errors
/// What the store said, after retries.
pub(super) async fn write(
    store: &dyn UploadStore,
    target: DeadLetterTarget,
    run: &str,
    rejected: Vec<RejectedRecord>,
) -> Result<Option<TaskUpload>, StoreError> {
    let mut once: BTreeMap<RecordKey<'_>, &RejectedRecord> = BTreeMap::new();
    for record in &rejected {
        let block = &record.block;
        let sub = block.sub_sequence_numbers.as_ref().map_or(0, |numbers| numbers.value(record.at));
        let key = (&*record.source, &*block.shard, block.sequence_numbers.value(record.at), sub);
        once.entry(key).or_insert(record);
    }
    if once.is_empty() {
        return Ok(None);
    }
    let slash = if target.prefix.is_empty() { "" } else { "/" };
    let DeadLetterTarget { bucket, prefix, region, application, epoch, batch, executor } = target;
    let key = format!("{prefix}{slash}{application}-e{epoch}-b{batch}-x{executor}-{run}.json");
    let object = ObjectTarget {
        bucket,
        region,
        key,
        token: format!("{application}/{epoch}/{batch}/{run}"),
        content_type: "application/x-ndjson",
    };
    let mut upload = UploadWriter::new(store, object);
    let mut lines = Vec::new();
    let rows = once.len() as u64;
    for ((_, shard, packed, sub), record) in once {
        let line = line(shard, packed, sub, record);
        lines.extend_from_slice(line.to_string().as_bytes());
        lines.push(b'\n');
        if lines.len() >= PART_BYTES {
            upload.push(Bytes::from(std::mem::take(&mut lines))).await?;
        }
    }
    let upload = upload.finish(Bytes::from(lines), rows).await?;
    Ok(Some(TaskUpload {
        bucket: upload.bucket,
        region: upload.region,
        key: upload.key,
        upload_id: upload.upload_id,
        parts: upload
            .parts
            .into_iter()
            .map(|part| TaskUploadPart {
                number: part.number,
                etag: part.etag,
                crc32c: part.crc32c,
            })
            .collect(),
        token: upload.token,
        created_ms: upload.created_ms,
        rows: upload.rows,
        bytes: upload.bytes,
    }))
}

fn line(shard: &str, packed: &[u8], sub: u64, record: &RejectedRecord) -> serde_json::Value {
    let mut number = [0; millrace_common::position::SEQUENCE_NUMBER_BYTES];
    number.copy_from_slice(packed);
    serde_json::json!({
        "source": &*record.source,
        "shard_id": shard,
        "sequence_number": SequenceNumber::from_bytes(number).to_string(),
        "sub_sequence_number": sub,
        "arrival_ms": record.block.arrival_ms.value(record.at),
        "reason": record.reason,
        "data": base64_simd::STANDARD.encode_to_string(record.block.data.value(record.at)),
    })
}
