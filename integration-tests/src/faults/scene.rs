//! One application under load on a stage, from its submission to the verdict on its output.
//!
//! Promises: every scene has a stream, a name and a prefix of its own, so that what it lost or
//! doubled is its own. Owned by the runner. Never does: inject.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_proto::v1::{self, ContainerKind, ContainerState};

use super::load::Load;
use super::stage::{BUCKET, Stage};
use crate::application::File;
use crate::checker::{Subject, Truth, Watcher};
use crate::eventually::{PATIENCE, within};
use crate::reshard;

/// How long the lag must have been small before a fault is injected.
const CALM: Duration = Duration::from_secs(2);
/// Shards of the stream of a scene.
const NUM_SHARDS: u8 = 4;

/// [`EVERY_RECORD`](crate::application::EVERY_RECORD) through a shuffle: each record is a group of
/// its own. One that came through twice gets a number that no record has.
pub const EVERY_RECORD_SHUFFLED: &str = "SELECT source, shard, seq, \
    CAST(sub AS BIGINT) + count(*) - 1 AS sub, sha256 FROM \
    (SELECT 'logs' AS source, _shard_id AS shard, _sequence_number AS seq, \
    _sub_sequence_number AS sub, encode(sha256(data), 'hex') AS sha256 FROM logs) \
    GROUP BY source, shard, seq, sub, sha256";

/// A live container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its id.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Its node.
    pub node: String,
    /// Driver or executor.
    pub kind: ContainerKind,
}

/// What was true before the fault.
#[derive(Clone, Debug)]
pub struct Before {
    /// Live containers.
    pub live: Vec<Live>,
    /// Number of attempts.
    pub num_attempts: usize,
    /// Lines of the master's log.
    pub master_log_bytes: usize,
}

/// An application under load.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Where it runs.
    pub stage: &'a mut Stage,
    /// The application.
    pub file: File,
    /// Producer and reader.
    pub load: Load,
    /// The checker's eye on it.
    pub watcher: Option<Watcher>,
    /// The stream as it was before something was trimmed.
    pub earlier: Truth,
}

impl<'a> Scene<'a> {
    /// Makes the stream, starts the load, submits the application as `change` makes it, and waits
    /// until it keeps up.
    ///
    /// # Panics
    /// When it does not.
    pub async fn open(stage: &'a mut Stage, name: &str, change: impl FnOnce(&mut File)) -> Self {
        // One small string for each row and run.
        let name: &'static str = name.to_owned().leak();
        let mut file = File {
            name,
            stream: name,
            path: format!("s3://{BUCKET}/{name}/").leak(),
            env: stage.environment(),
            ..File::every_record()
        };
        change(&mut file);
        let aws = &stage.cluster.aws;
        aws.create_stream(name, NUM_SHARDS).await;
        let load = Load::start(&aws.endpoint, name, BUCKET, &format!("{name}/"));
        let watcher = Watcher::start(&Subject::of(&stage.cluster, &file));
        stage.cluster.submit(&file).await;
        let scene = Self { stage, file, load, watcher: Some(watcher), earlier: Truth::default() };
        scene.is_steady(CALM, PATIENCE).await;
        scene
    }

    /// An application of the caller's own making, submitted already and without load.
    #[must_use]
    pub fn of(stage: &'a mut Stage, file: File) -> Self {
        Self { stage, file, load: Load::none(), watcher: None, earlier: Truth::default() }
    }

    /// Waits until the lag has been small for `span` and something is visible.
    ///
    /// # Panics
    /// When that does not come within `deadline`.
    pub async fn is_steady(&self, span: Duration, deadline: Duration) {
        within(deadline, "the application keeps up", async || {
            let state = self.state().await;
            let flow = self.load.flow.lock();
            if flow.is_steady(Instant::now(), span) && flow.num_visible() > 0 {
                return Ok(());
            }
            Err(format!(
                "{:?} behind, {} of {} records are not visible; {state}",
                flow.lag(),
                flow.num_open(),
                flow.num_put()
            ))
        })
        .await;
    }

    /// One line about the application, for failures.
    pub async fn state(&self) -> String {
        match self.stage.cluster.application(self.file.name).await {
            Ok(application) => format!(
                "{} {} {:?}, {} attempts",
                application.state().as_str_name(),
                application.reason,
                application.failure,
                application.attempts.len()
            ),
            Err(error) => error,
        }
    }

    /// The driver's last report; none when there is none.
    pub async fn report(&self) -> Option<v1::DriverReport> {
        self.stage.cluster.application(self.file.name).await.ok()?.report
    }

    /// Live containers; none when the master does not answer.
    pub async fn live(&self) -> Vec<Live> {
        let request = v1::ListContainersRequest { application: self.file.name.to_owned() };
        let Ok(answer) = self.stage.cluster.client().list_containers(request).await else {
            return Vec::new();
        };
        let live = answer.into_inner().containers.into_iter().filter_map(|container| {
            let status = container.status?;
            let (id, pid, kind) = (status.container_id.clone(), status.pid, status.kind());
            // A master that was just started knows of a driver before its node has told the process.
            let runs = status.state() == ContainerState::Running && pid != 0;
            runs.then_some(Live { id, pid, node: container.node_id, kind })
        });
        live.collect()
    }

    /// Number of attempts so far.
    pub async fn num_attempts(&self) -> usize {
        let application = self.stage.cluster.application(self.file.name).await;
        application.map_or(0, |application| application.attempts.len())
    }

    /// What is true now.
    pub async fn before(&self) -> Before {
        Before {
            live: self.live().await,
            num_attempts: self.num_attempts().await,
            master_log_bytes: self.stage.cluster.master.log().len(),
        }
    }

    /// Standard error of all containers of the application, of one kind or of both.
    #[must_use]
    pub fn logs(&self, kind: Option<ContainerKind>) -> BTreeMap<String, String> {
        let mut logs = BTreeMap::new();
        let mut open = vec![self.stage.cluster.path().to_owned()];
        let (name, driver) = (format!("{}-a", self.file.name), "-driver");
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                    continue;
                }
                let parent = path.parent().and_then(|parent| parent.file_name()?.to_str());
                let container = parent.unwrap_or_default().to_owned();
                let fits = match kind {
                    Some(ContainerKind::Driver) => container.ends_with(driver),
                    Some(_) => !container.ends_with(driver),
                    None => true,
                };
                let is_log = path.file_name().is_some_and(|file| file == "stderr.log");
                if is_log && fits && container.starts_with(&name) {
                    logs.insert(container, std::fs::read_to_string(&path).unwrap_or_default());
                }
            }
        }
        logs
    }

    /// Ids of the open shards of the stream, in the order of their ranges.
    pub async fn open_shards(&self) -> Vec<String> {
        let shards = reshard::open_shards(&self.stage.cluster.aws, self.file.stream).await;
        shards.into_iter().map(|shard| shard.id).collect()
    }
}
