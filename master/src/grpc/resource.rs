//! `ResourceService`: one stream per driver.

use actix::Addr;
use axum::http::header::AUTHORIZATION;
use millrace_common::access::Token;
use millrace_common::error::{Code, Error};
use millrace_proto::v1;
use millrace_proto::v1::resource_service_server::ResourceService;
use millrace_proto::v1::{DriverCommand, DriverMessage, driver_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{STREAM_CAPACITY, Shared, ask, first_message, principal, protocol};
use crate::access::{Deed, Principal};
use crate::control::{Control, DriverClosed, DriverOpened, DriverSaid, SessionId, StreamTo};

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    shared: Shared,
}

impl Service {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// The refusal of a driver that shows the token of another application or attempt.
    fn refuse(&self, principal: &Principal, register: &v1::DriverRegister) -> Error {
        let (application, attempt) = (&register.application, register.attempt);
        let error = Error::new(
            Code::NotAllowed,
            format!(
                "the token of {principal} does not speak for attempt {attempt} of {application}"
            ),
            "let this driver exit",
        );
        let subject = register.container_id.as_str();
        let deed = Deed { who: Some(principal), action: "register", application, subject };
        self.shared.audit.record(&deed, Err(&error));
        tracing::warn!(%error, "a driver is refused");
        error
    }
}

#[tonic::async_trait]
impl ResourceService for Service {
    type SessionStream = ReceiverStream<Result<DriverCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<DriverMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let principal = principal(&request).map_err(|error| error.to_status())?;
        let control = self.shared.leader.control().map_err(|error| error.to_status())?;
        // The gate has looked at it; without secrets there may be none.
        let token = request.metadata().as_ref().get(AUTHORIZATION);
        let token = token.and_then(|shown| Token::of_header(Some(shown)).ok());
        let mut incoming = request.into_inner();
        let first = first_message(&mut incoming).await?;
        let Some(driver_message::Body::Register(register)) = first.body else {
            return Err(protocol("the first message of a driver must be its registration"));
        };
        if !principal.may_act_for(&register.application, register.attempt) {
            let error = self.refuse(&principal, &register);
            return Err(error.to_status());
        }
        let (queue, outgoing) = mpsc::channel(STREAM_CAPACITY);
        let end = CancellationToken::new();
        let stream = StreamTo::new(queue, end.clone());
        let container = register.container_id.clone();
        let opened = ask(&control, DriverOpened { register, token, stream }).await;
        let session = opened.and_then(|inner| inner).map_err(|error| {
            tracing::warn!(container, %error, "a driver is refused");
            error.to_status()
        })?;
        tracing::info!(container, session, "driver registered");
        self.shared.tasks.spawn(read(control, session, incoming, end));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Passes on what the driver says until either side ends the stream.
async fn read(
    control: Addr<Control>,
    session: SessionId,
    mut incoming: Streaming<DriverMessage>,
    end: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = end.cancelled() => break,
        };
        match message {
            Ok(Some(message)) => {
                if control.send(DriverSaid(session, message)).await.is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(status) => {
                tracing::info!(session, %status, "the stream of a driver broke");
                break;
            }
        }
    }
    if control.send(DriverClosed(session)).await.is_err() {
        tracing::debug!(session, "the stream of a driver ended after leadership");
    }
}
