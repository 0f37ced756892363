//! The head as its driver keeps it: the conditional writes of the commit, and DynamoDB behind them.
//!
//! Promises: what is read is what a won write wrote, byte for byte, or it is refused (MR4006). What
//! a head holds and how it is packed stands in [`millrace_common::head`].
//! Owned by the driver's `commit` module; nobody else in the worker writes it.
//! Never does: decide anything about batches, uploads or epochs (see `commit::core`).

mod dynamodb;
mod store;

pub use millrace_common::head::{
    Before, Body, CHUNK_BYTES, ChunkName, CodecError, Gaps, HEAD_VERSION, Head, HeadItem,
    PendingPart, PendingUpload, Positions, RepairChoice, RepairRequest, ResetRequest, Sizes,
    SourceStart, StartFrom, StoredBody, TooLarge, Totals, decode_body, encode_body, encode_starts,
    hash_of, unpack, unreadable,
};

pub use self::dynamodb::DynamoHeadStore;
pub use self::store::{
    AcquireWrite, CommitWrite, HeadStore, PublishedMark, StoreFailure, WriteFailure,
};
