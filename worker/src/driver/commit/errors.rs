//! The errors of a lost batch, for people.

use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;

use super::core::RepairRefusal;
use super::publisher::LostUpload;

/// Uploads of a committed batch are gone.
pub(super) fn upload_lost(
    application: &ApplicationName,
    batch: u64,
    first: &LostUpload,
    count: usize,
) -> Error {
    Error::new(
        Code::UploadLost,
        format!(
            "{count} uploads of committed batch {batch} of {application} are lost; the first is \
             {} with {} rows: {}",
            first.object, first.rows, first.why
        ),
        format!(
            "see what is there with `millrace repair {application}`, which has the batch's records \
             read again"
        ),
    )
}

/// A lost batch can not be repaired in the way that was asked for.
pub(super) fn not_repaired(application: &ApplicationName, batch: u64, why: RepairRefusal) -> Error {
    Error::new(
        Code::UploadLost,
        format!("batch {batch} of {application} is lost and not repaired: {why}"),
        format!("see what is there with `millrace repair {application}`"),
    )
}
