//! The real `millrace`, without a cluster: what it refuses, what it shows of a master's answers,
//! and what `local` does when something is in its way.

mod answers;
mod local;
mod refusals;
mod support;
