//! The books of the block store against every order of events.

use proptest::prelude::*;

use super::*;

fn id(number: usize) -> BlockId {
    BlockId::new(format!("b{number}"))
}

#[derive(Clone, Debug)]
enum Event {
    Reserve(u64, Purpose),
    Unreserve(usize),
    Insert {
        reservation: usize,
        block: usize,
        may_spill: bool,
    },
    /// Nobody holds the memory of this lease any more.
    Unlease(usize),
    Remove(usize),
    Spilled(usize),
    SpillFailed(usize),
    AllowSpills,
}

fn event() -> impl Strategy<Value = Event> {
    let purpose = prop_oneof![
        Just(Purpose::Receive),
        Just(Purpose::Copy),
        Just(Purpose::Reread),
        Just(Purpose::Load)
    ];
    prop_oneof![
        5 => (1u64..60, purpose).prop_map(|(bytes, purpose)| Event::Reserve(bytes, purpose)),
        1 => (0usize..8).prop_map(Event::Unreserve),
        4 => (0usize..8, 0usize..12, any::<bool>()).prop_map(|(reservation, block, may_spill)| {
            Event::Insert { reservation, block, may_spill }
        }),
        2 => (0usize..8).prop_map(Event::Unlease),
        1 => (0usize..12).prop_map(Event::Remove),
        2 => (0usize..8).prop_map(Event::Spilled),
        1 => (0usize..8).prop_map(Event::SpillFailed),
        1 => Just(Event::AllowSpills),
    ]
}

/// What the shell holds: reservations, and leases of blocks that may long be dropped.
#[derive(Debug, Default)]
struct Shell {
    reservations: Vec<(u64, Purpose)>,
    leases: Vec<(u64, Purpose)>,
    spills: Vec<BlockId>,
    is_refused: bool,
}

