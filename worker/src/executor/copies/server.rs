//! Gives blocks of this executor to others.
//!
//! Promises: a block goes out in chunks of bounded size, out of room that nobody waits for, which is
//! given back when the last chunk is sent or the other end is gone. Never does: hold up a receiver.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, stream};
use millrace_common::{Code, Error};
use millrace_proto::v1::block_service_server::BlockService;
use millrace_proto::v1::{BlockChunk, FetchBlock};
use millrace_sql::scan::block::BlockId;
use tonic::{Request, Response, Status};

use crate::executor::block_store::{BlockStore, Encoded};

/// Bytes of a chunk, far below the largest message.
const CHUNK_BYTES: usize = 1 << 20;

/// The service over one store.
#[derive(Clone, Debug)]
pub struct BlockServer {
    store: BlockStore,
}

impl BlockServer {
    /// Gives out the blocks of this store.
    #[must_use]
    pub fn new(store: BlockStore) -> Self {
        Self { store }
    }
}

/// The chunks of a block.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<BlockChunk, Status>> + Send>>;

#[tonic::async_trait]
impl BlockService for BlockServer {
    type FetchStream = Chunks;

    async fn fetch(&self, request: Request<FetchBlock>) -> Result<Response<Chunks>, Status> {
        let id = BlockId::new(request.into_inner().block_id);
        let encoded = self.store.encoded(&id).await.map_err(|error| {
            let error = Error::new(
                Code::BlockLost,
                error.to_string(),
                "nothing: the block is read from Kinesis again if it is needed",
            );
            error.to_status()
        })?;
        let chunks = stream::unfold((encoded, 0), |(encoded, at)| async move {
            let chunk = chunk(&encoded, at)?;
            let next = at + chunk.data.len();
            Some((Ok(chunk), (encoded, next)))
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}

/// The chunk that begins at this byte; none behind the last.
fn chunk(encoded: &Encoded, at: usize) -> Option<BlockChunk> {
    let bytes: &Bytes = encoded.bytes();
    let end = bytes.len().min(at + CHUNK_BYTES);
    (at < end).then(|| BlockChunk {
        data: bytes[at..end].to_vec(),
        num_bytes: bytes.len() as u64,
        crc32c: encoded.crc32c(),
    })
}
