//! The driver: one per application attempt. It cuts batches, has them computed, and commits them.

pub mod commit;
pub mod head;
pub mod runner;
