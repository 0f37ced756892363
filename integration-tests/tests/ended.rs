//! An application that is killed, and a worker that is asked to end: what was counted is counted
//! once, what was not is counted later, and no process is left behind. (Processes that die by
//! themselves are fault rows: see `faults.rs`.)

use std::time::Duration;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::{Control, Rule};
use millrace_integration_tests::words::{Counts, assert_equal};
use millrace_integration_tests::{objects, processes};
use millrace_proto::v1::{ApplicationState, ContainerKind, ContainerState, DriverReport};
use serde_json::json;

const LINES: u16 = 300;

/// A running word count over two nodes that has counted its first lines.
struct Counting {
    cluster: Cluster,
    application: File,
    num_lines: u16,
}

impl Counting {
    async fn start() -> Self {
        Self::start_with(File::default()).await
    }

    async fn start_with(application: File) -> Self {
        let nodes = [NodeSize { cores: 4, memory: "4GiB" }; 2];
        let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
        cluster.aws.create_stream("lines", 4).await;
        cluster.aws.create_bucket("results").await;
        let mut counting = Self { cluster, application, num_lines: 0 };
        counting.put().await;
        counting.cluster.submit(&counting.application).await;
        counting.is_counted().await;
        counting
    }

    /// Puts some more lines.
    async fn put(&mut self) {
        let range = self.num_lines..self.num_lines + LINES;
        let lines: Vec<String> = range.map(|i| format!("line {}", i % 10)).collect();
        self.cluster.aws.put_lines("lines", &lines).await;
        self.num_lines += LINES;
    }

    /// Waits until everything that was put is visible.
    async fn is_counted(&self) {
        let total = i64::from(self.num_lines) * 2;
        let name = self.application.name;
        self.cluster.wait_for_words(name, "results", "word-count/", total).await;
    }

    /// Puts more, waits until it is counted, stops, and checks that everything stands once.
    async fn ends_exactly(mut self) {
        self.put().await;
        self.is_counted().await;
        self.cluster.stop(self.application.name, &[]).await;
        let aws = &self.cluster.aws.endpoint;
        let found = objects::json_lines(aws, "results", "word-count/").await;
        let mut expected = Counts::from([("line".to_owned(), i64::from(self.num_lines))]);
        expected.extend((0..10).map(|i| (i.to_string(), i64::from(self.num_lines / 10))));
        assert_equal(&objects::word_counts(&found), &expected);
        objects::assert_each_batch_once(&found);
        self.cluster.wait_for_no_containers().await;
    }

    /// Process ids and node of the running containers of one kind.
    async fn running(&self, kind: ContainerKind) -> Vec<(u32, String)> {
        let containers = self.cluster.containers(self.application.name).await;
        let of_kind = containers.into_iter().filter_map(|container| {
            let status = container.status?;
            let runs = status.state() == ContainerState::Running && status.kind() == kind;
            runs.then_some((status.pid, container.node_id))
        });
        of_kind.collect()
    }
}

async fn is_gone(pid: u32) {
    within(PATIENCE, &format!("process {pid} is gone"), async || {
        match processes::resident_bytes(pid) {
            Err(_) => Ok(()),
            Ok(bytes) => Err(format!("it holds {bytes} bytes")),
        }
    })
    .await;
}

/// A word count whose blocks have a second holder.
fn held_twice() -> File {
    let receivers = "\"per_executor\"\nstorage_level = \"memory_and_disk_2\"";
    File { receivers, ..File::default() }
}

/// Of the blocks of [`LINES`] lines, which take 18,000 bytes, more than one of two executors reads.
const HELD_TWICE: u64 = 12_000;
/// What an executor logs when it reads a block from Kinesis that nobody holds any more.
const READ_AGAIN: &str = "a lost block was read again";

/// A word count over two executors that each hold all blocks of the newest lines: those of a batch
/// whose results are on their way for a long time.
async fn holding_twice() -> Counting {
    let mut counting = Counting::start_with(held_twice()).await;
    let slow = json!({ "type": "delay", "ms": 10_000 });
    let slow = Rule::new("slow", "s3", "UploadPart", slow).containing("word-count/");
    let control = Control::of(&counting.cluster.aws.endpoint);
    control.add(std::slice::from_ref(&slow)).await;
    let held = |report: &DriverReport| -> Vec<u64> {
        report.executors.iter().map(|executor| executor.block_bytes).collect()
    };
    let (cluster, name) = (&counting.cluster, counting.application.name);
    cluster.wait_for_report(name, "no block is held", |report| held(report) == [0, 0]).await;
    counting.put().await;
    let (cluster, name) = (&counting.cluster, counting.application.name);
    let is_twice = |report: &DriverReport| {
        let held = held(report);
        held.len() == 2 && held.iter().all(|bytes| *bytes > HELD_TWICE)
    };
    cluster.wait_for_report(name, "both hold all of it", is_twice).await;
    control.remove(&[slow]).await;
    counting
}

#[tokio::test]
async fn a_killed_executor_whose_blocks_are_held_twice_loses_nothing() {
    let counting = holding_twice().await;
    let (pid, _) = counting.running(ContainerKind::Executor).await[0].clone();
    processes::kill_by_id(pid);
    is_gone(pid).await;
    counting.is_counted().await;
    let logs = counting.cluster.container_logs();
    assert!(!logs.contains(READ_AGAIN), "the second holder had them: {logs}");
    counting.ends_exactly().await;
}

#[tokio::test]
async fn blocks_whose_every_holder_is_killed_are_read_again() {
    let counting = holding_twice().await;
    let executors = counting.running(ContainerKind::Executor).await;
    for (pid, _) in &executors {
        processes::kill_by_id(*pid);
    }
    for (pid, _) in executors {
        is_gone(pid).await;
    }
    counting.is_counted().await;
    let logs = counting.cluster.container_logs();
    assert!(logs.contains(READ_AGAIN), "nobody had them: {logs}");
    counting.ends_exactly().await;
}

#[tokio::test]
async fn a_killed_application_ends_at_once_and_the_next_submit_goes_on() {
    let mut counting = Counting::start().await;
    let name = counting.application.name;
    counting.put().await;
    let killed = counting.cluster.millrace(&["kill", name]).await.success();
    assert!(killed.took < Duration::from_secs(30), "{killed}");
    counting.cluster.wait_for_state(name, ApplicationState::Killed).await;
    counting.cluster.wait_for_no_containers().await;
    counting.cluster.submit(&counting.application).await;
    counting.ends_exactly().await;
}

#[tokio::test]
async fn a_worker_asked_to_end_ends_its_containers_first() {
    let mut counting = Counting::start().await;
    let (_, node) = counting.running(ContainerKind::Driver).await[0].clone();
    let other = usize::from(node == "node-1");
    let ended = counting.cluster.workers[other].terminate(PATIENCE).await;
    assert!(ended.success(), "{ended}");
    let left = format!("node-{}", other + 1);
    let directory = counting.cluster.path().join(&left);
    assert_eq!(processes::naming(&directory), Vec::<u32>::new(), "containers of {left}");
    counting.ends_exactly().await;
}
