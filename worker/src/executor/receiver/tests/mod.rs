//! Tests of the receiver's parts, and of all of them together over a Kinesis that lies.

mod core;
mod reader;
