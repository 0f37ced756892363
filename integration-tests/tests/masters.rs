//! Masters that die, freeze, or lose their store: applications go on, one master leads, and what a
//! deposed one does changes nothing. (Fault rows 4, 5 and 21.)

use std::time::{Duration, Instant};

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::counting::{Counting, Running};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::gate::Gate;
use millrace_proto::v1::{self, ContainerKind};
use nix::sys::signal::Signal;

const NODE: NodeSize = NodeSize { cores: 4, memory: "4GiB" };

/// The test profile: a standby takes over some seconds after the leader's last word.
const PROFILE: [(&str, &str); 7] = [
    ("MILLRACE_MASTER_LEADER_RENEW_INTERVAL", "500ms"),
    ("MILLRACE_MASTER_LEADER_STEP_DOWN_AFTER", "2s"),
    ("MILLRACE_MASTER_LEADER_TAKE_OVER_AFTER", "3s"),
    ("MILLRACE_MASTER_HEARTBEAT_INTERVAL", "500ms"),
    ("MILLRACE_MASTER_SUSPECT_AFTER", "3s"),
    ("MILLRACE_MASTER_LOST_AFTER", "10s"),
    ("MILLRACE_MASTER_ADOPT_TIMEOUT", "10s"),
];

/// How long nobody may lead in the test profile after the leader was killed, with some room for a
/// machine that compiles meanwhile.
const CONTROL: Duration = Duration::from_secs(15);

/// A cluster of two masters, and a word count on its two nodes.
async fn counting() -> Counting {
    let mut cluster = Cluster::start_with(&Judge::Emulator, &[], &PROFILE).await;
    cluster.add_standby(&[]).await;
    for _ in 0..2 {
        cluster.add_worker(NODE, &[]);
    }
    cluster.wait_for_nodes(2).await;
    Counting::start(cluster, File::default()).await
}

async fn containers(counting: &Counting) -> [Vec<Running>; 2] {
    [counting.running(ContainerKind::Driver).await, counting.running(ContainerKind::Executor).await]
}

