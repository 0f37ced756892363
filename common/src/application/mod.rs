//! The application file: one typed structure, read from TOML, sent as a message, checked before
//! anything starts. Every key is documented here and nowhere else.
//!
//! What only SQL can know (columns, types of the query) is checked by `millrace-sql`.

mod check;
mod convert;
mod effective;
mod executors;
mod file;
mod hash;
mod params;
pub mod replay;
mod s3_location;
mod spec;

pub use self::effective::{DEFAULT_ORIGIN, EffectiveKey, origin_of, shown};
pub use self::executors::ExecutorCount;
pub use self::file::{Changes, load, load_with, parse_toml, parse_with};
pub use self::hash::spec_hash;
pub use self::params::Param;
pub use self::replay::Replay;
pub use self::s3_location::S3Location;
pub use self::spec::{
    ApplicationSpec, BadRecordPolicy, BatchSpec, Column, Compression, DataLossPolicy,
    OutOfRangePolicy, QuerySpec, Receivers, RecordFormat, ResourcesSpec, SinkFormat, SinkSpec,
    SourceSpec, StartPosition, StorageLevel,
};
