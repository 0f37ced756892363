//! PutRecord and PutRecords.
//!
//! A call that breaks a rule of the API is refused whole; a call that meets a full shard loses only
//! the records of that shard, and says which.

use md5::{Digest, Md5};

use super::answers::write_json_text;
use super::error::{ErrorKind, KinesisError, KinesisResult};
use super::requests::{self, PutEntry, StreamRef, parse};
use super::stream::{NewRecord, PutOutcome, Status, Stream};
use super::topology::{HashKey, shard_id};
use super::{Kinesis, SharedStream};

/// Records in one PutRecords call.
const MAX_RECORDS: usize = 500;
/// Keys and data in one PutRecords call.
const MAX_CALL_BYTES: usize = 10 << 20;
/// Characters of a partition key.
const MAX_KEY_CHARS: usize = 256;

/// The data of a call, decoded one after the other into one buffer.
struct Decoded {
    data: Vec<u8>,
    ends: Vec<usize>,
    hash_keys: Vec<HashKey>,
}

impl Kinesis {
    pub(super) fn put_record(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::PutRecord<'_> = parse(body)?;
        let shared =
            self.find(&StreamRef { name: request.stream_name, arn: request.stream_arn })?;
        if let Some(number) = &request.sequence_number_for_ordering {
            super::read::parse_sequence(number)?;
        }
        let entry = PutEntry {
            data: request.data,
            partition_key: request.partition_key,
            explicit_hash_key: request.explicit_hash_key,
        };
        let outcome = self.put(&shared, &[entry])?[0];
        match outcome {
            PutOutcome::Stored { shard, sequence } => {
                let id = shard_id(shard);
                Ok(format!("{{\"SequenceNumber\":\"{sequence}\",\"ShardId\":\"{id}\"}}").into())
            }
            PutOutcome::Throttled { shard } => {
                Err(self.rate_exceeded(&self.lock(&shared).meta.name, shard))
            }
            PutOutcome::Failed => {
                Err(KinesisError::new(ErrorKind::InternalFailure, "Internal service failure."))
            }
        }
    }

    pub(super) fn put_records(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::PutRecords<'_> = parse(body)?;
        let num = request.records.len();
        if !(1..=MAX_RECORDS).contains(&num) {
            let rule = "have length greater than or equal to 1 and less than or equal to 500";
            return Err(KinesisError::constraint(&num.to_string(), "records", rule));
        }
        let shared =
            self.find(&StreamRef { name: request.stream_name, arn: request.stream_arn })?;
        let outcomes = self.put(&shared, &request.records)?;
        let name = self.lock(&shared).meta.name.clone();
        Ok(self.put_records_answer(&name, &outcomes))
    }

