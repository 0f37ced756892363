//! Masters that die, nodes that are drained, and a restart of everything.
//!
//! Owned by [`super`].

use std::time::{Duration, Instant};

use millrace_proto::v1::GetClusterRequest;

use super::{Injected, victims};
use crate::eventually::{PATIENCE, within};
use crate::faults::fault::Victim;
use crate::faults::scene::{Live, Scene};

pub(super) async fn down(scene: &mut Scene<'_>, time: Duration) -> Injected {
    let before = scene.live().await;
    let mut injected = Injected::now(Vec::new());
    scene.stage.cluster.master.kill();
    let visible = || scene.load.flow.lock().num_visible();
    let before_it = visible();
    tokio::time::sleep(time).await;
    injected.num_visible_meanwhile = visible() - before_it;
    let started = Instant::now();
    scene.stage.cluster.restart_master().await;
    let num_nodes = scene.stage.cluster.workers.len();
    scene.stage.cluster.wait_for_nodes(num_nodes).await;
    within(PATIENCE, "the containers are known again", async || {
        let after = scene.live().await;
        if after.len() >= before.len() { Ok(()) } else { Err(format!("{after:?}")) }
    })
    .await;
    let control = started.elapsed().as_secs_f64();
    let injected = injected.healed().note(format!("control after {control:.1} s (bound 5 s)"));
    if control > 5.0 { injected.note("CONTROL LATE") } else { injected }
}

pub(super) async fn leader_killed(scene: &mut Scene<'_>) -> Injected {
    let before = scene.live().await;
    let asked = GetClusterRequest {};
    let led = scene.stage.cluster.client().get_cluster(asked).await.expect("the leader answers");
    let injected = Injected::now(Vec::new());
    scene.stage.cluster.master.kill();
    let leads = scene.stage.cluster.standby_leads().await;
    within(PATIENCE, "the containers are known again", async || {
        let after = scene.live().await;
        if after.len() >= before.len() { Ok(()) } else { Err(format!("{after:?}")) }
    })
    .await;
    let control = injected.began.elapsed().as_secs_f64();
    let (old, new) = (led.into_inner().term, leads.term);
    assert_eq!(new, old + 1, "the term");
    let injected =
        injected.healed().note(format!("term {new}; control after {control:.1} s (bound 6 s)"));
    if control > 6.0 { injected.note("CONTROL LATE") } else { injected }
}

/// Drains the driver's node and takes it into use again.
pub(super) async fn drain(scene: &mut Scene<'_>, notice: Duration) -> Injected {
    let node = victims(scene, Victim::Driver).await[0].node.clone();
    let injected = Injected::now(Vec::new());
    drain_node(scene, &node, notice).await;
    let took = injected.began.elapsed();
    let cluster = &scene.stage.cluster;
    let _ = cluster.millrace(&["node", "undrain", &node]).await.success();
    injected.healed().note(format!("{node} empty after {:.1} s", took.as_secs_f64()))
}

async fn drain_node(scene: &Scene<'_>, node: &str, notice: Duration) {
    let deadline = format!("{}s", notice.as_secs());
    let arguments = ["node", "drain", node, "--deadline", &deadline];
    let _ = scene.stage.cluster.millrace(&arguments).await.success();
    let left: Vec<Live> = scene.live().await.into_iter().filter(|live| live.node == node).collect();
    assert!(left.is_empty(), "{node} was drained and still has {left:?}");
}

/// Each worker after a drain, then the master.
pub(super) async fn roll(scene: &mut Scene<'_>) -> Injected {
    let injected = Injected::now(Vec::new());
    let wanted = scene.live().await.len();
    for index in 0..scene.stage.cluster.workers.len() {
        let node = format!("node-{}", index + 1);
        drain_node(scene, &node, PATIENCE).await;
        let cluster = &mut scene.stage.cluster;
        let ended = cluster.workers[index].terminate(PATIENCE).await;
        assert!(ended.success(), "{node}: {ended}");
        cluster.restart_worker(index, &[]);
        let _ = cluster.millrace(&["node", "undrain", &node]).await.success();
        let num_nodes = cluster.workers.len();
        cluster.wait_for_nodes(num_nodes).await;
        within(PATIENCE, "everything runs", async || {
            let live = scene.live().await;
            if live.len() >= wanted { Ok(()) } else { Err(format!("{live:?}")) }
        })
        .await;
    }
    let cluster = &mut scene.stage.cluster;
    let ended = cluster.master.terminate(PATIENCE).await;
    assert!(ended.success(), "the master: {ended}");
    cluster.restart_master().await;
    let took = injected.began.elapsed().as_secs_f64();
    injected.healed().note(format!("everything restarted in {took:.0} s"))
}
