//! Who asks, whether they may, and what they did.
//!
//! Promises: without a rule nobody passes; who passes is known by name to whatever serves them; what
//! changes something is written down with its outcome. Owned by the master's one port. Never does:
//! know what a method does.

mod audit;
mod gate;
mod principal;
mod rules;
mod tokens;

pub(crate) use self::audit::{Audit, Deed};
pub(crate) use self::gate::{Gate, gate};
pub(crate) use self::principal::Principal;
pub use self::tokens::TokenRecord;
pub(crate) use self::tokens::Tokens;
