//! A typed client of a Millrace cluster, and the JSON that the `millrace` command prints.
//!
//! Promises: every call has a deadline, and every failure is a [`millrace_common::error::Error`]
//! that names the master's address or carries the master's own words. The keys in [`view`] are
//! stable: programs read them.
//! Never does: keep state between calls, talk to workers or drivers, or print.

pub mod client;
mod link;
pub mod view;

pub use client::Client;
