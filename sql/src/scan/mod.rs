//! Reading blocks: from raw record bytes to the columns a query needs.
//!
//! Promises: a scan reads every record of every block it was given, or fails and says which.
//! Never does: fetch from Kinesis, or decide what belongs to a batch.

pub mod block;
