//! A node and its containers: the node speaks the real protocol, the containers are the real driver
//! and the real executor, each on a host of its own, so that it can be killed as a process can.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::application::ApplicationSpec;
use millrace_common::clock::Clock as _;
use millrace_common::error::Error;
use millrace_common::masters::Masters;
use millrace_common::resources::{ByteSize, Resources};
use millrace_common::retry::Backoff;
use millrace_common::{random, rpc};
use millrace_proto::v1::node_service_client::NodeServiceClient;
use millrace_proto::v1::{
    self, ContainerKind, ContainerState, ContainerStatus, LaunchContext, node_command, node_message,
};
use millrace_worker::driver::world::{Times, World as DriverWorld};
use millrace_worker::executor::block_store::{BlockStore, Budgets};
use millrace_worker::executor::receiver::shared::Tempo;
use millrace_worker::executor::world::{Engine, World as ExecutorWorld};
use millrace_worker::{driver, executor};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::network::SimulatedClock;
use crate::world::World;

/// Where the masters listen: one leads, the other stands by.
pub(crate) const MASTERS: [&str; 2] = ["master:7070", "standby:7071"];
/// Between two rounds in which no master was reached.
pub(crate) const PAUSE: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_millis(500) };
/// Cores that a node offers.
const CORES: u32 = 4;
/// Ends of containers that a node has not heard of: more than it can hold.
const ENDS_MAX: usize = 64;
/// Heartbeats of the test profile.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);

/// What a node wants of the machine.
pub(crate) enum Order {
    Start(Box<LaunchContext>),
    /// The process is to be gone at once.
    Kill(String),
}

/// The machines under the nodes.
#[derive(Clone, Default)]
pub(crate) struct Machines {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Default)]
struct Inner {
    orders: VecDeque<Order>,
    /// Who hears of the ends of a node's containers.
    nodes: BTreeMap<String, mpsc::Sender<(String, i32)>>,
    /// Every running container: its node, and the way to ask it to end.
    running: BTreeMap<String, (String, CancellationToken)>,
}

impl Machines {
    pub(crate) fn next_order(&self) -> Option<Order> {
        self.inner.borrow_mut().orders.pop_front()
    }

    fn order(&self, order: Order) {
        self.inner.borrow_mut().orders.push_back(order);
    }

    /// The running containers of a node, or of all.
    pub(crate) fn containers(&self, node: Option<&str>) -> Vec<String> {
        let inner = self.inner.borrow();
        let of = inner.running.iter().filter(|(_, (home, _))| node.is_none_or(|node| node == home));
        of.map(|(id, _)| id.clone()).collect()
    }

    /// A process is gone: its node hears of it, if it lives.
    pub(crate) fn ended(&self, world: &World, container: &str, code: i32) {
        let mut inner = self.inner.borrow_mut();
        let Some((node, _)) = inner.running.remove(container) else { return };
        world.lock().stores.remove(container);
        world.note(format!("{container} ends: {code}"));
        if let Some(ends) = inner.nodes.get(&node) {
            // A node that died hears nothing any more.
            ends.try_send((container.to_owned(), code)).ok();
        }
    }

    fn token(&self, container: &str) -> Option<CancellationToken> {
        self.inner.borrow().running.get(container).map(|(_, token)| token.clone())
    }

    pub(crate) fn node_died(&self, node: &str) {
        self.inner.borrow_mut().nodes.remove(node);
    }
}

/// Runs a node until it is crashed.
pub(crate) async fn node(name: String, machines: Machines) -> turmoil::Result {
    let (ends, mut ended) = mpsc::channel(ENDS_MAX);
    machines.inner.borrow_mut().nodes.insert(name.clone(), ends);
    let mut node = Node {
        instance: random::uuid().to_string(),
        name,
        machines,
        masters: masters(),
        leader: None,
        term: 0,
        containers: BTreeMap::new(),
    };
    loop {
        // Whatever ends a session, the next one says everything again.
        let _ended = node.session(&mut ended).await;
        let leader = node.leader.take();
        sleep(node.masters.failed(leader.as_deref(), PAUSE, random::unit())).await;
    }
}

