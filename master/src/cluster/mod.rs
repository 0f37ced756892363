//! The nodes and what runs on them, as the master knows it.
//!
//! Pure: messages of nodes and the passing of time go in, changes come out. It owns nobody's life:
//! what a lost container means for its application is the application's business.

mod containers;
mod core;
mod drains;
mod health;

pub(crate) use self::containers::{ContainerEntry, Ended};
pub(crate) use self::core::{Cluster, NodeEntry, Usage};

#[cfg(test)]
mod tests;
