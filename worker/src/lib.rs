//! The worker: one binary that runs on each host as *node*, and is started as a child process as
//! *driver* or *executor*, one container each.
//!
//! The three roles never import one another; they speak only the protocol, even on one host.

#[cfg(test)]
mod announcement_tests;
pub mod config;
pub mod driver;
pub mod entry;
pub mod executor;
#[cfg(feature = "failpoints")]
pub mod failpoints;
#[cfg(test)]
mod input_model;
pub mod isolation;
pub mod kpl;
pub mod launch;
#[cfg(test)]
mod model_search;
pub mod node;
pub mod peers;
