//! The head: one DynamoDB item per application, the only truth about what has been committed.
//!
//! Promises: what is read is what a won write wrote, byte for byte, or it is refused (MR4006).
//! Written by the driver's commit alone; here is what every reader of a head shares with it.
//! Never does: write, or decide anything about batches, uploads or epochs.

mod before;
mod codec;
mod item;
mod orphan;
mod read;
mod state;
mod text;

pub use self::before::{Before, RepairChoice, RepairRequest};
pub use self::codec::{
    Body, CHUNK_BYTES, CodecError, HEAD_VERSION, INLINE_LIMIT, TooLarge, decode_body,
    decode_starts, encode_body, encode_starts, hash_of,
};
pub use self::item::{
    ChunkName, HeadItem, Item, Sizes, StoredBody, attribute, item_bytes, parse_chunk_data,
    parse_head, unpack, unreadable, write_units,
};
pub use self::orphan::{Fate, RunOrder, fate, names_dead_letters, run_of_key};
pub use self::read::read;
pub use self::state::{
    Gaps, Head, PendingPart, PendingUpload, Positions, ResetRequest, SourceStart, StartFrom, Totals,
};
