//! Reading blocks: from raw record bytes to the columns a query needs.
//!
//! Promises: a scan reads every record of every block it was given, or fails and says which.
//! Never does: fetch from Kinesis, or decide what belongs to a batch.

pub mod block;
mod decode;
mod exec;
mod metadata;
mod runtime;
mod stream;

pub use exec::{BlockScanExec, PartitionBlocks, ScanError, ScanSpec};
pub use metadata::BatchConstants;
pub use runtime::{BlockRead, RejectedRecord, ScanObserver, ScanRuntime};
