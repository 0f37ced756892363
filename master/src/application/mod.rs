//! One application: what was submitted, the attempts of its driver, and what it holds.
//!
//! Pure: events and times go in, actions come out; the control actor performs them. An application
//! never talks to a node, a driver or the store itself, and knows nothing of other applications.

pub(crate) mod admission;
mod attempts;
mod core;
mod driver;
mod history;
mod moving;
mod places;
mod record;
pub(crate) mod replays;
mod revisions;
mod scaling;
mod session;
mod settled;
mod state;
pub(crate) mod why;

pub(crate) use self::core::{Action, Application};
pub(crate) use self::driver::Driver;
pub(crate) use self::history::BATCHES_MAX;
pub(crate) use self::places::Launch;
pub(crate) use self::record::{ApplicationRecord, Revised};
pub(crate) use self::revisions::Admitted;
pub(crate) use self::state::{is_terminal, name as state_name};

#[cfg(test)]
mod tests;
