//! How an application's record is written: a message of its own, so that fields may be added.

use millrace_common::error::{Code, Error};
use millrace_proto::v1;
use prost::Message as _;

use super::TokenRecord;
use crate::application::{ApplicationRecord, Revised};

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
    #[prost(message, optional, tag = "31")]
    next: Option<StoredRevised>,
    #[prost(message, optional, tag = "32")]
    before: Option<StoredRevised>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRevised {
    #[prost(message, optional, tag = "1")]
    spec: Option<v1::ApplicationSpec>,
    #[prost(uint32, tag = "2")]
    revision: u32,
    #[prost(string, tag = "3")]
    owner: String,
    #[prost(bool, tag = "4")]
    is_checked: bool,
}

impl StoredRevised {
    fn of(revised: &Revised) -> Self {
        let Revised { spec, revision, owner, is_checked } = revised.clone();
        Self { spec: Some(spec), revision, owner, is_checked }
    }

    fn into_revised(self) -> Revised {
        let Self { spec, revision, owner, is_checked } = self;
        Revised { spec: spec.unwrap_or_default(), revision, owner, is_checked }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredToken {
    #[prost(message, optional, tag = "1")]
    info: Option<v1::TokenInfo>,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
}

/// A token's record as bytes.
pub(super) fn encode_token(record: &TokenRecord) -> Vec<u8> {
    StoredToken { info: Some(record.info.clone()), hash: record.hash.clone() }.encode_to_vec()
}

/// A token's record out of its bytes.
///
/// # Errors
/// [`Code::Internal`] for bytes that are no record.
pub(super) fn decode_token(key: &str, bytes: &[u8]) -> Result<TokenRecord, Error> {
    let damaged = || {
        Error::new(
            Code::Internal,
            format!("the item {key} of the master's state is damaged"),
            "delete the item, and make another token",
        )
    };
    let stored = StoredToken::decode(bytes).map_err(|error| damaged().caused_by(error))?;
    Ok(TokenRecord { info: stored.info.ok_or_else(damaged)?, hash: stored.hash })
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
        next: record.next.as_ref().map(StoredRevised::of),
        before: record.before.as_ref().map(StoredRevised::of),
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
        next: stored.next.map(StoredRevised::into_revised),
        before: stored.before.map(StoredRevised::into_revised),
    })
}
