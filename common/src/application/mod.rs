//! The application file: one typed structure, read from TOML, sent as a message, checked before
//! anything starts. Every key is documented here and nowhere else.
//!
//! What only SQL can know (columns, types of the query) is checked by `millrace-sql`.

mod check;
mod convert;
mod executors;
mod file;
mod hash;
mod s3_location;
mod spec;

pub use self::executors::ExecutorCount;
pub use self::file::{load, parse_toml};
pub use self::hash::spec_hash;
pub use self::s3_location::S3Location;
pub use self::spec::{
    ApplicationSpec, BadRecordPolicy, BatchSpec, Column, Compression, DataLossPolicy,
    OutOfRangePolicy, QuerySpec, Receivers, RecordFormat, ResourcesSpec, SinkFormat, SinkSpec,
    SourceSpec, StartPosition, StorageLevel,
};