impl Shell {
    fn perform(&mut self, core: &mut StoreCore, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Reserve(bytes, purpose) => match core.reserve(bytes, purpose) {
                Room::Reserved => self.reservations.push((bytes, purpose)),
                Room::Spill(id) => {
                    prop_assert!(!self.is_refused, "the disk is asked again too early");
                    self.spills.push(id);
                }
                Room::Evict(id) => {
                    prop_assert_eq!(purpose, Purpose::Reread, "only a lost block evicts");
                    prop_assert_eq!(core.place(&id), None);
                }
                Room::Never | Room::Wait => {}
            },
            Event::Unreserve(index) if index < self.reservations.len() => {
                let (bytes, purpose) = self.reservations.swap_remove(index);
                core.unreserve(bytes, purpose);
            }
            Event::Insert { reservation, block, may_spill }
                if reservation < self.reservations.len() =>
            {
                let (bytes, purpose) = self.reservations.swap_remove(reservation);
                if purpose == Purpose::Load {
                    core.load(bytes);
                } else {
                    core.insert(id(block), bytes, may_spill, true);
                    prop_assert_eq!(core.place(&id(block)), Some(Place::Memory));
                }
                self.leases.push((bytes, purpose));
            }
            Event::Unlease(index) if index < self.leases.len() => {
                let (bytes, purpose) = self.leases.swap_remove(index);
                core.unlease(bytes, purpose);
            }
            Event::Remove(block) => {
                core.remove(&id(block));
                prop_assert_eq!(core.place(&id(block)), None);
            }
            Event::Spilled(index) if index < self.spills.len() => {
                let id = self.spills.swap_remove(index);
                let arrived = core.spilled(&id);
                prop_assert!(!arrived || core.place(&id) == Some(Place::Disk));
            }
            Event::SpillFailed(index) if index < self.spills.len() => {
                self.is_refused = true;
                let id = self.spills.swap_remove(index);
                core.spill_failed(&id);
                prop_assert!(core.place(&id) != Some(Place::Spilling));
            }
            Event::AllowSpills => {
                self.is_refused = false;
                core.allow_spills();
            }
            _ => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_budgets_are_never_exceeded_and_loads_keep_their_part(
        memory in 1u64..120,
        disk in 0u64..120,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut core = StoreCore::new(memory, disk);
        let mut shell = Shell::default();
        for event in events {
            let receives = matches!(
                event,
                Event::Reserve(_, Purpose::Receive | Purpose::Copy)
            );
            let before = shell.reservations.len();
            shell.perform(&mut core, event)?;
            let all = || shell.reservations.iter().chain(&shell.leases);
            let truth: u64 = all().map(|(bytes, _)| bytes).sum();
            let usage = core.usage();
            prop_assert_eq!(usage.memory_bytes, truth);
            prop_assert!(usage.memory_bytes <= memory, "{:?} of {}", usage, memory);
            prop_assert!(usage.disk_bytes <= disk, "{:?} of {}", usage, disk);
            if receives && shell.reservations.len() > before {
                let loads: u64 = all()
                    .filter(|(_, purpose)| *purpose == Purpose::Load)
                    .map(|(bytes, _)| bytes)
                    .sum();
                let kept = if disk > 0 { memory / 4 } else { 0 };
                prop_assert!(truth + kept.saturating_sub(loads) <= memory);
            }
        }
    }

    #[test]
    fn everything_given_back_leaves_nothing(blocks in prop::collection::vec(1u64..40, 0..20)) {
        let mut core = StoreCore::new(100, 1_000);
        for (number, bytes) in blocks.iter().enumerate() {
            loop {
                match core.reserve(*bytes, Purpose::Receive) {
                    Room::Reserved => break,
                    Room::Spill(spilled) => {
                        prop_assert!(core.spilled(&spilled));
                        let index = blocks.iter().enumerate().position(|(n, _)| id(n) == spilled);
                        core.unlease(blocks[index.unwrap()], Purpose::Receive);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            core.insert(id(number), *bytes, true, true);
        }
        for (number, bytes) in blocks.iter().enumerate() {
            if core.remove(&id(number)) == Some(Place::Memory) {
                core.unlease(*bytes, Purpose::Receive);
            }
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
    core.unlease(50, Purpose::Receive);
    assert_eq!(core.reserve(10, Purpose::Reread), Room::Reserved);
    assert_eq!(core.place(&id(1)), None);
}

#[test]
fn the_youngest_block_is_spilled_and_a_second_one_while_it_is_on_its_way() {
    let mut core = StoreCore::new(160, 60);
    for number in 0..4 {
        assert_eq!(core.reserve(30, Purpose::Receive), Room::Reserved);
        core.insert(id(number), 30, true, true);
    }
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Spill(id(3)));
    assert_eq!(core.place(&id(3)), Some(Place::Spilling));
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Spill(id(2)));
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Wait, "the disk's budget is used");
    assert!(core.spilled(&id(3)));
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Wait, "a task may still read it");
    core.unlease(30, Purpose::Receive);
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Reserved);
}

#[test]
fn a_disk_that_refuses_a_block_is_not_asked_again_until_it_may_be() {
    let mut core = StoreCore::new(100, 1_000);
    for number in 0..2 {
        assert_eq!(core.reserve(30, Purpose::Receive), Room::Reserved);
        core.insert(id(number), 30, true, true);
    }
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Spill(id(1)));
    core.spill_failed(&id(1));
    assert_eq!(core.place(&id(1)), Some(Place::Memory), "nothing is lost");
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Wait, "nor is the other block tried");
    core.allow_spills();
    assert_eq!(core.reserve(30, Purpose::Receive), Room::Spill(id(1)), "the same block again");
}

#[test]
fn a_block_dropped_on_its_way_to_disk_leaves_no_trace() {
    let mut core = StoreCore::new(100, 100);
    assert_eq!(core.reserve(60, Purpose::Receive), Room::Reserved);
    core.insert(id(0), 60, true, true);
    assert_eq!(core.reserve(60, Purpose::Receive), Room::Spill(id(0)));
    assert_eq!(core.remove(&id(0)), Some(Place::Spilling));
    assert!(!core.spilled(&id(0)));
    core.unlease(60, Purpose::Receive);
    assert_eq!(core.usage(), Usage::default());
}

#[test]
fn receivers_leave_room_for_what_tasks_read_back() {
    let mut core = StoreCore::new(100, 1_000);
    assert_eq!(core.reserve(75, Purpose::Receive), Room::Reserved);
    assert_eq!(core.reserve(1, Purpose::Receive), Room::Wait);
    assert_eq!(core.reserve(25, Purpose::Load), Room::Reserved);
    assert_eq!(core.reserve(1, Purpose::Load), Room::Wait);
    core.load(25);
    core.unlease(25, Purpose::Load);
    assert_eq!(core.reserve(1, Purpose::Copy), Room::Wait, "the part is kept again");
    assert_eq!(core.reserve(76, Purpose::Receive), Room::Never);
}
