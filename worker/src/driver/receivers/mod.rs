//! The driver's side of its input: which shards there are, who reads them, and what was read.
//!
//! Promises: one actor owns lineage, assignment and ledger, so that no two of them ever disagree.
//! Never does: read records (executors do), or commit.

pub mod actor;
pub mod assignment;
pub mod core;
pub mod discovery;
pub mod lineage;
pub mod rates;
