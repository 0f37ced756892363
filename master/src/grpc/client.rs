//! `ClientService`: what people and programs ask of a cluster.

use millrace_common::error::{Code, Error};
use millrace_common::id::ApplicationName;
use millrace_proto::v1;
use millrace_proto::v1::client_service_server::ClientService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, logs, principal, tokens};
use crate::access::{Deed, Principal};
use crate::application::{Application, is_terminal, replays, state_name};
use crate::control::{Drain, Kill, ListQueues, Scale, Stop, Submit, Undrain, Why, view};
use crate::store::StoreError;

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    shared: Shared,
}

impl Service {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

impl Service {
    /// Takes a change down with its outcome, and answers.
    fn changed<T>(
        &self,
        who: &Principal,
        (action, application, subject): (&str, &str, &str),
        outcome: Result<T, Error>,
    ) -> Result<Response<T>, Status> {
        let deed = Deed { who: Some(who), action, application, subject };
        self.shared.audit.record(&deed, outcome.as_ref().map(drop));
        answer(outcome)
    }
}

fn asks<T>(request: &Request<T>) -> Result<Principal, Status> {
    principal(request).map_err(|error| error.to_status())
}

fn answer<T>(outcome: Result<T, Error>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|error| error.to_status())
}

#[tonic::async_trait]
impl ClientService for Service {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        answer(self.shared.leader.read(view::cluster).await)
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let nodes = self.shared.leader.read(view::nodes).await;
        answer(nodes.map(|nodes| v1::ListNodesResponse { nodes }))
    }

    async fn submit_application(
        &self,
        request: Request<v1::SubmitApplicationRequest>,
    ) -> Result<Response<v1::SubmitApplicationResponse>, Status> {
        let who = asks(&request)?;
        let (request, owner) = (request.into_inner(), who.owner());
        let name = request.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let action = if request.upgrade { "upgrade" } else { "submit" };
        let outcome = self.shared.leader.ask(Submit { request, owner }).await;
        self.changed(&who, (action, &name, ""), outcome.and_then(|inner| inner))
    }

    async fn list_applications(
        &self,
        _: Request<v1::ListApplicationsRequest>,
    ) -> Result<Response<v1::ListApplicationsResponse>, Status> {
        let applications = self.shared.leader.read(view::applications).await;
        answer(applications.map(|applications| v1::ListApplicationsResponse { applications }))
    }

    async fn get_application(
        &self,
        request: Request<v1::GetApplicationRequest>,
    ) -> Result<Response<v1::GetApplicationResponse>, Status> {
        let name = request.into_inner().name;
        let outcome = self.shared.leader.read(move |core| view::application(core, &name)).await;
        answer(outcome.and_then(|inner| inner))
    }

    async fn why_application(
        &self,
        request: Request<v1::WhyApplicationRequest>,
    ) -> Result<Response<v1::WhyApplicationResponse>, Status> {
        let outcome = self.shared.leader.ask(Why(request.into_inner())).await;
        answer(outcome.and_then(|inner| inner))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let application = request.into_inner().application;
        let containers =
            self.shared.leader.read(move |core| view::containers(core, &application)).await;
        answer(containers.map(|containers| v1::ListContainersResponse { containers }))
    }

    async fn list_batches(
        &self,
        request: Request<v1::ListBatchesRequest>,
    ) -> Result<Response<v1::ListBatchesResponse>, Status> {
        let v1::ListBatchesRequest { name, limit } = request.into_inner();
        let outcome = self.shared.leader.read(move |core| view::batches(core, &name, limit)).await;
        answer(outcome.and_then(|inner| inner).map(|batches| v1::ListBatchesResponse { batches }))
    }

    async fn stop_application(
        &self,
        request: Request<v1::StopApplicationRequest>,
    ) -> Result<Response<v1::StopApplicationResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let (name, action) = (request.name.clone(), if request.drain { "drain" } else { "stop" });
        let outcome = self.shared.leader.ask(Stop(request)).await;
        let answer = outcome.and_then(|inner| inner);
        let answer = answer.map(|state| v1::StopApplicationResponse { state: state.into() });
        self.changed(&who, (action, &name, ""), answer)
    }

    async fn kill_application(
        &self,
        request: Request<v1::KillApplicationRequest>,
    ) -> Result<Response<v1::KillApplicationResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let name = request.name.clone();
        let outcome = self.shared.leader.ask(Kill(request)).await;
        let answer = outcome.and_then(|inner| inner);
        let answer = answer.map(|state| v1::KillApplicationResponse { state: state.into() });
        self.changed(&who, ("kill", &name, ""), answer)
    }

    async fn reset_application(
        &self,
        request: Request<v1::ResetApplicationRequest>,
    ) -> Result<Response<v1::ResetApplicationResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let name = request.name.clone();
        self.changed(&who, ("reset", &name, ""), reset(&self.shared, request).await)
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let node_id = request.node_id.clone();
        let outcome = self.shared.leader.ask(Drain(request)).await;
        let answer = outcome.and_then(|inner| inner);
        let answer = answer.map(|node| v1::DrainNodeResponse { node: Some(node) });
        self.changed(&who, ("drain", "", &node_id), answer)
    }

    async fn undrain_node(
        &self,
        request: Request<v1::UndrainNodeRequest>,
    ) -> Result<Response<v1::UndrainNodeResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let node_id = request.node_id.clone();
        let outcome = self.shared.leader.ask(Undrain(request)).await;
        let answer = outcome.and_then(|inner| inner).map(|()| v1::UndrainNodeResponse {});
        self.changed(&who, ("undrain", "", &node_id), answer)
    }

    async fn scale_application(
        &self,
        request: Request<v1::ScaleApplicationRequest>,
    ) -> Result<Response<v1::ScaleApplicationResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let name = request.name.clone();
        let outcome = self.shared.leader.ask(Scale(request)).await;
        let application = outcome.and_then(|inner| inner).map(Some);
        let answer = application.map(|application| v1::ScaleApplicationResponse { application });
        self.changed(&who, ("scale", &name, ""), answer)
    }

    async fn list_queues(
        &self,
        _: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let queues = self.shared.leader.ask(ListQueues).await;
        answer(queues.map(|queues| v1::ListQueuesResponse { queues: queues.0 }))
    }

    async fn repair_application(
        &self,
        request: Request<v1::RepairApplicationRequest>,
    ) -> Result<Response<v1::RepairApplicationResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let name = request.name.clone();
        self.changed(&who, ("repair", &name, ""), repair(&self.shared, request).await)
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let name = request.name.clone();
        let outcome = tokens::create(&self.shared, &who, request).await;
        self.changed(&who, ("create token", "", &name), outcome)
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        answer(tokens::list(&self.shared).await)
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let who = asks(&request)?;
        let request = request.into_inner();
        let id = request.id.clone();
        let outcome = tokens::revoke(&self.shared, request).await;
        self.changed(&who, ("revoke token", "", &id), outcome)
    }

    type ReadLogsStream = ReceiverStream<Result<v1::LogLines, Status>>;

    async fn read_logs(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        answer(logs::open(&self.shared, request.into_inner()).await)
    }
}

