//! The gRPC services: they check what comes in, pass it to the control actor, and shape what goes
//! out. They decide nothing.

mod client;
mod logs;
mod node;
mod resource;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use millrace_common::access::Secrets;
use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};
use millrace_proto::v1::client_service_server::ClientServiceServer;
use millrace_proto::v1::node_service_server::NodeServiceServer;
use millrace_proto::v1::resource_service_server::ResourceServiceServer;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::Request;
use tonic::service::{Routes, RoutesBuilder};

use crate::access::{Audit, Principal};
use crate::control::{Control, Read};
use crate::store::{Known, Store, Tenure};

/// How long a peer may take from opening a stream to its first message.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(5);
/// Messages that may wait for one peer; a grant for each of hundreds of executors fits. A peer that
/// lets them pile up is cut off and comes back.
const STREAM_CAPACITY: usize = 1_024;

/// The way to the control actor, which is there while this master leads.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    serving: watch::Receiver<Option<Serving>>,
    known: watch::Receiver<Known>,
}

/// A master at work as the leader.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// Its actor.
    pub control: Addr<Control>,
    /// How long it may act.
    pub tenure: Tenure,
}

impl Leader {
    /// The way that `serving` shows; `known` is where another master leads, or why
    /// that is not known.
    #[must_use]
    pub(crate) fn new(
        serving: watch::Receiver<Option<Serving>>,
        known: watch::Receiver<Known>,
    ) -> Self {
        Self { serving, known }
    }

    /// The actor.
    ///
    /// # Errors
    /// [`Code::NotLeader`] while this master does not lead, or has not renewed that it does.
    pub(crate) fn control(&self) -> Result<Addr<Control>, Error> {
        match &*self.serving.borrow() {
            Some(serving) if serving.tenure.is_valid() => Ok(serving.control.clone()),
            _ => Err(self.known.borrow().refusal()),
        }
    }

    /// Sends a message to the actor and waits for its answer.
    ///
    /// # Errors
    /// As [`Leader::control`]; also when the actor ends meanwhile.
    pub(crate) async fn ask<M>(&self, message: M) -> Result<M::Result, Error>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Control: actix::Handler<M>,
        <Control as actix::Actor>::Context: actix::dev::ToEnvelope<Control, M>,
    {
        ask(&self.control()?, message).await
    }

    /// Asks the core a question.
    ///
    /// # Errors
    /// As [`Leader::ask`].
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&crate::control::Core) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.ask(Read::new(question)).await.map(|answer| answer.0)
    }
}

/// Sends a message to this very actor and waits for its answer.
async fn ask<M>(control: &Addr<Control>, message: M) -> Result<M::Result, Error>
where
    M: actix::Message + Send + 'static,
    M::Result: Send,
    Control: actix::Handler<M>,
    <Control as actix::Actor>::Context: actix::dev::ToEnvelope<Control, M>,
{
    control.send(message).await.map_err(|_| {
        Error::new(
            Code::MasterUnreachable,
            "this master gave up its leadership while it was asked",
            "try again in some seconds",
        )
    })
}

/// What all services share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The way to the control actor.
    pub leader: Leader,
    /// The heads, for a reset.
    pub store: Arc<dyn Store>,
    /// Owns the tasks that read streams; each tells the control actor when it ends.
    pub tasks: TaskTracker,
    /// Of what is dated.
    pub clock: SharedClock,
    /// What new tokens are sealed with; none in a cluster without tokens.
    pub secrets: Option<Arc<Secrets>>,
    /// Where changes are written down.
    pub audit: Audit,
}

/// Who asks, as the layer before all services has found.
fn principal<T>(request: &Request<T>) -> Result<Principal, Error> {
    let found = request.extensions().get::<Principal>().cloned();
    found.ok_or_else(|| Error::internal("a request has passed nobody who asked for its token"))
}

/// Every gRPC service of the master, with reflection and health.
///
/// # Errors
/// When the descriptor of the protocol can not be read: a defect.
pub(crate) fn routes(shared: &Shared) -> Result<Routes, Error> {
    let broken = |error| Error::internal("the protocol's descriptor is broken").caused_by(error);
    let descriptor = millrace_proto::v1::FILE_DESCRIPTOR_SET;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptor)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (_, health) = tonic_health::server::health_reporter();
    let max = millrace_common::rpc::MESSAGE_BYTES_MAX;
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(health)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?)
        .add_service(
            ClientServiceServer::new(client::Service::new(shared.clone()))
                .max_decoding_message_size(max),
        )
        .add_service(
            NodeServiceServer::new(node::Service::new(shared.clone()))
                .max_decoding_message_size(max),
        )
        .add_service(
            ResourceServiceServer::new(resource::Service::new(shared.clone()))
                .max_decoding_message_size(max),
        );
    Ok(routes.routes())
}

/// The first message of a stream, within its deadline.
async fn first_message<T>(incoming: &mut tonic::Streaming<T>) -> Result<T, tonic::Status> {
    match tokio::time::timeout(FIRST_MESSAGE_DEADLINE, incoming.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(protocol("the stream ended before its first message")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(protocol("no message came on the stream")),
    }
}

fn protocol(what: &str) -> tonic::Status {
    Error::new(Code::Protocol, what, "use a client of this version of the protocol").to_status()
}
