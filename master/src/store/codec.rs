//! How an application's record is written: a message of its own, so that fields may be added.

use millrace_common::error::{Code, Error};
use millrace_proto::v1;
use prost::Message as _;

use crate::application::ApplicationRecord;

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    application: Option<v1::Application>,
    #[prost(uint64, tag = "2")]
    max_epoch: u64,
    #[prost(uint32, tag = "3")]
    last_attempt: u32,
    #[prost(bool, tag = "4")]
    is_head_expected: bool,
    #[prost(uint64, tag = "5")]
    sequence: u64,
    #[prost(message, optional, tag = "6")]
    stop: Option<v1::StopDriver>,
    #[prost(message, optional, tag = "7")]
    outcome: Option<v1::DriverFinished>,
    #[prost(message, optional, tag = "10")]
    batch_failures: Option<v1::BatchFailures>,
    #[prost(int64, repeated, tag = "8")]
    failures_ms: Vec<i64>,
    #[prost(message, repeated, tag = "9")]
    batches: Vec<v1::Batch>,
}

/// The record as bytes.
pub(super) fn encode(record: &ApplicationRecord) -> Vec<u8> {
    Stored {
        application: Some(record.application.clone()),
        max_epoch: record.max_epoch,
        last_attempt: record.last_attempt,
        is_head_expected: record.is_head_expected,
        sequence: record.sequence,
        stop: record.stop,
        outcome: record.outcome.clone(),
        batch_failures: record.batch_failures,
        failures_ms: record.failures_ms.clone(),
        batches: record.batches.clone(),
    }
    .encode_to_vec()
}

/// The record out of its bytes.
///
/// # Errors
/// [`Code::Internal`] for bytes that are no record.
pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<ApplicationRecord, Error> {
    let damaged = || {
        Error::new(
            Code::Internal,
            format!("the item {key} of the master's state is damaged"),
            "delete the item and submit the application again; its head is not touched by this",
        )
    };
    let stored = Stored::decode(bytes).map_err(|error| damaged().caused_by(error))?;
    Ok(ApplicationRecord {
        application: stored.application.ok_or_else(damaged)?,
        max_epoch: stored.max_epoch,
        last_attempt: stored.last_attempt,
        is_head_expected: stored.is_head_expected,
        sequence: stored.sequence,
        stop: stored.stop,
        outcome: stored.outcome,
        batch_failures: stored.batch_failures,
        failures_ms: stored.failures_ms,
        batches: stored.batches,
    })
}
