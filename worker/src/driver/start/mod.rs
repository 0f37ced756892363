//! The start of a driver: check everything, take the head, complete what was left.
//!
//! Promises: nothing is asked of the cluster, and nothing is written, before the whole
//! specification was checked. Never does: read records.

pub mod check;
mod regions;
pub mod sources;

pub use check::{Checked, check};
pub use millrace_common::application::spec_hash;
pub use regions::{BucketRegions, bucket_regions};
