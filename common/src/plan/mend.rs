//! The smallest changes that make an application fit.
//!
//! Promises: each change was tried on the same nodes by the same arithmetic, makes the application
//! fit by itself, and one step less of it would not; the smallest in proportion comes first.

use serde::Serialize;

use super::line::{counted, words};
use super::places::{self, Shape};
use super::{Nodes, Question, memory};
use crate::application::ApplicationSpec;
use crate::resources::{ByteSize, Resources};

/// Nodes that a mend may add at most: past that, other numbers are wrong.
const NODES_MAX: u64 = 10_000;
/// Sizes that are proposed are whole multiples of this.
const STEP: ByteSize = ByteSize::mib(32);

/// A change that makes the application fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mend {
    /// In words, as `15 executors instead of 16`.
    pub change: String,
    /// Settings of the application, as `resources.executors=15`; for `--set`.
    pub settings: Vec<String>,
    /// Nodes to be added.
    pub num_nodes: u64,
    /// What each of these offers at least.
    #[serde(skip)]
    pub node: Resources,
    /// How large the change is, in thousandths of what it changes.
    #[serde(skip)]
    pub size: u64,
}

impl Mend {
    /// The change, and how it is said.
    #[must_use]
    pub fn in_words(&self) -> String {
        let settings: Vec<String> =
            self.settings.iter().map(|setting| format!("--set {setting}")).collect();
        match (self.num_nodes, settings.is_empty()) {
            (0, _) => format!("{} ({})", settings.join(" "), self.change),
            (_, true) => self.change.clone(),
            (_, false) => format!("{} with {}", self.change, settings.join(" ")),
        }
    }
}

/// What has to be asked of: nodes, the loss they have to stand, and the queue's share.
struct Trial<'a> {
    rooms: &'a [Resources],
    share: Option<Resources>,
    num_lost: usize,
}

impl Trial<'_> {
    fn fits(&self, shape: Shape) -> bool {
        self.fit(shape).is_some_and(|fit| fit >= u64::from(shape.min))
    }

    fn fit(&self, shape: Shape) -> Option<u64> {
        let fit = places::beside_driver(self.rooms, shape, self.num_lost);
        fit.map(|fit| fit.min(places::within(self.share, shape)))
    }

    fn fits_with(&self, shape: Shape, node: Resources, count: u64) -> bool {
        let added = std::iter::repeat_n(node, usize::try_from(count).unwrap_or(usize::MAX));
        let rooms: Vec<Resources> = self.rooms.iter().copied().chain(added).collect();
        Trial { rooms: &rooms, ..*self }.fits(shape)
    }
}

/// The changes of an application that does not fit into `rooms` and `share`, the smallest first.
/// `nodes` are what the rooms are of: a node that is added is like the largest of them.
pub(super) fn mends(
    question: Question<'_>,
    shape: Shape,
    nodes: &Nodes,
    (rooms, share): (&[Resources], Option<Resources>),
) -> Vec<Mend> {
    let spec = question.spec;
    let trial = Trial { rooms, share, num_lost: question.num_lost };
    // What is needed whatever the nodes: the process has to fit into its own container first.
    let (mut shape, mut needed) = (shape, Vec::new());
    if let Some(memory) = memory::driver_mend(spec) {
        shape.driver.memory = memory;
        needed.push(format!("resources.driver.memory={memory}"));
    }
    if let Some(memory) = memory::executor_mend(spec) {
        shape.executor.memory = memory;
        needed.push(format!("resources.executor.memory={memory}"));
    }
    if trial.fits(shape) {
        let change = "what its processes need at least".to_owned();
        return vec![Mend { change, settings: needed, ..Mend::none() }];
    }
    let mut mends: Vec<Mend> = [
        fewer_executors(spec, shape, &trial),
        fewer_cores(shape, &trial),
        less_memory(spec, shape, &trial),
        smaller_driver(shape, &trial),
        more_nodes(question, shape, nodes, &trial),
    ]
    .into_iter()
    .flatten()
    .collect();
    mends.sort_by_key(|mend| mend.size);
    for mend in &mut mends {
        // What a change sets itself was tried with what is needed.
        let keys: Vec<String> = mend.settings.iter().map(|setting| key(setting).into()).collect();
        let is_open = |setting: &&String| !keys.iter().any(|set| set == key(setting));
        mend.settings.extend(needed.iter().filter(is_open).cloned());
    }
    mends
}

/// What is set by `KEY=VALUE`.
fn key(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(key, _)| key)
}

impl Mend {
    /// The settings with which the change is asked for by somebody who gave `given` already: of those,
    /// what the change sets itself is left out.
    #[must_use]
    pub fn settings_after<'a>(&'a self, given: &'a [String]) -> Vec<&'a str> {
        let is_set = |setting: &str| self.settings.iter().any(|own| key(own) == key(setting));
        let kept = given.iter().filter(|setting| !is_set(setting));
        kept.chain(&self.settings).map(String::as_str).collect()
    }

    fn none() -> Self {
        Self {
            change: String::new(),
            settings: Vec::new(),
            num_nodes: 0,
            node: Resources::default(),
            size: 0,
        }
    }

