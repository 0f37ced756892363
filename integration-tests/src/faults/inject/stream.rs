//! What happens to a stream: shards that split and merge, records that are trimmed.
//!
//! Owned by [`super`].

use std::time::Duration;

use aws_sdk_kinesis::types::ShardIteratorType;
use millrace_proto::v1::ApplicationState;

use super::{Injected, kill};
use crate::checker::Subject;
use crate::eventually::{PATIENCE, within};
use crate::faults::fault::Victim;
use crate::faults::scene::Scene;
use crate::reshard;

/// Splits and merges three times; the driver is killed in the middle of it.
pub(super) async fn split_and_merge(scene: &mut Scene<'_>) -> Injected {
    let mut injected = Injected::now(Vec::new());
    for round in 0..3 {
        reshard::split(&scene.stage.cluster.aws, scene.file.stream, round).await;
        if round == 1 {
            injected.victims = kill(scene, Victim::Driver).await.victims;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        reshard::merge(&scene.stage.cluster.aws, scene.file.stream, 0).await;
    }
    injected.healed()
}

/// Stops the application, lets records come that nobody reads, trims one shard past all of them
/// but the newest, and submits again.
pub(super) async fn trim(scene: &mut Scene<'_>) -> Injected {
    let name = scene.file.name;
    scene.stage.cluster.stop(name, &[]).await;
    let injected = Injected::now(Vec::new());
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.load.stop_producing();
    let shard = scene.open_shards().await.swap_remove(0);
    let newest = newest_record(scene, &shard).await;
    let subject = Subject::of(&scene.stage.cluster, &scene.file);
    scene.earlier = subject.truth().await.expect("the stream can be read");
    scene.stage.control.trim(scene.file.stream, &shard, &newest).await;
    scene.stage.cluster.submit(&scene.file).await;
    within(PATIENCE, "the loss is told", async || {
        let application = scene.stage.cluster.application(name).await?;
        match application.state() {
            ApplicationState::Failed => Ok(()),
            _ => Err(scene.state().await),
        }
    })
    .await;
    injected.healed().note(format!("{shard} trimmed below {newest}"))
}

async fn newest_record(scene: &Scene<'_>, shard: &str) -> String {
    let kinesis = scene.stage.cluster.aws.endpoint.kinesis();
    let iterator = kinesis.get_shard_iterator().stream_name(scene.file.stream).shard_id(shard);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await;
    let mut next = iterator.expect("an iterator is given").shard_iterator;
    let mut newest = None;
    while let Some(iterator) = next {
        let page = kinesis.get_records().shard_iterator(iterator).send().await;
        let page = page.expect("nobody else reads the shard");
        newest = page.records().last().map(|r| r.sequence_number().to_owned()).or(newest);
        let at_end = page.millis_behind_latest() == Some(0);
        next = page.next_shard_iterator.filter(|_| !at_end);
    }
    newest.expect("the shard has records")
}
