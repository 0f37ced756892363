//! Second copies of blocks, fetched from the executors that hold them.
//!
//! Promises: a copy is made only into room that nobody waits for, is checked before it is put into
//! the store, and is answered for once; a copy that does not come about costs nothing but speed.
//! Owned by the executor's main. Never does: choose what is copied, or try again.

mod server;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::access::Token;
use millrace_common::position::{SequenceNumber, ShardKey, optional_sequence_number};
use millrace_common::rpc::{self, Caller};
use millrace_common::{Code, Error, Result};
use millrace_proto::v1;
use millrace_proto::v1::block_service_client::BlockServiceClient;
use millrace_proto::v1::executor_message;
use millrace_sql::scan::block::{BlockId, RawBlock};
use tokio::task::{JoinError, JoinSet};

use super::block_store::{BlockStore, Keep};
use super::receiver::shared::Shared;

pub use server::BlockServer;

/// Copies under way at once: each takes room twice for a moment.
const COPIES_MAX: usize = 2;
/// Copies that may wait; more than this and the executor is too slow to be of use as a second
/// holder, so that the rest is answered for at once.
const WAITING_MAX: usize = 1_024;
/// How long one copy may take: a block is some MiB.
const DEADLINE: Duration = Duration::from_secs(30);

/// The copies of one executor.
#[derive(Debug)]
pub struct Copies {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    running: JoinSet<()>,
    waiting: VecDeque<v1::BlockCopy>,
}

impl Copies {
    /// Into the store of `shared`; those who hold the blocks are shown `token`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, token: Option<Token>) -> Self {
        let peers = Arc::new(Peers { token, ..Peers::default() });
        Self { shared, peers, running: JoinSet::new(), waiting: VecDeque::new() }
    }

    /// Begins with these copies, or puts them behind those that are under way.
    pub fn add(&mut self, copies: Vec<v1::BlockCopy>) {
        for copy in copies {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(copy);
                continue;
            }
            let error = no_room("too many copies wait");
            let body = answer(&copy, Err(error));
            // Should it get lost, the driver goes by what it hears when the session is made anew.
            self.shared.outbox.send(body);
        }
        self.start();
    }

    /// These blocks are not needed any more. Of those under way the driver says so again when it
    /// hears that they are here.
    pub fn forget(&mut self, ids: &[BlockId]) {
        self.waiting.retain(|copy| {
            let id = copy.block.as_ref().map(|block| block.block_id.as_str());
            !ids.iter().any(|gone| Some(gone.as_str()) == id)
        });
    }

    /// Waits for the end of a copy; none while there is none under way.
    pub async fn join_next(&mut self) -> Option<std::result::Result<(), JoinError>> {
        self.running.join_next().await
    }

    /// A copy has ended: the next may begin.
    pub fn ended(&mut self, done: std::result::Result<(), JoinError>) {
        if let Err(error) = done {
            tracing::error!(%error, "copying a block failed");
        }
        self.start();
    }

    fn start(&mut self) {
        while self.running.len() < COPIES_MAX {
            let Some(copy) = self.waiting.pop_front() else { return };
            let (shared, peers) = (Arc::clone(&self.shared), Arc::clone(&self.peers));
            self.running.spawn_on(
                async move {
                    let outcome = tokio::time::timeout(DEADLINE, fetch(&shared, &peers, &copy));
                    let outcome =
                        outcome.await.unwrap_or_else(|_| Err(no_room("it took too long")));
                    shared.outbox.send_surely(answer(&copy, outcome)).await;
                },
                &self.shared.io.clone(),
            );
        }
    }
}

fn answer(copy: &v1::BlockCopy, outcome: Result<()>) -> executor_message::Body {
    let block_id = copy.block.as_ref().map(|block| block.block_id.clone()).unwrap_or_default();
    let failure = outcome.err().map(|error| error.to_failure());
    executor_message::Body::Copied(v1::BlockCopied { block_id, failure })
}

fn no_room(why: &str) -> Error {
    Error::new(
        Code::DoesNotFit,
        format!("no copy was made: {why}"),
        "nothing: a copy is about speed",
    )
}

