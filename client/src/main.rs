//! `millrace-client`.

fn main() {}
