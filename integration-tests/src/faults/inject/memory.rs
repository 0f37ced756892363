//! A second application whose query eats the memory of its executor.
//!
//! Owned by [`super`]; the eater is gone when the injection returns.

use super::Injected;
use crate::application::File;
use crate::eventually::{PATIENCE, within};
use crate::faults::scene::Scene;
use crate::faults::stage::BUCKET;

/// More than its 512 MiB, from any three records, in one column of less than 2 GiB.
const EATS: &str = "SELECT length(repeat(line, 15000000)) AS n FROM \
    (SELECT line FROM logs LIMIT 3)";

/// Submits the eater beside the application, waits until an executor of it was ended for its memory,
/// and takes it away again.
pub(super) async fn eaten(scene: &mut Scene<'_>) -> Injected {
    let path: &'static str = format!("s3://{BUCKET}/eater/").leak();
    let eater = File {
        name: "eater",
        executors: 1,
        stream: scene.file.stream,
        sql: EATS,
        path,
        env: scene.stage.environment(),
        ..File::default()
    };
    let cluster = &scene.stage.cluster;
    cluster.submit(&eater).await;
    let reason = within(PATIENCE, "an executor is ended for its memory", async || {
        let containers = cluster.containers(eater.name).await;
        let exits = containers.iter().filter_map(|one| one.status.as_ref()?.exit.as_ref());
        let reasons: Vec<String> = exits.map(|exit| exit.reason.clone()).collect();
        let found = reasons.iter().find(|reason| reason.contains("MiB of 512 MiB memory"));
        found.cloned().ok_or_else(|| format!("{reasons:?}"))
    })
    .await;
    let injected = Injected::now(Vec::new());
    let _ = cluster.millrace(&["kill", eater.name]).await.success();
    within(PATIENCE, "nothing of the eater runs", async || {
        let containers = cluster.containers(eater.name).await;
        let live = containers.iter().filter(|one| {
            one.status.as_ref().is_some_and(|status| status.ended_ms == 0 && status.pid != 0)
        });
        match live.count() {
            0 => Ok(()),
            num => Err(format!("{num} containers")),
        }
    })
    .await;
    injected.healed().note(reason)
}
