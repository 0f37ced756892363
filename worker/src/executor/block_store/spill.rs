//! Blocks on disk: one Arrow IPC file each, with a checksum that is kept in memory.
//!
//! Promises: what is read back is what was written, byte for byte, or an error; a file goes when
//! its last owner does. Never does: decide what is written.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMillisecondType, UInt64Type};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use millrace_common::{Code, Error};
use millrace_sql::scan::block::{RawBlock, SEQUENCE_NUMBER_BYTES};

/// Makes the directory, and removes what an earlier process may have left there.
///
/// # Errors
/// [`Code::DirectoryUnusable`].
pub(super) fn prepare_directory(directory: &Path) -> Result<(), Error> {
    let unusable = |error: std::io::Error| {
        Error::new(
            Code::DirectoryUnusable,
            format!("blocks can not be spilled to {}", directory.display()),
            "make the directory writable, or choose another --work-dir",
        )
        .caused_by(error)
    };
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    fs::create_dir_all(directory).map_err(unusable)
}

/// A block on disk. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct SpillFile {
    path: PathBuf,
    crc32c: u32,
    /// The block without its records.
    head: RawBlock,
}

impl SpillFile {
    /// Writes a block.
    pub(super) fn write(directory: &Path, block: &RawBlock) -> Result<Self, Error> {
        // Block ids hold the characters of names, and slashes among them.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{number}.arrow"));
        let refuse = |cause: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(
                Code::DirectoryUnusable,
                format!("block {} can not be spilled to {}", block.id, path.display()),
                "make room on the disk of the work directory",
            )
            .caused_by(cause)
        };
        let bytes = encode(block).map_err(|error| refuse(error.into()))?;
        let file = Self {
            crc32c: crc32c::crc32c(&bytes),
            head: without_records(block),
            path: path.clone(),
        };
        fs::write(&path, bytes).map_err(|error| refuse(error.into()))?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the block back. An error says what does not fit.
    pub(super) fn read(&self) -> Result<RawBlock, String> {
        let bytes = fs::read(&self.path).map_err(|error| error.to_string())?;
        if crc32c::crc32c(&bytes) != self.crc32c {
            return Err("its checksum differs".to_owned());
        }
        let block = decode(bytes, &self.head).map_err(|error| error.to_string())?;
        block.check().map_err(|error| error.to_string())?;
        Ok(block)
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a spilled block stays on disk");
        }
    }
}

fn without_records(block: &RawBlock) -> RawBlock {
    RawBlock {
        data: block.data.slice(0, 0),
        sequence_numbers: block.sequence_numbers.slice(0, 0),
        sub_sequence_numbers: block.sub_sequence_numbers.as_ref().map(|array| array.slice(0, 0)),
        partition_keys: block.partition_keys.slice(0, 0),
        arrival_ms: block.arrival_ms.slice(0, 0),
        ..block.clone()
    }
    .detached()
}

/// A slice of nothing still holds its buffers; this lets go of them.
trait Detached {
    fn detached(self) -> Self;
}

impl Detached for RawBlock {
    fn detached(mut self) -> Self {
        self.data = Vec::<&[u8]>::new().into();
        self.partition_keys = Vec::<&str>::new().into();
        self.arrival_ms.shrink_to_fit();
        self.sequence_numbers.shrink_to_fit();
        if let Some(array) = &mut self.sub_sequence_numbers {
            array.shrink_to_fit();
        }
        self
    }
}

fn schema(has_sub_sequence_numbers: bool) -> Schema {
    let width = SEQUENCE_NUMBER_BYTES as i32;
    let mut fields = vec![
        Field::new("data", DataType::Binary, false),
        Field::new("sequence_number", DataType::FixedSizeBinary(width), false),
        Field::new("partition_key", DataType::Utf8, true),
        Field::new("arrival", DataType::Timestamp(TimeUnit::Millisecond, None), false),
    ];
    if has_sub_sequence_numbers {
        fields.push(Field::new("sub_sequence_number", DataType::UInt64, false));
    }
    Schema::new(fields)
}

fn encode(block: &RawBlock) -> Result<Vec<u8>, ArrowError> {
    let schema = Arc::new(schema(block.sub_sequence_numbers.is_some()));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(block.data.clone()),
        Arc::new(block.sequence_numbers.clone()),
        Arc::new(block.partition_keys.clone()),
        Arc::new(block.arrival_ms.clone()),
    ];
    if let Some(array) = &block.sub_sequence_numbers {
        columns.push(Arc::new(array.clone()));
    }
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let mut writer = FileWriter::try_new(Vec::with_capacity(block.memory_bytes()), &schema)?;
    writer.write(&batch)?;
    writer.into_inner()
}

fn decode(bytes: Vec<u8>, head: &RawBlock) -> Result<RawBlock, ArrowError> {
    let mut reader = FileReader::try_new(Cursor::new(bytes), None)?;
    let batch = reader
        .next()
        .ok_or_else(|| ArrowError::IpcError("the file holds no batch".to_owned()))??;
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| ArrowError::SchemaError(format!("the file has no column {name}")))
    };
    let sub_sequence_numbers = match &head.sub_sequence_numbers {
        Some(_) => Some(column("sub_sequence_number")?.as_primitive::<UInt64Type>().clone()),
        None => None,
    };
    Ok(RawBlock {
        data: column("data")?.as_binary::<i32>().clone(),
        sequence_numbers: column("sequence_number")?.as_fixed_size_binary().clone(),
        partition_keys: column("partition_key")?.as_string::<i32>().clone(),
        arrival_ms: column("arrival")?.as_primitive::<TimestampMillisecondType>().clone(),
        sub_sequence_numbers,
        ..head.clone()
    })
}
