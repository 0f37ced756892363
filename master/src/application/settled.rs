//! What a driver's last report still says when the application has ended.
//!
//! Promises: what was committed, read and lost stands; what was true only while it ran (who read,
//! how far behind, what was busy or late) does not. Never does: change what is kept.

use millrace_proto::v1;

/// The lasting part of a last report.
#[must_use]
pub(crate) fn settled(last: &v1::DriverReport) -> v1::DriverReport {
    v1::DriverReport {
        batch: last.batch,
        last_commit_ms: last.last_commit_ms,
        records_total: last.records_total,
        rows_total: last.rows_total,
        bad_records_total: last.bad_records_total,
        bad_records: last.bad_records.clone(),
        out_of_range_total: last.out_of_range_total,
        gaps: last.gaps.clone(),
        replay: last.replay,
        millis_behind_latest: -1,
        ..Default::default()
    }
}
