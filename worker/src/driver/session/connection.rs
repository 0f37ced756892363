//! One connection to the master after the other.

use std::time::Duration;

use millrace_common::error::Error;
use millrace_common::retry::Backoff;
use millrace_common::rpc;
use millrace_proto::v1;
use millrace_proto::v1::driver_command::Body as Command;
use millrace_proto::v1::driver_message::Body as Message;
use millrace_proto::v1::resource_service_client::ResourceServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Identity, Inputs, Standing};

/// Messages on their way to the master: a connection that takes none of these is broken.
const OUTGOING_CAPACITY: usize = 64;
/// How long the master may take to answer the opening of a session or to take a message.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Until the master says otherwise.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Between connections.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(2) };

pub(super) struct Connection {
    identity: Identity,
    inputs: Inputs,
    commands: mpsc::Sender<Command>,
    client: ResourceServiceClient<Channel>,
    finished: Option<(v1::DriverFinished, oneshot::Sender<()>)>,
}

/// Why a connection ended.
enum Broken {
    /// Open another.
    Lost(String),
    /// The driver has ended.
    Done,
}

impl Connection {
    pub(super) fn new(
        identity: Identity,
        inputs: Inputs,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self, Error> {
        let channel = rpc::connect_lazy(&identity.master_address)?;
        let client = ResourceServiceClient::new(channel)
            .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rpc::MESSAGE_BYTES_MAX);
        Ok(Self { identity, inputs, commands, client, finished: None })
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let broken = tokio::select! {
                () = stop.cancelled() => return,
                broken = self.connect(&mut failures) => broken,
            };
            match broken {
                Broken::Done => return,
                Broken::Lost(why) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(master = %self.identity.master_address, %why, "no session with the master: the application goes on without");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BACKOFF.random_delay(failures)) => {}
            }
        }
    }

    /// One connection, from its opening to its end.
    async fn connect(&mut self, failures: &mut u32) -> Broken {
        let (sender, receiver) = mpsc::channel(OUTGOING_CAPACITY);
        let out = Outgoing(sender);
        // The stream carries the registration before the master answers its opening.
        if let Err(broken) = out.send(Message::Register(self.registration())).await {
            return broken;
        }
        let opening = self.client.session(ReceiverStream::new(receiver));
        let mut inbound = match tokio::time::timeout(ANSWER_WITHIN, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Broken::Lost(status.to_string()),
            Err(_) => return Broken::Lost("no answer".to_owned()),
        };
        if *failures > 0 {
            tracing::info!(master = %self.identity.master_address, "session with the master again");
        }
        *failures = 0;
        match self.exchange(&out, &mut inbound).await {
            Err(broken) => broken,
            Ok(()) => Broken::Done,
        }
    }

    fn registration(&self) -> v1::DriverRegister {
        let standing = self.inputs.standing.borrow();
        v1::DriverRegister {
            application: self.identity.application.clone(),
            attempt: self.identity.attempt,
            epoch: self.identity.epoch,
            container_id: self.identity.container_id.clone(),
            address: self.identity.address.clone(),
            executors: standing.held.iter().map(|held| held.as_str().to_owned()).collect(),
        }
    }

    /// Carries messages both ways until the connection breaks or the driver ends.
    async fn exchange(
        &mut self,
        out: &Outgoing,
        inbound: &mut Streaming<v1::DriverCommand>,
    ) -> Result<(), Broken> {
        let mut said = Standing::default();
        self.say_standing(out, &mut said).await?;
        if self.say_finished(out).await?.is_some() {
            return self.until_closed(inbound).await;
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sequence = 0;
        loop {
            tokio::select! {
                command = inbound.message() => match command {
                    Ok(Some(v1::DriverCommand { body: Some(Command::Registered(answer)), .. })) => {
                        if answer.heartbeat_interval_ms > 0 {
                            let interval = Duration::from_millis(answer.heartbeat_interval_ms);
                            heartbeat = tokio::time::interval(interval);
                        }
                    }
                    Ok(Some(v1::DriverCommand { body: Some(body), .. })) => {
                        if self.commands.send(body).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(Some(_)) => tracing::warn!("an empty command of the master"),
                    Ok(None) => return Err(Broken::Lost("closed by the master".to_owned())),
                    Err(status) => return Err(Broken::Lost(status.to_string())),
                },
                _ = heartbeat.tick() => {
                    sequence += 1;
                    out.send(Message::Heartbeat(v1::DriverHeartbeat { sequence })).await?;
                }
                changed = self.inputs.standing.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.say_standing(out, &mut said).await?;
                }
                Ok(()) = self.inputs.report.changed() => {
                    let report = self.inputs.report.borrow_and_update().clone();
                    if let Some(report) = report {
                        out.send(Message::Report(report)).await?;
                    }
                }
                Some(batch) = self.inputs.batches.recv() => out.send(Message::Batch(batch)).await?,
                Some(release) = self.inputs.releases.recv() => {
                    out.send(Message::Release(release)).await?;
                }
                Some(finished) = self.inputs.finish.recv() => {
                    self.finished = Some(finished);
                    // Everything said before stays in front of it.
                    while let Ok(batch) = self.inputs.batches.try_recv() {
                        out.send(Message::Batch(batch)).await?;
                    }
                    if self.say_finished(out).await?.is_some() {
                        return self.until_closed(inbound).await;
                    }
                }
            }
        }
    }

    /// Says what changed of what the master must know.
    async fn say_standing(&mut self, out: &Outgoing, said: &mut Standing) -> Result<(), Broken> {
        let standing = self.inputs.standing.borrow_and_update().clone();
        if standing.epoch_request != said.epoch_request
            && let Some(request) = standing.epoch_request
        {
            out.send(Message::Epoch(request)).await?;
        }
        if standing.head != said.head
            && let Some(head) = standing.head
        {
            out.send(Message::Head(head)).await?;
        }
        if standing.target != said.target
            && let Some(target) = standing.target
        {
            out.send(Message::Target(target)).await?;
        }
        *said = standing;
        Ok(())
    }

    async fn say_finished(&mut self, out: &Outgoing) -> Result<Option<()>, Broken> {
        let Some((finished, _)) = &self.finished else { return Ok(None) };
        out.send(Message::Finished(finished.clone())).await?;
        Ok(Some(()))
    }

    /// The master closes the stream when it has heard of the end.
    async fn until_closed(
        &mut self,
        inbound: &mut Streaming<v1::DriverCommand>,
    ) -> Result<(), Broken> {
        let closed = async { while let Ok(Some(_)) = inbound.message().await {} };
        if tokio::time::timeout(Duration::from_secs(1), closed).await.is_err() {
            tracing::debug!("the master keeps the session open after the driver's end");
        }
        if let Some((_, told)) = self.finished.take()
            && told.send(()).is_err()
        {
            tracing::debug!("the driver has not waited for its own end");
        }
        Ok(())
    }
}

/// The stream of messages to the master.
struct Outgoing(mpsc::Sender<v1::DriverMessage>);

impl Outgoing {
    async fn send(&self, body: Message) -> Result<(), Broken> {
        let sent = self.0.send(v1::DriverMessage { body: Some(body) });
        match tokio::time::timeout(ANSWER_WITHIN, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Broken::Lost("the stream is closed".to_owned())),
            Err(_) => Err(Broken::Lost("the master takes no messages".to_owned())),
        }
    }
}
