//! The invariant checker: reads what an application read and what it wrote, and judges whether the
//! second is what the first demands.
//!
//! ```text
//! streams (K) ──┐
//! objects (O) ──┤
//! head, commits ┼── Facts ── judge ── Report (I1 to I7)
//! watcher ──────┤
//! machine ──────┘
//! ```
//! Promises: the judgement is pure (see [`judge`]); reading changes nothing; no expected value comes
//! from the code under test but what the head says, which is the thing that is judged. Used by the
//! tests as a library and by people as `millrace-check`.

pub mod commits;
pub mod head;
pub mod judge;
pub mod kpl;
pub mod machine;
pub mod name;
pub mod observe;
pub mod output;
pub mod read_output;
pub mod read_truth;
pub mod report;
pub mod truth;
pub mod watcher;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use millrace_common::access::Token;
use millrace_common::rpc::Caller;
use millrace_common::table::DEFAULT_TABLE;
use millrace_proto::v1;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tonic::transport::Channel;

use crate::application::{File, WORD_COUNT};
use crate::aws::Endpoint;
use crate::cluster::Cluster;
use crate::processes::Process;

pub use self::judge::{Facts, Gap};
pub use self::machine::Machine;
pub use self::observe::Observations;
pub use self::output::Kind;
pub use self::report::{Finding, Invariant, Report, Verdict};
pub use self::truth::{OutOfRange, Truth};
pub use self::watcher::Watcher;

/// How long the master may take to tell its history.
const MASTER_DEADLINE: Duration = Duration::from_secs(30);
/// The most batches that the master remembers.
const BATCHES_MAX: u32 = 1_000;

/// Something that had to be read for the judgement can not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(pub String);

/// What is checked, and where it is.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The AWS surface, with a caller who may read everything.
    pub endpoint: Endpoint,
    /// The application.
    pub application: String,
    /// The stream of each source, by the source's name.
    pub streams: BTreeMap<String, String>,
    /// The cluster's table.
    pub table: String,
    /// Bucket of the sink.
    pub bucket: String,
    /// Prefix of the sink, with the slash at its end.
    pub prefix: String,
    /// What the query writes.
    pub kind: Kind,
    /// What becomes of KPL records outside their shard's range.
    pub out_of_range: OutOfRange,
    /// True when the producers stopped and the application was drained after that.
    pub is_drained: bool,
    /// The master, for its history of batches; none: the heads that were seen must do.
    pub master: Option<SocketAddr>,
    /// What the master is shown, in a cluster with tokens.
    pub token: Option<Token>,
    /// Where the cluster lives, when all of the application must be gone.
    pub machine: Option<Machine>,
    /// What a watcher saw.
    pub observations: Option<Observations>,
    /// What was read of the streams before something was trimmed.
    pub earlier: Truth,
    /// Records that a policy gave up.
    pub excused: Vec<Gap>,
}

impl Subject {
    /// An application of the tests on a cluster of the tests: what its file says, and its containers
    /// must be gone at the end. Master and workers that run now may go on: ask after the last
    /// restart.
    ///
    /// # Panics
    /// When the file's path is not `s3://bucket/prefix/`.
    #[must_use]
    pub fn of(cluster: &Cluster, file: &File) -> Self {
        let path = file.path.strip_prefix("s3://").and_then(|path| path.split_once('/'));
        let (bucket, prefix) = path.expect("the path of a test's file names bucket and prefix");
        let wanted = cluster.workers.iter().map(Process::pid);
        let wanted = wanted.chain([cluster.aws.process().pid(), cluster.master.pid()]);
        let standbys = cluster.standbys.iter().map(|(standby, _)| standby.pid());
        let wanted = wanted.chain(standbys);
        Self {
            endpoint: cluster.aws.endpoint.clone(),
            application: file.name.to_owned(),
            streams: [("logs".to_owned(), file.stream.to_owned())].into(),
            table: DEFAULT_TABLE.to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            kind: if file.sql == WORD_COUNT { Kind::Words } else { Kind::Records },
            out_of_range: OutOfRange::default(),
            is_drained: false,
            master: Some(cluster.address),
            token: None,
            machine: Some(Machine {
                directory: cluster.path().to_owned(),
                wanted: wanted.collect(),
                ports: Vec::new(),
            }),
            observations: None,
            earlier: Truth::default(),
            excused: Vec::new(),
        }
    }

    /// The subject after a drain with stopped producers: its positions must be the ends.
    #[must_use]
    pub fn drained(self) -> Self {
        Self { is_drained: true, ..self }
    }

    /// The subject with what a watcher saw of it.
    #[must_use]
    pub fn watched(self, observations: Observations) -> Self {
        Self { observations: Some(observations), ..self }
    }

    /// The streams as they are now, with what was read of them earlier.
    ///
    /// # Errors
    /// What Kinesis answers.
    pub async fn truth(&self) -> Result<Truth, CheckError> {
        let kinesis = self.endpoint.kinesis();
        let mut truth = Truth::default();
        for (source, stream) in &self.streams {
            let read = read_truth::read_stream(&kinesis, stream, self.out_of_range).await?;
            truth.streams.insert(source.clone(), read);
        }
        truth.absorb(self.earlier.clone());
        Ok(truth)
    }

    /// Reads everything that is judged. The producers and the application have stopped.
    ///
    /// # Errors
    /// What can not be read.
    pub async fn facts(&self) -> Result<Facts, CheckError> {
        let s3 = self.endpoint.s3();
        let (bucket, prefix) = (&self.bucket, &self.prefix);
        let head = head::read(&self.endpoint.dynamodb(), &self.table, &self.application).await?;
        let objects = read_output::read_objects(&s3, bucket, prefix, &self.application).await?;
        let open_uploads = read_output::open_uploads(&s3, bucket, prefix).await?;
        let batches = match self.master {
            Some(master) => batches(master, self.token.as_ref(), &self.application).await?,
            None => Vec::new(),
        };
        let seen = self.observations.iter().flat_map(Observations::heads);
        let commits = commits::known(seen.chain(&head), &batches, bucket, prefix);
        Ok(Facts {
            application: self.application.clone(),
            kind: self.kind,
            is_drained: self.is_drained,
            truth: self.truth().await?,
            objects,
            head,
            commits,
            observations: self.observations.clone(),
            open_uploads,
            leftovers: self.machine.as_ref().map(Machine::leftovers),
            excused: self.excused.clone(),
        })
    }
}

/// Reads and judges.
///
/// # Panics
/// When something can not be read; a test has no use for half a judgement.
pub async fn check(subject: &Subject) -> Report {
    let facts = subject.facts().await;
    facts
        .unwrap_or_else(|error| panic!("{} can not be judged: {error}", subject.application))
        .judge()
}

/// The batches that the master remembers.
async fn batches(
    master: SocketAddr,
    token: Option<&Token>,
    application: &str,
) -> Result<Vec<v1::Batch>, CheckError> {
    let failed = |what: String| CheckError(format!("the batches that {master} knows: {what}"));
    let channel = Channel::from_shared(format!("http://{master}"));
    let channel = channel.map_err(|error| failed(error.to_string()))?.timeout(MASTER_DEADLINE);
    let mut client = ClientServiceClient::new(Caller::new(channel.connect_lazy(), token));
    let request = v1::ListBatchesRequest { name: application.to_owned(), limit: BATCHES_MAX };
    let answer = client.list_batches(request).await.map_err(|status| failed(status.to_string()))?;
    Ok(answer.into_inner().batches)
}
