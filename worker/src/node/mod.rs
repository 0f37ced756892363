//! The node: offers this host's cores and memory to the master and starts granted containers.
