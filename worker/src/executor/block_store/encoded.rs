//! Blocks on their way from one executor's store to another's.
//!
//! Promises: what they take on the way is counted, at both ends, and taken only if nobody has to
//! wait for it. Owned by the store. Never does: touch the network.

use std::sync::Arc;

use bytes::Bytes;
use millrace_common::{Code, Error};
use millrace_sql::scan::block::{BlockError, BlockId, RawBlock};

use super::{BlockStore, Held, Keep, Reservation, spill};

/// A block as the bytes of a file, with the room they take.
#[derive(Debug)]
pub struct Encoded {
    bytes: Bytes,
    crc32c: u32,
    _room: Reservation,
}

impl Encoded {
    /// The file.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its checksum.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }
}

impl BlockStore {
    /// A block for another executor.
    ///
    /// # Errors
    /// [`BlockError::Missing`], [`BlockError::Unreadable`], or [`BlockError::NoRoom`] when somebody
    /// would have to wait for the memory it takes.
    pub async fn encoded(&self, id: &BlockId) -> Result<Encoded, BlockError> {
        enum Source {
            Memory(Arc<RawBlock>),
            Disk(Arc<spill::SpillFile>),
        }
        let missing = || BlockError::Missing { block: id.clone() };
        let source = match self.inner.lock().blocks.get(id).ok_or_else(missing)? {
            Held::Memory(block) => Source::Memory(Arc::clone(block)),
            Held::Disk { file, .. } => Source::Disk(Arc::clone(file)),
        };
        let num_bytes = match &source {
            // The bytes are put together from columns that are encoded first.
            Source::Memory(block) => {
                (block.memory_bytes() + spill::encoded_bytes_at_most(block)) as u64
            }
            Source::Disk(file) => file.num_bytes(),
        };
        let no_room = || BlockError::NoRoom { block: id.clone(), num_bytes };
        let mut room = self.reserve_for_copy(num_bytes).await.ok_or_else(no_room)?;
        let encode = move || match source {
            Source::Memory(block) => spill::encode(&block).map_err(|error| error.to_string()),
            Source::Disk(file) => file.bytes(),
        };
        let bytes = tokio::task::spawn_blocking(encode).await;
        let bytes = bytes.unwrap_or_else(|error| Err(error.to_string()));
        let bytes = bytes.map_err(|detail| BlockError::Unreadable {
            block: id.clone(),
            path: "its columns".to_owned(),
            detail,
        })?;
        room.shrink_to(bytes.len() as u64);
        Ok(Encoded { crc32c: crc32c::crc32c(&bytes), bytes: Bytes::from(bytes), _room: room })
    }

    /// Puts the copy of another executor's block in. `head` is everything but its records, of which
    /// it must have `num_records`.
    ///
    /// # Errors
    /// [`Code::Protocol`] when the bytes are not such a block.
    pub async fn insert_copy(
        &self,
        head: RawBlock,
        bytes: Vec<u8>,
        mut room: Reservation,
        keep: Keep,
        num_records: u64,
    ) -> Result<(), Error> {
        let id = head.id.clone();
        let wrong = |detail: String| {
            Error::new(
                Code::Protocol,
                format!("what came as block {id} is not that block: {detail}"),
                "see that all processes run the same version",
            )
        };
        // The columns share one allocation, as large as the file; each of them counts all of it.
        let num_bytes = bytes.len() as u64;
        let decode = move || spill::decode_copy(bytes, head);
        let block = tokio::task::spawn_blocking(decode).await;
        let block = block.unwrap_or_else(|error| Err(error.to_string())).map_err(wrong)?;
        if block.num_records() as u64 != num_records {
            return Err(wrong(format!("{} records for {num_records}", block.num_records())));
        }
        room.shrink_to(num_bytes);
        self.insert(block, room, keep);
        Ok(())
    }
}
