//! From the bytes of records to Arrow columns.
//!
//! Promises: a record is taken whole or not at all, no record can make a decoder panic or overflow
//! the stack, and only the columns asked for are decoded.
//! Never does: decide what becomes of a record that does not fit.

mod json;
mod plain;
mod value;

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;

use crate::schema::{RecordFormat, SourceDef};

/// Takes records one by one and gives their columns.
pub(crate) trait RecordDecoder: Send + Sync {
    /// Appends one record; on an error nothing was appended.
    fn push(&mut self, record: &[u8]) -> Result<(), BadRecord>;

    /// The columns of all records since the last call, in the order of the fields given at the
    /// start, and begins anew.
    fn finish(&mut self) -> Vec<ArrayRef>;
}

/// Why a record does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRecord {
    /// The payload is not well formed.
    #[error("{0}")]
    Malformed(String),
    /// A needed column does not take the record's value.
    #[error("column {column}: {detail}")]
    Mismatch {
        /// The column.
        column: String,
        /// The value, shortened, and what would fit.
        detail: String,
    },
}

/// A decoder for some of a source's declared columns.
///
/// With no columns asked for, records of a text or JSON source are still checked to be well formed,
/// so that what counts as a bad record does not depend on the query's columns more than it must.
pub(crate) fn decoder(source: &SourceDef, fields: &[FieldRef]) -> Box<dyn RecordDecoder> {
    match source.format {
        RecordFormat::Json => Box::new(json::JsonDecoder::new(fields)),
        RecordFormat::Text => Box::new(plain::TextDecoder::new(!fields.is_empty())),
        RecordFormat::Bytes => Box::new(plain::BytesDecoder::new(!fields.is_empty())),
    }
}

/// At most this much of a value is shown in an error.
const SHOWN_BYTES_MAX: usize = 80;

/// The value as an error shows it.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    format!("{}... ({} bytes)", &text[..end], text.len())
}
