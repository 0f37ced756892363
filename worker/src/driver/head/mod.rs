//! The head: one DynamoDB item per application, the only truth about what has been committed.
//!
//! Promises: what is read is what a won write wrote, byte for byte, or it is refused (MR4006).
//! Owned by the driver's `commit` module; nobody else in the worker writes it.
//! Never does: decide anything about batches, uploads or epochs (see `commit::core`).

mod state;

pub use self::state::{
    Head, PendingPart, PendingUpload, Positions, ResetRequest, SourceStart, StartFrom,
};
