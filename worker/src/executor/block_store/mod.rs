//! The block store: the blocks of one executor, in memory and on disk, within a byte budget.
//!
//! Promises: a block that was put here is here until it is released, or [`BlockError`] says that it
//! is not; the budgets hold whatever happens; a block read back from disk is checked against its
//! checksum. Owned by the executor's main. Never does: read from Kinesis, or make correctness
//! depend on what it holds: a lost block is read again.

pub mod core;
mod spill;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use millrace_common::resources::ByteSize;
use millrace_common::{Code, Error};
use millrace_sql::scan::block::{BlockError, BlockId, BlockSource, RawBlock};
use tokio::sync::Notify;

use self::core::{Purpose, Room, StoreCore, Usage};
use self::spill::SpillFile;

/// Share of a container's memory that holds blocks, in percent. Answers in flight come on top, as
/// JSON and decoded, at most for a moment; tasks and their pool have the larger half.
const MEMORY_PERCENT: u64 = 30;
/// A smaller budget could not hold one answer and one aggregate taken apart.
const MEMORY_BUDGET_MIN: u64 = 48 << 20;
/// Disk for spilled blocks, as a multiple of the memory budget.
const DISK_MULTIPLE: u64 = 8;

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
        let memory = (memory.as_u64() / 100 * MEMORY_PERCENT).max(MEMORY_BUDGET_MIN);
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
    num_waiting: AtomicUsize,
    /// Bytes of open blocks: within what is reserved, like answers in flight.
    open_bytes: AtomicU64,
}

struct State {
    core: StoreCore,
    blocks: BTreeMap<BlockId, Held>,
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
        let state =
            State { core: StoreCore::new(budgets.memory, budgets.disk), blocks: BTreeMap::new() };
        Ok(Self {
            inner: Arc::new(Inner {
                directory,
                budgets,
                state: Mutex::new(state),
                changed: Notify::new(),
                turn: tokio::sync::Mutex::new(()),
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
        OpenBytes { store: Arc::clone(&self.inner), bytes: 0 }
    }

    /// True while a receiver waits for room.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        self.inner.num_waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits for room in memory; receivers are served in the order in which they asked.
    ///
    /// # Errors
    /// [`Code::DoesNotFit`] for more than the whole budget.
    pub async fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Reservation, Error> {
        let _turn = match purpose {
            Purpose::Receive => Some(self.inner.turn.lock().await),
            Purpose::Reread => None,
        };
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let changed = self.inner.changed.notified();
            let room = self.inner.lock().core.reserve(bytes, purpose);
            match room {
                Room::Reserved => {
                    return Ok(Reservation { store: Arc::clone(&self.inner), bytes });
                }
                Room::Spill(id) => self.spill(id).await,
                Room::Evict(id) => {
                    tracing::warn!(block = %id, "evicted for a block that a batch waits for");
                    self.inner.lock().blocks.remove(&id);
                }
                Room::Wait => {
                    waiting.get_or_insert_with(|| Waiting::new(&self.inner.num_waiting));
                    changed.await;
                }
                Room::Never => return Err(does_not_fit(bytes, self.inner.budgets.memory)),
            }
        }
    }

    /// Puts a block in, with the room that was reserved for it; room left over is given back.
    pub fn insert(&self, block: RawBlock, mut reservation: Reservation, keep: Keep) {
        let id = block.id.clone();
        // What was reserved is at least what was counted; alignment may add a little.
        let bytes = (block.memory_bytes() as u64).min(reservation.bytes);
        {
            let mut state = self.inner.lock();
            state.core.insert(id.clone(), bytes, keep.may_spill, keep.is_evictable);
            state.blocks.insert(id, Held::Memory(Arc::new(block)));
        }
        reservation.bytes -= bytes;
    }

    /// Puts a block without records in, which takes no room worth counting.
    pub fn insert_empty(&self, block: RawBlock, keep: Keep) {
        let reservation = Reservation { store: Arc::clone(&self.inner), bytes: 0 };
        self.insert(block, reservation, keep);
    }

    /// The ids of all blocks here.
    #[must_use]
    pub fn ids(&self) -> Vec<BlockId> {
        self.inner.lock().blocks.keys().cloned().collect()
    }

    /// Drops blocks; those that are not here are no error.
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a BlockId>) {
        let mut files = Vec::new();
        {
            let mut state = self.inner.lock();
            for id in ids {
                state.core.remove(id);
                if let Some(Held::Disk { file, .. }) = state.blocks.remove(id) {
                    files.push(file);
                }
            }
        }
        self.inner.changed.notify_waiters();
        // The last reference removes the file.
        drop(files);
    }

    /// True when the block is here.
    #[must_use]
    pub fn contains(&self, id: &BlockId) -> bool {
        self.inner.lock().blocks.contains_key(id)
    }

    /// Writes a block to disk. The books are set right by the thread that writes, so that nothing
    /// is left open when whoever waits here is cancelled.
    async fn spill(&self, id: BlockId) {
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

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves the state half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spill(&self, id: &BlockId) {
        let block = match self.lock().blocks.get(id) {
            Some(Held::Memory(block)) => Arc::clone(block),
            _ => return,
        };
        match SpillFile::write(&self.directory, &block) {
            Ok(file) => {
                let mut state = self.lock();
                if state.core.spilled(id) {
                    let loaded = Arc::downgrade(&block);
                    let held = Held::Disk { file: Arc::new(file), loaded };
                    state.blocks.insert(id.clone(), held);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a block stays in memory");
                self.lock().core.spill_failed(id);
            }
        }
        self.changed.notify_waiters();
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
        let path = file.path().display().to_string();
        let unreadable =
            |detail: String| BlockError::Unreadable { block: id.clone(), path, detail };
        let read = tokio::task::spawn_blocking(move || file.read()).await;
        let block = match read {
            Ok(Ok(block)) => Arc::new(block),
            Ok(Err(detail)) => return Err(unreadable(detail)),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        if let Some(Held::Disk { loaded, .. }) = self.inner.lock().blocks.get_mut(id) {
            *loaded = Arc::downgrade(&block);
        }
        Ok(block)
    }
}

/// Room in the store's memory, given back when dropped.
pub struct Reservation {
    store: Arc<Inner>,
    bytes: u64,
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
        Self { store: Arc::clone(&self.store), bytes }
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
            self.store.lock().core.unreserve(self.bytes);
            self.store.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

/// The size of an open block, counted until it is dropped.
pub struct OpenBytes {
    store: Arc<Inner>,
    bytes: u64,
}

impl OpenBytes {
    /// The open block has this size now.
    pub fn set(&mut self, bytes: u64) {
        self.store.open_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.store.open_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for OpenBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts whoever waits for room, until it has it or gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