/// Channels to the executors that blocks were fetched from, as many as the application has.
#[derive(Debug, Default)]
struct Peers {
    channels: Mutex<BTreeMap<String, Caller>>,
    token: Option<Token>,
}

impl Peers {
    fn channel(&self, address: &str) -> Result<Caller> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = Caller::new(rpc::connect_lazy(address)?, self.token.as_ref());
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// The executor may be gone for good.
    fn forget(&self, address: &str) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}

/// Fetches one block and puts it into the store.
async fn fetch(shared: &Shared, peers: &Peers, copy: &v1::BlockCopy) -> Result<()> {
    let descriptor =
        copy.block.as_ref().ok_or_else(|| Error::internal("a copy of no block was asked for"))?;
    let id = BlockId::new(descriptor.block_id.as_str());
    if shared.store.contains(&id) {
        return Ok(());
    }
    let head = head(descriptor)?;
    let keep = Keep { may_spill: shared.rules(&head.source).may_spill, is_evictable: true };
    let channel = peers.channel(&copy.holder_address)?;
    let received = receive(&shared.store, channel, &id).await;
    let (bytes, room) = received.inspect_err(|_| peers.forget(&copy.holder_address))?;
    shared.store.insert_copy(head, bytes, room, keep, descriptor.num_records).await
}

/// The file of a block, whole and checked, with the room that it and the block in it take.
async fn receive(
    store: &BlockStore,
    channel: Caller,
    id: &BlockId,
) -> Result<(Vec<u8>, super::block_store::Reservation)> {
    let refused = |status: tonic::Status| Error::from_status("the block's holder", &status);
    let mut client = BlockServiceClient::new(channel);
    let request = v1::FetchBlock { block_id: id.as_str().to_owned() };
    let mut chunks = client.fetch(request).await.map_err(refused)?.into_inner();
    let mut file: Option<(Vec<u8>, super::block_store::Reservation)> = None;
    let (mut num_bytes, mut crc32c) = (0, 0);
    while let Some(chunk) = chunks.message().await.map_err(refused)? {
        let (bytes, _) = match &mut file {
            Some(file) => file,
            none => {
                (num_bytes, crc32c) = (chunk.num_bytes, chunk.crc32c);
                let room = store.reserve_for_copy(num_bytes.saturating_mul(2)).await;
                let room = room.ok_or_else(|| no_room("the store is full"))?;
                let bytes = Vec::with_capacity(usize::try_from(num_bytes).unwrap_or(0));
                none.insert((bytes, room))
            }
        };
        if (bytes.len() + chunk.data.len()) as u64 > num_bytes {
            return Err(garbled(id));
        }
        bytes.extend_from_slice(&chunk.data);
    }
    let is_whole =
        |bytes: &[u8]| bytes.len() as u64 == num_bytes && crc32c::crc32c(bytes) == crc32c;
    file.filter(|(bytes, _)| is_whole(bytes)).ok_or_else(|| garbled(id))
}

fn garbled(id: &BlockId) -> Error {
    Error::new(
        Code::Protocol,
        format!("block {id} did not arrive as it was sent"),
        "see that all processes run the same version",
    )
}

/// Everything of a block but its records, by its announcement.
fn head(descriptor: &v1::BlockDescriptor) -> Result<RawBlock> {
    let shard = ShardKey::from_proto(descriptor.shard.clone())?;
    let first: SequenceNumber = descriptor.first_seq.parse()?;
    let last: SequenceNumber = descriptor.last_seq.parse()?;
    let after = optional_sequence_number(&descriptor.after_seq)?;
    Ok(RawBlock {
        id: BlockId::new(descriptor.block_id.as_str()),
        source: shard.source.as_str().into(),
        shard: shard.shard_id.as_str().into(),
        after_seq: after.map(|number| *number.as_bytes()),
        first_seq: *first.as_bytes(),
        last_seq: *last.as_bytes(),
        raw_records: descriptor.num_raw_records,
        crc32c: descriptor.crc32c,
        ..RawBlock::without_records()
    })
}

#[cfg(test)]
mod tests;
