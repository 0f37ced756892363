//! A short churn on half the cast, with a seed that does not change: `./test.sh --churn` is the whole
//! one.

use std::time::Duration;

use millrace_integration_tests::churn::cast::Size;
use millrace_integration_tests::churn::run::{Forecast, run};

#[tokio::test(flavor = "multi_thread")]
async fn applications_come_and_go_and_none_is_lost_or_given_more_than_there_is() {
    let logs = tempfile::tempdir().unwrap();
    let forecast = Forecast { seed: 4, time: Duration::from_secs(25), size: Size::Short };
    let report = run(forecast, logs.path()).await;
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}
