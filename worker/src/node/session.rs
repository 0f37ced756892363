//! The stream to the master: opened with everything the node holds, opened again when it breaks.

use std::time::Duration;

use millrace_common::access::Token;
use millrace_common::error::{Code, Error};
use millrace_common::rpc::{self, Caller};
use millrace_proto::v1::node_service_client::NodeServiceClient;
use millrace_proto::v1::{NodeCommand, NodeMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Messages that may wait for the master; more means that it does not read, and the stream is
/// opened anew.
const OUTGOING_CAPACITY: usize = 1_024;
/// How long the master may take to answer a registration.
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);

/// An open stream.
#[derive(Debug)]
pub(super) struct Session {
    outgoing: mpsc::Sender<NodeMessage>,
    incoming: Streaming<NodeCommand>,
}

impl Session {
    /// Connects, shows `token`, and registers; `first` is the registration.
    ///
    /// # Errors
    /// When the master can not be reached, or refuses.
    pub(super) async fn open(
        master: String,
        token: Option<Token>,
        first: NodeMessage,
    ) -> Result<Self, Error> {
        let peer = format!("the master at {master}");
        let late = || {
            Error::new(
                Code::MasterUnreachable,
                format!("{peer} does not answer"),
                "see whether it runs; the node goes on trying",
            )
        };
        let open = async {
            let channel = rpc::connect(&master).await.map_err(|error| {
                Error::new(
                    Code::MasterUnreachable,
                    format!("{peer} can not be reached"),
                    "start it, or correct --master; the node goes on trying",
                )
                .caused_by(error)
            })?;
            let (outgoing, messages) = mpsc::channel(OUTGOING_CAPACITY);
            outgoing.send(first).await.map_err(|_| late())?;
            let incoming = NodeServiceClient::new(Caller::new(channel, token.as_ref()))
                .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
                .session(ReceiverStream::new(messages))
                .await
                .map_err(|status| {
                    let refused = Error::from_status(&peer, &status);
                    if token.is_none() { without_token(refused) } else { refused }
                })?
                .into_inner();
            Ok(Self { outgoing, incoming })
        };
        tokio::time::timeout(REGISTER_DEADLINE, open).await.map_err(|_| late())?
    }

    /// False when the master does not keep up or is gone.
    pub(super) fn send(&self, message: NodeMessage) -> bool {
        self.outgoing.try_send(message).is_ok()
    }

    /// The next command; none when the stream has ended. Nothing is lost when this is dropped
    /// before it is done.
    pub(super) async fn receive(&mut self) -> Option<NodeCommand> {
        match self.incoming.message().await {
            Ok(command) => command,
            Err(status) => {
                tracing::warn!(%status, "the stream to the master broke");
                None
            }
        }
    }

    /// Ends the stream in order, so that the master knows that the node left.
    pub(super) async fn close(mut self, deadline: Duration) {
        drop(self.outgoing);
        let drained = async { while let Ok(Some(_)) = self.incoming.message().await {} };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::debug!("the master did not end its side of the stream");
        }
    }
}

/// What a node is to do that shows no token to a master that asks for one.
fn without_token(refused: Error) -> Error {
    if refused.code() != Code::UnknownToken {
        return refused;
    }
    let next = "start this worker with --token-file node.token, which `millrace token init` made \
                beside the cluster's secret";
    Error::new(Code::UnknownToken, refused.message(), next)
}