/// Waits until exactly these containers run, under whatever master leads now.
async fn the_same_run(counting: &Counting, before: &[Vec<Running>; 2]) {
    within(PATIENCE, "the same containers run", async || {
        let after = containers(counting).await;
        if after == *before { Ok(()) } else { Err(format!("{after:?} for {before:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_standby_takes_over_from_a_leader_that_is_killed() {
    let mut counting = counting().await;
    let before = containers(&counting).await;
    counting.under_load();
    let killed = Instant::now();
    counting.cluster.master.kill();
    let greeting = counting.cluster.standby_leads().await;
    let took = killed.elapsed();
    println!("row 5: the standby led after {took:?} with term {}", greeting.term);
    assert!(took < CONTROL, "{took:?}");
    assert_eq!(greeting.term, 2);
    counting.cluster.wait_for_nodes(2).await;
    the_same_run(&counting, &before).await;
    // The list names the dead one first.
    let status = counting.cluster.millrace(&["status", "word-count", "--json"]).await.success();
    assert_eq!(status.json()["state"], "running");
    assert_eq!(counting.attempts().await, [""]);
    counting.ends_exactly().await;
}

#[tokio::test]
async fn a_frozen_leader_that_wakes_changes_nothing() {
    let mut counting = counting().await;
    let before = containers(&counting).await;
    counting.under_load();
    let pid = counting.cluster.master.pid();
    counting.cluster.master.signal(Signal::SIGSTOP);
    // What waits in its sockets is all that it hears when it wakes: an application that only it
    // would know, and an end of the one that runs.
    let mut client = counting.cluster.client();
    let mut other = client.clone();
    let file = File { name: "ghost", ..File::default() };
    let spec = millrace_common::application::parse_toml("ghost.toml", &file.toml(), &[]);
    let spec = Some(spec.expect("the file is well-formed").to_proto());
    let submit = tokio::spawn(async move {
        client.submit_application(v1::SubmitApplicationRequest { spec, ..Default::default() }).await
    });
    let kill = tokio::spawn(async move {
        let name = "word-count".to_owned();
        other.kill_application(v1::KillApplicationRequest { name }).await
    });
    let greeting = counting.cluster.standby_leads().await;
    assert_eq!(greeting.term, 2);
    counting.cluster.wait_for_nodes(2).await;
    the_same_run(&counting, &before).await;

    let woken = &counting.cluster.standbys[0].0;
    assert_eq!(woken.pid(), pid, "they have changed places");
    woken.signal(Signal::SIGCONT);
    for asked in
        [submit.await.map(|answer| answer.map(drop)), kill.await.map(|answer| answer.map(drop))]
    {
        let refused = asked.expect("the question does not panic").expect_err("it is deposed");
        assert!(refused.message().starts_with("MR20"), "{refused}");
    }
    within(PATIENCE, "the old leader steps down and says so", async || {
        let log = counting.cluster.standbys[0].0.log();
        if log.contains("does not lead any more") { Ok(()) } else { Err(log) }
    })
    .await;
    counting.put().await;
    counting.is_counted().await;
    the_same_run(&counting, &before).await;
    assert_eq!(counting.attempts().await, [""]);
    // Not even a later leader finds anything of it.
    counting.cluster.master.kill();
    counting.cluster.standby_leads().await;
    counting.cluster.wait_for_nodes(2).await;
    let list = counting.cluster.millrace(&["list", "--json"]).await.success();
    assert!(!list.stdout.contains("ghost"), "{list}");
    the_same_run(&counting, &before).await;
    assert_eq!(counting.attempts().await, [""]);
    counting.ends_exactly().await;
}

#[tokio::test]
async fn without_a_master_for_20_seconds_batches_go_on_and_everything_is_known_afterwards() {
    let nodes = [NODE; 2];
    let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
    let mut counting = Counting::start(cluster, File::default()).await;
    let before = containers(&counting).await;
    let known = counting.cluster.batches("word-count").await.len();
    counting.cluster.master.kill();
    let killed = Instant::now();
    let mut num_rounds = 0;
    while killed.elapsed() < Duration::from_secs(20) {
        counting.put().await;
        counting.is_counted().await;
        num_rounds += 1;
    }
    assert!(num_rounds > 1, "batches go on");
    let restarted = Instant::now();
    counting.cluster.restart_master().await;
    let status = counting.cluster.millrace(&["status", "word-count", "--json"]).await.success();
    println!("row 4: status {:?} after the restart", restarted.elapsed());
    let status = status.json();
    assert_eq!((&status["state"], &status["attempt"]), (&"running".into(), &1.into()), "{status}");
    counting.cluster.wait_for_nodes(2).await;
    the_same_run(&counting, &before).await;
    within(PATIENCE, "the batches of the time without a master are listed", async || {
        let batches = counting.cluster.batches("word-count").await;
        let mut numbers: Vec<u64> = batches.iter().map(|batch| batch.number).collect();
        numbers.sort_unstable();
        let is_whole = numbers.iter().copied().eq(1..=numbers.len() as u64);
        if is_whole && numbers.len() >= known + num_rounds {
            Ok(())
        } else {
            Err(format!("{numbers:?}, {known} before and at least {num_rounds} since"))
        }
    })
    .await;
    assert_eq!(counting.attempts().await, [""]);
    counting.ends_exactly().await;
}

#[tokio::test]
async fn a_leader_without_its_store_steps_down() {
    let mut cluster = Cluster::start_with(&Judge::Emulator, &[], &PROFILE).await;
    let gate = Gate::open(&cluster.aws.endpoint.url).await;
    let url = gate.url();
    cluster.add_standby(&[("AWS_ENDPOINT_URL", &url)]).await;
    for _ in 0..2 {
        // Their containers reach AWS directly.
        cluster.add_worker(NODE, &[]);
    }
    cluster.wait_for_nodes(2).await;
    let mut counting = Counting::start(cluster, File::default()).await;
    let before = containers(&counting).await;
    // The one behind the gate leads, the other stands by.
    let ended = counting.cluster.master.terminate(PATIENCE).await;
    assert!(ended.success(), "{ended}");
    counting.cluster.standby_leads().await;
    counting.cluster.restart_standby().await;
    counting.cluster.wait_for_nodes(2).await;
    the_same_run(&counting, &before).await;
    counting.under_load();

    gate.shut().await;
    let shut = Instant::now();
    within(PATIENCE, "the leader steps down", async || {
        let log = counting.cluster.master.log();
        if log.contains("does not lead any more") { Ok(()) } else { Err(log) }
    })
    .await;
    println!("row 21: the leader stepped down after {:?}", shut.elapsed());
    counting.cluster.standby_leads().await;
    println!("row 21: the standby led after {:?}", shut.elapsed());
    counting.cluster.wait_for_nodes(2).await;
    the_same_run(&counting, &before).await;
    assert_eq!(counting.attempts().await, [""]);
    counting.ends_exactly().await;
}