    fn put_records_answer(&self, stream: &str, outcomes: &[PutOutcome]) -> Vec<u8> {
        let failed = outcomes.iter().filter(|o| !matches!(o, PutOutcome::Stored { .. })).count();
        let mut out = Vec::with_capacity(64 + outcomes.len() * 130);
        out.extend_from_slice(format!("{{\"FailedRecordCount\":{failed},\"Records\":[").as_bytes());
        for (n, outcome) in outcomes.iter().enumerate() {
            out.extend_from_slice(if n == 0 { b"{" } else { b",{" });
            match outcome {
                PutOutcome::Stored { shard, sequence } => {
                    out.extend_from_slice(b"\"SequenceNumber\":\"");
                    sequence.write_decimal(&mut out);
                    out.extend_from_slice(b"\",\"ShardId\":\"");
                    out.extend_from_slice(shard_id(*shard).as_bytes());
                    out.push(b'"');
                }
                PutOutcome::Throttled { shard } => {
                    let error = self.rate_exceeded(stream, *shard);
                    write_failure(&mut out, error.kind.name(), &error.message);
                }
                PutOutcome::Failed => {
                    write_failure(&mut out, "InternalFailure", "Internal service failure.");
                }
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
        out
    }

    fn put(
        &self,
        shared: &SharedStream,
        entries: &[PutEntry<'_>],
    ) -> KinesisResult<Vec<PutOutcome>> {
        let decoded = decode(entries)?;
        let mut stream = self.lock(shared);
        require_writable(&stream, &self.options.account_id)?;
        let mut start = 0;
        let mut records = Vec::with_capacity(entries.len());
        for ((entry, end), hash_key) in entries.iter().zip(&decoded.ends).zip(&decoded.hash_keys) {
            let data = &decoded.data[start..*end];
            require_record_size(&stream, entry, data)?;
            records.push(NewRecord { key: &entry.partition_key, hash_key: *hash_key, data });
            start = *end;
        }
        Ok(stream.put(&records, self.now_ms(), self.options.limited))
    }
}

fn write_failure(out: &mut Vec<u8>, code: &str, message: &str) {
    out.extend_from_slice(b"\"ErrorCode\":");
    write_json_text(out, code);
    out.extend_from_slice(b",\"ErrorMessage\":");
    write_json_text(out, message);
}

/// Decodes the data and works out the hash keys; refuses what no stream would take.
fn decode(entries: &[PutEntry<'_>]) -> KinesisResult<Decoded> {
    let encoded: usize = entries.iter().map(|e| e.data.len()).sum();
    let mut decoded = Decoded {
        data: Vec::with_capacity(encoded / 4 * 3 + entries.len()),
        ends: Vec::with_capacity(entries.len()),
        hash_keys: Vec::with_capacity(entries.len()),
    };
    let mut key_bytes = 0;
    for entry in entries {
        base64_simd::STANDARD
            .decode_append(entry.data.as_bytes(), &mut decoded.data)
            .map_err(|_| KinesisError::new(ErrorKind::Serialization, "Data is not base64 text."))?;
        decoded.ends.push(decoded.data.len());
        decoded.hash_keys.push(hash_key(entry)?);
        key_bytes += entry.partition_key.len();
    }
    if decoded.data.len() + key_bytes > MAX_CALL_BYTES {
        return Err(KinesisError::invalid_argument(
            "Records size exceeds 10 MB limit; send them in more than one call.",
        ));
    }
    Ok(decoded)
}

fn hash_key(entry: &PutEntry<'_>) -> KinesisResult<HashKey> {
    let key = &entry.partition_key;
    if key.is_empty() || (key.len() > MAX_KEY_CHARS && key.chars().count() > MAX_KEY_CHARS) {
        let rule = "have length greater than or equal to 1 and less than or equal to 256";
        return Err(KinesisError::constraint(key, "partitionKey", rule));
    }
    match &entry.explicit_hash_key {
        Some(explicit) => parse_hash_key(explicit),
        None => Ok(HashKey::from_be_bytes(Md5::digest(key.as_bytes()).into())),
    }
}

/// A hash key in decimal text.
pub(super) fn parse_hash_key(text: &str) -> KinesisResult<HashKey> {
    text.parse().map_err(|_| {
        KinesisError::invalid_argument(format!(
            "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. \
             Specified value was {text}"
        ))
    })
}

fn require_writable(stream: &Stream, account: &str) -> KinesisResult<()> {
    if matches!(stream.meta.status, Status::Creating { .. }) {
        return Err(KinesisError::new(
            ErrorKind::ResourceNotFound,
            format!("Stream {} under account {account} not found.", stream.meta.name),
        ));
    }
    Ok(())
}

fn require_record_size(stream: &Stream, entry: &PutEntry<'_>, data: &[u8]) -> KinesisResult<()> {
    let bytes = (entry.partition_key.len() + data.len()) as u64;
    let most = stream.meta.max_record_kib << 10;
    if bytes <= most {
        return Ok(());
    }
    Err(KinesisError::constraint(
        "java.nio.HeapByteBuffer",
        "data",
        &format!("have length less than or equal to {most}; the record and its key have {bytes}"),
    ))
}
