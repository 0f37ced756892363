//! The churn: many applications on a cluster, submitted, scaled, drained and killed at random by a
//! seed, and watched all the time.
//!
//! [`cast`] says which applications, queues and nodes there are; [`draw`] draws what happens next and
//! [`play`] does it; [`wishes`] keeps what was asked of each application. [`watch`] looks at the
//! master and at the process table, and [`census`] judges what it sees: no node oversubscribed, no
//! queue beyond its cap, no application lost. It shares no code with the scheduler: it knows what a
//! node offers and what a container costs from the cast. [`run`] puts these together, has the checker
//! judge what every application wrote, and has [`traces`] look for what is left on the machine.

pub mod cast;
pub mod census;
pub mod draw;
pub mod live;
mod play;
pub mod run;
pub mod traces;
mod watch;
pub mod wishes;
