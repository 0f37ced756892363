//! The head: one DynamoDB item per application, the only truth about what has been committed.
//!
//! Promises: what is read is what a won write wrote, byte for byte, or it is refused (MR4006).
//! Owned by the driver's `commit` module; nobody else in the worker writes it.
//! Never does: decide anything about batches, uploads or epochs (see `commit::core`).

mod codec;
mod dynamodb;
mod state;
mod store;
mod text;

pub use self::codec::{
    Body, CHUNK_BYTES, CodecError, HEAD_VERSION, INLINE_LIMIT, decode_body, decode_starts,
    encode_body, encode_starts, hash_of,
};
pub use self::dynamodb::DynamoHeadStore;
pub use self::state::{
    Head, PendingPart, PendingUpload, Positions, ResetRequest, SourceStart, StartFrom,
};
pub use self::store::{
    AcquireWrite, ChunkName, CommitWrite, HeadItem, HeadStore, StoreFailure, StoredBody,
    WriteFailure, item_bytes, place_body, write_units,
};
