//! What a plan is told of its batch.
//!
//! Promises: plain values. The planner finds them in the session's extensions.
//! Never does: change after planning has begun, but for the counter that numbers the scans.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use datafusion_distributed::WorkerResolver;
use url::Url;

use super::sink::SinkSpec;
use crate::scan::{BatchConstants, PartitionBlocks};

/// An executor, as a place for tasks. Task n of every stage runs on target n.
#[derive(Debug, Clone)]
pub struct TaskTarget {
    /// Its own server.
    pub url: Url,
}

/// The blocks of one source: for each target, for each of its partitions. Targets without blocks
/// have empty lists; all have the same number of partitions.
pub type SourceBlocks = Vec<Vec<PartitionBlocks>>;

/// A batch, as far as planning is concerned.
#[derive(Debug)]
pub struct BatchInputs {
    /// Name of the run.
    pub run: uuid::Uuid,
    /// What is the same for all records.
    pub constants: BatchConstants,
    /// Where tasks may run; at least one.
    pub targets: Vec<TaskTarget>,
    /// Partitions of every scan on every target: the largest number of compute threads.
    pub partitions: usize,
    /// By source; a source that is absent is empty.
    pub sources: BTreeMap<String, SourceBlocks>,
    /// Where the result goes.
    pub sink: Arc<SinkSpec>,
    pub(crate) scans: AtomicU32,
    pub(crate) isolate_scans: bool,
}

impl BatchInputs {
    /// A batch; see the fields.
    #[must_use]
    pub fn new(
        run: uuid::Uuid,
        constants: BatchConstants,
        targets: Vec<TaskTarget>,
        partitions: usize,
        sources: BTreeMap<String, SourceBlocks>,
        sink: Arc<SinkSpec>,
    ) -> Self {
        let scans = AtomicU32::new(0);
        Self { run, constants, targets, partitions, sources, sink, scans, isolate_scans: false }
    }

    /// The same batch, with every scan in a stage of its own.
    pub(crate) fn isolated(&self) -> Self {
        Self {
            run: self.run,
            constants: self.constants,
            targets: self.targets.clone(),
            partitions: self.partitions,
            sources: self.sources.clone(),
            sink: Arc::clone(&self.sink),
            scans: AtomicU32::new(0),
            isolate_scans: true,
        }
    }

    /// Scans that planning has made.
    pub(crate) fn num_scans(&self) -> usize {
        usize::try_from(self.scans.load(Ordering::SeqCst)).unwrap_or(usize::MAX)
    }

    pub(crate) fn number_scan(&self) -> u32 {
        self.scans.fetch_add(1, Ordering::SeqCst)
    }
}

/// The URLs of a batch's targets, for the engine's count of workers.
pub(crate) struct Targets(pub(crate) Vec<Url>);

impl WorkerResolver for Targets {
    fn get_urls(&self) -> datafusion::common::Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}