/// All masters.
pub(crate) fn masters() -> Masters {
    Masters::parse(&MASTERS.join(",")).expect("they are addresses")
}

/// The leader that a refusal names.
pub(crate) fn leader_in(status: &tonic::Status) -> Option<String> {
    Error::from_status("a master", status).leader().map(str::to_owned)
}

struct Node {
    name: String,
    instance: String,
    machines: Machines,
    masters: Masters,
    /// The leader that a master named when it refused.
    leader: Option<String>,
    term: u64,
    containers: BTreeMap<String, ContainerStatus>,
}

impl Node {
    async fn session(&mut self, ended: &mut mpsc::Receiver<(String, i32)>) -> Option<()> {
        let channel = rpc::connect(self.masters.current()).await.ok()?;
        let (out, messages) = mpsc::channel(64);
        while let Ok((id, code)) = ended.try_recv() {
            self.exited(&id, code);
        }
        let register = v1::NodeRegister {
            node_id: self.name.clone(),
            instance_id: self.instance.clone(),
            host: self.name.clone(),
            offered: Some(offered().to_proto()),
            containers: self.containers.values().cloned().collect(),
            version: "simulated".to_owned(),
            pid: 1,
            unhealthy: String::new(),
            recovering: false,
            ..Default::default()
        };
        self.say(&out, node_message::Body::Register(register)).await?;
        let mut client = NodeServiceClient::new(channel);
        let opening = client.session(ReceiverStream::new(messages));
        let opened = timeout(Duration::from_secs(5), opening).await.ok()?;
        let mut commands = self.heard(opened)?.into_inner();
        let mut heartbeat = interval(HEARTBEAT);
        let mut sequence = 0;
        loop {
            tokio::select! {
                biased;
                command = commands.message() => {
                    let command = self.heard(command)??;
                    self.obey(&out, command).await?;
                }
                Some((id, code)) = ended.recv() => {
                    self.exited(&id, code);
                    self.report(&out, &id).await?;
                }
                _ = heartbeat.tick() => {
                    sequence += 1;
                    let beat = v1::NodeHeartbeat { sequence, ..Default::default() };
                    self.say(&out, node_message::Body::Heartbeat(beat)).await?;
                }
            }
        }
    }

    /// What a master answered; a refusal may name another one.
    fn heard<T>(&mut self, answer: Result<T, tonic::Status>) -> Option<T> {
        answer.inspect_err(|status| self.leader = leader_in(status)).ok()
    }

    async fn say(
        &self,
        out: &mpsc::Sender<v1::NodeMessage>,
        body: node_message::Body,
    ) -> Option<()> {
        out.send(v1::NodeMessage { term: self.term, body: Some(body) }).await.ok()
    }

    async fn report(&self, out: &mpsc::Sender<v1::NodeMessage>, id: &str) -> Option<()> {
        match self.containers.get(id) {
            Some(status) => self.say(out, node_message::Body::Container(status.clone())).await,
            None => Some(()),
        }
    }

    fn exited(&mut self, id: &str, code: i32) {
        if let Some(status) = self.containers.get_mut(id) {
            status.set_state(ContainerState::Exited);
            status.ended_ms = SimulatedClock.now_ms();
            status.exit = Some(v1::ContainerExit {
                code: Some(code),
                reason: format!("exit code {code}"),
                ..Default::default()
            });
        }
    }

