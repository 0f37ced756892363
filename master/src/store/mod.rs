//! What outlives the master: applications, the names of nodes, and who leads.
//!
//! One small trait, one implementation on DynamoDB, one in memory that can be told to fail and to
//! lie. Every write carries the leader's term and is refused when a later leader has been there.

mod codec;
mod dynamo;
mod leader;
pub mod memory;
mod tenure;
mod writer;

use std::fmt;

use async_trait::async_trait;
use millrace_common::error::Error;
use millrace_common::id::{ApplicationName, NodeId};
use millrace_proto::v1;

pub use self::dynamo::DynamoStore;
pub use self::leader::{Campaign, Known, LeaderTiming, Leadership, campaign, hold};
pub use self::tenure::Tenure;
pub use self::writer::{Writer, WriterEvent};
pub use crate::access::TokenRecord;
use crate::application::ApplicationRecord;

/// Something to be kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// An application, whole.
    Application(ApplicationName, Box<ApplicationRecord>),
    /// A node that has registered.
    Node(NodeId),
    /// A node that left or is lost.
    NodeGone(NodeId),
    /// The order to drain a node; it stays while the node is away.
    Drain(NodeId, DrainOrder),
    /// The node takes containers again.
    DrainGone(NodeId),
    /// A token of a person or a program.
    Token(Box<TokenRecord>),
    /// The token of this id is over, and forgotten.
    TokenGone(String),
}

/// The order to empty a node and to keep it so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainOrder {
    /// When it was given, Unix time in milliseconds.
    pub asked_ms: i64,
    /// When what is left on the node is ended, Unix time in milliseconds.
    pub deadline_ms: Option<i64>,
}

impl Record {
    /// What the record is about; a later record of the same key replaces an earlier one.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Application(name, _) => millrace_common::table::application_sk(name),
            Self::Node(node) | Self::NodeGone(node) => {
                millrace_common::table::node_sk(node.as_str())
            }
            Self::Drain(node, _) | Self::DrainGone(node) => {
                millrace_common::table::drain_sk(node.as_str())
            }
            Self::Token(token) => millrace_common::table::token_sk(&token.info.id),
            Self::TokenGone(id) => millrace_common::table::token_sk(id),
        }
    }
}

/// Everything that the store holds of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Applications by name.
    pub applications: Vec<(ApplicationName, ApplicationRecord)>,
    /// Nodes that had registered.
    pub nodes: Vec<NodeId>,
    /// Orders to drain nodes.
    pub drains: Vec<(NodeId, DrainOrder)>,
    /// Tokens that were given out.
    pub tokens: Vec<TokenRecord>,
}

/// The leader item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaderItem {
    /// Leadership number.
    pub term: u64,
    /// Counts up with every renewal.
    pub counter: u64,
    /// The process that leads: new at every start.
    pub instance: String,
    /// Host and address that it listens on. Who listens there now knows that it is gone.
    pub place: String,
    /// Where it is reached.
    pub address: String,
    /// True when it gave leadership up.
    pub is_released: bool,
}

/// Why a call of the store failed.
#[derive(Debug)]
pub enum StoreError {
    /// The condition did not hold: somebody else was there.
    Refused,
    /// Another master leads.
    Deposed,
    /// It may be worth another try; the write may have been applied.
    Passing(Error),
    /// It will fail again.
    Lasting(Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused: another leader was there"),
            Self::Deposed => f.write_str("refused: another master leads"),
            Self::Passing(error) | Self::Lasting(error) => error.fmt(f),
        }
    }
}

/// The store of one cluster. One function per call; who calls decides about retries.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The leader item, read consistently; none before the first leader.
    async fn read_leader(&self) -> Result<Option<LeaderItem>, StoreError>;

    /// Writes the leader item if it still is `expected` (compared by term and counter).
    async fn write_leader(
        &self,
        item: &LeaderItem,
        expected: Option<&LeaderItem>,
    ) -> Result<(), StoreError>;

    /// Everything there is, marked with the term and then read, so that an older leader can not
    /// change it any more.
    async fn load(&self, term: u64) -> Result<Snapshot, StoreError>;

    /// Writes a record unless a later leader has written it; one that is not there yet only while
    /// the leader item still has this term.
    async fn put(&self, term: u64, record: &Record) -> Result<(), StoreError>;

    /// Marks the head of an application to give up its positions at the next start, while the
    /// leader item still has this term. The batch that the head stands at;
    /// [`StoreError::Refused`] when there is no head of this cluster, [`StoreError::Deposed`] when
    /// another master leads.
    async fn reset_head(
        &self,
        term: u64,
        name: &ApplicationName,
        to: &v1::StartPosition,
    ) -> Result<u64, StoreError>;

    /// Leaves an operator's word about the head's batch for the next start, while the leader item
    /// still has this term; [`StoreError::Refused`] when the head is not this cluster's or stands at
    /// another commit or says that its batch is published, [`StoreError::Deposed`] when another
    /// master leads.
    async fn repair_head(
        &self,
        term: u64,
        name: &ApplicationName,
        repair: &v1::RepairRequest,
    ) -> Result<(), StoreError>;
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
