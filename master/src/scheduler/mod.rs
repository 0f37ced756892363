//! Who gets a place where. Pure: rooms and claims in, placements and reasons out.
//!
//! It owns no state: every round is computed from what the cluster and the applications are at that
//! moment, so that there is nothing to repair after a restart. It never places past what a node has
//! free, neither in cores nor in memory.

mod core;
mod drain;
mod placement;
mod queue;
pub mod stepped;

pub(crate) use self::core::{Claim, Placed, Wait, schedule};
pub(crate) use self::drain::{DriverPlace, ExecutorPlace, Step, Tenant, drain};
pub(crate) use self::placement::Room;
pub use self::queue::Queues;
pub(crate) use self::queue::times;

#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod scale_tests;
#[cfg(test)]
mod tests;
