//! Everything outside the process that a driver touches, behind traits, so that a whole driver can
//! run in a test.
//!
//! Promises: the real ones are made in one place. Never does: decide.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_common::access::Token;
use millrace_common::application::ApplicationSpec;
use millrace_common::aws::{Clients, StreamClients};
use millrace_common::clock::{SharedClock, SystemClock};
use millrace_common::error::Error;
use millrace_common::secrets::Secrets;
use millrace_sql::Parameters;

use super::commit::{S3Uploads, UploadStore};
use super::executors::core::Limits;
use super::head::{DynamoHeadStore, HeadStore};
use super::kcl::LeaseTables;
use super::kcl::aws::AwsLeaseTables;
use super::receivers::discovery::{KinesisStreams, Streams};
use super::runner::{BatchRunner, DistributedRunner, RunnerOptions};
use super::start;
use super::start::check::{Buckets, S3Buckets};

/// Makes the runner of an application, which checks its query.
#[async_trait]
pub trait Runners: Send + Sync + 'static {
    /// The runner for this specification.
    async fn prepare(&self, spec: &ApplicationSpec) -> Result<Arc<dyn BatchRunner>, Error>;
}

/// What the driver touches.
#[derive(Clone)]
pub struct World {
    /// Kinesis.
    pub streams: Arc<dyn Streams>,
    /// S3, for checks.
    pub buckets: Arc<dyn Buckets>,
    /// S3, for publishing.
    pub uploads: Arc<dyn UploadStore>,
    /// DynamoDB.
    pub heads: Arc<dyn HeadStore>,
    /// Lease tables of the KCL.
    pub leases: Arc<dyn LeaseTables>,
    /// DataFusion.
    pub runners: Arc<dyn Runners>,
    /// Time.
    pub clock: SharedClock,
    /// Times to keep.
    pub times: Times,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("times", &self.times).finish_non_exhaustive()
    }
}

/// Times that a driver keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// What executors are told to keep.
    pub heartbeat_interval: Duration,
    /// When an executor is given up.
    pub limits: Limits,
    /// How often shards are listed.
    pub discovery_interval: Duration,
    /// How long a cut waits for the slowest receiver.
    pub cut_wait: Duration,
    /// How often the master gets a report.
    pub report_interval: Duration,
}

/// Heartbeats that an executor may miss before it is lost.
const HEARTBEATS_MISSED: u32 = 5;

impl Times {
    /// Everything that follows from the interval of heartbeats.
    #[must_use]
    pub fn with_heartbeat(heartbeat_interval: Duration) -> Self {
        Self {
            heartbeat_interval,
            limits: Limits {
                lost_after: heartbeat_interval * HEARTBEATS_MISSED,
                reopen_within: heartbeat_interval * 2,
                grant_within: Duration::from_secs(30),
            },
            discovery_interval: Duration::from_secs(10),
            cut_wait: Duration::from_millis(500),
            report_interval: Duration::from_secs(1),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::with_heartbeat(Duration::from_secs(1))
    }
}

impl World {
    /// The real world of an application.
    ///
    /// # Errors
    /// When no AWS region is set.
    pub async fn real(
        spec: &ApplicationSpec,
        table: &str,
        times: Times,
        secrets: Secrets,
        token: Option<Token>,
    ) -> Result<Self, Error> {
        let clients = Clients::load(&spec.aws).await?;
        let streams = StreamClients::load(spec, &clients).await?;
        let leases = AwsLeaseTables::new(clients.dynamodb.clone(), streams.clone());
        Ok(Self {
            streams: Arc::new(KinesisStreams::new(streams)),
            buckets: Arc::new(S3Buckets::new(clients.clone())),
            uploads: Arc::new(S3Uploads::new(clients.clone())),
            heads: Arc::new(DynamoHeadStore::new(clients.dynamodb.clone(), table, &spec.name)),
            leases: Arc::new(leases),
            runners: Arc::new(DistributedRunners { clients: clients.clone(), secrets, token }),
            clock: SystemClock::shared(),
            times,
        })
    }
}

/// Runners over datafusion-distributed.
#[derive(Debug)]
struct DistributedRunners {
    clients: Clients,
    secrets: Secrets,
    token: Option<Token>,
}

#[async_trait]
impl Runners for DistributedRunners {
    async fn prepare(&self, spec: &ApplicationSpec) -> Result<Arc<dyn BatchRunner>, Error> {
        millrace_sql::validate(spec).await?;
        let io = tokio::runtime::Handle::current();
        let params = Parameters::of(spec, |value| self.secrets.reveal(value))?;
        let regions = start::bucket_regions(spec, &self.clients).await;
        let options = RunnerOptions::from_spec(spec, &regions, params, io, self.token.clone());
        let runner = DistributedRunner::prepare(options).await?;
        Ok(Arc::new(runner))
    }
}
