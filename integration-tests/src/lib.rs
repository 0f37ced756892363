//! The harness of the end-to-end tests: real processes on free ports, states waited for, nothing
//! mocked.
//!
//! A test starts a judge ([`emulator`] or [`ministack`]), a [`cluster::Cluster`] on top of it, and
//! talks to both as users do: with the `millrace` command, the gRPC API and the AWS SDKs. The
//! harness builds no binary and computes no expected result with the code under test: references
//! come from the Python programs in `reference/`, and from the streams themselves as [`checker`]
//! reads them.

pub mod aggregate;
pub mod application;
pub mod aws;
pub mod checker;
pub mod churn;
pub mod cluster;
pub mod command;
pub mod compose;
pub mod counting;
pub mod dataset;
pub mod emulator;
pub mod eventually;
pub mod faults;
pub mod gate;
pub mod lines;
pub mod ministack;
pub mod objects;
pub mod processes;
pub mod reshard;
pub mod skip;
pub mod truth;
pub mod words;
