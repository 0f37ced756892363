//! Cutting, running and committing batches, one after the other.
//!
//! Promises: batches are committed in order, each from the first run that succeeded; the next one's
//! tasks may run while the last one is published, its commit waits. Never does: read records.

pub mod actor;
pub mod blame;
pub mod core;
pub mod making;
pub mod planner;
