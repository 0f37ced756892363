//! The calls of `ClientService`, one function each.
//!
//! Promises: a master that can not be reached is reported within [`REACH_DEADLINE`] by its address;
//! a call that is not answered ends at its own deadline. When the lead has moved on, the leading
//! master is found. A call that changes something is sent again only after a refusal; when its
//! answer is lost the error says how to find out what became of it.
//! Owned by whoever makes it; clones share one connection.

use std::time::Duration;

use futures::{Stream, StreamExt};
use millrace_common::access::Token;
use millrace_common::error::{Code, Error, Result};
use millrace_common::rpc::{self, Caller};
use millrace_proto::v1;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use tonic::{Response, Status};

pub use crate::link::REACH_DEADLINE;
use crate::link::{Link, explain, unreachable};

type Master = ClientServiceClient<Caller>;

/// How long a call that changes something may take: the master writes to DynamoDB with retries.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// Batches asked for when the caller wants all that the master remembers.
pub const BATCHES_MAX: u32 = 1_000;

/// How often a call that changes nothing is tried: with the leader that is known, and with the one
/// that is found when it fails.
const TRIES: u32 = 2;

/// A cluster's leading master, as seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    link: Link,
}

impl Client {
    /// Finds the leading master among `masters` (`host:port` or an `http://` URL, of several
    /// separated by commas), shows it `token`, and connects to it.
    ///
    /// # Errors
    /// [`Code::MasterUnreachable`] within [`REACH_DEADLINE`] for each; [`Code::NotLeader`] when none
    /// leads for long; [`Code::UnknownToken`] and [`Code::TokenExpired`]; [`Code::InvalidValue`] for
    /// text that is no address.
    pub async fn connect(masters: &str, token: Option<Token>) -> Result<Self> {
        let client = Self { link: Link::new(masters, token)? };
        client.link.leader().await?;
        Ok(client)
    }

