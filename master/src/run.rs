//! The life of a master process: listen, stand by, lead, stand by again, end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor as _;
use millrace_common::access::{self, Secrets};
use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};
use millrace_common::random;
use millrace_common::rpc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::access::{Audit, Gate, gate};
use crate::config::MasterConfig;
use crate::control::{Control, Core, Identity};
use crate::grpc::{self, Leader, Serving, Shared};
use crate::moment::Moment;
use crate::store::{
    Campaign, Known, LeaderTiming, Leadership, Store, StoreError, Tenure, Writer, WriterEvent,
    campaign, hold,
};
use crate::{http, place};

/// How often a standby looks at the leader item.
const STANDBY_POLL: Duration = Duration::from_millis(500);
/// How long a new leader tries to read what the store holds before it gives leadership up.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long records may still be written when the process ends.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// How long open answers have to end when the process ends.
const SERVER_END_DEADLINE: Duration = Duration::from_secs(2);

/// Runs a master until `shutdown`. Must be called where actors can be started (inside
/// `actix::System::block_on` or a `LocalSet`).
///
/// # Errors
/// When its configuration contradicts itself, when it can not listen ([`Code::PortInUse`]), or when its table can not be used
/// ([`Code::TableMissing`] and what else AWS says for good).
pub async fn run(
    config: MasterConfig,
    store: Arc<dyn Store>,
    clock: SharedClock,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.check()?;
    let secrets = config.secret_file.as_deref().map(access::read_secrets).transpose()?;
    let secrets = secrets.map(Arc::new);
    if secrets.is_none() {
        refuse_to_be_reached(&config.listen).await?;
    }
    let (audit, auditor) = Audit::open(config.audit_file.as_deref(), clock.clone())?;
    let (incoming, local) = rpc::bind_with_http(&config.listen).await?;
    let address = config.advertise.clone().unwrap_or_else(|| local.to_string());
    if local.ip().is_unspecified() && config.advertise.is_none() {
        tracing::warn!(%local, "nobody else can reach this address: set --advertise");
    }
    let (announce, serving) = watch::channel(None);
    let (known, leader) = watch::channel(Known::default());
    let shared = Shared {
        leader: Leader::new(serving, leader),
        store: Arc::clone(&store),
        tasks: TaskTracker::new(),
        clock: clock.clone(),
        secrets: secrets.clone(),
        audit: audit.clone(),
    };
    let leader = shared.leader.clone();
    let before_all = Gate { secrets: secrets.clone(), clock: clock.clone(), leader, audit };
    let router = grpc::routes(&shared)?
        .into_axum_router()
        .merge(http::routes(shared.leader.clone()))
        .fallback(http::unknown)
        .layer(axum::middleware::from_fn_with_state(before_all, gate));
    // Not of `shutdown`: the port is served until leadership was given up.
    let end = CancellationToken::new();
    let server = rpc::server().accept_http1(true).add_routes(Routes::from(router));
    let ended = end.clone().cancelled_owned();
    let mut server = tokio::spawn(server.serve_with_incoming_shutdown(incoming, ended));
    if let Some(path) = &config.port_file {
        write_port_file(path, &local.to_string())?;
    }
    tracing::info!(listen = %local, %address, cluster = config.cluster, "master listens");

    let place = place::of(local);
    let master = Master { config, store, clock, address, place, secrets, announce, known };
    let outcome = tokio::select! {
        outcome = master.lead_again_and_again(&shutdown) => outcome,
        outcome = &mut server => Err(server_failed(outcome)),
    };
    end.cancel();
    shared.tasks.close();
    if !server.is_finished()
        && tokio::time::timeout(SERVER_END_DEADLINE, &mut server).await.is_err()
    {
        server.abort();
    }
    auditor.close();
    outcome
}

/// Without tokens everybody who reaches the port may do everything: so nobody else must reach it.
async fn refuse_to_be_reached(listen: &str) -> Result<(), Error> {
    if rpc::is_loopback(listen).await? {
        return Ok(());
    }
    Err(Error::new(
        Code::SecretRequired,
        format!("without a secret the master does not listen on {listen}, which others can reach"),
        "make tokens with `millrace token init` and start the master with --secret-file, or listen \
         on 127.0.0.1",
    ))
}

