//! The books of the block store: who takes how much, and what has to go when there is no room.
//!
//! Promises: what is reserved and held in memory never exceeds the memory budget, and what is
//! spilled never exceeds the disk budget, whatever the order of events; a disk that refused a block
//! is asked for nothing more until the shell says so. Never does: hold a block.

use std::collections::BTreeMap;

use millrace_sql::scan::block::BlockId;

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory,
    /// On its way to disk: in memory until it has arrived.
    Spilling,
    /// On disk.
    Disk,
}

/// One block in the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    bytes: u64,
    may_spill: bool,
    place: Place,
    /// Blocks of a higher number came later.
    number: u64,
    /// False for a block that was read again: a batch waits for it.
    is_evictable: bool,
}

/// What to do to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room, and it is reserved now.
    Reserved,
    /// Write this block to disk, then ask again.
    Spill(BlockId),
    /// Drop this block, then ask again; its driver has it read again when it needs it.
    Evict(BlockId),
    /// Wait until something changes.
    Wait,
    /// It will never fit: more than the whole budget.
    Never,
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// New records: they may have to wait until batches are committed.
    Receive,
    /// A second copy of a block of another executor: made when there is room, and else not.
    Copy,
    /// A lost block of a batch that waits for it: younger blocks make room.
    Reread,
    /// A block on disk that a task reads. A part of the budget is kept for these, so that what
    /// waits for a batch to end can never keep that batch from reading its blocks.
    Load,
}

/// What the store holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in memory: blocks and reservations.
    pub memory_bytes: u64,
    /// Of those, bytes of blocks, those that a task still reads after their release included.
    pub held_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Blocks held, wherever.
    pub num_blocks: usize,
}

/// Part of the memory budget that is kept for blocks read back from disk, where there is a disk: a
/// quarter, above the size of a block even in the smallest store.
const LOAD_SHARE: u64 = 4;

/// The books. Memory is counted by reservation and by lease: whoever holds a block's memory holds
/// its lease, and gives it back by [`Self::unlease`] when the last of them lets go.
#[derive(Debug)]
pub struct StoreCore {
    memory_budget: u64,
    disk_budget: u64,
    reserved: u64,
    leased: u64,
    /// Of what is reserved and leased, the part for [`Purpose::Load`].
    loading: u64,
    on_disk: u64,
    /// Bytes on their way to disk: counted in memory and, ahead, on disk.
    spilling: u64,
    /// True since a spill failed: blocks stay in memory, and who has no room waits.
    is_spill_refused: bool,
    next_number: u64,
    entries: BTreeMap<BlockId, Entry>,
    /// Blocks in memory by age.
    by_age: BTreeMap<u64, BlockId>,
}

impl StoreCore {
    /// Empty books with these budgets, in bytes.
    #[must_use]
    pub fn new(memory_budget: u64, disk_budget: u64) -> Self {
        Self {
            memory_budget,
            disk_budget,
            reserved: 0,
            leased: 0,
            loading: 0,
            on_disk: 0,
            spilling: 0,
            is_spill_refused: false,
            next_number: 0,
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
        }
    }

