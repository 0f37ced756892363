//! What the core wants done. Effects of one event are performed in their order.

use millrace_proto::v1::{driver_command, node_command};

use super::SessionId;
use crate::store::Record;

/// One thing for the actor to do.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a message is moved once; boxing each costs more")]
pub(crate) enum Effect {
    /// Send to a node.
    ToNode(SessionId, node_command::Body),
    /// Close the stream of a node.
    CloseNode(SessionId),
    /// Send to a driver.
    ToDriver(SessionId, driver_command::Body),
    /// Close the stream of a driver.
    CloseDriver(SessionId),
    /// Write to the store; the core hears of it under this ticket.
    Write(u64, Record),
    /// A node has seen this higher term: this master is not the leader, or must become it anew.
    HigherTerm(u64),
}
