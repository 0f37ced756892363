//! The real `millrace`, without a cluster: what it refuses, what it shows of a master's answers,
//! and what `local` does when something is in its way.

// The whole crate is tests; clippy only knows the test functions.
#![allow(clippy::unwrap_used)]

mod answers;
mod local;
mod refusals;
mod support;
