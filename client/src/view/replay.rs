//! What a replay computes, and how far it is.
//!
//! Promises and keys as in the parent.

use millrace_proto::v1;
use serde::{Deserialize, Serialize};

/// A replay of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayView {
    /// The application whose results are computed again.
    pub of: String,
    /// The first moment of the range.
    pub from_ms: i64,
    /// The moment behind its last.
    pub to_ms: i64,
    /// Shards with records of the range, as far as they are known; null before the first report.
    pub num_shards: Option<u64>,
    /// Those of them whose part is committed.
    pub num_shards_done: Option<u64>,
    /// Records of committed batches, earlier attempts' included.
    pub num_records: Option<u64>,
    /// Rows that they became, dead letters included.
    pub num_rows: Option<u64>,
    /// Objects that they were written to, those of dead letters included.
    pub num_files: Option<u64>,
}

impl ReplayView {
    /// From an application; none when it is no replay.
    #[must_use]
    pub fn new(application: &v1::Application) -> Option<Self> {
        let replay = application.spec.as_ref()?.replay.as_ref()?;
        let report = application.report.as_ref().and_then(|report| report.replay);
        Some(Self {
            of: replay.of.clone(),
            from_ms: replay.from_ms,
            to_ms: replay.to_ms,
            num_shards: report.map(|report| report.num_shards),
            num_shards_done: report.map(|report| report.num_shards_done),
            num_records: report.map(|report| report.num_records),
            num_rows: report.map(|report| report.num_rows),
            num_files: report.map(|report| report.num_files),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_reported_is_not_made_up() {
        assert_eq!(ReplayView::new(&v1::Application::default()), None);
        let replay = v1::ReplaySpec { of: "wc".to_owned(), from_ms: 1, to_ms: 2 };
        let spec = v1::ApplicationSpec { replay: Some(replay), ..Default::default() };
        let mut application = v1::Application { spec: Some(spec), ..Default::default() };
        let view = ReplayView::new(&application).unwrap();
        assert_eq!((view.of.as_str(), view.num_records), ("wc", None));
        let replay = Some(v1::ReplayReport { num_records: 7, ..Default::default() });
        application.report = Some(v1::DriverReport { replay, ..Default::default() });
        assert_eq!(ReplayView::new(&application).unwrap().num_records, Some(7));
    }
}
