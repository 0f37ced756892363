//! The master: resource manager of a cluster.
//!
//! It knows nodes, containers and applications, gives out places, and keeps what must outlive it in
//! DynamoDB. It never reads a stream, never touches an object, never commits a batch: running
//! applications go on without it.

mod access;
mod application;
mod cluster;
pub mod config;
mod control;
mod grpc;
mod http;
mod moment;
mod place;
mod run;
mod scheduler;
pub mod store;

pub use self::run::run;
pub use self::scheduler::stepped;
