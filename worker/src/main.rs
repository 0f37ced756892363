//! `millrace-worker`: the node, and with a launch context the driver or the executor.

fn main() {}
