//! What two or more of Millrace's crates use: names, errors, positions, the application file,
//! clients with deadlines. It decides nothing about clusters, batches or commits.

pub mod access;
pub mod actors;
pub mod application;
pub mod aws;
pub mod budget;
pub mod clock;
pub mod config;
pub mod error;
pub mod exit;
#[cfg(feature = "head")]
pub mod head;
pub mod id;
pub mod labels;
pub mod masters;
pub mod plan;
pub mod position;
pub mod random;
pub mod resources;
pub mod retry;
pub mod rpc;
pub mod secrets;
pub mod shutdown;
pub mod table;
pub mod telemetry;

pub use error::{Code, Error, Result};
