//! From SQL to tasks: prepared once per application, planned once per batch.
//!
//! Promises: the plan of a batch reads every block it was given and ends in the sink.
//! Never does: run anything.

pub mod upload;