fn server_failed(
    outcome: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Error {
    let error = Error::internal("the master's server ended");
    match outcome {
        Ok(Ok(())) => error,
        Ok(Err(cause)) => error.caused_by(cause),
        Err(cause) => error.caused_by(cause),
    }
}

/// Writes the address for scripts, in one step, so that nobody reads half of it.
fn write_port_file(path: &Path, address: &str) -> Result<(), Error> {
    let staged = path.with_extension("tmp");
    std::fs::write(&staged, address).and_then(|()| std::fs::rename(&staged, path)).map_err(
        |error| {
            Error::new(
                Code::DirectoryUnusable,
                format!("the port file {} can not be written", path.display()),
                "give a path in a writable directory with --port-file",
            )
            .caused_by(error)
        },
    )
}

struct Master {
    config: MasterConfig,
    store: Arc<dyn Store>,
    clock: SharedClock,
    address: String,
    place: String,
    /// What the containers' tokens are sealed with.
    secrets: Option<Arc<Secrets>>,
    announce: watch::Sender<Option<Serving>>,
    /// Where another master leads, or why that is not known.
    known: watch::Sender<Known>,
}

impl Master {
    async fn lead_again_and_again(&self, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut min_term = 0;
        while !shutdown.is_cancelled() {
            let standby = Campaign::new(
                random::uuid().to_string(),
                self.place.clone(),
                self.address.clone(),
                min_term,
                self.config.leader_take_over_after,
            );
            let poll = STANDBY_POLL.min(self.config.leader_renew_interval);
            let won =
                campaign(&*self.store, &*self.clock, standby, poll, &self.known, shutdown).await?;
            if let Some(leadership) = won {
                min_term = min_term.max(self.lead(leadership, shutdown).await?);
            }
        }
        Ok(())
    }

    /// Leads for one term; the highest term that was seen meanwhile.
    async fn lead(
        &self,
        leadership: Leadership,
        shutdown: &CancellationToken,
    ) -> Result<u64, Error> {
        let term = leadership.item.term;
        let limit = self.config.leader_step_down_after;
        let tenure = Tenure::new(self.clock.clone(), leadership.since, limit);
        // Not of `shutdown`: leadership is given up after the last records are written.
        let end = CancellationToken::new();
        let held = hold(
            &*self.store,
            &*self.clock,
            leadership,
            LeaderTiming {
                renew_interval: self.config.leader_renew_interval,
                step_down_after: self.config.leader_step_down_after,
                take_over_after: self.config.leader_take_over_after,
            },
            &tenure,
            &self.known,
            &end,
        );
        let work = async {
            let seen = self.serve(term, &tenure, shutdown).await;
            end.cancel();
            seen
        };
        tokio::pin!(held, work);
        let outcome = tokio::select! {
            // Leadership is lost: whoever serves under it is dropped at once.
            () = &mut held => {
                self.announce.send_replace(None);
                Ok(term)
            }
            seen = &mut work => {
                self.announce.send_replace(None);
                held.await;
                seen
            }
        };
        tracing::info!(term, "this master does not lead any more");
        outcome
    }

    /// Loads and serves until shutdown, or until a higher term is seen.
    async fn serve(
        &self,
        term: u64,
        tenure: &Tenure,
        shutdown: &CancellationToken,
    ) -> Result<u64, Error> {
        let snapshot = match tokio::time::timeout(LOAD_DEADLINE, self.store.load(term)).await {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(StoreError::Lasting(error))) => return Err(error),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store can not be read: leadership is given up");
                return Ok(term);
            }
            Err(_) => {
                tracing::warn!("the store does not answer: leadership is given up");
                return Ok(term);
            }
        };
        let (applications, nodes) = (snapshot.applications.len(), snapshot.nodes.len());
        tracing::info!(term, applications, nodes, "this master leads");
        let now = Moment { wall_ms: self.clock.now_ms(), monotonic: self.clock.monotonic() };
        let identity = Identity {
            cluster: self.config.cluster.clone(),
            term,
            table: self.config.table.clone(),
            address: self.address.clone(),
            started_ms: now.wall_ms,
            secrets: self.secrets.clone(),
        };
        let core = Core::new(now, self.config.timing(), identity, snapshot)
            .with_queues(self.config.queue.clone());
        let (writer, work) = Writer::new(Arc::clone(&self.store), term, tenure.clone());
        let (lost, mut seen) = watch::channel(None);
        let control =
            Control::new(self.clock.clone(), core, writer.clone(), tenure.clone(), lost).start();
        self.announce.send_replace(Some(Serving { control, tenure: tenure.clone() }));
        tokio::pin!(work);
        let outcome = tokio::select! {
            () = &mut work => Ok(term),
            () = shutdown.cancelled() => Ok(term),
            higher = seen.wait_for(Option::is_some) => match higher {
                Ok(higher) => Ok(higher.unwrap_or(term)),
                Err(_) => Err(Error::internal("the control actor ended by itself")),
            },
        };
        self.announce.send_replace(None);
        if shutdown.is_cancelled() {
            flush(&writer, work).await;
        }
        outcome
    }
}

/// Lets the writer finish what waits, for a while.
async fn flush(writer: &Writer, work: impl Future<Output = ()>) {
    let mut events = writer.events();
    let last = writer.highest();
    let written = async {
        let is_done = |event: &WriterEvent| match event {
            WriterEvent::Written(ticket) => *ticket >= last,
            WriterEvent::Fenced => true,
        };
        if events.wait_for(is_done).await.is_err() {
            tracing::debug!("the writer ended before everything was written");
        }
    };
    tokio::select! {
        () = written => {}
        () = work => {}
        () = tokio::time::sleep(FLUSH_DEADLINE) => {
            tracing::warn!("the store does not take the last records");
        }
    }
}
