//! Disks that are full or read-only: first under one node, which is left, then under all of them,
//! where there is nowhere to go.
//!
//! Owned by [`super`].

use std::time::{Duration, Instant};

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use millrace_proto::v1::{ListNodesRequest, NodeState};

use super::{Injected, LOOK_EVERY, index_of, settle, victims};
use crate::eventually::{PATIENCE, within};
use crate::faults::fault::{DiskFault, Line, Victim};
use crate::faults::proxy::Mode;
use crate::faults::scene::{Live, Scene};

/// How long a node may take to be shown as unhealthy, and to be empty.
const BOUND: Duration = Duration::from_secs(10);
/// Memory of an executor whose blocks soon have no room but on disk: a second's worth of minutes.
pub const EXECUTOR_MEMORY: &str = "160MiB";
/// Size of a record that fills a memory quickly, and how many are put at once: one for each shard,
/// below what a shard takes in a second.
const FAT_BYTES: usize = 220 << 10;
const FAT_RECORDS: usize = 4;

pub(super) async fn fail(scene: &mut Scene<'_>, fault: DiskFault) -> Injected {
    let injected = one_node(scene, fault).await;
    every_node(scene, fault, injected).await
}

/// The disk of a node with an executor fails: what is there goes elsewhere, and the node is used
/// again when its disk is mended.
async fn one_node(scene: &mut Scene<'_>, fault: DiskFault) -> Injected {
    let mut injected = Injected::now(victims(scene, Victim::Worker).await);
    let node = injected.victims[0].node.clone();
    let index = index_of(&node);
    scene.stage.disks[index].fail().expect("a disk can be made to fail");
    are(scene, &[&node], NodeState::Unhealthy).await;
    let unhealthy = injected.began.elapsed();
    within(PATIENCE, &format!("{node} is left"), async || {
        let live = scene.live().await;
        let left: Vec<&Live> = live.iter().filter(|live| live.node == node).collect();
        let all = live.len() > injected.victims.len();
        if left.is_empty() && all { Ok(()) } else { Err(format!("{live:?}")) }
    })
    .await;
    let empty = injected.began.elapsed();
    settle(scene, injected.began).await;
    injected.recoveries.push(scene.load.flow.lock().recovery_since(injected.began));
    let mended = Instant::now();
    match fault {
        DiskFault::Full => scene.stage.disks[index].mend().expect("a disk can be mended"),
        DiskFault::ReadOnly => scene.stage.renew_disk(index).await,
    }
    are(scene, &[&node], NodeState::Alive).await;
    let note = format!(
        "{node} unhealthy after {:.1} s, empty after {:.1} s (bound 10 s), used again {:.1} s after \
         its disk was mended",
        unhealthy.as_secs_f64(),
        empty.as_secs_f64(),
        mended.elapsed().as_secs_f64(),
    );
    let injected = injected.note(note);
    if empty > BOUND { injected.note("LATE") } else { injected }
}

/// The disks of all nodes fail while nothing can be committed: everything stays where it is, spills
/// are refused, receivers wait.
async fn every_node(scene: &mut Scene<'_>, fault: DiskFault, injected: Injected) -> Injected {
    let mut injected = injected;
    let before = scene.live().await;
    for disk in &mut scene.stage.disks {
        match fault {
            DiskFault::Full => disk.fail().expect("a disk can be made to fail"),
            DiskFault::ReadOnly => disk.cover().expect("a disk can be covered"),
        }
    }
    scene.stage.set(Line::DriverToDynamo, Mode::Refuse);
    let nodes: Vec<String> =
        (1..=scene.stage.disks.len()).map(|number| format!("node-{number}")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    are(scene, &nodes, NodeState::Unhealthy).await;
    injected.num_spills_refused = fill_memory(scene).await;
    let after = scene.live().await;
    assert_eq!(after, before, "there was nowhere to go");
    for disk in &mut scene.stage.disks {
        disk.mend().expect("a disk can be mended");
    }
    scene.stage.set(Line::DriverToDynamo, Mode::Open);
    let injected = injected.healed();
    are(scene, &nodes, NodeState::Alive).await;
    let num = injected.num_spills_refused;
    injected.note(format!("{num} spills refused while every disk failed; nothing moved"))
}

/// Waits until the master shows all of these nodes in this state.
async fn are(scene: &Scene<'_>, nodes: &[&str], state: NodeState) {
    let what = format!("{nodes:?} {}", state.as_str_name());
    within(PATIENCE, &what, async || {
        let answer = scene.stage.cluster.client().list_nodes(ListNodesRequest {}).await;
        let shown = answer.map_err(|status| status.to_string())?.into_inner().nodes;
        let is =
            |name: &&str| shown.iter().any(|node| node.node_id == **name && node.state() == state);
        if nodes.iter().all(is) { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
}

/// Puts fat records until an executor says that its disk has refused a block; how many were refused.
async fn fill_memory(scene: &Scene<'_>) -> u64 {
    let kinesis = scene.stage.cluster.aws.endpoint.kinesis();
    let until = Instant::now() + PATIENCE;
    for number in 0.. {
        let entries = (0..FAT_RECORDS).map(|index| {
            let key = format!("fat {} {index}", number);
            PutRecordsRequestEntry::builder()
                .data(Blob::new(key.repeat(FAT_BYTES / key.len())))
                .partition_key(key)
                .build()
                .expect("key and data are set")
        });
        let put = kinesis.put_records().stream_name(scene.file.stream);
        // One that is refused, because its shard has enough for now, is not missed.
        let _ = put.set_records(Some(entries.collect())).send().await;
        tokio::time::sleep(LOOK_EVERY).await;
        let report = scene.report().await.unwrap_or_default();
        let num = report.executors.iter().map(|executor| executor.num_spills_refused).sum();
        if num > 0 {
            return num;
        }
        assert!(Instant::now() < until, "no spill was refused: {:?}", report.executors);
    }
    unreachable!("numbers do not end")
}