    fn setting(change: String, setting: String, from: u64, to: u64) -> Self {
        let size = from.abs_diff(to) * 1_000 / from.max(1);
        Self { change, settings: vec![setting], size, ..Self::none() }
    }
}

/// The largest number below `from` and at least `least` for which `holds`; it holds below whatever it
/// holds for.
fn largest(from: u64, least: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = (least, from);
    if low >= high || !holds(low) {
        return None;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// The smallest number above 0 for which `holds`; it holds above whatever it holds for.
fn smallest(most: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = (0, 1);
    while !holds(high) {
        if high >= most {
            return None;
        }
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle }
    }
    (high <= most).then_some(high)
}

fn fewer_executors(spec: &ApplicationSpec, shape: Shape, trial: &Trial<'_>) -> Option<Mend> {
    let count = trial.fit(shape).filter(|fit| *fit > 0)?.min(u64::from(shape.min));
    let (min, max) = (shape.min, spec.resources.executors.max);
    let copies = spec.sources.values().any(|source| source.storage_level.copies());
    if copies && max == min && count < 2 {
        return None;
    }
    let change = format!("{} instead of {min}", counted(count, "executor"));
    let setting = if min == max {
        format!("resources.executors={count}")
    } else {
        format!("resources.executors.min={count}")
    };
    Some(Mend::setting(change, setting, u64::from(min), count))
}

fn fewer_cores(shape: Shape, trial: &Trial<'_>) -> Option<Mend> {
    let with = |cores: u64| {
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        Shape { executor: Resources { cores, ..shape.executor }, ..shape }
    };
    let from = u64::from(shape.executor.cores);
    let cores = largest(from, 1, |cores| trial.fits(with(cores)))?;
    let change = format!("{} for each executor instead of {from}", counted(cores, "core"));
    Some(Mend::setting(change, format!("resources.executor.cores={cores}"), from, cores))
}

fn less_memory(spec: &ApplicationSpec, shape: Shape, trial: &Trial<'_>) -> Option<Mend> {
    let with = |memory| Shape { executor: Resources { memory, ..shape.executor }, ..shape };
    let size = |steps: u64| ByteSize::bytes(steps * STEP.as_u64());
    let from = shape.executor.memory;
    let least = memory::least_executor().as_u64().div_ceil(STEP.as_u64());
    let steps = from.as_u64().div_ceil(STEP.as_u64());
    let steps = largest(steps, least, |steps| trial.fits(with(size(steps))))?;
    let memory = size(steps);
    let change = format!("{memory} for each executor instead of {from}");
    // A setting that is also needed for the process is one setting.
    let setting = format!("resources.executor.memory={memory}");
    let is_asked = spec.resources.executor.memory == from;
    is_asked.then(|| Mend::setting(change, setting, from.as_u64(), memory.as_u64()))
}

fn smaller_driver(shape: Shape, trial: &Trial<'_>) -> Option<Mend> {
    let with = |driver| Shape { driver, ..shape };
    let least = ByteSize::bytes(crate::budget::PROCESS.as_u64().max(256 << 20));
    let small = Resources::new(1, least.min(shape.driver.memory));
    if small == shape.driver || !trial.fits(with(small)) {
        return None;
    }
    let change = format!("a driver of {} instead of {}", words(small), words(shape.driver));
    let (mut settings, mut size) = (Vec::new(), 0);
    if small.cores < shape.driver.cores {
        settings.push("resources.driver.cores=1".to_owned());
        size = 1_000 - 1_000 / u64::from(shape.driver.cores);
    }
    if small.memory < shape.driver.memory {
        settings.push(format!("resources.driver.memory={}", small.memory));
        let (from, to) = (shape.driver.memory.as_u64(), small.memory.as_u64());
        size = size.max(1_000 - to / (from / 1_000).max(1));
    }
    Some(Mend { change, settings, size, ..Mend::none() })
}

fn more_nodes(
    question: Question<'_>,
    shape: Shape,
    nodes: &Nodes,
    trial: &Trial<'_>,
) -> Option<Mend> {
    let largest = nodes.offered.iter().copied().max_by_key(|node| (node.cores, node.memory));
    let larger =
        |a: Resources, b: Resources| Resources::new(a.cores.max(b.cores), a.memory.max(b.memory));
    let node = larger(larger(largest.unwrap_or_default(), shape.executor), shape.driver);
    // A size in words is what somebody starts a worker with: not a byte less than what was tried.
    let steps = node.memory.as_u64().div_ceil(STEP.as_u64());
    let node = Resources::new(node.cores, ByteSize::bytes(steps.saturating_mul(STEP.as_u64())));
    let count = smallest(NODES_MAX, |count| trial.fits_with(shape, node, count))?;
    let selector = &question.spec.resources.node_selector;
    let labels =
        if selector.is_empty() { String::new() } else { format!(" with the labels {selector}") };
    let cores = counted(u64::from(node.cores), "core");
    let change = format!("add {} of {cores}, {}{labels}", counted(count, "node"), node.memory);
    let now = nodes.offered.len().max(1) as u64;
    Some(Mend { change, num_nodes: count, node, size: count * 1_000 / now, ..Mend::none() })
}
