//! The block store: the blocks of one executor, in memory and on disk, within a byte budget.
//!
//! Promises: a block that was put here is here until it is released, or [`BlockError`] says that it
//! is not; the budgets hold whatever happens, and count what is in memory as long as anybody holds
//! it: blocks read back from disk, copies for other executors, blocks that a task still reads after
//! their release; a block read back from disk is checked against its checksum; a disk that takes no
//! block costs nothing but its room: blocks stay in memory, receivers wait when that is full, and the
//! disk is asked again later. Owned by the executor's main. Never does: read from Kinesis, or make
//! correctness depend on what it holds: a lost block is read again.

pub mod core;
mod counts;
mod encoded;
mod refusal;
mod spill;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use millrace_common::budget::{BLOCKS_MIN, BLOCKS_PERCENT, DISK_MULTIPLE};
use millrace_common::resources::ByteSize;
use millrace_common::{Code, Error};
use millrace_sql::scan::block::{BlockError, BlockId, BlockSource, RawBlock};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::core::{Purpose, Room, StoreCore, Usage};
pub use self::counts::OpenBytes;
use self::counts::Waiting;
pub use self::encoded::Encoded;
use self::refusal::Refusals;
use self::spill::SpillFile;

/// How long a task waits for room to read a block back from disk. Other tasks give theirs back as
/// they go on; if none does, the block is read from Kinesis again, into room that is made for it.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);

/// The byte budgets of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Bytes in memory.
    pub memory: u64,
    /// Bytes on disk; 0 when no source may spill.
    pub disk: u64,
}

impl Budgets {
    /// For a container of this memory: 30 % of it hold blocks, at least 48 MiB; eight times that on
    /// disk where a source may spill.
    #[must_use]
    pub fn of_container(memory: ByteSize, spills: bool) -> Self {
        let memory = (memory.as_u64() / 100 * BLOCKS_PERCENT).max(BLOCKS_MIN.as_u64());
        Self { memory, disk: if spills { memory * DISK_MULTIPLE } else { 0 } }
    }
}

/// How a block is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// True for the storage levels with a disk.
    pub may_spill: bool,
    /// True unless a batch waits for the block.
    pub is_evictable: bool,
}

/// The store. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct BlockStore {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    budgets: Budgets,
    state: Mutex<State>,
    /// Signalled whenever room may have been made.
    changed: Notify,
    /// One receiver waits for room at a time, in order; the others wait for their turn.
    turn: tokio::sync::Mutex<()>,
    /// One block is written to disk at a time: its file is put together in memory.
    spill_turn: tokio::sync::Mutex<()>,
    num_waiting: AtomicUsize,
    /// Bytes of open blocks: within what is reserved, like answers in flight.
    open_bytes: AtomicU64,
}

struct State {
    core: StoreCore,
    blocks: BTreeMap<BlockId, Held>,
    refusals: Refusals,
}

/// A block, wherever it is.
enum Held {
    Memory(Arc<RawBlock>),
    /// On disk; `loaded` is the copy that scans hold at the moment.
    Disk {
        file: Arc<SpillFile>,
        loaded: Weak<RawBlock>,
    },
}

