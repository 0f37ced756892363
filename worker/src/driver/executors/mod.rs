//! The executors of one attempt: which were granted, which are here, and how to reach them.
//!
//! Promises: only a granted container of this attempt is ever given a shard or a task; one that
//! falls silent is given up and replaced; one that fails again and again gets no work for a while.
//! Never does: start processes (the master and nodes do).

pub mod actor;
pub mod core;
pub mod exclusion;
pub mod outbox;
pub mod server;
