//! What all receivers of an executor share: the service they read from, the store they fill, the
//! names they give, the way to the driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace_proto::v1::{
    self, ApplicationSpec, ExecutorMessage, OutOfRangePolicy, StorageLevel, executor_message,
};
use millrace_sql::scan::block::BlockId;
use tokio::sync::mpsc;

use super::core::Limits;
use super::kinesis::Kinesis;
use super::pace::{CALL_INTERVAL, Paces};
use crate::executor::block_store::BlockStore;

/// What a receiver has to know of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRules {
    /// What becomes of user records outside their shard's range.
    pub out_of_range: OutOfRangePolicy,
    /// True when blocks may go to disk.
    pub may_spill: bool,
}

/// The rules of every source of an application.
#[must_use]
pub fn source_rules(spec: &ApplicationSpec) -> BTreeMap<String, SourceRules> {
    let rules = |source: &v1::SourceSpec| SourceRules {
        out_of_range: source.out_of_range(),
        may_spill: matches!(
            source.storage_level(),
            StorageLevel::MemoryAndDisk | StorageLevel::MemoryAndDisk2 | StorageLevel::Unspecified
        ),
    };
    spec.sources.iter().map(|source| (source.name.clone(), rules(source))).collect()
}

/// The way to the driver. What is sent while the connection is broken or slow is dropped: whoever
/// sends says it again until it is answered.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: mpsc::Sender<ExecutorMessage>,
}

impl Outbox {
    /// Into this queue.
    #[must_use]
    pub fn new(sender: mpsc::Sender<ExecutorMessage>) -> Self {
        Self { sender }
    }

    /// Sends, if there is room.
    pub fn send(&self, body: executor_message::Body) {
        if self.sender.try_send(ExecutorMessage { body: Some(body) }).is_err() {
            tracing::debug!("a message to the driver waits for its next turn");
        }
    }

    /// Sends when there is room; for what is said once only.
    pub async fn send_surely(&self, body: executor_message::Body) {
        if self.sender.send(ExecutorMessage { body: Some(body) }).await.is_err() {
            tracing::debug!("the executor ends with a message unsent");
        }
    }
}

/// Names for blocks: `<container>/<number>`, unique within the application.
#[derive(Debug)]
pub struct BlockNames {
    container: String,
    next: AtomicU64,
}

impl BlockNames {
    /// Of this container.
    pub fn new(container: impl Into<String>) -> Self {
        Self { container: container.into(), next: AtomicU64::new(1) }
    }

    /// A name that was never given.
    #[must_use]
    pub fn next(&self) -> BlockId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        BlockId::new(format!("{}/{number}", self.container))
    }
}

/// How fast receivers read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tempo {
    /// Least time between two calls of a kind to one shard.
    pub call_interval: Duration,
    /// Bytes per second, size of answers, idleness.
    pub limits: Limits,
}

impl Tempo {
    /// Within the limits of the real service.
    pub const KINESIS: Self = Self { call_interval: CALL_INTERVAL, limits: Limits::KINESIS };

    /// For an emulator without limits: 20 calls a second, as many bytes as there are.
    pub const UNLIMITED: Self = Self {
        call_interval: Duration::from_millis(50),
        limits: Limits {
            bytes_per_second: None,
            answer_bytes: 8 << 20,
            idle_pause: Duration::from_millis(50),
        },
    };
}

/// What all receivers share.
#[derive(Debug)]
pub struct Shared {
    /// Where records come from.
    pub kinesis: Arc<dyn Kinesis>,
    /// Where blocks go.
    pub store: BlockStore,
    /// The driver.
    pub outbox: Outbox,
    /// Names for blocks.
    pub names: BlockNames,
    /// The paces of all shards.
    pub paces: Paces,
    /// Bytes per second, size of answers, idleness.
    pub limits: Limits,
    /// The application's sources by name.
    pub sources: BTreeMap<String, SourceRules>,
    /// Where the tasks of readers run.
    pub io: tokio::runtime::Handle,
}

impl Shared {
    /// The blocks in the store, those included whose announcement the driver has not answered: it
    /// may have taken them all the same.
    #[must_use]
    pub fn held_blocks(&self) -> Vec<String> {
        self.store.ids().iter().map(|id| id.as_str().to_owned()).collect()
    }

    /// The rules of a source; those of a source the application does not have are the usual ones.
    #[must_use]
    pub fn rules(&self, source: &str) -> SourceRules {
        self.sources
            .get(source)
            .copied()
            .unwrap_or(SourceRules { out_of_range: OutOfRangePolicy::Auto, may_spill: false })
    }
}
