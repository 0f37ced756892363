//! Which receiver on which executor reads which shard: a pure function of what there is.
//!
//! Promises: every shard is assigned while there is an executor; executors differ by at most one
//! in the number of shards they read unless observed bytes say otherwise; what is well placed
//! stays. Owned by the receivers' core. Never does: count generations (the ledger does).

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::id::{ContainerId, ReceiverId};
use millrace_common::position::ShardKey;

/// How the receivers of a source are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One receiver on each executor.
    PerExecutor,
    /// One receiver for each shard.
    PerShard,
    /// This many receivers, at least one.
    Count(u32),
}

/// Who reads a shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// The executor.
    pub container: ContainerId,
    /// The receiver on it.
    pub receiver: ReceiverId,
}

/// The seats of all shards of an application.
pub type Assignment = BTreeMap<ShardKey, Seat>;

/// Weight of a shard beside its bytes per second, so that idle shards are spread by number.
const SHARD_WEIGHT: u64 = 16 << 10;

/// A shard moves for its bytes only when this share of the mean load is gained: a move costs a
/// new iterator and a second read of what was not announced.
const GAIN_DIVISOR: u64 = 2;

/// A shard to be read and what it brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The shard.
    pub shard: ShardKey,
    /// Observed bytes per second.
    pub bytes_per_second: u64,
    /// An executor that failed to read it, to be avoided while there is another.
    pub avoid: Option<ContainerId>,
}

/// Assigns the shards of one source. `load` is what the executors carry for other sources already,
/// by their weight; it names every executor there is. `current` holds the seats up to now.
#[must_use]
pub fn assign(
    source: &str,
    layout: Layout,
    load: &BTreeMap<ContainerId, u64>,
    demands: &[Demand],
    current: &Assignment,
) -> Assignment {
    if load.is_empty() {
        return Assignment::new();
    }
    match layout {
        Layout::PerExecutor => per_executor(source, load, demands, current),
        Layout::PerShard => per_shard(source, load, demands, current),
        Layout::Count(count) => counted(source, count.max(1), load, demands, current),
    }
}

/// What a set of demands weighs on its executor.
#[must_use]
pub fn weight(bytes_per_second: u64) -> u64 {
    bytes_per_second.saturating_add(SHARD_WEIGHT)
}

fn per_executor(
    source: &str,
    load: &BTreeMap<ContainerId, u64>,
    demands: &[Demand],
    current: &Assignment,
) -> Assignment {
    let placed = spread(load, &items(demands, current, |seat| seat.container.clone()));
    let mut names = Names::taken_from(source, current, load);
    let mut receivers = BTreeMap::<ContainerId, ReceiverId>::new();
    for seat in current.values().filter(|seat| load.contains_key(&seat.container)) {
        receivers.insert(seat.container.clone(), seat.receiver.clone());
    }
    let mut assignment = Assignment::new();
    for (demand, container) in demands.iter().zip(placed) {
        let receiver =
            receivers.entry(container.clone()).or_insert_with(|| names.next_free()).clone();
        assignment.insert(demand.shard.clone(), Seat { container, receiver });
    }
    assignment
}

fn per_shard(
    source: &str,
    load: &BTreeMap<ContainerId, u64>,
    demands: &[Demand],
    current: &Assignment,
) -> Assignment {
    let placed = spread(load, &items(demands, current, |seat| seat.container.clone()));
    let shards: BTreeSet<&ShardKey> = demands.iter().map(|demand| &demand.shard).collect();
    let mut names = Names::new(source);
    for (shard, seat) in current {
        if shards.contains(shard) {
            names.take(&seat.receiver);
        }
    }
    let mut assignment = Assignment::new();
    for (demand, container) in demands.iter().zip(placed) {
        let receiver = match current.get(&demand.shard) {
            Some(seat) => seat.receiver.clone(),
            None => names.next_free(),
        };
        assignment.insert(demand.shard.clone(), Seat { container, receiver });
    }
    assignment
}

fn counted(
    source: &str,
    count: u32,
    load: &BTreeMap<ContainerId, u64>,
    demands: &[Demand],
    current: &Assignment,
) -> Assignment {
    let mut homes = BTreeMap::<ReceiverId, ContainerId>::new();
    for seat in current.values() {
        homes.insert(seat.receiver.clone(), seat.container.clone());
    }
    let receivers: Vec<ReceiverId> = (1..=count).map(|n| name(source, n)).collect();
    let wanted: Vec<Item<ContainerId>> = receivers
        .iter()
        .map(|receiver| Item { weight: 1, now: homes.get(receiver).cloned(), avoid: None })
        .collect();
    let even = load.keys().map(|container| (container.clone(), 0)).collect();
    let containers = spread(&even, &wanted);
    let homes: BTreeMap<ReceiverId, ContainerId> =
        receivers.iter().cloned().zip(containers).collect();

    let bins = receivers.iter().map(|receiver| (receiver.clone(), 0)).collect();
    let placed = spread(&bins, &items(demands, current, |seat| seat.receiver.clone()));
    let mut assignment = Assignment::new();
    for (demand, receiver) in demands.iter().zip(placed) {
        if let Some(container) = homes.get(&receiver) {
            let container = container.clone();
            assignment.insert(demand.shard.clone(), Seat { container, receiver });
        }
    }
    assignment
}

/// Something to be put into a bin.
#[derive(Clone, Debug)]
struct Item<B> {
    weight: u64,
    now: Option<B>,
    avoid: Option<B>,
}

