//! Tests of the session against a driver's side made of nothing but the protocol.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_common::Code;
use millrace_proto::v1::driver_service_server::{DriverService, DriverServiceServer};
use millrace_proto::v1::{CutBlocks, ExecutorRegistered, ShardTrouble};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A driver that takes executors on, tells what it hears, and says what it is told to say.
struct Driver {
    heard: mpsc::Sender<executor_message::Body>,
    /// Sessions are refused while this is above zero.
    refusals: Arc<AtomicU64>,
    /// Sessions end after their registration while this is above zero.
    breaks: Arc<AtomicU64>,
}

type Commands = Pin<Box<dyn Stream<Item = Result<ExecutorCommand, Status>> + Send>>;

fn command(body: executor_command::Body) -> Result<ExecutorCommand, Status> {
    Ok(ExecutorCommand { body: Some(body) })
}

fn one_less(counter: &AtomicU64) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[tonic::async_trait]
impl DriverService for Driver {
    type SessionStream = Commands;

    async fn session(
        &self,
        request: Request<Streaming<ExecutorMessage>>,
    ) -> Result<Response<Commands>, Status> {
        if one_less(&self.refusals) {
            let error = Error::new(Code::Fenced, "attempt 1 is over", "nothing");
            return Err(error.to_status());
        }
        let mut inbound = request.into_inner();
        let (heard, is_short) = (self.heard.clone(), one_less(&self.breaks));
        let (commands, outgoing) = mpsc::channel(4);
        tokio::spawn(async move {
            let registered = ExecutorRegistered {
                heartbeat_interval_ms: 10,
                fault_seal: millrace_sql::fault::seal().to_owned(),
            };
            let registered = executor_command::Body::Registered(registered);
            commands.send(command(registered)).await.unwrap();
            let cut = executor_command::Body::Cut(CutBlocks { cut_id: 5 });
            commands.send(command(cut)).await.unwrap();
            while let Some(Ok(message)) = inbound.next().await {
                if is_short || heard.send(message.body.unwrap()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

struct Scene {
    heard: mpsc::Receiver<executor_message::Body>,
    outbox: mpsc::Sender<ExecutorMessage>,
    events: mpsc::Receiver<SessionEvent>,
    /// The driver's process, as far as the executor can tell.
    driver: DriverProcess,
}

/// A runtime that ends with everything on it when dropped, as a killed process does.
struct DriverProcess(Option<tokio::runtime::Runtime>);

impl Drop for DriverProcess {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn next(events: &mut mpsc::Receiver<SessionEvent>) -> SessionEvent {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await;
    event.expect("no event").expect("the session's thread died")
}

impl Scene {
    async fn start(num_refusals: u64, num_breaks: u64, grace: Duration) -> Self {
        let (heard_in, heard) = mpsc::channel(1_000);
        let driver = Driver {
            heard: heard_in,
            refusals: Arc::new(AtomicU64::new(num_refusals)),
            breaks: Arc::new(AtomicU64::new(num_breaks)),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bound = runtime.spawn(async { rpc::bind("127.0.0.1:0").await.unwrap() });
        let (incoming, address) = bound.await.unwrap();
        runtime.spawn(async move {
            let service = DriverServiceServer::new(driver);
            rpc::server().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        let (outbox, outbox_inbox) = mpsc::channel(16);
        let (events_out, events) = mpsc::channel(16);
        let register =
            || ExecutorRegister { container_id: "app-a1-e1".to_owned(), ..Default::default() };
        let session = Session {
            driver: address.to_string(),
            token: None,
            grace,
            register: Arc::new(register),
            heartbeat: Arc::new(|sequence| ExecutorHeartbeat { sequence, ..Default::default() }),
            outbox: outbox_inbox,
            events: events_out,
        };
        session.start().unwrap();
        Self { heard, outbox, events, driver: DriverProcess(Some(runtime)) }
    }

    async fn event(&mut self) -> SessionEvent {
        next(&mut self.events).await
    }

    async fn hears(&mut self, wanted: impl Fn(&executor_message::Body) -> bool) {
        let wait = async {
            loop {
                let body = self.heard.recv().await.expect("the driver is gone");
                if wanted(&body) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("never heard");
    }
}

#[tokio::test]
async fn a_session_registers_beats_and_carries_both_ways() {
    let mut scene = Scene::start(0, 0, core::GRACE).await;
    scene.hears(|body| matches!(body, executor_message::Body::Register(r) if r.container_id == "app-a1-e1")).await;
    assert!(matches!(scene.event().await, SessionEvent::Registered));
    let SessionEvent::Command(executor_command::Body::Cut(cut)) = scene.event().await else {
        panic!("the cut does not come");
    };
    assert_eq!(cut.cut_id, 5);
    scene
        .hears(|body| matches!(body, executor_message::Body::Heartbeat(beat) if beat.sequence >= 3))
        .await;
    let trouble = executor_message::Body::Trouble(ShardTrouble::default());
    scene.outbox.send(ExecutorMessage { body: Some(trouble) }).await.unwrap();
    scene.hears(|body| matches!(body, executor_message::Body::Trouble(_))).await;
}

#[tokio::test]
async fn a_broken_session_is_made_again() {
    let mut scene = Scene::start(0, 3, core::GRACE).await;
    scene.hears(|body| matches!(body, executor_message::Body::Heartbeat(_))).await;
    let mut num_registrations = 0;
    while num_registrations < 4 {
        if matches!(scene.event().await, SessionEvent::Registered) {
            num_registrations += 1;
        }
    }
}

#[tokio::test]
async fn a_refusal_ends_the_session_with_its_reason() {
    let mut scene = Scene::start(1, 0, core::GRACE).await;
    let SessionEvent::Ended(error) = scene.event().await else { panic!("it goes on") };
    assert_eq!(error.code(), Code::Fenced);
    assert_eq!(error.message(), "attempt 1 is over");
}

#[tokio::test]
async fn without_a_driver_the_session_ends_after_the_grace_time() {
    let mut scene = Scene::start(0, 0, Duration::from_millis(300)).await;
    assert!(matches!(scene.event().await, SessionEvent::Registered));
    let Scene { driver, mut events, outbox: _outbox, .. } = scene;
    drop(driver);
    let error = loop {
        if let SessionEvent::Ended(error) = next(&mut events).await {
            break error;
        }
    };
    assert_eq!(error.code(), Code::DriverUnreachable);
}
