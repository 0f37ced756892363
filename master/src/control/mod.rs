//! The master's one actor: every event of nodes, drivers and clients passes through it in order, so
//! that no two parts of the master ever disagree.
//!
//! `core` composes the pure parts (cluster, applications, scheduler) and turns events into effects;
//! `actor` performs the effects: messages on streams, records to the store, answers to clients.

mod actor;
mod core;
mod drain;
mod drivers;
mod effect;
mod nodes;
mod placing;
mod requests;
mod submit;
mod tokens;
pub(crate) mod view;

pub(crate) use self::actor::{
    Control, DriverClosed, DriverOpened, DriverSaid, NodeClosed, NodeOpened, NodeSaid, Read,
    ReadLog, StreamTo,
};
pub(crate) use self::core::{Core, Identity};
pub(crate) use self::requests::{Drain, Kill, ListQueues, Scale, Stop, Submit, Undrain, Why};
pub(crate) use self::tokens::{CreateToken, RevokeToken};

/// One stream to a node or a driver; never used twice in a master's life.
pub(crate) type SessionId = u64;

#[cfg(test)]
mod tests;
