//! The node: offers this host's cores and memory to the master and starts granted containers.
//!
//! Containers go on when the master is away, and end when the node does. The node has the last word
//! on its own capacity, and reports every end until the master has heard of it. It knows nothing of
//! streams, batches or objects.

mod actor;
mod address;
mod cgroup;
mod core;
mod disk;
mod launcher;
mod logs;
mod memory;
mod orphans;
mod resources;
mod session;
mod storage;
mod work_dir;

pub use self::actor::run;

#[cfg(test)]
mod tests;
