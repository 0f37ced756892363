//! The books of the block store: who takes how much, and what has to go when there is no room.
//!
//! Promises: what is reserved and held in memory never exceeds the memory budget, and what is
//! spilled never exceeds the disk budget, whatever the order of events. Never does: hold a block.

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
    /// A lost block of a batch that waits for it: younger blocks make room.
    Reread,
}

/// What the store holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in memory: blocks and reservations.
    pub memory_bytes: u64,
    /// Of those, bytes of blocks.
    pub held_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Blocks held, wherever.
    pub num_blocks: usize,
}

/// The books.
#[derive(Debug)]
pub struct StoreCore {
    memory_budget: u64,
    disk_budget: u64,
    reserved: u64,
    in_memory: u64,
    on_disk: u64,
    /// Bytes on their way to disk: counted in memory and, ahead, on disk.
    spilling: u64,
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
            in_memory: 0,
            on_disk: 0,
            spilling: 0,
            next_number: 0,
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
        }
    }

    /// What is held now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory_bytes: self.reserved + self.in_memory,
            held_bytes: self.in_memory,
            disk_bytes: self.on_disk,
            num_blocks: self.entries.len(),
        }
    }

    /// Asks for room in memory. A reservation ends by [`Self::unreserve`] or [`Self::insert`].
    pub fn reserve(&mut self, bytes: u64, purpose: Purpose) -> Room {
        if bytes > self.memory_budget {
            return Room::Never;
        }
        if self.reserved + self.in_memory + bytes <= self.memory_budget {
            self.reserved += bytes;
            return Room::Reserved;
        }
        // The youngest blocks are needed last.
        let youngest = |wanted: &dyn Fn(&Entry) -> bool| {
            self.by_age.values().rev().find(|id| {
                self.entries.get(*id).is_some_and(|e| e.place == Place::Memory && wanted(e))
            })
        };
        let disk_room = self.disk_budget.saturating_sub(self.on_disk + self.spilling);
        if let Some(id) = youngest(&|entry| entry.may_spill && entry.bytes <= disk_room).cloned() {
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

    /// Gives reserved room back.
    pub fn unreserve(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// A block of `bytes` takes the place of as many reserved ones. An older block of that name is
    /// replaced. `is_evictable` when it may be dropped for one that a batch waits for.
    pub fn insert(&mut self, id: BlockId, bytes: u64, may_spill: bool, is_evictable: bool) {
        self.remove(&id);
        self.reserved = self.reserved.saturating_sub(bytes);
        self.in_memory += bytes;
        let number = self.next_number;
        self.next_number += 1;
        self.by_age.insert(number, id.clone());
        let place = Place::Memory;
        self.entries.insert(id, Entry { bytes, may_spill, place, number, is_evictable });
    }

    /// Where the block is; none when it is not here.
    #[must_use]
    pub fn place(&self, id: &BlockId) -> Option<Place> {
        self.entries.get(id).map(|entry| entry.place)
    }

    /// Drops a block; says where it was.
    pub fn remove(&mut self, id: &BlockId) -> Option<Place> {
        let entry = self.entries.remove(id)?;
        self.by_age.remove(&entry.number);
        match entry.place {
            Place::Memory => self.in_memory -= entry.bytes,
            Place::Spilling => {
                self.in_memory -= entry.bytes;
                self.spilling -= entry.bytes;
            }
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
                self.in_memory -= entry.bytes;
                self.on_disk += entry.bytes;
                self.by_age.remove(&entry.number);
                true
            }
            _ => false,
        }
    }

    /// The block's file could not be written: it stays in memory and is not tried again.
    pub fn spill_failed(&mut self, id: &BlockId) {
        if let Some(entry) = self.entries.get_mut(id)
            && entry.place == Place::Spilling
        {
            entry.place = Place::Memory;
            entry.may_spill = false;
            self.spilling -= entry.bytes;
        }
    }

    fn start_spill(&mut self, id: &BlockId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.place = Place::Spilling;
            self.spilling += entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> BlockId {
        BlockId::new(format!("b{number}"))
    }

    #[derive(Clone, Debug)]
    enum Event {
        Reserve(u64, bool),
        Unreserve(usize),
        Insert { reservation: usize, block: usize, may_spill: bool },
        Remove(usize),
        Spilled(usize),
        SpillFailed(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (1u64..60, any::<bool>()).prop_map(|(bytes, reread)| Event::Reserve(bytes, reread)),
            1 => (0usize..8).prop_map(Event::Unreserve),
            4 => (0usize..8, 0usize..12, any::<bool>()).prop_map(|(reservation, block, may_spill)| {
                Event::Insert { reservation, block, may_spill }
            }),
            1 => (0usize..12).prop_map(Event::Remove),
            2 => (0usize..8).prop_map(Event::Spilled),
            1 => (0usize..8).prop_map(Event::SpillFailed),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn the_budgets_are_never_exceeded(
            memory in 1u64..120,
            disk in 0u64..120,
            events in prop::collection::vec(event(), 0..120),
        ) {
            let mut core = StoreCore::new(memory, disk);
            let (mut reservations, mut spills): (Vec<u64>, Vec<BlockId>) = (vec![], vec![]);
            for event in events {
                match event {
                    Event::Reserve(bytes, reread) => {
                        let purpose = if reread { Purpose::Reread } else { Purpose::Receive };
                        match core.reserve(bytes, purpose) {
                            Room::Reserved => reservations.push(bytes),
                            Room::Spill(id) => spills.push(id),
                            Room::Evict(id) => {
                                prop_assert!(reread, "only a lost block evicts");
                                prop_assert_eq!(core.place(&id), None);
                            }
                            Room::Never => prop_assert!(bytes > memory),
                            Room::Wait => {}
                        }
                    }
                    Event::Unreserve(index) if index < reservations.len() => {
                        core.unreserve(reservations.swap_remove(index));
                    }
                    Event::Insert { reservation, block, may_spill }
                        if reservation < reservations.len() =>
                    {
                        let bytes = reservations.swap_remove(reservation);
                        core.insert(id(block), bytes, may_spill, true);
                        prop_assert_eq!(core.place(&id(block)), Some(Place::Memory));
                    }
                    Event::Remove(block) => {
                        core.remove(&id(block));
                        prop_assert_eq!(core.place(&id(block)), None);
                    }
                    Event::Spilled(index) if index < spills.len() => {
                        let id = spills.swap_remove(index);
                        let arrived = core.spilled(&id);
                        prop_assert!(!arrived || core.place(&id) == Some(Place::Disk));
                    }
                    Event::SpillFailed(index) if index < spills.len() => {
                        core.spill_failed(&spills.swap_remove(index));
                    }
                    _ => {}
                }
                let usage = core.usage();
                prop_assert!(usage.memory_bytes <= memory, "{usage:?} of {memory}");
                prop_assert!(usage.disk_bytes <= disk, "{usage:?} of {disk}");
            }
        }

        #[test]
        fn everything_given_back_leaves_nothing(blocks in prop::collection::vec(1u64..40, 0..20)) {
            let mut core = StoreCore::new(100, 1_000);
            for (number, bytes) in blocks.iter().enumerate() {
                loop {
                    match core.reserve(*bytes, Purpose::Receive) {
                        Room::Reserved => break,
                        Room::Spill(id) => prop_assert!(core.spilled(&id)),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                core.insert(id(number), *bytes, true, true);
            }
            for number in 0..blocks.len() {
                prop_assert!(core.remove(&id(number)).is_some());
            }
            prop_assert_eq!(core.usage(), Usage::default());
        }
    }

    #[test]
    fn memory_alone_makes_receivers_wait_and_lost_blocks_evict_the_youngest() {
        let mut core = StoreCore::new(100, 0);
        for number in 0..2 {
            assert_eq!(core.reserve(50, Purpose::Receive), Room::Reserved);
            core.insert(id(number), 50, true, true);
        }
        assert_eq!(core.reserve(10, Purpose::Receive), Room::Wait);
        assert_eq!(core.reserve(10, Purpose::Reread), Room::Evict(id(1)));
        assert_eq!(core.reserve(10, Purpose::Reread), Room::Reserved);
        assert_eq!(core.place(&id(1)), None);
    }

    #[test]
    fn the_youngest_block_is_spilled_and_a_second_one_while_it_is_on_its_way() {
        let mut core = StoreCore::new(100, 60);
        for number in 0..3 {
            assert_eq!(core.reserve(30, Purpose::Receive), Room::Reserved);
            core.insert(id(number), 30, true, true);
        }
        assert_eq!(core.reserve(30, Purpose::Receive), Room::Spill(id(2)));
        assert_eq!(core.place(&id(2)), Some(Place::Spilling));
        assert_eq!(core.reserve(30, Purpose::Receive), Room::Spill(id(1)));
        assert_eq!(core.reserve(30, Purpose::Receive), Room::Wait, "the disk's budget is used");
        assert!(core.spilled(&id(2)));
        assert_eq!(core.reserve(30, Purpose::Receive), Room::Reserved);
    }

    #[test]
    fn a_block_dropped_on_its_way_to_disk_leaves_no_trace() {
        let mut core = StoreCore::new(100, 100);
        assert_eq!(core.reserve(60, Purpose::Receive), Room::Reserved);
        core.insert(id(0), 60, true, true);
        assert_eq!(core.reserve(60, Purpose::Receive), Room::Spill(id(0)));
        assert_eq!(core.remove(&id(0)), Some(Place::Spilling));
        assert!(!core.spilled(&id(0)));
        assert_eq!(core.usage(), Usage::default());
    }
}
