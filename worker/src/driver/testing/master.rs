//! A master that grants every wish, or waits to be told.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::Stream;
use millrace_common::rpc;
use millrace_proto::v1;
use millrace_proto::v1::driver_command::Body as Command;
use millrace_proto::v1::driver_message::Body as Message;
use millrace_proto::v1::resource_service_server::{ResourceService, ResourceServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug, Default)]
struct Heard {
    driver: Option<String>,
    num_sessions: usize,
    targets: Vec<u32>,
    avoided: Vec<v1::NodeExclusion>,
    batches: Vec<v1::Batch>,
    report: Option<v1::DriverReport>,
    failures: Option<v1::BatchFailures>,
    checked: Option<v1::SpecChecked>,
    finished: Option<v1::DriverFinished>,
    released: Vec<String>,
    epoch_requests: Vec<u64>,
    commands: Option<mpsc::Sender<Result<v1::DriverCommand, Status>>>,
}

/// The master as a driver sees it.
#[derive(Clone, Debug)]
pub(in crate::driver) struct FakeMaster {
    heard: Arc<Mutex<Heard>>,
    pub(in crate::driver) address: String,
}

impl FakeMaster {
    pub(in crate::driver) async fn start() -> Self {
        let (incoming, address) = rpc::bind("127.0.0.1:0").await.unwrap();
        let master = Self { heard: Arc::default(), address: address.to_string() };
        let service = ResourceServiceServer::new(master.clone());
        tokio::spawn(rpc::server().add_service(service).serve_with_incoming(incoming));
        master
    }

    pub(in crate::driver) async fn send(&self, body: Command) {
        self.send_at(1, body).await;
    }

    pub(in crate::driver) async fn send_at(&self, term: u64, body: Command) {
        let commands = self.heard.lock().unwrap().commands.clone().expect("a driver is here");
        commands.send(Ok(v1::DriverCommand { term, body: Some(body) })).await.unwrap();
    }

    pub(in crate::driver) async fn retire(&self, container: &str) {
        let container_id = container.into();
        self.send(Command::Retire(v1::RetireExecutor { container_id, ..Default::default() })).await;
    }

    pub(in crate::driver) async fn hand_over(&self) {
        self.send(Command::HandOver(v1::HandOver::default())).await;
    }

    pub(in crate::driver) fn num_sessions(&self) -> usize {
        self.heard.lock().unwrap().num_sessions
    }

    pub(in crate::driver) async fn grant(&self, container: &str) {
        let started = v1::ContainerStarted { container_id: container.into(), ..Default::default() };
        self.send(Command::Started(started)).await;
    }

    pub(in crate::driver) async fn end(&self, container: &str) {
        let ended = v1::ContainerEnded { container_id: container.into(), ..Default::default() };
        self.send(Command::Ended(ended)).await;
    }

    pub(in crate::driver) async fn stop(&self, drain: bool, deadline_ms: u64) {
        self.send(Command::Stop(v1::StopDriver { drain, deadline_ms })).await;
    }

    /// The driver's address, once it wants executors.
    pub(in crate::driver) fn driver_at_work(&self) -> Option<String> {
        let heard = self.heard.lock().unwrap();
        heard.driver.clone().filter(|_| !heard.targets.is_empty())
    }

    pub(in crate::driver) fn has_asked_for_executors(&self) -> bool {
        !self.heard.lock().unwrap().targets.is_empty()
    }

    /// The nodes on which the driver wants no executors.
    pub(in crate::driver) fn avoided(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.avoided.iter().map(|node| node.node_id.clone()).collect()
    }

    pub(in crate::driver) fn batches(&self) -> Vec<v1::Batch> {
        self.heard.lock().unwrap().batches.clone()
    }

    pub(in crate::driver) fn report(&self) -> Option<v1::DriverReport> {
        self.heard.lock().unwrap().report.clone()
    }

    /// What the driver found of the next revision.
    pub(in crate::driver) fn checked(&self) -> Option<v1::SpecChecked> {
        self.heard.lock().unwrap().checked.clone()
    }

    /// What it would tell the next attempt.
    pub(in crate::driver) fn failures(&self) -> Option<v1::BatchFailures> {
        self.heard.lock().unwrap().failures
    }

    pub(in crate::driver) fn finished(&self) -> Option<v1::DriverFinished> {
        self.heard.lock().unwrap().finished.clone()
    }

    pub(in crate::driver) fn released(&self) -> Vec<String> {
        self.heard.lock().unwrap().released.clone()
    }
}

#[tonic::async_trait]
impl ResourceService for FakeMaster {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::DriverCommand, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::DriverMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(v1::DriverMessage { body: Some(body) })) = inbound.message().await {
                let mut heard = heard.lock().unwrap();
                match body {
                    Message::Register(register) => {
                        heard.driver = Some(register.address);
                        heard.num_sessions += 1;
                        heard.commands = Some(sender.clone());
                    }
                    Message::Target(target) => {
                        heard.targets.push(target.count);
                        heard.avoided = target.excluded_nodes;
                    }
                    Message::Batch(batch) => heard.batches.push(batch),
                    Message::Report(report) => heard.report = Some(report),
                    Message::Failures(failures) => heard.failures = Some(failures),
                    Message::SpecChecked(checked) => heard.checked = Some(checked),
                    Message::Release(release) => heard.released.push(release.container_id),
                    Message::Epoch(request) => {
                        heard.epoch_requests.push(request.seen_epoch);
                        let epoch = v1::EpochGranted { epoch: request.seen_epoch + 1 };
                        let body = Some(Command::Epoch(epoch));
                        sender.try_send(Ok(v1::DriverCommand { term: 1, body })).unwrap();
                    }
                    Message::Finished(finished) => {
                        heard.finished = Some(finished);
                        heard.commands = None;
                        return;
                    }
                    Message::Heartbeat(_) | Message::Head(_) => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
