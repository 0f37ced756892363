//! From SQL to tasks: prepared once per application, planned once per batch.
//!
//! Promises: the plan of a batch reads every block it was given, once per scan, and ends in the
//! sink, on executors and never on the driver.
//! Never does: run anything.

mod batch;
pub(crate) mod codec;
pub(crate) mod distribute;
pub(crate) mod needed;
pub(crate) mod planner;
mod prepare;
mod sink;
mod table;
pub mod upload;

pub use batch::{BatchInputs, SourceBlocks, TaskTarget};
pub use prepare::{PlannedBatch, PreparedQuery};
pub use sink::{Compression, SinkExec, SinkFormat, SinkResult, SinkRuntime, SinkSpec, SinkWriter};
