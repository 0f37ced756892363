//! The commit: the only code that writes the head and the only code that makes output visible.
//!
//! Promises: a batch is committed by one conditional write (k5) or not at all; an upload that a
//! commit names is completed, by this driver or the next (k6, k1), and never aborted; batch n+1 is
//! not committed before every upload of batch n is complete. The order is held by types: k5 takes
//! a [`Published`] and gives a [`Committed`], k6 takes that and gives the next [`Published`], and
//! neither can be made in any other way.
//!
//! ```text
//! acquire (k0) -> Acquired -> recover (k1) -> Published -> commit (k5) -> Committed -> publish (k6)
//!                                                 ^                                        |
//!                                                 +----------------------------------------+
//! ```
//! Owned by the driver. Never does: choose positions, run tasks, abort an upload, list a bucket.

mod committer;
pub mod core;
mod errors;
mod heads;
mod outcome;
mod pace;
mod proof;
mod publisher;
mod status;
pub mod steps;
#[cfg(test)]
mod tests;
mod uploads;

pub use self::committer::Committer;
pub use self::outcome::{BatchCommit, CommitError, CommitOutcome, LaunchFacts, RecordCounts};
pub use self::proof::{Acquired, Committed, Published};
pub use self::status::{CommitStatus, Count};
pub use self::uploads::{Completed, S3Uploads, Seen, StoredParts, TOKEN_METADATA, UploadStore};
