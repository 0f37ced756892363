//! The engine on real servers: what is computed, and every guard around it.

// Everything here is a test: what cannot be had fails it, also in its helpers.
#![allow(clippy::unwrap_used)]

mod cluster;
mod guards;
mod proxy;
mod queries;
