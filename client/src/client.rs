//! The calls of `ClientService`, one function each.
//!
//! Promises: a master that can not be reached is reported within [`REACH_DEADLINE`] by its address;
//! a call that is not answered ends at its own deadline. Calls that only read may be repeated by
//! the caller; a call that changes something is sent once, and when its answer is lost the error
//! says how to find out what became of it.
//! Owned by whoever makes it; clones share one connection.

use std::future::Future;
use std::time::Duration;

use futures::{Stream, StreamExt};
use millrace_common::error::{Code, Error, Result};
use millrace_common::rpc;
use millrace_proto::v1;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long it may take to find out that a master can not be reached.
pub const REACH_DEADLINE: Duration = Duration::from_millis(2_500);
/// How long a call that changes something may take: the master writes to DynamoDB with retries.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// Batches asked for when the caller wants all that the master remembers.
pub const BATCHES_MAX: u32 = 1_000;

/// A cluster's master, as seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    inner: ClientServiceClient<Channel>,
    address: String,
}

impl Client {
    /// Connects to the master at `address` (`host:port` or an `http://` URL) and asks it who it is.
    ///
    /// # Errors
    /// [`Code::MasterUnreachable`] within [`REACH_DEADLINE`]; [`Code::InvalidValue`] for text that
    /// is no address.
    pub async fn connect(address: &str) -> Result<Self> {
        let (client, _) = Self::connect_and_greet(address).await?;
        Ok(client)
    }

