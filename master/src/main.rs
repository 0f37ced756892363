//! `millrace-master`.

fn main() {}
