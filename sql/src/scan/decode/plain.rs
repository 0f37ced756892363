//! Formats without structure: one line of text, or bytes as they are.
//!
//! Promises: one row per record. Never does: split a record into lines.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, StringBuilder};

use super::{BadRecord, RecordDecoder};

/// UTF-8, without one trailing LF or CR LF.
pub(super) struct TextDecoder {
    lines: Option<StringBuilder>,
}

impl TextDecoder {
    pub(super) fn new(wanted: bool) -> Self {
        Self { lines: wanted.then(StringBuilder::new) }
    }
}

impl RecordDecoder for TextDecoder {
    fn push(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let text = std::str::from_utf8(record).map_err(|error| {
            BadRecord::Malformed(format!("not UTF-8 at byte {}", error.valid_up_to()))
        })?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = match line.len() < text.len() {
            true => line.strip_suffix('\r').unwrap_or(line),
            false => line,
        };
        if let Some(lines) = &mut self.lines {
            lines.append_value(line);
        }
        Ok(())
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.lines.iter_mut().map(|lines| Arc::new(lines.finish()) as ArrayRef).collect()
    }
}

/// The payload itself.
pub(super) struct BytesDecoder {
    data: Option<BinaryBuilder>,
}

impl BytesDecoder {
    pub(super) fn new(wanted: bool) -> Self {
        Self { data: wanted.then(BinaryBuilder::new) }
    }
}

impl RecordDecoder for BytesDecoder {
    fn push(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        if let Some(data) = &mut self.data {
            data.append_value(record);
        }
        Ok(())
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.data.iter_mut().map(|data| Arc::new(data.finish()) as ArrayRef).collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn one_line_ending_is_taken_off() {
        let mut decoder = TextDecoder::new(true);
        for record in ["a", "b\n", "c\r\n", "d\r", "e\n\n", "", "\n"] {
            decoder.push(record.as_bytes()).unwrap();
        }
        assert!(decoder.push(b"\xff").is_err());
        let columns = decoder.finish();
        let lines: Vec<_> = columns[0].as_string::<i32>().iter().flatten().collect();
        assert_eq!(lines, ["a", "b", "c", "d\r", "e\n", "", ""]);
        assert_eq!(decoder.finish()[0].len(), 0);
    }
}
