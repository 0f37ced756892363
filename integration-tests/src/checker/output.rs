//! O: the rows that stand under the prefix, object by object.
//!
//! Promises: a row that can not be read is a finding later, and never passed over. Never does: call
//! AWS (see [`super::read_output`]).

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;

use super::CheckError;
use super::name::ObjectName;
use super::truth::{RecordName, hex};
use sha2::{Digest as _, Sha256};

/// What the application's query writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A row per record: [`EVERY_RECORD`](crate::application::EVERY_RECORD), or
    /// [`RECORDS`](crate::truth::RECORDS).
    Records,
    /// A row per word and batch: [`WORD_COUNT`](crate::application::WORD_COUNT).
    Words,
}

/// One object with its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// What its key says, or what the key lacks.
    pub name: Result<ObjectName, String>,
    /// The token in its metadata; none when it carries none.
    pub token: Option<String>,
    /// Its rows.
    pub rows: Vec<Value>,
}

impl Object {
    /// Where its rows stand, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.name {
            Ok(name) => name.to_string(),
            Err(_) => self.key.clone(),
        }
    }
}

/// A row of a query that writes every record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// Which record.
    pub name: RecordName,
    /// SHA-256 of its payload, in hexadecimal digits.
    pub sha256: String,
}

impl RecordRow {
    /// Reads `{source?, shard, seq, sub?, sha256 | data}`; a row without a source is of the only one.
    ///
    /// # Errors
    /// What the row lacks.
    pub fn parse(row: &Value, only_source: Option<&str>) -> Result<Self, String> {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let lacks = |what: &str| format!("a row without {what}: {row}");
        let source = text("source").or(only_source).ok_or_else(|| lacks("source"))?;
        let shard = text("shard").ok_or_else(|| lacks("shard"))?;
        let number = text("seq").ok_or_else(|| lacks("seq"))?;
        let sub = match row.get("sub") {
            None => Some(0),
            Some(Value::String(digits)) => digits.parse().ok(),
            Some(other) => other.as_u64(),
        };
        let sha256 = match (text("sha256"), text("data")) {
            (Some(sum), _) => sum.to_owned(),
            (None, Some(data)) => hex(&Sha256::digest(data)),
            (None, None) => return Err(lacks("sha256 or data")),
        };
        Ok(Self {
            name: RecordName {
                source: source.to_owned(),
                shard: shard.to_owned(),
                sequence_number: number.parse().map_err(|_| lacks("a seq that is a number"))?,
                sub_sequence_number: sub.ok_or_else(|| lacks("a sub that is a number"))?,
            },
            sha256,
        })
    }
}

/// How often each word was counted.
///
/// # Errors
/// A row of another shape.
pub fn word_counts(objects: &[Object]) -> Result<BTreeMap<String, i64>, String> {
    let mut counts = BTreeMap::new();
    for object in objects {
        for row in &object.rows {
            let count = match &row["n"] {
                Value::String(digits) => digits.parse().ok(),
                other => other.as_i64(),
            };
            let (Some(word), Some(n)) = (row["word"].as_str(), count) else {
                return Err(format!("not a row of a word count: {row} in {}", object.place()));
            };
            *counts.entry(word.to_owned()).or_default() += n;
        }
    }
    Ok(counts)
}

/// The plain bytes of an object, by the ending of its key.
///
/// # Errors
/// When they are not what the ending says.
pub fn decompress(key: &str, bytes: &[u8]) -> Result<Vec<u8>, CheckError> {
    let failed = |error: std::io::Error| CheckError(format!("{key} does not unpack: {error}"));
    if key.ends_with(".gz") {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).map_err(failed)?;
        Ok(plain)
    } else if key.ends_with(".zst") {
        zstd::decode_all(bytes).map_err(failed)
    } else {
        Ok(bytes.to_vec())
    }
}

/// The rows of an object of JSON lines or CSV with a header, by the ending of its key.
///
/// # Errors
/// When it is neither, or broken.
pub fn rows(key: &str, plain: &[u8]) -> Result<Vec<Value>, CheckError> {
    let format = key.trim_end_matches(".gz").trim_end_matches(".zst").rsplit('.').next();
    match format {
        Some("json" | "jsonl" | "ndjson") => {
            let rows = serde_json::Deserializer::from_slice(plain).into_iter();
            let rows: Result<_, _> = rows.collect();
            rows.map_err(|error| CheckError(format!("{key} is not JSON lines: {error}")))
        }
        Some("csv") => csv_rows(plain)
            .map_err(|error| CheckError(format!("{key} is not CSV with a header: {error}"))),
        _ => Err(CheckError(format!("{key} is neither .json nor .csv, so its rows are not read"))),
    }
}

fn csv_rows(plain: &[u8]) -> Result<Vec<Value>, csv::Error> {
    let mut reader = csv::Reader::from_reader(plain);
    let header = reader.headers()?.clone();
    let records = reader.records().map(|record| {
        let record = record?;
        let cells = header.iter().zip(&record);
        Ok(cells.map(|(name, cell)| (name.to_owned(), Value::from(cell))).collect())
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_and_csv_give_the_same_rows() {
        let row = json!({"source": "logs", "shard": "s", "seq": "7", "sub": 1, "sha256": "ab"});
        let json = rows("a.json", row.to_string().as_bytes()).unwrap();
        let csv = rows("a.csv.gz", b"source,shard,seq,sub,sha256\nlogs,s,7,1,ab\n").unwrap();
        let parse = |row: &Value| RecordRow::parse(row, None).unwrap();
        assert_eq!(parse(&json[0]), parse(&csv[0]));
        assert!(rows("a.parquet", b"PAR1").is_err());
        assert!(rows("a.json", b"{").is_err());
    }

    #[test]
    fn a_row_may_hold_the_payload_itself() {
        let row = json!({"shard": "s", "seq": "7", "data": "x"});
        let parsed = RecordRow::parse(&row, Some("logs")).unwrap();
        assert_eq!(parsed.sha256, hex(&Sha256::digest(b"x")));
        assert!(RecordRow::parse(&row, None).is_err(), "of which source?");
        assert!(RecordRow::parse(&json!({"shard": "s", "seq": "7"}), Some("logs")).is_err());
    }

    #[test]
    fn what_is_packed_is_unpacked_by_its_ending() {
        let packed = zstd::encode_all(&b"x"[..], 1).unwrap();
        assert_eq!(decompress("a.zst", &packed).unwrap(), b"x");
        assert_eq!(decompress("a.json", b"x").unwrap(), b"x");
        assert!(decompress("a.gz", b"x").is_err());
    }
}