    async fn obey(
        &mut self,
        out: &mpsc::Sender<v1::NodeMessage>,
        command: v1::NodeCommand,
    ) -> Option<()> {
        if command.term < self.term {
            return Some(());
        }
        self.term = command.term;
        match command.body? {
            node_command::Body::Start(mut context) => {
                let id = context.container_id.clone();
                if !self.containers.contains_key(&id) {
                    // Each container is a host of its own.
                    context.host.clone_from(&id);
                    context.node_id.clone_from(&self.name);
                    context.master_address = self.masters.list_after(&context.master_address);
                    self.containers.insert(id.clone(), started(&context));
                    self.machines.order(Order::Start(Box::new(context)));
                }
                self.report(out, &id).await
            }
            node_command::Body::Kill(kill) => {
                match self.machines.token(&kill.container_id) {
                    Some(token) if kill.grace_ms > 0 => token.cancel(),
                    Some(_) => self.machines.order(Order::Kill(kill.container_id.clone())),
                    None => {}
                }
                self.report(out, &kill.container_id).await
            }
            node_command::Body::Forget(forget) => {
                self.containers.remove(&forget.container_id);
                Some(())
            }
            node_command::Body::Registered(_) => {
                self.masters.succeeded();
                Some(())
            }
            node_command::Body::ReadLog(_) => Some(()),
        }
    }
}

fn offered() -> Resources {
    Resources { cores: CORES, memory: ByteSize::mib(4_096) }
}

fn started(context: &LaunchContext) -> ContainerStatus {
    ContainerStatus {
        container_id: context.container_id.clone(),
        application: context.application.clone(),
        attempt: context.attempt,
        kind: context.kind,
        state: ContainerState::Running.into(),
        resources: context.resources,
        pid: 2,
        started_ms: SimulatedClock.now_ms(),
        ..Default::default()
    }
}

/// A container, on its own host, from its start to its end.
pub(crate) async fn container(
    context: LaunchContext,
    world: World,
    machines: Machines,
) -> turmoil::Result {
    let id = context.container_id.clone();
    let kill = CancellationToken::new();
    let home = (context.node_id.clone(), kill.clone());
    machines.inner.borrow_mut().running.insert(id.clone(), home);
    world.note(format!("{id} starts with epoch {}", context.epoch));
    let code = match context.kind() {
        ContainerKind::Driver => {
            let spec = context.spec.as_ref().ok_or("no application")?;
            let spec = ApplicationSpec::from_proto(spec)?;
            let end = driver::process::run(context, spec, driver_world(&world), kill).await;
            world.note(format!("{id} {end:?}").chars().take(200).collect::<String>());
            i32::from(end.exit_code())
        }
        _ => {
            let outside = executor_world(&id, &world)?;
            match executor::process::live(context, outside, kill).await {
                Ok(()) => 0,
                Err(_) => 1,
            }
        }
    };
    machines.ended(&world, &id, code);
    // What is left of it goes with the process.
    machines.order(Order::Kill(id));
    Ok(())
}

fn driver_world(world: &World) -> DriverWorld {
    let mut times = Times::with_heartbeat(HEARTBEAT);
    times.discovery_interval = Duration::from_secs(2);
    let world = Arc::new(world.clone());
    DriverWorld {
        streams: world.clone(),
        buckets: world.clone(),
        uploads: world.clone(),
        heads: world.clone(),
        leases: world.clone(),
        runners: world,
        clock: Arc::new(SimulatedClock),
        times,
    }
}

struct NoEngine;

impl Engine for NoEngine {
    fn add_services(&self, routes: &mut RoutesBuilder) {
        // A server needs a service; nobody calls this one.
        let (_, health) = tonic_health::server::health_reporter();
        routes.add_service(health);
    }

    fn cancel(&self, _: &str) -> usize {
        0
    }

    fn cancel_all(&self) {}

    fn busy_millicores(&self) -> u32 {
        0
    }
}

fn executor_world(id: &str, world: &World) -> Result<ExecutorWorld, Box<dyn std::error::Error>> {
    let directory =
        std::env::temp_dir().join(format!("millrace-simulation-{}", std::process::id()));
    let budgets = Budgets::of_container(ByteSize::mib(1_024), false);
    let store = BlockStore::open(directory.join(id).join(random::uuid().to_string()), budgets)?;
    world.lock().stores.insert(id.to_owned(), store.clone());
    Ok(ExecutorWorld {
        kinesis: Arc::new(world.clone()),
        tempo: Tempo::KINESIS,
        store,
        engine: Arc::new(NoEngine),
        start_session: |session| {
            tokio::spawn(session.run());
            Ok(())
        },
    })
}