    /// What is held now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory_bytes: self.reserved + self.leased,
            held_bytes: self.leased,
            disk_bytes: self.on_disk,
            num_blocks: self.entries.len(),
        }
    }

    /// Asks for room in memory. A reservation ends by [`Self::unreserve`], [`Self::insert`] or
    /// [`Self::load`].
    pub fn reserve(&mut self, bytes: u64, purpose: Purpose) -> Room {
        if bytes > self.limit(purpose) {
            return Room::Never;
        }
        if self.fits(bytes, purpose) {
            self.reserved += bytes;
            if purpose == Purpose::Load {
                self.loading += bytes;
            }
            return Room::Reserved;
        }
        // The youngest blocks are needed last.
        let youngest = |wanted: &dyn Fn(&Entry) -> bool| {
            self.by_age.values().rev().find(|id| {
                self.entries.get(*id).is_some_and(|e| e.place == Place::Memory && wanted(e))
            })
        };
        let disk_room = self.disk_budget.saturating_sub(self.on_disk + self.spilling);
        let spillable = |entry: &Entry| entry.may_spill && entry.bytes <= disk_room;
        if !self.is_spill_refused
            && let Some(id) = youngest(&spillable).cloned()
        {
            self.start_spill(&id);
            return Room::Spill(id);
        }
        if self.spilling == 0
            && purpose == Purpose::Reread
            && let Some(id) = youngest(&|entry| entry.is_evictable).cloned()
        {
            self.remove(&id);
            return Room::Evict(id);
        }
        Room::Wait
    }

    /// The most that one reservation may take.
    fn limit(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Receive | Purpose::Copy => self.memory_budget - self.kept_for_loads(),
            Purpose::Reread | Purpose::Load => self.memory_budget,
        }
    }

    fn kept_for_loads(&self) -> u64 {
        if self.disk_budget > 0 { self.memory_budget / LOAD_SHARE } else { 0 }
    }

    fn fits(&self, bytes: u64, purpose: Purpose) -> bool {
        let used = self.reserved + self.leased;
        let kept = match purpose {
            Purpose::Receive | Purpose::Copy => self.kept_for_loads().saturating_sub(self.loading),
            Purpose::Reread | Purpose::Load => 0,
        };
        used + kept + bytes <= self.memory_budget
    }

    /// Gives reserved room back.
    pub fn unreserve(&mut self, bytes: u64, purpose: Purpose) {
        self.reserved = self.reserved.saturating_sub(bytes);
        if purpose == Purpose::Load {
            self.loading = self.loading.saturating_sub(bytes);
        }
    }

    /// A block of `bytes` takes the place of as many reserved ones, as a lease. An older block of
    /// that name is replaced. `is_evictable` when it may be dropped for one that a batch waits for.
    pub fn insert(&mut self, id: BlockId, bytes: u64, may_spill: bool, is_evictable: bool) {
        self.remove(&id);
        self.reserved = self.reserved.saturating_sub(bytes);
        self.leased += bytes;
        let number = self.next_number;
        self.next_number += 1;
        self.by_age.insert(number, id.clone());
        let place = Place::Memory;
        self.entries.insert(id, Entry { bytes, may_spill, place, number, is_evictable });
    }

    /// A block that was read back from disk takes the place of as many bytes reserved for it.
    pub fn load(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
        self.leased += bytes;
    }

    /// Nobody holds the memory of a block any more; `purpose` is what it was reserved for.
    pub fn unlease(&mut self, bytes: u64, purpose: Purpose) {
        self.leased = self.leased.saturating_sub(bytes);
        if purpose == Purpose::Load {
            self.loading = self.loading.saturating_sub(bytes);
        }
    }

    /// Where the block is; none when it is not here.
    #[must_use]
    pub fn place(&self, id: &BlockId) -> Option<Place> {
        self.entries.get(id).map(|entry| entry.place)
    }

    /// Drops a block; says where it was. Its memory is free when its lease is given back.
    pub fn remove(&mut self, id: &BlockId) -> Option<Place> {
        let entry = self.entries.remove(id)?;
        self.by_age.remove(&entry.number);
        match entry.place {
            Place::Memory => {}
            Place::Spilling => self.spilling -= entry.bytes,
            Place::Disk => self.on_disk -= entry.bytes,
        }
        Some(entry.place)
    }

    /// The block's file is complete. False when the block was dropped meanwhile: its file goes too.
    pub fn spilled(&mut self, id: &BlockId) -> bool {
        match self.entries.get_mut(id) {
            Some(entry) if entry.place == Place::Spilling => {
                entry.place = Place::Disk;
                self.spilling -= entry.bytes;
                self.on_disk += entry.bytes;
                self.by_age.remove(&entry.number);
                true
            }
            _ => false,
        }
    }

    /// The block's file could not be written: it stays in memory, and nothing is spilled until
    /// [`Self::allow_spills`].
    pub fn spill_failed(&mut self, id: &BlockId) {
        self.is_spill_refused = true;
        if let Some(entry) = self.entries.get_mut(id)
            && entry.place == Place::Spilling
        {
            entry.place = Place::Memory;
            self.spilling -= entry.bytes;
        }
    }

    /// The disk may be asked again.
    pub fn allow_spills(&mut self) {
        self.is_spill_refused = false;
    }

    fn start_spill(&mut self, id: &BlockId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.place = Place::Spilling;
            self.spilling += entry.bytes;
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
