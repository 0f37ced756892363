//! A whole cluster in one simulation, and what its users do with it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::application::parse_toml;
use millrace_common::config::{Sources, load};
use millrace_common::{random, rpc};
use millrace_master::config::MasterConfig;
use millrace_master::store::memory::MemoryStore;
use millrace_proto::v1::client_service_client::ClientServiceClient;
use millrace_proto::v1::{self, ApplicationState};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use turmoil::Sim;

use crate::network::{SimulatedClock, Turmoil};
use crate::node::{self, MASTERS, Machines, Order, PAUSE};
use crate::world::World;

/// One step of the simulation.
pub(crate) const TICK: Duration = Duration::from_millis(20);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

const APPLICATION: &str = r#"
name = "app"
[resources]
executors = 3
executor = { cores = 1, memory = "1GiB" }
[batch]
interval = "500ms"
[source.logs]
type = "kinesis"
stream = "app-logs"
start = "earliest"
storage_level = "memory"
format = "text"
[query]
sql = "SELECT line FROM logs"
[sink]
type = "s3"
path = "s3://results/app/"
format = "json"
"#;

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) sim: Sim<'static>,
    pub(crate) world: World,
    pub(crate) store: Arc<MemoryStore>,
    machines: Machines,
    /// Containers that were ever started.
    known: BTreeSet<String>,
    num_clients: usize,
}

impl Cluster {
    pub(crate) fn start(seed: u64, num_shards: usize) -> Self {
        random::seed(seed);
        rpc::simulate(Some(Arc::new(Turmoil)));
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(60))
            .tcp_capacity(4_096)
            .simulation_duration(Duration::from_secs(3_600))
            .build();
        let world = World::new(seed, num_shards);
        let machines = Machines::default();
        let store = Arc::new(MemoryStore::default());
        for address in MASTERS {
            let store = store.clone();
            sim.host(name_of(address), move || master(address, store.clone()));
        }
        for name in NODES {
            let machines = machines.clone();
            sim.host(name, move || node::node(name.to_owned(), machines.clone()));
        }
        Self { sim, world, store, machines, known: BTreeSet::new(), num_clients: 0 }
    }

    /// Goes on by one tick.
    ///
    /// # Errors
    /// What a host's software ended with.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        let now = self.sim.elapsed();
        self.world.at(now);
        while let Some(order) = self.machines.next_order() {
            match order {
                Order::Start(context) => {
                    let (world, machines) = (self.world.clone(), self.machines.clone());
                    let id = context.container_id.clone();
                    if !self.known.insert(id.clone()) {
                        // The same grant again, to a node that was killed and came back.
                        self.sim.bounce(id);
                        continue;
                    }
                    self.sim.host(id, move || {
                        node::container((*context).clone(), world.clone(), machines.clone())
                    });
                }
                Order::Kill(id) => self.kill(&id),
            }
        }
        Ok(())
    }

    /// Ends a container's process at once.
    pub(crate) fn kill(&mut self, container: &str) {
        self.sim.crash(container);
        self.machines.ended(&self.world, container, 137);
    }

    /// Ends a node and everything on it at once.
    pub(crate) fn kill_node(&mut self, node: &str) {
        self.sim.crash(node);
        self.machines.node_died(node);
        for container in self.machines.containers(Some(node)) {
            self.kill(&container);
        }
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        self.machines.containers(None)
    }

    pub(crate) fn nodes(&self) -> &'static [&'static str] {
        &NODES
    }

    /// Asks the master, again and again until it answers; the answer comes into the cell.
    pub(crate) fn ask<T: 'static, Fut: Future<Output = Result<T, tonic::Status>> + 'static>(
        &mut self,
        call: impl Fn(ClientServiceClient<Channel>) -> Fut + Clone + 'static,
    ) -> Rc<RefCell<Option<T>>> {
        let cell = Rc::new(RefCell::new(None));
        let answer = cell.clone();
        self.num_clients += 1;
        self.sim.host(format!("client-{}", self.num_clients), move || {
            let (call, answer) = (call.clone(), answer.clone());
            async move {
                let mut masters = node::masters();
                loop {
                    let asking = async {
                        let channel = rpc::connect(masters.current()).await.map_err(|_| None)?;
                        let answer = call(ClientServiceClient::new(channel)).await;
                        answer.map_err(|status| node::leader_in(&status))
                    };
                    let leader = match timeout(Duration::from_secs(5), asking).await {
                        Ok(Ok(found)) => {
                            *answer.borrow_mut() = Some(found);
                            return Ok(());
                        }
                        Ok(Err(leader)) => leader,
                        Err(_) => None,
                    };
                    sleep(masters.failed(leader.as_deref(), PAUSE, random::unit())).await;
                }
            }
        });
        cell
    }

    /// Submits the application.
    pub(crate) fn submit(&mut self) -> Rc<RefCell<Option<()>>> {
        let spec = parse_toml("app.toml", APPLICATION, &[]).expect("it is one").to_proto();
        self.ask(move |mut client| {
            let request =
                v1::SubmitApplicationRequest { spec: Some(spec.clone()), ..Default::default() };
            async move {
                match client.submit_application(request).await {
                    // The first try may have been heard and its answer lost.
                    Err(status) if status.message().contains("app is ") => Ok(()),
                    other => other.map(drop),
                }
            }
        })
    }

    /// Asks for a drain.
    pub(crate) fn drain(&mut self) -> Rc<RefCell<Option<()>>> {
        self.ask(|mut client| {
            let request =
                v1::StopApplicationRequest { name: "app".to_owned(), drain: true, deadline_ms: 0 };
            async move { client.stop_application(request).await.map(drop) }
        })
    }

    /// The application's state and why it is in it.
    pub(crate) fn state(&mut self) -> Rc<RefCell<Option<(ApplicationState, String)>>> {
        self.ask(|mut client| async move {
            let request = v1::GetApplicationRequest { name: "app".to_owned() };
            let found = client.get_application(request).await?.into_inner().application;
            Ok(found.map(|it| (it.state(), it.reason.clone())).unwrap_or_default())
        })
    }
}

/// The host of an address.
pub(crate) fn name_of(address: &'static str) -> &'static str {
    address.split_once(':').map_or(address, |(host, _)| host)
}

async fn master(address: &'static str, store: Arc<MemoryStore>) -> turmoil::Result {
    // A port of its own: a master on the port of another would take itself for its next start.
    let listen = address.replace(name_of(address), "0.0.0.0");
    let flags = [
        ("listen", listen.as_str()),
        ("advertise", address),
        ("heartbeat_interval", "500ms"),
        ("suspect_after", "1500ms"),
        ("lost_after", "3s"),
        ("adopt_timeout", "4s"),
        ("kill_grace", "2s"),
        ("leader_renew_interval", "500ms"),
        ("leader_step_down_after", "1500ms"),
        ("leader_take_over_after", "2500ms"),
        ("attempt_failures_max", "1000"),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let sources = Sources { flags, ..Sources::default() };
    let config = load::<MasterConfig>(&sources)?.settings;
    let shutdown = CancellationToken::new();
    millrace_master::run(config, store, Arc::new(SimulatedClock), shutdown).await?;
    Ok(())
}
