//! Rows to the bytes of a file.
//!
//! Promises: the bytes of all calls, one after the other, are one well-formed file. Never does:
//! know where they go.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::json::LineDelimitedWriter;
use flate2::write::GzEncoder;
use millrace_sql::plan::{Compression, SinkFormat};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Bytes of a row group's buffers at which it is written out, so that memory stays bounded.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// One file under way.
pub(super) enum Encoder {
    Text { format: SinkFormat, header: bool, out: Box<Compressor> },
    Parquet(Box<ArrowWriter<Vec<u8>>>),
}

/// Bytes that wait to be taken, compressed or not.
pub(super) enum Compressor {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl Compressor {
    fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(Vec::new()),
            Compression::Gzip => {
                Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default()))
            }
            Compression::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                Self::Zstd(zstd::Encoder::new(Vec::new(), level)?)
            }
        })
    }

    fn waiting(&mut self) -> &mut Vec<u8> {
        match self {
            Self::None(bytes) => bytes,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::None(bytes) => Ok(bytes),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(waiting) => waiting.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why rows could not be encoded.
pub(super) type EncodeError = Box<dyn std::error::Error + Send + Sync>;

impl Encoder {
    pub(super) fn new(
        format: SinkFormat,
        compression: Compression,
        schema: SchemaRef,
    ) -> Result<Self, EncodeError> {
        Ok(match format {
            SinkFormat::Json | SinkFormat::Csv => {
                Self::Text { format, header: true, out: Box::new(Compressor::new(compression)?) }
            }
            SinkFormat::Parquet => {
                let level = ZstdLevel::try_new(zstd::DEFAULT_COMPRESSION_LEVEL)?;
                let properties = WriterProperties::builder()
                    .set_compression(ParquetCompression::ZSTD(level))
                    .build();
                Self::Parquet(Box::new(ArrowWriter::try_new(Vec::new(), schema, Some(properties))?))
            }
        })
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), EncodeError> {
        match self {
            Self::Text { format: SinkFormat::Csv, header, out, .. } => {
                let with_header = std::mem::take(header);
                csv::WriterBuilder::new().with_header(with_header).build(out).write(rows)?;
            }
            Self::Text { out, .. } => {
                let mut writer = LineDelimitedWriter::new(out);
                writer.write(rows)?;
                writer.finish()?;
            }
            Self::Parquet(writer) => {
                writer.write(rows)?;
                if writer.in_progress_size() >= ROW_GROUP_BYTES {
                    writer.flush()?;
                }
            }
        }
        Ok(())
    }

    /// Bytes that are final and have not been taken.
    pub(super) fn num_waiting(&mut self) -> usize {
        match self {
            Self::Text { out, .. } => out.waiting().len(),
            Self::Parquet(writer) => writer.inner().len(),
        }
    }

    /// Takes the final bytes.
    pub(super) fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Text { out, .. } => std::mem::take(out.waiting()),
            Self::Parquet(writer) => std::mem::take(writer.inner_mut()),
        }
    }

    /// Ends the file and gives its last bytes.
    pub(super) fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Text { out, .. } => Ok(out.finish()?),
            Self::Parquet(writer) => Ok(writer.into_inner()?),
        }
    }
}

/// What a file of this kind is called after the last dot.
pub(super) fn extension(format: SinkFormat, compression: Compression) -> &'static str {
    match (format, compression) {
        (SinkFormat::Parquet, _) => "parquet",
        (SinkFormat::Json, Compression::None) => "json",
        (SinkFormat::Json, Compression::Gzip) => "json.gz",
        (SinkFormat::Json, Compression::Zstd) => "json.zst",
        (SinkFormat::Csv, Compression::None) => "csv",
        (SinkFormat::Csv, Compression::Gzip) => "csv.gz",
        (SinkFormat::Csv, Compression::Zstd) => "csv.zst",
    }
}

/// The media type of a file of this kind.
pub(super) fn content_type(format: SinkFormat, compression: Compression) -> &'static str {
    match (format, compression) {
        (SinkFormat::Parquet, _) => "application/vnd.apache.parquet",
        (_, Compression::Gzip) => "application/gzip",
        (_, Compression::Zstd) => "application/zstd",
        (SinkFormat::Json, Compression::None) => "application/x-ndjson",
        (SinkFormat::Csv, Compression::None) => "text/csv",
    }
}