/// Leaves the wish in the head that the next start gives its positions up.
async fn reset(
    shared: &Shared,
    request: v1::ResetApplicationRequest,
) -> Result<v1::ResetApplicationResponse, Error> {
    let name: ApplicationName = request.name.parse()?;
    let is_place = |at: &v1::start_position::At| !matches!(at, v1::start_position::At::KclTable(_));
    let to = request.to.filter(|to| to.at.as_ref().is_some_and(is_place)).ok_or_else(|| {
        Error::new(
            Code::InvalidValue,
            format!("the reset of {name} does not say where to"),
            "give earliest, latest or a time",
        )
    })?;
    let asked = name.clone();
    let (term, state, is_replay) = shared
        .leader
        .read(move |core| {
            let application = core.applications.get(&asked);
            let is_replay = application.is_some_and(Application::is_replay);
            (core.identity.term, application.map(Application::state), is_replay)
        })
        .await?;
    if is_replay {
        return Err(replays::is_not_reset(&name));
    }
    if let Some(state) = state.filter(|state| !is_terminal(*state)) {
        return Err(Error::new(
            Code::WrongState,
            format!(
                "the head of {name} can not be reset: the application is {}",
                state_name(state)
            ),
            format!("end it first with `millrace stop {name}`"),
        ));
    }
    match shared.store.reset_head(term, &name, &to).await {
        Ok(batch) => Ok(v1::ResetApplicationResponse { batch }),
        Err(StoreError::Passing(error) | StoreError::Lasting(error)) => Err(error),
        Err(StoreError::Deposed) => Err(Error::not_leader(None)),
        Err(StoreError::Refused) if state.is_none() => Err(Error::new(
            Code::UnknownApplication,
            format!("no application is called {name}, and this cluster has no head of that name"),
            "see `millrace list` for the names",
        )),
        Err(StoreError::Refused) => Err(Error::new(
            Code::HeadMissing,
            format!("application {name} has no head in this cluster: there is nothing to reset"),
            "submit it: without a head it begins at `start` of its sources",
        )),
    }
}

/// Leaves an operator's word about a lost batch in the head, for the next start. Only after a driver
/// has stopped over it: then no earlier attempt to complete its uploads can still be at work.
async fn repair(
    shared: &Shared,
    request: v1::RepairApplicationRequest,
) -> Result<v1::RepairApplicationResponse, Error> {
    let name: ApplicationName = request.name.parse()?;
    let repair = request.repair.unwrap_or_default();
    if repair.choice() == v1::RepairChoice::Unspecified || repair.batch == 0 {
        return Err(Error::new(
            Code::InvalidValue,
            format!("the repair of {name} does not say of which batch, or how"),
            format!("use `millrace repair {name}`"),
        ));
    }
    let asked = name.clone();
    let (term, record) = shared
        .leader
        .read(move |core| {
            let known = core.applications.get(&asked);
            (core.identity.term, known.map(|known| known.record().clone()))
        })
        .await?;
    let unknown = || {
        Error::new(
            Code::UnknownApplication,
            format!("no application is called {name}"),
            "see `millrace list` for the names",
        )
    };
    let application = record.ok_or_else(unknown)?.application;
    let failure = application.failure.as_ref().map(|failure| failure.code.as_str());
    if application.state() != v1::ApplicationState::Failed
        || failure != Some(Code::UploadLost.as_str())
    {
        return Err(Error::new(
            Code::WrongState,
            format!(
                "{name} has not stopped over a lost batch ({}): it is {}",
                Code::UploadLost.as_str(),
                state_name(application.state())
            ),
            format!("see `millrace status {name}`"),
        ));
    }
    match shared.store.repair_head(term, &name, &repair).await {
        Ok(()) => Ok(v1::RepairApplicationResponse { batch: repair.batch }),
        Err(StoreError::Deposed) => Err(Error::not_leader(None)),
        Err(StoreError::Passing(error) | StoreError::Lasting(error)) => Err(error),
        Err(StoreError::Refused) => Err(Error::new(
            Code::WrongState,
            format!(
                "the head of {name} does not stand at batch {} any more, or says by now that all of \
                 its files were published",
                repair.batch
            ),
            format!("look again with `millrace repair {name}`"),
        )),
    }
}