impl BlockStore {
    /// An empty store that spills into `directory`, which is made and emptied.
    ///
    /// # Errors
    /// [`Code::DirectoryUnusable`] when the directory can not be made, and spilling is allowed.
    pub fn open(directory: PathBuf, budgets: Budgets) -> Result<Self, Error> {
        if budgets.disk > 0 {
            spill::prepare_directory(&directory)?;
        }
        let state = State {
            core: StoreCore::new(budgets.memory, budgets.disk),
            blocks: BTreeMap::new(),
            refusals: Refusals::default(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                directory,
                budgets,
                state: Mutex::new(state),
                changed: Notify::new(),
                turn: tokio::sync::Mutex::new(()),
                spill_turn: tokio::sync::Mutex::new(()),
                num_waiting: AtomicUsize::new(0),
                open_bytes: AtomicU64::new(0),
            }),
        })
    }

    /// The budgets it was opened with.
    #[must_use]
    pub fn budgets(&self) -> Budgets {
        self.inner.budgets
    }

    /// What it holds now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.lock().core.usage()
    }

    /// Bytes of blocks in memory, closed and open; answers in flight are left out.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.usage().held_bytes + self.inner.open_bytes.load(Ordering::Relaxed)
    }

    /// A part of [`Self::block_bytes`] for an open block, 0 at first.
    #[must_use]
    pub fn open_bytes(&self) -> OpenBytes {
        OpenBytes::none(Arc::clone(&self.inner))
    }

    /// True while a receiver waits for room.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        self.inner.num_waiting.load(Ordering::Relaxed) > 0
    }

    /// Why blocks can not be spilled, as a code and one line; none when they can, as far as is known.
    #[must_use]
    pub fn spill_refused(&self) -> Option<String> {
        self.inner.lock().refusals.reason(Instant::now())
    }

    /// Spills that failed so far.
    #[must_use]
    pub fn num_spills_refused(&self) -> u64 {
        self.inner.lock().refusals.total()
    }

    /// Waits for room in memory; receivers are served in the order in which they asked.
    ///
    /// # Errors
    /// [`Code::DoesNotFit`] for more than the whole budget.
    pub async fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Reservation, Error> {
        let _turn = match purpose {
            Purpose::Receive => Some(self.inner.turn.lock().await),
            Purpose::Copy | Purpose::Reread | Purpose::Load => None,
        };
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let changed = self.inner.changed.notified();
            let room = self.inner.lock().ask(bytes, purpose);
            match room {
                Room::Reserved => return Ok(self.reservation(bytes, purpose)),
                Room::Spill(id) => self.spill(id).await,
                Room::Evict(id) => {
                    tracing::warn!(block = %id, "evicted for a block that a batch waits for");
                    self.inner.forget(&id);
                }
                Room::Wait => {
                    if purpose == Purpose::Receive {
                        waiting.get_or_insert_with(|| Waiting::new(&self.inner.num_waiting));
                    }
                    let again_at = self.inner.lock().refusals.again_at();
                    refusal::before(again_at, changed).await;
                }
                Room::Never => return Err(does_not_fit(bytes, self.inner.budgets.memory)),
            }
        }
    }

    /// Room for a copy, if it can be had without waiting for anybody.
    pub async fn reserve_for_copy(&self, bytes: u64) -> Option<Reservation> {
        loop {
            let room = self.inner.lock().ask(bytes, Purpose::Copy);
            match room {
                Room::Reserved => return Some(self.reservation(bytes, Purpose::Copy)),
                Room::Spill(id) => self.spill(id).await,
                Room::Evict(_) | Room::Wait | Room::Never => return None,
            }
        }
    }

    fn reservation(&self, bytes: u64, purpose: Purpose) -> Reservation {
        Reservation { store: Arc::clone(&self.inner), bytes, purpose }
    }

    /// Puts a block in, with the room that was reserved for it; room left over is given back.
    pub fn insert(&self, mut block: RawBlock, mut reservation: Reservation, keep: Keep) {
        let id = block.id.clone();
        // What was reserved is at least what was counted; alignment may add a little.
        let bytes = (block.memory_bytes() as u64).min(reservation.bytes);
        block.lease = Some(Arc::new(self.inner.lease(bytes, reservation.purpose)));
        let replaced = {
            let mut state = self.inner.lock();
            state.core.insert(id.clone(), bytes, keep.may_spill, keep.is_evictable);
            state.blocks.insert(id, Held::Memory(Arc::new(block)))
        };
        reservation.bytes -= bytes;
        // Its lease takes the lock that was held until now.
        drop(replaced);
    }

    /// Puts a block without records in, which takes no room worth counting.
    pub fn insert_empty(&self, block: RawBlock, keep: Keep) {
        self.insert(block, self.reservation(0, Purpose::Receive), keep);
    }

    /// The ids of all blocks here.
    #[must_use]
    pub fn ids(&self) -> Vec<BlockId> {
        self.inner.lock().blocks.keys().cloned().collect()
    }

    /// Drops blocks; those that are not here are no error.
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a BlockId>) {
        let mut gone = Vec::new();
        {
            let mut state = self.inner.lock();
            for id in ids {
                state.core.remove(id);
                gone.extend(state.blocks.remove(id));
            }
        }
        // The last reference removes the file, or gives the memory back.
        drop(gone);
        self.inner.changed.notify_waiters();
    }

    /// True when the block is here.
    #[must_use]
    pub fn contains(&self, id: &BlockId) -> bool {
        self.inner.lock().blocks.contains_key(id)
    }

    /// Writes a block to disk. The books are set right by the thread that writes, so that nothing
    /// is left open when whoever waits here is cancelled.
    async fn spill(&self, id: BlockId) {
        let _turn = self.inner.spill_turn.lock().await;
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || inner.spill(&id)).await;
        if let Err(error) = written {
            tracing::error!(%error, "the thread that spills a block failed");
        }
    }
}

impl fmt::Debug for BlockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockStore")
            .field("budgets", &self.inner.budgets)
            .field("usage", &self.usage())
            .finish()
    }
}