    /// The cluster's name, version and table.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn cluster(&self) -> Result<v1::GetClusterResponse> {
        let request = v1::GetClusterRequest {};
        self.read(async |mut master| master.get_cluster(request).await).await
    }

    /// Every node the master knows.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn nodes(&self) -> Result<Vec<v1::Node>> {
        let request = v1::ListNodesRequest {};
        Ok(self.read(async |mut master| master.list_nodes(request).await).await?.nodes)
    }

    /// Hands in an application. With a request id it is sent again, to another master too, when no
    /// answer comes: the same submission is taken once.
    ///
    /// # Errors
    /// The master's refusal ([`Code::DoesNotFit`], [`Code::NameInUse`], ...), or that it can not be
    /// reached.
    pub async fn submit(
        &self,
        request: v1::SubmitApplicationRequest,
    ) -> Result<v1::SubmitApplicationResponse> {
        let name = request.spec.as_ref().map(|spec| spec.name.as_str()).unwrap_or_default();
        let look = format!("millrace status {name}");
        let call = async |mut master: Master| master.submit_application(request.clone()).await;
        match self.change(&look, call).await {
            Err(error)
                if error.code() == Code::MasterUnreachable && !request.request_id.is_empty() =>
            {
                self.change(&look, call).await
            }
            outcome => outcome,
        }
    }

    /// Makes a token; its text is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`Code::NotAllowed`], or that the master can not be reached.
    pub async fn create_token(
        &self,
        name: &str,
        role: v1::Role,
        valid_for: Option<Duration>,
    ) -> Result<v1::CreateTokenResponse> {
        let valid_for_ms = valid_for.map_or(0, deadline_ms);
        let role = role.into();
        let request = v1::CreateTokenRequest { name: name.to_owned(), role, valid_for_ms };
        let call = async |mut master: Master| master.create_token(request.clone()).await;
        self.change("millrace token list", call).await
    }

    /// Every token that the cluster remembers.
    ///
    /// # Errors
    /// [`Code::NotAllowed`], or that the master can not be reached.
    pub async fn tokens(&self) -> Result<Vec<v1::TokenInfo>> {
        let request = v1::ListTokensRequest {};
        Ok(self.read(async |mut master| master.list_tokens(request).await).await?.tokens)
    }

    /// Has a token refused from now on.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] when there is none of this id, or that the master can not be reached.
    pub async fn revoke_token(&self, id: &str) -> Result<v1::TokenInfo> {
        let request = v1::RevokeTokenRequest { id: id.to_owned() };
        let call = async |mut master: Master| master.revoke_token(request.clone()).await;
        Ok(self.change("millrace token list", call).await?.info.unwrap_or_default())
    }

    /// Every application the master knows.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn applications(&self) -> Result<Vec<v1::Application>> {
        let request = v1::ListApplicationsRequest {};
        let call = async |mut master: Master| master.list_applications(request).await;
        Ok(self.read(call).await?.applications)
    }

    /// One application with its containers.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], or that the master can not be reached.
    pub async fn application(
        &self,
        name: &str,
    ) -> Result<(v1::Application, Vec<v1::ContainerStatus>)> {
        let request = v1::GetApplicationRequest { name: name.to_owned() };
        let call = async |mut master: Master| master.get_application(request.clone()).await;
        let answer = self.read(call).await?;
        let application = answer.application.ok_or_else(|| {
            Error::new(
                Code::Protocol,
                "the master answers without the application",
                "see whether client and master are of one version",
            )
        })?;
        Ok((application, answer.containers))
    }

    /// Why an application waits, is late or has ended.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], or that the master can not be reached.
    pub async fn why(&self, name: &str) -> Result<v1::WhyApplicationResponse> {
        let request = v1::WhyApplicationRequest { name: name.to_owned() };
        let call = async |mut master: Master| master.why_application(request.clone()).await;
        self.read(call).await
    }

    /// The containers of one application, or of all when `application` is empty.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn containers(&self, application: &str) -> Result<Vec<v1::Container>> {
        let request = v1::ListContainersRequest { application: application.to_owned() };
        let call = async |mut master: Master| master.list_containers(request.clone()).await;
        Ok(self.read(call).await?.containers)
    }

    /// The newest `limit` batches of an application (at most [`BATCHES_MAX`]), oldest first.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], or that the master can not be reached.
    pub async fn batches(&self, name: &str, limit: u32) -> Result<Vec<v1::Batch>> {
        let limit = limit.min(BATCHES_MAX);
        let request = v1::ListBatchesRequest { name: name.to_owned(), limit };
        let call = async |mut master: Master| master.list_batches(request.clone()).await;
        let mut batches = self.read(call).await?.batches;
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
        let deadline_ms = deadline.map_or(0, deadline_ms);
        let request = v1::StopApplicationRequest { name: name.to_owned(), drain, deadline_ms };
        let call = async |mut master: Master| master.stop_application(request.clone()).await;
        Ok(self.change(&format!("millrace status {name}"), call).await?.state())
    }

    /// Ends an application's containers now; its open batch is given up.
    ///
    /// # Errors
    /// The master's refusal, or that it can not be reached.
    pub async fn kill(&self, name: &str) -> Result<v1::ApplicationState> {
        let request = v1::KillApplicationRequest { name: name.to_owned() };
        let call = async |mut master: Master| master.kill_application(request.clone()).await;
        Ok(self.change(&format!("millrace status {name}"), call).await?.state())
    }

    /// Makes the next start of an application begin at `to` instead of its positions; gives the
    /// batch number of the head whose positions are given up.
    ///
    /// # Errors
    /// [`Code::WrongState`] while an attempt is alive, or that the master can not be reached.
    pub async fn reset(&self, name: &str, to: v1::StartPosition) -> Result<u64> {
        let request = v1::ResetApplicationRequest { name: name.to_owned(), to: Some(to) };
        let call = async |mut master: Master| master.reset_application(request.clone()).await;
        Ok(self.change(&format!("millrace status {name}"), call).await?.batch)
    }

    /// Says what is to become of a lost batch; the next start does it.
    ///
    /// # Errors
    /// [`Code::WrongState`] unless the application has stopped over that batch (MR4005), or that the
    /// master can not be reached.
    pub async fn repair(&self, name: &str, repair: v1::RepairRequest) -> Result<u64> {
        let request = v1::RepairApplicationRequest { name: name.to_owned(), repair: Some(repair) };
        let call = async |mut master: Master| master.repair_application(request.clone()).await;
        Ok(self.change(&format!("millrace status {name}"), call).await?.batch)
    }

    /// The logs that are asked for; with `follow` it goes on until the containers have ended. The
    /// stream itself has no deadline: the connection's keep-alive ends it when the master is gone.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn logs(
        &self,
        request: v1::ReadLogsRequest,
    ) -> Result<impl Stream<Item = Result<v1::LogLines>> + use<>> {
        let call = async |mut master: Master| master.read_logs(request.clone()).await;
        let lines = self.read(call).await?;
        let address = self.link.leader().await?.address;
        Ok(lines.map(move |piece| piece.map_err(|status| explain(&address, &status))))
    }

    /// What a container was given at its start, as JSON.
    ///
    /// # Errors
    /// [`Code::UnknownContainer`], also when its files are gone, or that the master can not be
    /// reached.
    pub async fn container_configuration(
        &self,
        application: &str,
        container: &str,
    ) -> Result<Vec<u8>> {
        let request = v1::ReadLogsRequest {
            application: application.to_owned(),
            container_id: container.to_owned(),
            stream: v1::LogStream::Configuration.into(),
            ..Default::default()
        };
        let call = async |mut master: Master| master.read_logs(request.clone()).await;
        let mut pieces = self.read(call).await?;
        let address = self.link.leader().await?.address;
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|status| explain(&address, &status))?;
            text.extend(piece.lines.into_iter().flat_map(|line| line.text));
        }
        Ok(text)
    }

    /// Empties a node and keeps it empty; what is left after `deadline` is ended.
    ///
    /// # Errors
    /// [`Code::UnknownNode`], or that the master can not be reached.
    pub async fn drain(&self, node: &str, deadline: Option<Duration>) -> Result<v1::Node> {
        let request = v1::DrainNodeRequest {
            node_id: node.to_owned(),
            deadline_ms: deadline.map_or(0, deadline_ms),
        };
        let call = async |mut master: Master| master.drain_node(request.clone()).await;
        Ok(self.change("millrace nodes", call).await?.node.unwrap_or_default())
    }

    /// Sets the number of executors of an application; 0: as its file says again.
    ///
    /// # Errors
    /// [`Code::UnknownApplication`], [`Code::WrongState`], [`Code::InvalidValue`], or that the master
    /// can not be reached.
    pub async fn scale(&self, name: &str, executors: u32) -> Result<v1::Application> {
        let request = v1::ScaleApplicationRequest { name: name.to_owned(), executors };
        let call = async |mut master: Master| master.scale_application(request.clone()).await;
        let answer = self.change(&format!("millrace status {name}"), call).await?;
        Ok(answer.application.unwrap_or_default())
    }

    /// The queues with their shares and what they hold.
    ///
    /// # Errors
    /// The master's, or that it can not be reached.
    pub async fn queues(&self) -> Result<Vec<v1::Queue>> {
        let request = v1::ListQueuesRequest {};
        Ok(self.read(async |mut master| master.list_queues(request).await).await?.queues)
    }

    /// Lets a node take containers again.
    ///
    /// # Errors
    /// [`Code::UnknownNode`], or that the master can not be reached.
    pub async fn undrain(&self, node: &str) -> Result<()> {
        let request = v1::UndrainNodeRequest { node_id: node.to_owned() };
        let call = async |mut master: Master| master.undrain_node(request.clone()).await;
        self.change("millrace nodes", call).await.map(drop)
    }

    /// A call that changes nothing: when its master does not lead or answer any more, it is sent to
    /// the one that does.
    async fn read<T>(
        &self,
        call: impl AsyncFn(Master) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            let leader = self.link.leader().await?;
            let answer = tokio::time::timeout(rpc::CALL_TIMEOUT, call(leader.inner.clone())).await;
            let error = match answer {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => explain(&leader.address, &status),
                Err(_) => {
                    let why = format!("no answer within {} s", rpc::CALL_TIMEOUT.as_secs());
                    unreachable(&leader.address, &why)
                }
            };
            tries += 1;
            if !is_elsewhere(&error) {
                return Err(error);
            }
            self.link.lose(&leader, error.leader()).await;
            if tries >= TRIES {
                return Err(error);
            }
        }
    }

    /// A call that changes something: sent again only when a master has refused it because it does
    /// not lead. `look` is the command that shows what became of it.
    async fn change<T>(
        &self,
        look: &str,
        call: impl AsyncFn(Master) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            let leader = self.link.leader().await?;
            let answer = tokio::time::timeout(CHANGE_DEADLINE, call(leader.inner.clone())).await;
            let error = match answer {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => explain(&leader.address, &status),
                Err(_) => Error::new(
                    Code::MasterUnreachable,
                    format!(
                        "the master at {} has not answered within {} s; it may have done what was \
                         asked",
                        leader.address,
                        CHANGE_DEADLINE.as_secs()
                    ),
                    format!("look with `{look}` before you ask again"),
                ),
            };
            tries += 1;
            if is_elsewhere(&error) {
                self.link.lose(&leader, error.leader()).await;
            }
            if error.code() != Code::NotLeader || tries >= TRIES {
                return Err(error);
            }
        }
    }
}

/// True when another master may have to be asked.
fn is_elsewhere(error: &Error) -> bool {
    matches!(error.code(), Code::NotLeader | Code::MasterUnreachable)
}

fn deadline_ms(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1)
}
