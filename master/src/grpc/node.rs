//! `NodeService`: one stream per node.

use actix::Addr;
use millrace_proto::v1::node_service_server::NodeService;
use millrace_proto::v1::{NodeCommand, NodeMessage, node_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{STREAM_CAPACITY, Shared, ask, first_message, principal, protocol};
use crate::access::Deed;
use crate::control::{Control, NodeClosed, NodeOpened, NodeSaid, SessionId, StreamTo};

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

#[tonic::async_trait]
impl NodeService for Service {
    type SessionStream = ReceiverStream<Result<NodeCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let who = principal(&request).map_err(|error| error.to_status())?;
        let control = self.shared.leader.control().map_err(|error| error.to_status())?;
        let mut incoming = request.into_inner();
        let first = first_message(&mut incoming).await?;
        let Some(node_message::Body::Register(register)) = first.body else {
            return Err(protocol("the first message of a node must be its registration"));
        };
        let (queue, outgoing) = mpsc::channel(STREAM_CAPACITY);
        let end = CancellationToken::new();
        let stream = StreamTo::new(queue, end.clone());
        let node_id = register.node_id.clone();
        let opened = ask(&control, NodeOpened { term: first.term, register, stream }).await;
        let opened = opened.and_then(|inner| inner);
        let deed = Deed { who: Some(&who), action: "register", application: "", subject: &node_id };
        self.shared.audit.record(&deed, opened.as_ref().map(drop));
        let session = opened.map_err(|error| {
            tracing::warn!(node = node_id, %error, "a node is refused");
            error.to_status()
        })?;
        tracing::info!(node = node_id, session, "node registered");
        self.shared.tasks.spawn(read(control, session, incoming, end));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Passes on what the node says until either side ends the stream.
async fn read(
    control: Addr<Control>,
    session: SessionId,
    mut incoming: Streaming<NodeMessage>,
    end: CancellationToken,
) {
    let is_orderly = loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = end.cancelled() => break false,
        };
        match message {
            Ok(Some(message)) => {
                if control.send(NodeSaid(session, message)).await.is_err() {
                    return;
                }
            }
            Ok(None) => break true,
            Err(status) => {
                tracing::info!(session, %status, "the stream of a node broke");
                break false;
            }
        }
    };
    if control.send(NodeClosed(session, is_orderly)).await.is_err() {
        tracing::debug!(session, "the stream of a node ended after leadership");
    }
}
