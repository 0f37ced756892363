//! Receivers: long-lived readers of shards that fill the executor's block store.
//!
//! Promises: a receiver holds no core, and a block it announces is in the store. Owned by the
//! executor's main. Never does: decide which shard is read where, or what belongs to a batch.

mod horizon;

pub mod actor;
pub mod assignment;
pub mod block_builder;
pub mod book;
mod brought;
pub mod core;
pub mod host;
pub mod kinesis;
pub mod pace;
pub mod reread;
pub mod shard_reader;
pub mod shared;
#[cfg(test)]
mod tests;