impl State {
    /// Asks for room; the disk too, when it is time to ask it again after a refusal.
    fn ask(&mut self, bytes: u64, purpose: Purpose) -> Room {
        if self.refusals.is_due(Instant::now()) {
            self.core.allow_spills();
        }
        self.core.reserve(bytes, purpose)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of a block that is in the books no more.
    fn forget(&self, id: &BlockId) {
        let gone = self.lock().blocks.remove(id);
        drop(gone);
    }

    fn lease(self: &Arc<Self>, bytes: u64, purpose: Purpose) -> Lease {
        Lease { store: Arc::downgrade(self), bytes, purpose }
    }

    fn spill(&self, id: &BlockId) {
        let block = match self.lock().blocks.get(id) {
            Some(Held::Memory(block)) => Arc::clone(block),
            _ => return,
        };
        let mut replaced = None;
        match SpillFile::write(&self.directory, &block) {
            Ok(file) => {
                let mut state = self.lock();
                if state.core.spilled(id) {
                    let loaded = Arc::downgrade(&block);
                    let held = Held::Disk { file: Arc::new(file), loaded };
                    replaced = state.blocks.insert(id.clone(), held);
                }
                if let Some(num_refused) = state.refusals.spilled() {
                    tracing::info!(num_refused, "the disk takes blocks again");
                }
            }
            Err(error) => {
                let mut state = self.lock();
                state.core.spill_failed(id);
                if state.refusals.refused(&error, Instant::now()) {
                    tracing::warn!(%error, "spill refused: blocks stay in memory, and receivers wait when it is full");
                }
            }
        }
        // Unless a task reads it, its memory is free now.
        drop((replaced, block));
        self.changed.notify_waiters();
    }
}

/// A block's room in memory, given back when the last holder of the block lets go.
struct Lease {
    store: Weak<Inner>,
    bytes: u64,
    purpose: Purpose,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.lock().core.unlease(self.bytes, self.purpose);
            store.changed.notify_waiters();
        }
    }
}

#[async_trait]
impl BlockSource for BlockStore {
    async fn get(&self, id: &BlockId) -> Result<Arc<RawBlock>, BlockError> {
        let missing = || BlockError::Missing { block: id.clone() };
        let file = match self.inner.lock().blocks.get(id).ok_or_else(missing)? {
            Held::Memory(block) => return Ok(Arc::clone(block)),
            Held::Disk { file, loaded } => match loaded.upgrade() {
                Some(block) => return Ok(block),
                None => Arc::clone(file),
            },
        };
        // One task reads it back, and those that came meanwhile find it read.
        let turn = Arc::clone(&file);
        let _turn = turn.reading.lock().await;
        let loaded = match self.inner.lock().blocks.get(id).ok_or_else(missing)? {
            Held::Memory(block) => Some(Arc::clone(block)),
            Held::Disk { loaded, .. } => loaded.upgrade(),
        };
        if let Some(block) = loaded {
            return Ok(block);
        }
        let room = self.reserve(file.num_bytes(), Purpose::Load);
        let Ok(Ok(mut room)) = tokio::time::timeout(LOAD_PATIENCE, room).await else {
            return Err(BlockError::NoRoom { block: id.clone(), num_bytes: file.num_bytes() });
        };
        let path = file.path().display().to_string();
        let unreadable =
            |detail: String| BlockError::Unreadable { block: id.clone(), path, detail };
        let read = tokio::task::spawn_blocking(move || file.read()).await;
        let mut block = match read {
            Ok(Ok(block)) => block,
            Ok(Err(detail)) => return Err(unreadable(detail)),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        block.lease = Some(Arc::new(self.inner.lease(room.bytes, Purpose::Load)));
        let block = Arc::new(block);
        let mut state = self.inner.lock();
        state.core.load(std::mem::take(&mut room.bytes));
        if let Some(Held::Disk { loaded, .. }) = state.blocks.get_mut(id) {
            *loaded = Arc::downgrade(&block);
        }
        drop(state);
        Ok(block)
    }
}

/// Room in the store's memory, given back when dropped.
pub struct Reservation {
    store: Arc<Inner>,
    bytes: u64,
    purpose: Purpose,
}

impl Reservation {
    /// Bytes reserved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes another reservation of the same store in.
    pub fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// A reservation of `bytes` out of this one, or of all there is.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { store: Arc::clone(&self.store), bytes, purpose: self.purpose }
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        drop(self.split(surplus));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.lock().core.unreserve(self.bytes, self.purpose);
            self.store.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

fn does_not_fit(bytes: u64, budget: u64) -> Error {
    Error::new(
        Code::DoesNotFit,
        format!("{bytes} bytes do not fit into the block store's budget of {budget} bytes"),
        "raise `memory` of the executors",
    )
}

#[cfg(test)]
mod tests;
