//! Channels of the query engine to the executors, for the driver and for executors among themselves.
//!
//! Promises: one connection per executor, kept on the I/O runtime, so that busy compute threads
//! never make a healthy peer look dead; a peer that stops answering is an error within seconds that
//! names the peer.
//! Never does: decide that a peer is dead. An error is a suspicion; the heartbeat decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest,
    GetWorkerInfoResponse, SetPlanRequest, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::HeaderMap;
use millrace_common::access::Token;
use millrace_common::rpc::{self, Caller};
use millrace_sql::fault::Fault;
use tokio::runtime::Handle;
use url::Url;

/// Channels kept at most. An application has far fewer executors over its life; this bounds a leak.
const CHANNELS_MAX: usize = 4096;
/// Bytes a peer may send ahead on one stream. The default of 64 KiB stalls every shuffle.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes a peer may send ahead on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// In the engine's error when a plan did not arrive in time: whoever was to send it, or the network
/// between, was held up for ten seconds.
const PLAN_LATE: &str = "timed-out while waiting for the plan";

/// The channels of one process. Cloning shares them.
#[derive(Clone)]
pub struct PeerChannels {
    channels: Arc<Mutex<HashMap<Url, BoxCloneSyncChannel>>>,
    io: Handle,
    token: Option<Token>,
}

impl PeerChannels {
    /// No channels yet; connections will live on `io`, and calls show `token`.
    #[must_use]
    pub fn new(io: Handle, token: Option<Token>) -> Self {
        Self { channels: Arc::default(), io, token }
    }

    /// Forgets an executor that is gone.
    pub fn forget(&self, url: &Url) {
        self.lock().remove(url);
    }

    fn channel(&self, url: &Url) -> Result<BoxCloneSyncChannel> {
        let mut channels = self.lock();
        if let Some(channel) = channels.get(url) {
            return Ok(channel.clone());
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let endpoint = rpc::endpoint(url.as_str().trim_end_matches('/'))
            .map_err(|error| DataFusionError::External(Box::new(error)))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        // The channel's own task and its connections are spawned where we are now.
        let _on_io = self.io.enter();
        let channel = endpoint.connect_lazy();
        let channel = BoxCloneSyncChannel::new(Caller::new(channel, self.token.as_ref()));
        channels.insert(url.clone(), channel.clone());
        Ok(channel)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Url, BoxCloneSyncChannel>> {
        // The map is whole after any panic: each use is a single call on it.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ChannelResolver for PeerChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        let client = create_worker_client(self.channel(url)?);
        Ok(Box::new(NamedPeer { client, url: url.clone() }))
    }
}

/// A channel whose errors name the peer.
struct NamedPeer {
    client: Box<dyn WorkerChannel>,
    url: Url,
}

/// Names the peer in an error of the transport; an error that the peer itself sent stays as it is.
fn name(url: &Url, error: DataFusionError) -> DataFusionError {
    let text = error.to_string();
    let of_transport = match error.find_root() {
        DataFusionError::External(cause) => cause.is::<tonic::Status>(),
        _ => false,
    };
    if Fault::find_in(&text).is_some() || !(of_transport || text.contains(PLAN_LATE)) {
        return error;
    }
    Fault::Peer { url: url.to_string(), detail: text }.into_error()
}

#[async_trait]
impl WorkerChannel for NamedPeer {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        set_plan_request: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        let url = self.url.clone();
        let answers = self
            .client
            .coordinator_channel(headers, set_plan_request, messages, metrics, context)
            .await
            .map_err(|error| name(&url, error))?;
        Ok(answers.map(move |answer| answer.map_err(|error| name(&url, error))).boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let url = &self.url;
        let streams = self
            .client
            .execute_task(headers, request, metrics, context)
            .await
            .map_err(|error| name(url, error))?;
        let mut named = Vec::with_capacity(streams.len());
        for stream in streams {
            let url = url.clone();
            named.push(stream.map(move |batch| batch.map_err(|error| name(&url, error))).boxed());
        }
        // The call is only made at the first poll of any of its streams, and the engine forgets a
        // plan that nobody asked for within ten minutes: ask now.
        if let Some(first) = named.first_mut() {
            start(first).await;
        }
        Ok(named)
    }

    async fn get_worker_info(
        &mut self,
        request: GetWorkerInfoRequest,
    ) -> Result<GetWorkerInfoResponse> {
        self.client.get_worker_info(request).await
    }
}

/// Polls a stream once, without waiting and without losing what it gives.
async fn start(stream: &mut BoxStream<'static, Result<RecordBatch>>) {
    match futures::poll!(stream.next()) {
        std::task::Poll::Pending => {}
        std::task::Poll::Ready(first) => {
            let rest = std::mem::replace(stream, stream::empty().boxed());
            *stream = stream::iter(first).chain(rest).boxed();
        }
    }
}
