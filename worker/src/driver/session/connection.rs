//! One connection to the master after the other.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_common::error::Error;
use millrace_common::masters::Masters;
use millrace_common::random;
use millrace_common::retry::Backoff;
use millrace_common::rpc::{self, Caller};
use millrace_proto::v1;
use millrace_proto::v1::driver_command::Body as Command;
use millrace_proto::v1::driver_message::Body as Message;
use millrace_proto::v1::resource_service_client::ResourceServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{Identity, Inputs, Standing};

/// Messages on their way to the master: a connection that takes none of these is broken.
const OUTGOING_CAPACITY: usize = 64;
/// How long the master may take to answer the opening of a session or to take a message.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Until the master says otherwise.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Published batches that are said again to a new leader: as many as clients ask for.
const RECENT_MAX: usize = 100;
/// Between rounds of tries to find the leading master.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(2) };

pub(super) struct Connection {
    identity: Identity,
    inputs: Inputs,
    commands: mpsc::Sender<Command>,
    masters: Masters,
    /// The highest leadership term that was heard of.
    term: u64,
    /// The last batches that were said, oldest first, and to which term.
    recent: VecDeque<v1::Batch>,
    told_term: u64,
    is_connected: bool,
    finished: Option<(v1::DriverFinished, oneshot::Sender<()>)>,
}

/// Why a connection ended.
enum Broken {
    /// Open another; with the leader's address, when the master that was asked knows it.
    Lost(String, Option<String>),
    /// The driver has ended.
    Done,
}

impl Connection {
    pub(super) fn new(
        identity: Identity,
        inputs: Inputs,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self, Error> {
        let masters = Masters::parse(&identity.masters)?;
        let term = identity.term;
        Ok(Self {
            identity,
            inputs,
            commands,
            masters,
            term,
            recent: VecDeque::new(),
            told_term: 0,
            is_connected: true,
            finished: None,
        })
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let broken = tokio::select! {
                () = stop.cancelled() => return,
                broken = self.connect() => broken,
            };
            let delay = match broken {
                Broken::Done => return,
                Broken::Lost(why, leader) => {
                    if std::mem::take(&mut self.is_connected) {
                        tracing::warn!(master = %self.masters.current(), %why, "no session with the master: the application goes on without");
                    }
                    self.masters.failed(leader.as_deref(), BACKOFF, random::unit())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One connection, from its opening to its end.
    async fn connect(&mut self) -> Broken {
        let client = match rpc::connect_lazy(self.masters.current()) {
            Ok(channel) => {
                let caller = Caller::new(channel, self.identity.token.as_ref());
                ResourceServiceClient::new(caller)
            }
            Err(error) => return lost(error.to_string()),
        };
        let mut client = client
            .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rpc::MESSAGE_BYTES_MAX);
        let (sender, receiver) = mpsc::channel(OUTGOING_CAPACITY);
        let out = Outgoing(sender);
        // The stream carries the registration before the master answers its opening.
        if let Err(broken) = out.send(Message::Register(self.registration())).await {
            return broken;
        }
        let opening = client.session(ReceiverStream::new(receiver));
        let mut inbound = match tokio::time::timeout(ANSWER_WITHIN, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                let error = Error::from_status("the master", &status);
                return Broken::Lost(error.to_string(), error.leader().map(str::to_owned));
            }
            Err(_) => return lost("no answer"),
        };
        if !std::mem::replace(&mut self.is_connected, true) {
            tracing::info!(master = %self.masters.current(), "session with the master again");
        }
        self.masters.succeeded();
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
            term: self.term,
            last_executor: standing.last_executor,
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
        // Whoever looks right after a master's restart shall see what was last reported.
        let report = self.inputs.report.borrow_and_update().clone();
        if let Some(report) = report {
            out.send(Message::Report(report)).await?;
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sequence = 0;
        loop {
            tokio::select! {
                command = inbound.message() => match command {
                    Ok(Some(command)) => {
                        if let Some(interval) = self.hear(out, command).await? {
                            heartbeat = tokio::time::interval(interval);
                        }
                    }
                    Ok(None) => return Err(lost("closed by the master")),
                    Err(status) => return Err(lost(status.to_string())),
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
                Some(batch) = self.inputs.batches.recv() => self.say_batch(out, batch).await?,
                Some(release) = self.inputs.releases.recv() => {
                    out.send(Message::Release(release)).await?;
                }
                Some(finished) = self.inputs.finish.recv() => {
                    self.finished = Some(finished);
                    // Everything said before stays in front of it.
                    while let Ok(batch) = self.inputs.batches.try_recv() {
                        self.say_batch(out, batch).await?;
                    }
                    if self.say_finished(out).await?.is_some() {
                        return self.until_closed(inbound).await;
                    }
                }
            }
        }
    }

    /// A command of the master: of a deposed one nothing is done. The interval of heartbeats, when
    /// it says one.
    async fn hear(
        &mut self,
        out: &Outgoing,
        command: v1::DriverCommand,
    ) -> Result<Option<Duration>, Broken> {
        if command.term < self.term {
            return Err(lost(format!("term {} is over: {} leads", command.term, self.term)));
        }
        self.term = command.term;
        match command.body {
            Some(Command::Registered(answer)) => {
                if self.told_term != self.term {
                    for batch in &self.recent {
                        out.send(Message::Batch(batch.clone())).await?;
                    }
                    self.told_term = self.term;
                }
                let interval = Duration::from_millis(answer.heartbeat_interval_ms);
                Ok((!interval.is_zero()).then_some(interval))
            }
            Some(body) => match self.commands.send(body).await {
                Ok(()) => Ok(None),
                Err(_) => Err(Broken::Done),
            },
            None => {
                tracing::warn!("an empty command of the master");
                Ok(None)
            }
        }
    }

    async fn say_batch(&mut self, out: &Outgoing, batch: v1::Batch) -> Result<(), Broken> {
        self.recent.push_back(batch.clone());
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        out.send(Message::Batch(batch)).await
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
        if standing.failures != said.failures
            && let Some(failures) = standing.failures
        {
            out.send(Message::Failures(failures)).await?;
        }
        if standing.spec_checked != said.spec_checked
            && let Some(checked) = &standing.spec_checked
        {
            out.send(Message::SpecChecked(checked.clone())).await?;
        }
        if standing.target != said.target
            && let Some(target) = &standing.target
        {
            out.send(Message::Target(target.clone())).await?;
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

fn lost(why: impl Into<String>) -> Broken {
    Broken::Lost(why.into(), None)
}

/// The stream of messages to the master.
struct Outgoing(mpsc::Sender<v1::DriverMessage>);

impl Outgoing {
    async fn send(&self, body: Message) -> Result<(), Broken> {
        let sent = self.0.send(v1::DriverMessage { body: Some(body) });
        match tokio::time::timeout(ANSWER_WITHIN, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(lost("the stream is closed")),
            Err(_) => Err(lost("the master takes no messages")),
        }
    }
}
