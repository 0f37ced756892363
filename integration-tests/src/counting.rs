//! A word count under load: lines go in all the time, and at the end every line is counted once.

use std::thread::JoinHandle;
use std::time::Duration;

use millrace_proto::v1::{ContainerKind, ContainerState};
use tokio::sync::oneshot;

use crate::application::File;
use crate::aws::Endpoint;
use crate::cluster::Cluster;
use crate::objects;
use crate::words::{Counts, assert_equal};

/// Lines of one put: each digit stands equally often.
const LINES: i64 = 100;
/// From put to put under load.
const PUT_INTERVAL: Duration = Duration::from_millis(200);
/// The stream that is counted.
const STREAM: &str = "lines";

async fn put(endpoint: &Endpoint) {
    let lines: Vec<String> = (0..LINES).map(|i| format!("line {}", i % 10)).collect();
    endpoint.put_lines(STREAM, &lines).await;
}

/// Lines that are put in the background, on a thread of its own.
#[derive(Debug)]
pub struct Load {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<i64>,
}

impl Load {
    /// Lines go into the stream `lines` from now on.
    ///
    /// # Panics
    /// When no thread can be started.
    #[must_use]
    pub fn start(endpoint: Endpoint) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(put_until(&endpoint, stopped))
        });
        Self { stop, thread }
    }

    /// Ends it; the number of lines that it has put.
    ///
    /// # Panics
    /// When a line could not be put.
    pub async fn end(self) -> i64 {
        self.stop.send(()).expect("the load runs until it is stopped");
        let ended = tokio::task::spawn_blocking(|| self.thread.join()).await;
        ended.expect("the wait is not cancelled").expect("the load does not panic")
    }
}

async fn put_until(endpoint: &Endpoint, mut stopped: oneshot::Receiver<()>) -> i64 {
    let mut interval = tokio::time::interval(PUT_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut num_lines = 0;
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            _ = &mut stopped => return num_lines,
        }
        put(endpoint).await;
        num_lines += LINES;
    }
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Its node.
    pub node: String,
}

/// A running word count that has counted its first lines.
#[derive(Debug)]
pub struct Counting {
    /// Where it runs.
    pub cluster: Cluster,
    /// What runs.
    pub application: File,
    num_lines: i64,
    load: Option<Load>,
}

impl Counting {
    /// Submits the word count to a cluster and waits for the first counts.
    pub async fn start(cluster: Cluster, application: File) -> Self {
        cluster.aws.create_stream(STREAM, 4).await;
        cluster.aws.create_bucket("results").await;
        let mut counting = Self { cluster, application, num_lines: 0, load: None };
        counting.put().await;
        counting.cluster.submit(&counting.application).await;
        counting.is_counted().await;
        counting
    }

    /// From now on lines are put all the time.
    pub fn under_load(&mut self) {
        self.load.get_or_insert_with(|| Load::start(self.cluster.aws.endpoint.clone()));
    }

    /// The load ends.
    pub async fn rest(&mut self) {
        if let Some(load) = self.load.take() {
            self.num_lines += load.end().await;
        }
    }

    /// Puts some more lines.
    pub async fn put(&mut self) {
        put(&self.cluster.aws.endpoint).await;
        self.num_lines += LINES;
    }

    /// Waits until at least everything that was put, but for the load, is visible. It needs no
    /// master.
    pub async fn is_counted(&self) {
        let aws = &self.cluster.aws.endpoint;
        crate::eventually::within(
            crate::eventually::PATIENCE,
            "the lines are counted",
            async || {
                let found = objects::json_lines(aws, "results", "word-count/").await;
                let visible: i64 = objects::word_counts(&found).values().sum();
                let total = self.num_lines * 2;
                if visible >= total { Ok(()) } else { Err(format!("{visible} words of {total}")) }
            },
        )
        .await;
    }

    /// The load ends; puts more, waits until it is counted, stops, and checks that everything
    /// stands once.
    ///
    /// # Panics
    /// When a word is counted twice or not at all.
    pub async fn ends_exactly(mut self) {
        self.rest().await;
        self.put().await;
        self.is_counted().await;
        self.cluster.stop(self.application.name, &[]).await;
        let found = objects::json_lines(&self.cluster.aws.endpoint, "results", "word-count/").await;
        let mut expected = Counts::from([("line".to_owned(), self.num_lines)]);
        expected.extend((0..10).map(|i| (i.to_string(), self.num_lines / 10)));
        assert_equal(&objects::word_counts(&found), &expected);
        objects::assert_each_batch_once(&found);
        self.cluster.wait_for_no_containers().await;
    }

    /// The running containers of one kind, by id.
    pub async fn running(&self, kind: ContainerKind) -> Vec<Running> {
        let containers = self.cluster.containers(self.application.name).await;
        let mut running: Vec<Running> = containers
            .into_iter()
            .filter_map(|container| {
                let status = container.status?;
                let runs = status.state() == ContainerState::Running && status.kind() == kind;
                runs.then_some(Running {
                    id: status.container_id,
                    pid: status.pid,
                    node: container.node_id,
                })
            })
            .collect();
        running.sort();
        running
    }

    /// The attempts and why each has ended, empty for the one that runs.
    ///
    /// # Panics
    /// When the master does not know the application.
    pub async fn attempts(&self) -> Vec<String> {
        let application = self.cluster.application(self.application.name).await;
        let attempts = application.expect("the master knows the application").attempts;
        attempts.into_iter().map(|attempt| attempt.end_reason).collect()
    }
}
