//! The engine on real servers: what is computed, and every guard around it.

mod cluster;
mod guards;
mod proxy;
mod queries;
