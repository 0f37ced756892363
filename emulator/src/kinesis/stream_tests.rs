//! Tests of a stream with its files.
