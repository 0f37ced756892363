//! The memory of containers: what the process, the blocks and the queries may hold of it, and how
//! long the blocks' part lasts when streams are read at their limit.

use std::time::Duration;

use super::line::{Line, Status, about, counted};
use super::streams::READ_BYTES_PER_SHARD;
use crate::application::{ApplicationSpec, StorageLevel};
use crate::budget::{
    BLOCKS_MIN, BLOCKS_PERCENT, CUT_AT_DIVISOR, DISK_MULTIPLE, PROCESS, QUERIES_PERCENT,
};
use crate::resources::ByteSize;

/// Sizes that are proposed are whole multiples of this.
const STEP: u64 = 32 << 20;

/// How the memory of an executor is divided; bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    granted: u64,
    pub(super) blocks: u64,
    queries: u64,
}

impl Budget {
    pub(super) fn of(memory: ByteSize) -> Self {
        let percent = memory.as_u64() / 100;
        Self {
            granted: memory.as_u64(),
            blocks: (percent * BLOCKS_PERCENT).max(BLOCKS_MIN.as_u64()),
            queries: percent * QUERIES_PERCENT,
        }
    }

    /// What it holds whatever the query does.
    fn least(self) -> u64 {
        PROCESS.as_u64() + self.blocks
    }
}

/// The least memory from `memory` on at which `holds`; memory beyond any host ends the search.
fn least_above(memory: ByteSize, holds: impl Fn(ByteSize) -> bool) -> Option<ByteSize> {
    let first = memory.as_u64().div_ceil(STEP);
    let sizes = (first..first + (1 << 12)).map(|steps| ByteSize::bytes(steps * STEP));
    sizes.into_iter().find(|size| holds(*size))
}

fn is_enough(memory: ByteSize) -> bool {
    Budget::of(memory).least() <= memory.as_u64()
}

/// The least memory that an executor can have.
pub(super) fn least_executor() -> ByteSize {
    least_above(PROCESS, is_enough).unwrap_or(PROCESS)
}

/// The memory that an executor needs at least, when it was given less.
pub(super) fn executor_mend(spec: &ApplicationSpec) -> Option<ByteSize> {
    let memory = spec.resources.executor.memory;
    if is_enough(memory) { None } else { least_above(memory, is_enough) }
}

/// The memory that a driver needs at least, when it was given less.
pub(super) fn driver_mend(spec: &ApplicationSpec) -> Option<ByteSize> {
    (spec.resources.driver.memory < PROCESS).then_some(PROCESS)
}

pub(super) fn lines(spec: &ApplicationSpec, budget: Budget, shards: Option<u64>) -> Vec<Line> {
    let mut lines = Vec::new();
    if driver_mend(spec).is_some() {
        let (needs, has) = (about(PROCESS.as_u64()), about(spec.resources.driver.memory.as_u64()));
        let why = format!("the driver's process needs {needs} of memory and is to have {has}");
        let line = Line::new("driver memory", format!("{needs} process"), has, Status::Never);
        lines.push(line.because(why));
    }
    lines.push(executor(spec, budget));
    lines.push(buffer(spec, budget, shards));
    lines
}

fn executor(spec: &ApplicationSpec, budget: Budget) -> Line {
    let most = budget.least() + budget.queries;
    let needs = format!(
        "{} process + {} blocks + {} queries = {}",
        about(PROCESS.as_u64()),
        about(budget.blocks),
        about(budget.queries),
        about(most)
    );
    let has = about(budget.granted);
    let line = |status| Line::new("executor memory", needs.clone(), has.clone(), status);
    if budget.least() > budget.granted {
        let why = format!(
            "an executor's process and blocks need {} + {} = {} of memory and it is to have {has}",
            about(PROCESS.as_u64()),
            about(budget.blocks),
            about(budget.least()),
        );
        return line(Status::Never).because(why);
    }
    if most > budget.granted {
        let why = format!(
            "with full blocks and a query at its limit an executor holds {}, and is ended above \
             {has}",
            about(most)
        );
        let enough = |memory: ByteSize| {
            let budget = Budget::of(memory);
            budget.least() + budget.queries <= budget.granted
        };
        let memory = least_above(spec.resources.executor.memory, enough);
        let setting = memory.map(|memory| format!("resources.executor.memory={memory}"));
        return line(Status::Tight).because(why).mended_by(setting);
    }
    line(Status::Ok)
}

/// Blocks of one interval, at the streams' limits, against the part of the budget at which a batch is
/// cut ahead of its interval.
fn buffer(spec: &ApplicationSpec, budget: Budget, shards: Option<u64>) -> Line {
    const WHAT: &str = "batch buffer";
    let levels = || spec.sources.values().map(|source| source.storage_level);
    let copies = if levels().any(StorageLevel::copies) { 2 } else { 1 };
    // Memory, and where a source may spill a multiple of it on disk.
    let times = if levels().any(StorageLevel::spills) { 1 + DISK_MULTIPLE } else { 1 };
    let has = budget.blocks * times / CUT_AT_DIVISOR;
    let place = if times > 1 { "memory and disk" } else { "memory" };
    let has_words = format!("{}, half of the blocks' {place}", about(has));
    let interval = humantime::format_duration(spec.batch.interval);
    let Some(shards) = shards else {
        let needs = format!("? shards x 2MiB/s x {interval}");
        return Line::new(WHAT, needs, has_words, Status::Unknown);
    };
    let rate = shards.saturating_mul(READ_BYTES_PER_SHARD).saturating_mul(copies);
    let needs_bytes = (rate as f64 * spec.batch.interval.as_secs_f64()) as u64;
    let twice = if copies > 1 { "2 copies x " } else { "" };
    let needs = format!(
        "{twice}{} x 2MiB/s x {interval} = {}",
        counted(shards, "shard"),
        about(needs_bytes)
    );
    if needs_bytes <= has {
        return Line::new(WHAT, needs, has_words, Status::Ok);
    }
    let cut = (has as f64 / rate as f64 * 1_000.0) as u64;
    // Past a second nobody cares for less than a tenth of one.
    let cut = Duration::from_millis(if cut < 1_000 { cut.max(1) } else { cut / 100 * 100 });
    let why = format!(
        "while streams are read at their limit, as after a pause, batches are cut every {} instead \
         of every {interval}",
        humantime::format_duration(cut),
    );
    let enough = u128::from(needs_bytes) * u128::from(CUT_AT_DIVISOR) * 100
        / u128::from(BLOCKS_PERCENT * times);
    let steps = enough.div_ceil(u128::from(STEP)) + 1;
    let memory = u64::try_from(steps * u128::from(STEP)).ok().map(ByteSize::bytes);
    let setting = memory.map(|memory| format!("resources.executor.memory={memory}"));
    Line::new(WHAT, needs, has_words, Status::Tight).because(why).mended_by(setting)
}
