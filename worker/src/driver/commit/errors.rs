//! The errors of the commit, for people.

use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;

use super::core::RepairRefusal;
use super::publisher::LostUpload;
use crate::driver::head::TooLarge;

/// There is no head although there was one.
pub(super) fn head_missing(application: &ApplicationName) -> Error {
    Error::new(
        Code::HeadMissing,
        format!("the head of {application} is gone although it has run before"),
        "restore the table from a backup; only when its positions may be given up, remove the \
         application from the cluster and submit it again",
    )
}

/// Another cluster on the same table has an application of this name.
pub(super) fn head_foreign(
    application: &ApplicationName,
    cluster: &str,
    owner: &str,
    epoch: u64,
) -> Error {
    Error::new(
        Code::HeadForeign,
        format!(
            "the name {application} belongs to cluster {cluster:?} in this table (epoch {epoch}, \
             driver {owner})"
        ),
        "choose another name, or stop the application there for good and delete its head",
    )
}

/// A batch whose head no driver could read again: it is not committed.
pub(super) fn head_too_large(
    application: &ApplicationName,
    batch: u64,
    num_uploads: usize,
    large: TooLarge,
) -> Error {
    Error::new(
        Code::BatchFailed,
        format!(
            "batch {batch} of {application} can not be committed: its head would name \
             {num_uploads} uploads, and {large}"
        ),
        "write fewer files: partition by columns with fewer values, or set files_per_batch; nothing \
         of the batch is visible, and its records are read again",
    )
}

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
