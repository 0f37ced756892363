//! One application: what was submitted, the attempts of its driver, and what it holds.
//!
//! Pure: events and times go in, actions come out; the control actor performs them. An application
//! never talks to a node, a driver or the store itself, and knows nothing of other applications.

pub mod admission;
mod attempts;
mod core;
mod driver;
mod history;
mod places;
mod record;
mod session;
mod state;

pub use self::attempts::{Failures, Verdict};
pub use self::core::{Action, Application};
pub use self::driver::Driver;
pub use self::history::{BATCHES_MAX, History};
pub use self::places::Launch;
pub use self::record::ApplicationRecord;
pub use self::state::{is_terminal, may_become, name as state_name};

#[cfg(test)]
mod tests;
