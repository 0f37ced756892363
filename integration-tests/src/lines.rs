//! An application that writes each record of a stream as one row with its name, and what a test
//! asks of it: how many rows there are, which, or why it ended.

use crate::application::File;
use crate::cluster::Cluster;
use crate::eventually::{PATIENCE, within};
use crate::objects::{self, Object};
use crate::truth;
use millrace_proto::v1::{Application, ApplicationState};

/// Its name.
pub const NAME: &str = "records";
/// The stream that it reads.
pub const STREAM: &str = "lines";
const PREFIX: &str = "records/";

/// The application; its sink is `s3://results/records/`.
#[must_use]
pub fn application() -> File {
    File {
        name: NAME,
        stream: STREAM,
        sql: truth::RECORDS,
        path: "s3://results/records/",
        ..File::default()
    }
}

/// Lines that differ.
#[must_use]
pub fn numbered(what: &str, num: usize) -> Vec<String> {
    (0..num).map(|i| format!("{what} {i:04}")).collect()
}

/// The objects that it has written.
pub async fn objects(cluster: &Cluster) -> Vec<Object> {
    objects::json_lines(&cluster.aws.endpoint, "results", PREFIX).await
}

/// The column `data` of all rows, in order.
///
/// # Panics
/// When a row has none.
pub async fn written(cluster: &Cluster) -> Vec<String> {
    let objects = objects(cluster).await;
    let rows = objects.iter().flat_map(|object| &object.rows);
    let mut data: Vec<String> =
        rows.map(|row| row["data"].as_str().expect("a row has data").to_owned()).collect();
    data.sort();
    data
}

/// Waits for so many rows.
///
/// # Panics
/// When they do not come.
pub async fn rows_are(cluster: &Cluster, num_rows: usize) {
    within(PATIENCE, &format!("{num_rows} rows"), async || {
        match truth::num_rows(&objects(cluster).await) {
            found if found >= num_rows => Ok(()),
            found => {
                let state = cluster.application(NAME).await;
                let state = state.map(|a| format!("{:?} {}", a.state(), a.reason));
                Err(format!("{found} rows; {state:?}"))
            }
        }
    })
    .await;
}

/// Waits until the application of this name has ended by itself, with a failure, and its processes
/// with it.
///
/// # Panics
/// When it does not end.
pub async fn failed(cluster: &Cluster, name: &str) -> Application {
    let ended = within(PATIENCE, &format!("{name} fails"), async || {
        let application = cluster.application(name).await?;
        match application.state() {
            ApplicationState::Failed | ApplicationState::Rejected => Ok(application),
            other => Err(format!("{} {}", other.as_str_name(), application.reason)),
        }
    })
    .await;
    cluster.wait_for_no_containers().await;
    ended
}
