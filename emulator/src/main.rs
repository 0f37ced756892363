//! `millrace-emulator`.

fn main() {}
