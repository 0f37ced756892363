//! Kinesis, DynamoDB and S3 on one port, for local clusters, tests and benchmarks.
//!
//! Promise: the wire protocols, limits and errors of the real services, as far as Millrace and its
//! tests use them, for aws-sdk-rust and boto3 unchanged; what is acknowledged survives the death of
//! the process. [`Emulator::start`] runs it inside a test; the binary `millrace-emulator` runs it
//! alone. It knows nothing of Millrace, and nothing of Millrace knows it.

mod clock;
mod control;
mod dispatch;
mod dynamodb;
mod faults;
mod files;
mod kinesis;
mod limits;
mod s3;
mod server;

pub use clock::{Clock, ManualClock, SystemClock};
pub use server::{Config, Emulator, Handle, StartError};