    /// As [`Client::connect`], with what the master said of its cluster.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_and_greet(address: &str) -> Result<(Self, v1::GetClusterResponse)> {
        let endpoint = rpc::endpoint(address)?;
        let greet = async {
            let channel = endpoint
                .connect()
                .await
                .map_err(|error| unreachable(address, &deepest_cause(&error)))?;
            let inner = ClientServiceClient::new(channel)
                .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(rpc::MESSAGE_BYTES_MAX);
            let client = Self { inner, address: address.to_owned() };
            let cluster = client
                .inner
                .clone()
                .get_cluster(v1::GetClusterRequest {})
                .await
                .map_err(|status| client.explain(&status))?;
            Ok((client, cluster.into_inner()))
        };
        match tokio::time::timeout(REACH_DEADLINE, greet).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unreachable(
                address,
                &format!("no answer within {} ms", REACH_DEADLINE.as_millis()),
            )),
        }
    }

    /// The address this client talks to, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The cluster's name, version and table.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn cluster(&self) -> Result<v1::GetClusterResponse> {
        let mut inner = self.inner.clone();
        self.read(inner.get_cluster(v1::GetClusterRequest {})).await
    }

    /// Every node the master knows.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn nodes(&self) -> Result<Vec<v1::Node>> {
        let mut inner = self.inner.clone();
        Ok(self.read(inner.list_nodes(v1::ListNodesRequest {})).await?.nodes)
    }

    /// Hands in an application.
    ///
    /// # Errors
    /// The master's refusal ([`Code::DoesNotFit`], [`Code::NameInUse`], ...), or that it can not be
    /// reached.
    pub async fn submit(&self, spec: v1::ApplicationSpec) -> Result<v1::SubmitApplicationResponse> {
        let name = spec.name.clone();
        let mut inner = self.inner.clone();
        let request = v1::SubmitApplicationRequest { spec: Some(spec) };
        self.change(&name, inner.submit_application(request)).await
    }

    /// Every application the master knows.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn applications(&self) -> Result<Vec<v1::Application>> {
        let mut inner = self.inner.clone();
        let request = v1::ListApplicationsRequest {};
        Ok(self.read(inner.list_applications(request)).await?.applications)
    }

    /// One application with its containers.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], or that the master can not be reached.
    pub async fn application(
        &self,
        name: &str,
    ) -> Result<(v1::Application, Vec<v1::ContainerStatus>)> {
        let mut inner = self.inner.clone();
        let request = v1::GetApplicationRequest { name: name.to_owned() };
        let answer = self.read(inner.get_application(request)).await?;
        let application = answer.application.ok_or_else(|| {
            Error::new(
                Code::Protocol,
                format!("the master at {} answers without the application", self.address),
                "see whether client and master are of one version",
            )
        })?;
        Ok((application, answer.containers))
    }

    /// The containers of one application, or of all when `application` is empty.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn containers(&self, application: &str) -> Result<Vec<v1::Container>> {
        let mut inner = self.inner.clone();
        let request = v1::ListContainersRequest { application: application.to_owned() };
        Ok(self.read(inner.list_containers(request)).await?.containers)
    }

    /// The newest `limit` batches of an application (at most [`BATCHES_MAX`]), oldest first.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], or that the master can not be reached.
    pub async fn batches(&self, name: &str, limit: u32) -> Result<Vec<v1::Batch>> {
        let mut inner = self.inner.clone();
        let limit = limit.min(BATCHES_MAX);
        let request = v1::ListBatchesRequest { name: name.to_owned(), limit };
        let mut batches = self.read(inner.list_batches(request)).await?.batches;
        batches.sort_by_key(|batch| batch.number);
        Ok(batches)
    }

    /// Asks an application to stop: after its batch, or drained when `drain` is set, by `deadline`
    /// at the latest.
    ///
    /// # Errors
    /// The master's refusal, or that it can not be reached.
    pub async fn stop(
        &self,
        name: &str,
        drain: bool,
        deadline: Option<Duration>,
    ) -> Result<v1::ApplicationState> {
        let mut inner = self.inner.clone();
        let deadline_ms =
            deadline.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX).max(1));
        let request = v1::StopApplicationRequest { name: name.to_owned(), drain, deadline_ms };
        Ok(self.change(name, inner.stop_application(request)).await?.state())
    }

    /// Ends an application's containers now; its open batch is given up.
    ///
    /// # Errors
    /// The master's refusal, or that it can not be reached.
    pub async fn kill(&self, name: &str) -> Result<v1::ApplicationState> {
        let mut inner = self.inner.clone();
        let request = v1::KillApplicationRequest { name: name.to_owned() };
        Ok(self.change(name, inner.kill_application(request)).await?.state())
    }

    /// Makes the next start of an application begin at `to` instead of its positions; gives the
    /// batch number of the head whose positions are given up.
    ///
    /// # Errors
    /// [`Code::WrongState`] while an attempt is alive, or that the master can not be reached.
    pub async fn reset(&self, name: &str, to: v1::StartPosition) -> Result<u64> {
        let mut inner = self.inner.clone();
        let request = v1::ResetApplicationRequest { name: name.to_owned(), to: Some(to) };
        Ok(self.change(name, inner.reset_application(request)).await?.batch)
    }

    /// The logs of one container, or of every container of the application when `container` is
    /// none; goes on with `follow` until the containers have ended. The stream itself has no
    /// deadline: the connection's keep-alive ends it when the master is gone.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn logs(
        &self,
        application: &str,
        container: Option<&str>,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<v1::LogLines>> + use<>> {
        let mut inner = self.inner.clone();
        let request = v1::ReadLogsRequest {
            application: application.to_owned(),
            container_id: container.unwrap_or_default().to_owned(),
            follow,
        };
        let lines = self.read(inner.read_logs(request)).await?;
        let client = self.clone();
        Ok(lines.map(move |piece| piece.map_err(|status| client.explain(&status))))
    }

    /// A call that changes nothing.
    async fn read<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(rpc::CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status)),
            Err(_) => Err(unreachable(
                &self.address,
                &format!("no answer within {} s", rpc::CALL_TIMEOUT.as_secs()),
            )),
        }
    }

    /// A call that changes something of the application `name`: sent once.
    async fn change<T>(
        &self,
        name: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(CHANGE_DEADLINE, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status)),
            Err(_) => Err(Error::new(
                Code::MasterUnreachable,
                format!(
                    "the master at {} has not answered within {} s; it may have done what was asked",
                    self.address,
                    CHANGE_DEADLINE.as_secs()
                ),
                format!("look with `millrace status {name}` before you ask again"),
            )),
        }
    }

    /// A status as an error: the master's own words where it sent them, else what the connection
    /// met.
    fn explain(&self, status: &Status) -> Error {
        if std::error::Error::source(status).is_some() {
            return unreachable(&self.address, &deepest_cause(status));
        }
        let error = Error::from_status(&format!("the master at {}", self.address), status);
        match (error.code(), status.code()) {
            (Code::Protocol, tonic::Code::Internal | tonic::Code::Unimplemented) => Error::new(
                Code::MasterUnreachable,
                format!(
                    "what listens on {} does not answer as a Millrace master: {}",
                    self.address,
                    status.message()
                ),
                "name the master's address with --master or MILLRACE_MASTER",
            ),
            _ => error,
        }
    }
}

/// The error for a master that does not answer.
fn unreachable(address: &str, why: &str) -> Error {
    Error::new(
        Code::MasterUnreachable,
        format!("the master at {address} can not be reached: {why}"),
        "start it (`millrace local up` starts a local cluster), or name another with --master or \
         MILLRACE_MASTER",
    )
}

/// The text at the bottom of a chain of causes: "Connection refused (os error 111)" instead of
/// "transport error".
fn deepest_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
