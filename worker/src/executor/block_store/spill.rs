//! Blocks on disk, and on their way to another executor: one Arrow IPC file each, with a checksum.
//!
//! Promises: what is read back is what was written, byte for byte, or an error; a file goes when
//! its last owner does; reading a block back takes memory for the block alone. Never does: decide
//! what is written.

use std::fs;
use std::io::{Cursor, Read, Seek};
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

/// Read at a time for a checksum.
const PART_BYTES: usize = 64 << 10;

/// The most that a file adds to the columns: its schema, written twice, the description of its
/// batch, and what aligns each buffer. Measured at 1.1 KiB; a test holds it for blocks of any size.
const FRAMING_BYTES: usize = 4 << 10;

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
    num_bytes: u64,
    crc32c: u32,
    /// Held by the task that reads the block back.
    pub(super) reading: tokio::sync::Mutex<()>,
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
            num_bytes: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
            reading: tokio::sync::Mutex::new(()),
            head: without_records(block),
            path: path.clone(),
        };
        fs::write(&path, bytes).map_err(|error| refuse(error.into()))?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file, which are at least those of the block in memory.
    pub(super) fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Reads the block back. An error says what does not fit.
    pub(super) fn read(&self) -> Result<RawBlock, String> {
        let mut file = fs::File::open(&self.path).map_err(|error| error.to_string())?;
        if checksum(&mut file).map_err(|error| error.to_string())? != self.crc32c {
            return Err("its checksum differs".to_owned());
        }
        file.rewind().map_err(|error| error.to_string())?;
        let block = decode(file, &self.head).map_err(|error| error.to_string())?;
        block.check().map_err(|error| error.to_string())?;
        Ok(block)
    }

    /// The file as it is, for another executor.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        let bytes = fs::read(&self.path).map_err(|error| error.to_string())?;
        if crc32c::crc32c(&bytes) != self.crc32c {
            return Err("its checksum differs".to_owned());
        }
        Ok(bytes)
    }
}

/// The checksum of all that is left to read, a little at a time.
fn checksum(file: &mut impl Read) -> std::io::Result<u32> {
    let mut part = vec![0; PART_BYTES];
    let mut crc = 0;
    loop {
        match file.read(&mut part)? {
            0 => return Ok(crc),
            num_bytes => crc = crc32c::crc32c_append(crc, &part[..num_bytes]),
        }
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
        lease: None,
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

/// The most bytes that [`encode`] makes of this block.
pub(super) fn encoded_bytes_at_most(block: &RawBlock) -> usize {
    block.memory_bytes() + FRAMING_BYTES
}

/// The records of a block as a file's bytes.
pub(super) fn encode(block: &RawBlock) -> Result<Vec<u8>, ArrowError> {
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
    let mut writer =
        FileWriter::try_new(Vec::with_capacity(encoded_bytes_at_most(block)), &schema)?;
    writer.write(&batch)?;
    writer.into_inner()
}

/// The block of a file's bytes that came from another executor. `head` is everything but its
/// records; what the file holds decides whether they have sub-sequence numbers.
pub(super) fn decode_copy(bytes: Vec<u8>, head: RawBlock) -> Result<RawBlock, String> {
    let block = decode(Cursor::new(bytes), &head).map_err(|error| error.to_string())?;
    block.check().map_err(|error| error.to_string())?;
    Ok(block)
}

fn decode(file: impl Read + Seek, head: &RawBlock) -> Result<RawBlock, ArrowError> {
    let mut reader = FileReader::try_new(file, None)?;
    let batch = reader
        .next()
        .ok_or_else(|| ArrowError::IpcError("the file holds no batch".to_owned()))??;
    let has_sub_sequence_numbers = batch.num_columns() > schema(false).fields().len();
    // Types and names, so that no column is taken for another.
    let expected = schema(has_sub_sequence_numbers);
    if batch.schema().fields() != expected.fields() {
        return Err(ArrowError::SchemaError("the file's columns are not a block's".to_owned()));
    }
    let column = |index: usize| batch.column(index);
    Ok(RawBlock {
        data: column(0).as_binary::<i32>().clone(),
        sequence_numbers: column(1).as_fixed_size_binary().clone(),
        partition_keys: column(2).as_string::<i32>().clone(),
        arrival_ms: column(3).as_primitive::<TimestampMillisecondType>().clone(),
        sub_sequence_numbers: has_sub_sequence_numbers
            .then(|| column(4).as_primitive::<UInt64Type>().clone()),
        ..head.clone()
    })
}