fn items<B: PartialEq + Clone>(
    demands: &[Demand],
    current: &Assignment,
    bin: impl Fn(&Seat) -> B,
) -> Vec<Item<B>> {
    let item = |demand: &Demand| {
        let seat = current.get(&demand.shard);
        let failed = seat.filter(|seat| demand.avoid.as_ref() == Some(&seat.container));
        Item {
            weight: weight(demand.bytes_per_second),
            now: seat.map(&bin),
            avoid: failed.map(&bin),
        }
    };
    demands.iter().map(item).collect()
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    count: u64,
    weight: u64,
}

/// Puts every item into a bin and keeps as many as possible where they are: first by number (the
/// fullest and the emptiest bin differ by at most one), then by weight.
fn spread<B: Ord + Clone>(load: &BTreeMap<B, u64>, items: &[Item<B>]) -> Vec<B> {
    let mut bins: BTreeMap<&B, Bin> =
        load.iter().map(|(bin, weight)| (bin, Bin { count: 0, weight: *weight })).collect();
    let mut places: Vec<Option<&B>> = vec![None; items.len()];
    // The heaviest first, so that the last ones even things out.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(items[*index].weight));

    let (fewest, num_fuller) = (items.len() / load.len(), items.len() % load.len());
    let mut fuller = 0;
    for index in &order {
        let item = &items[*index];
        let stays = item.now.as_ref().filter(|now| item.avoid.as_ref() != Some(*now));
        let Some((key, bin)) = stays.and_then(|now| bins.get_mut(now).map(|bin| (now, bin))) else {
            continue;
        };
        let room = bin.count < fewest as u64 || (bin.count == fewest as u64 && fuller < num_fuller);
        if room {
            fuller += usize::from(bin.count == fewest as u64);
            *bin = Bin { count: bin.count + 1, weight: bin.weight + item.weight };
            places[*index] = load.get_key_value(key).map(|(key, _)| key);
        }
    }
    for index in &order {
        if places[*index].is_some() {
            continue;
        }
        let item = &items[*index];
        let avoided = |bin: &B| item.avoid.as_ref() == Some(bin);
        let best = bins
            .iter_mut()
            .min_by_key(|(key, bin)| (avoided(key) && load.len() > 1, bin.count, bin.weight));
        if let Some((key, bin)) = best {
            *bin = Bin { count: bin.count + 1, weight: bin.weight + item.weight };
            places[*index] = Some(key);
        }
    }
    swap_for_weight(&mut bins, &mut places, items);
    places.into_iter().flatten().cloned().collect()
}

/// Swaps a heavy item of the heaviest bin for a light one of the lightest while that gains enough:
/// the numbers stay even.
fn swap_for_weight<'a, B: Ord + Clone>(
    bins: &mut BTreeMap<&'a B, Bin>,
    places: &mut [Option<&'a B>],
    items: &[Item<B>],
) {
    let total: u64 = bins.values().map(|bin| bin.weight).sum();
    let enough = (total / bins.len() as u64 / GAIN_DIVISOR).max(1);
    // Each swap shrinks the heaviest bin; the bound is for the proof, not for the practice.
    for _ in 0..items.len() {
        let heaviest = bins.iter().max_by_key(|(_, bin)| bin.weight).map(|(key, _)| *key);
        let lightest = bins.iter().min_by_key(|(_, bin)| bin.weight).map(|(key, _)| *key);
        let (Some(from), Some(to)) = (heaviest, lightest) else { return };
        let gap = bins[from].weight - bins[to].weight;
        let in_bin = |bin: &'a B| {
            let places = &*places;
            (0..items.len()).filter(move |index| places[*index] == Some(bin))
        };
        let pairs = in_bin(from).flat_map(|heavy| in_bin(to).map(move |light| (heavy, light)));
        let best = pairs
            .filter(|(_, light)| items[*light].avoid.as_ref() != Some(from))
            .filter(|(heavy, _)| items[*heavy].avoid.as_ref() != Some(to))
            .filter_map(|(heavy, light)| {
                let moved = items[heavy].weight.checked_sub(items[light].weight)?;
                // After the swap the gap is |gap - 2 * moved|.
                let gained = gap.saturating_sub(gap.abs_diff(2 * moved));
                (gained >= enough).then_some((gained, heavy, light, moved))
            })
            .max_by_key(|(gained, heavy, light, _)| (*gained, usize::MAX - heavy, *light));
        let Some((_, heavy, light, moved)) = best else { return };
        places.swap(heavy, light);
        for (key, bin) in bins.iter_mut() {
            if *key == from {
                bin.weight -= moved;
            } else if *key == to {
                bin.weight += moved;
            }
        }
    }
}

/// Names of receivers: `<source>/<number>`, the smallest free number first.
struct Names<'a> {
    source: &'a str,
    taken: BTreeSet<ReceiverId>,
    next: u32,
}

impl<'a> Names<'a> {
    fn new(source: &'a str) -> Self {
        Self { source, taken: BTreeSet::new(), next: 1 }
    }

    fn taken_from(
        source: &'a str,
        current: &Assignment,
        alive: &BTreeMap<ContainerId, u64>,
    ) -> Self {
        let mut names = Self::new(source);
        for seat in current.values().filter(|seat| alive.contains_key(&seat.container)) {
            names.take(&seat.receiver);
        }
        names
    }

    fn take(&mut self, receiver: &ReceiverId) {
        self.taken.insert(receiver.clone());
    }

    fn next_free(&mut self) -> ReceiverId {
        loop {
            let candidate = name(self.source, self.next);
            self.next += 1;
            if self.taken.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

fn name(source: &str, number: u32) -> ReceiverId {
    ReceiverId::new(format!("{source}/{number}"))
}

#[cfg(test)]
#[path = "assignment_tests.rs"]
mod tests;
