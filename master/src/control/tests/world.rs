//! A cluster of fake nodes and drivers around the real core, in virtual time.
//!
//! The world checks on every step what must hold always: no node is given more than it offers, no
//! driver is started while another of its application may be alive, epochs only rise.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::error::Error;
use millrace_common::id::{ApplicationName, ContainerId, NodeId};
use millrace_common::labels::Labels;
use millrace_common::resources::{ByteSize, Resources};
use millrace_common::retry::Backoff;
use millrace_proto::v1::{
    self, ApplicationState, ContainerKind, ContainerState, driver_command, driver_message,
    node_command, node_message,
};

use crate::application::ApplicationRecord;
use crate::config::Timing;
use crate::control::effect::Effect;
use crate::control::{Core, Identity, SessionId};
use crate::moment::Moment;
use crate::store::{DrainOrder, Record, Snapshot, TokenRecord};

pub(super) const TIMING: Timing = Timing {
    heartbeat_interval: Duration::from_secs(1),
    suspect_after: Duration::from_secs(5),
    lost_after: Duration::from_secs(15),
    adopt_timeout: Duration::from_secs(15),
    kill_grace: Duration::from_secs(10),
    attempt_backoff: Backoff::ATTEMPT,
    attempt_failures_max: 5,
    attempt_window: Duration::from_secs(600),
};

#[derive(Debug)]
pub(super) struct FakeNode {
    pub offered: Resources,
    instance: u32,
    pub running: BTreeMap<ContainerId, v1::LaunchContext>,
    started_ms: BTreeMap<ContainerId, i64>,
    ended: BTreeMap<ContainerId, v1::ContainerStatus>,
    pub session: Option<SessionId>,
    last_heard: Duration,
    /// Why it is unhealthy; empty when it is well.
    unhealthy: String,
    is_recovering: bool,
    labels: std::collections::HashMap<String, String>,
}

#[derive(Debug)]
pub(super) struct World {
    pub now: Duration,
    pub core: Core,
    pub nodes: BTreeMap<String, FakeNode>,
    pub drivers: BTreeMap<SessionId, String>,
    /// What drivers were told, oldest first.
    pub told: Vec<(String, driver_command::Body)>,
    /// Grants that unhealthy nodes were sent, and refused.
    pub num_refused: usize,
    stored_applications: BTreeMap<ApplicationName, ApplicationRecord>,
    stored_nodes: std::collections::BTreeSet<NodeId>,
    stored_drains: BTreeMap<NodeId, DrainOrder>,
    stored_tokens: BTreeMap<String, TokenRecord>,
    last_session: SessionId,
    term: u64,
    epochs: BTreeMap<String, u64>,
    /// Records that are not written yet, when the store is slow.
    pub store_is_slow: bool,
    unwritten: Vec<(u64, Record)>,
}

fn core(now: Duration, term: u64, snapshot: Snapshot) -> Core {
    let identity = Identity {
        cluster: "test".to_owned(),
        term,
        table: "millrace".to_owned(),
        address: "127.0.0.1:7070".to_owned(),
        started_ms: 0,
        secrets: None,
    };
    Core::new(moment(now), TIMING, identity, snapshot)
}

fn moment(now: Duration) -> Moment {
    Moment { wall_ms: i64::try_from(now.as_millis()).unwrap() + 1_000_000, monotonic: now }
}

/// The submission of this specification and nothing else.
pub(super) fn request(spec: &v1::ApplicationSpec) -> v1::SubmitApplicationRequest {
    v1::SubmitApplicationRequest { spec: Some(spec.clone()), ..Default::default() }
}

pub(super) fn spec(name: &str, executors: u32, cores: u32) -> v1::ApplicationSpec {
    let text = format!(
        r#"
        name = "{name}"
        [resources]
        executors = {executors}
        executor = {{ cores = {cores}, memory = "1GiB" }}
        driver = {{ cores = 1, memory = "512MiB" }}
        [batch]
        interval = "1s"
        [source.logs]
        type = "kinesis"
        stream = "logs"
        start = "earliest"
        format = "text"
        [query]
        sql = "SELECT line FROM logs"
        [sink]
        type = "s3"
        path = "s3://bucket/out/"
        format = "json"
        "#
    );
    millrace_common::application::parse_toml("test.toml", &text, &[]).unwrap().to_proto()
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            core: core(Duration::ZERO, 1, Snapshot::default()),
            nodes: BTreeMap::new(),
            drivers: BTreeMap::new(),
            told: Vec::new(),
            num_refused: 0,
            stored_applications: BTreeMap::new(),
            stored_nodes: std::collections::BTreeSet::new(),
            stored_drains: BTreeMap::new(),
            stored_tokens: BTreeMap::new(),
            last_session: 0,
            term: 1,
            epochs: BTreeMap::new(),
            store_is_slow: false,
            unwritten: Vec::new(),
        }
    }

    pub(super) fn add_node(&mut self, name: &str, cores: u32) {
        self.add_labelled(name, cores, "");
    }

    /// A node with labels as its worker is given them.
    pub(super) fn add_labelled(&mut self, name: &str, cores: u32, labels: &str) {
        use millrace_common::config::Value as _;
        let node = FakeNode {
            offered: Resources::new(cores, ByteSize::mib(u64::from(cores) * 2048)),
            instance: 1,
            running: BTreeMap::new(),
            started_ms: BTreeMap::new(),
            ended: BTreeMap::new(),
            session: None,
            last_heard: self.now,
            unhealthy: String::new(),
            is_recovering: false,
            labels: Labels::parse(labels).unwrap().to_map(),
        };
        self.nodes.insert(name.to_owned(), node);
        self.connect(name).unwrap();
    }

    fn next_session(&mut self) -> SessionId {
        self.last_session += 1;
        self.last_session
    }

    /// The node opens a stream.
    pub(super) fn connect(&mut self, name: &str) -> Result<(), Error> {
        let session = self.next_session();
        let node = &self.nodes[name];
        let live =
            node.running.values().map(|context| node.status(context, ContainerState::Running));
        let register = v1::NodeRegister {
            node_id: name.to_owned(),
            instance_id: node.instance.to_string(),
            host: "127.0.0.1".to_owned(),
            offered: Some(node.offered.to_proto()),
            containers: live.chain(node.ended.values().cloned()).collect(),
            version: "test".to_owned(),
            pid: 1,
            unhealthy: node.unhealthy.clone(),
            recovering: node.is_recovering,
            labels: node.labels.clone(),
        };
        // The node is at the new end before the master answers.
        let before = self.nodes.get_mut(name).unwrap().session.replace(session);
        let outcome = self.core.node_opened(moment(self.now), session, self.term, register);
        let node = self.nodes.get_mut(name).unwrap();
        match &outcome {
            Ok(()) => node.last_heard = self.now,
            Err(_) => node.session = before,
        }
        self.settle();
        outcome
    }

    /// The stream to the node breaks; what runs on it goes on.
    pub(super) fn cut(&mut self, name: &str) {
        if let Some(session) = self.nodes.get_mut(name).unwrap().session.take() {
            self.core.node_closed(moment(self.now), session, false);
            self.settle();
        }
    }

    /// The worker dies with everything on it, and comes back later with `connect`.
    pub(super) fn crash_node(&mut self, name: &str) {
        let node = self.nodes.get_mut(name).unwrap();
        node.running.clear();
        node.ended.clear();
        node.instance += 1;
        self.drop_dead_drivers();
        self.cut(name);
    }

    /// Sessions of drivers whose process is gone end.
    fn drop_dead_drivers(&mut self) {
        let is_alive = |container: &String| {
            let id = ContainerId::new(container.clone());
            self.nodes.values().any(|node| node.running.contains_key(&id))
        };
        let dead: Vec<SessionId> = self
            .drivers
            .iter()
            .filter(|(_, container)| !is_alive(container))
            .map(|(session, _)| *session)
            .collect();
        for session in dead {
            self.drivers.remove(&session);
            self.core.driver_closed(moment(self.now), session);
        }
    }

    /// A process ends by itself.
    pub(super) fn exit(&mut self, container: &str, code: i32) {
        let id = ContainerId::new(container);
        let Some(name) = self.node_of(&id) else { return };
        let exit = v1::ContainerExit {
            code: Some(code),
            reason: format!("exit code {code}"),
            ..Default::default()
        };
        self.end_on(&name, &id, exit);
        self.settle();
    }

    fn node_of(&self, id: &ContainerId) -> Option<String> {
        let holds = |(_, node): &(&String, &FakeNode)| node.running.contains_key(id);
        self.nodes.iter().find(holds).map(|(name, _)| name.clone())
    }

    fn end_on(&mut self, name: &str, id: &ContainerId, exit: v1::ContainerExit) {
        let node = self.nodes.get_mut(name).unwrap();
        let Some(context) = node.running.remove(id) else { return };
        let mut status = node.status(&context, ContainerState::Exited);
        status.exit = Some(exit);
        node.ended.insert(id.clone(), status.clone());
        self.drop_dead_drivers();
        self.say(name, node_message::Body::Container(status));
    }

    fn say(&mut self, name: &str, body: node_message::Body) {
        let node = self.nodes.get_mut(name).unwrap();
        let Some(session) = node.session else { return };
        node.last_heard = self.now;
        let message = v1::NodeMessage { term: self.term, body: Some(body) };
        self.core.node_said(moment(self.now), session, message);
    }

    /// The disk of the node fails, or is well again for an empty reason; it says so at once.
    pub(super) fn set_health(&mut self, name: &str, unhealthy: &str) {
        let node = self.nodes.get_mut(name).unwrap();
        unhealthy.clone_into(&mut node.unhealthy);
        node.is_recovering = false;
        self.beat(name);
        self.settle();
    }

    /// The disk of an unhealthy node is well again, but not for long.
    pub(super) fn recovers(&mut self, name: &str) {
        let node = self.nodes.get_mut(name).unwrap();
        node.is_recovering = !node.unhealthy.is_empty();
        self.beat(name);
        self.settle();
    }

    fn beat(&mut self, name: &str) {
        let node = &self.nodes[name];
        let (unhealthy, recovering) = (node.unhealthy.clone(), node.is_recovering);
        let beat = v1::NodeHeartbeat { unhealthy, recovering, ..Default::default() };
        self.say(name, node_message::Body::Heartbeat(beat));
    }

    /// Time passes; connected nodes and drivers beat.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(500)).min(end);
            let names: Vec<String> = self.nodes.keys().cloned().collect();
            for name in names {
                self.beat(&name);
            }
            let sessions: Vec<SessionId> = self.drivers.keys().copied().collect();
            for session in sessions {
                let beat = driver_message::Body::Heartbeat(v1::DriverHeartbeat::default());
                self.core.driver_said(moment(self.now), session, beat);
            }
            self.core.tick(moment(self.now));
            self.settle();
        }
    }

    pub(super) fn submit(&mut self, spec: &v1::ApplicationSpec) -> Result<(), Error> {
        let outcome = self.core.submit(moment(self.now), &request(spec), String::new()).map(drop);
        self.settle();
        outcome
    }

    pub(super) fn ask(
        &mut self,
        request: &v1::SubmitApplicationRequest,
    ) -> Result<v1::SubmitApplicationResponse, Error> {
        let outcome = self.core.submit(moment(self.now), request, "ann".to_owned());
        self.settle();
        outcome.map(|(response, _)| response)
    }

    /// The application as clients see it.
    pub(super) fn shown(&self, name: &str) -> v1::Application {
        self.core.applications[&name.parse::<ApplicationName>().unwrap()].to_proto()
    }

    pub(super) fn stop(&mut self, name: &str) -> Result<(), Error> {
        let outcome = self.core.stop(moment(self.now), &name.parse().unwrap(), false, 0).map(drop);
        self.settle();
        outcome
    }

    pub(super) fn kill(&mut self, name: &str) -> Result<(), Error> {
        let outcome = self.core.kill(moment(self.now), &name.parse().unwrap()).map(drop);
        self.settle();
        outcome
    }

    pub(super) fn scale(&mut self, name: &str, executors: u32) -> Result<(), Error> {
        let name = name.parse().unwrap();
        let outcome = self.core.scale(moment(self.now), &name, executors).map(drop);
        self.settle();
        outcome
    }

    pub(super) fn drain(&mut self, node: &str, deadline_ms: u64) -> Result<(), Error> {
        let outcome = self.core.drain(moment(self.now), &node.into(), deadline_ms).map(drop);
        self.settle();
        outcome
    }

    pub(super) fn undrain(&mut self, node: &str) -> Result<(), Error> {
        let outcome = self.core.undrain(moment(self.now), &node.into()).map(drop);
        self.settle();
        outcome
    }

    /// The container of the driver that runs for an application, if one does.
    pub(super) fn driver_of(&self, application: &str) -> Option<v1::LaunchContext> {
        let contexts = self.nodes.values().flat_map(|node| node.running.values());
        contexts
            .filter(|context| context.application == application)
            .filter(|context| context.kind() == ContainerKind::Driver)
            .max_by_key(|context| context.attempt)
            .cloned()
    }

    pub(super) fn executors_of(&self, application: &str) -> Vec<String> {
        let contexts = self.nodes.values().flat_map(|node| node.running.values());
        contexts
            .filter(|context| context.application == application)
            .filter(|context| context.kind() == ContainerKind::Executor)
            .map(|context| context.container_id.clone())
            .collect()
    }

    /// The driver opens its stream to the master.
    pub(super) fn driver_connects(&mut self, application: &str) -> Result<SessionId, Error> {
        let context = self.driver_of(application).expect("a driver runs");
        let session = self.next_session();
        let register = v1::DriverRegister {
            application: application.to_owned(),
            attempt: context.attempt,
            epoch: context.epoch,
            container_id: context.container_id.clone(),
            address: "127.0.0.1:1".to_owned(),
            executors: self.executors_of(application),
            term: self.term,
            last_executor: 0,
        };
        self.drivers.retain(|_, container| *container != context.container_id);
        self.drivers.insert(session, context.container_id);
        let outcome = self.core.driver_opened(moment(self.now), session, register);
        if outcome.is_err() {
            self.drivers.remove(&session);
        }
        self.settle();
        outcome.map(|()| session)
    }

    pub(super) fn driver_says(&mut self, session: SessionId, body: driver_message::Body) {
        self.core.driver_said(moment(self.now), session, body);
        self.settle();
    }

    /// The driver registers, acquires its head and asks for its executors.
    pub(super) fn driver_works(&mut self, application: &str) -> SessionId {
        let session = self.driver_connects(application).unwrap();
        let context = self.driver_of(application).unwrap();
        let head = v1::HeadAcquired { epoch: context.epoch, batch: 0 };
        self.driver_says(session, driver_message::Body::Head(head));
        let resources = context.spec.unwrap().resources.unwrap();
        let cost = resources.executor.unwrap();
        let target = v1::ExecutorTarget {
            count: resources.min_executors,
            resources: Some(v1::Resources { cores: cost.cores, memory_bytes: cost.memory_bytes }),
            ..Default::default()
        };
        self.driver_says(session, driver_message::Body::Target(target));
        let report = v1::DriverReport {
            executors: vec![v1::ExecutorReport::default()],
            ..Default::default()
        };
        self.driver_says(session, driver_message::Body::Report(report));
        session
    }

    /// The master dies, and a new one takes over from what is in the store.
    pub(super) fn restart_master(&mut self) {
        self.term += 1;
        self.unwritten.clear();
        for node in self.nodes.values_mut() {
            node.session = None;
        }
        self.drivers.clear();
        let snapshot = Snapshot {
            applications: self.stored_applications.clone().into_iter().collect(),
            nodes: self.stored_nodes.iter().cloned().collect(),
            drains: self.stored_drains.clone().into_iter().collect(),
            tokens: self.stored_tokens.values().cloned().collect(),
        };
        self.core = core(self.now, self.term, snapshot);
        self.core.tick(moment(self.now));
        self.settle();
    }

    pub(super) fn state(&self, name: &str) -> ApplicationState {
        self.core.applications[&name.parse::<ApplicationName>().unwrap()].state()
    }

    pub(super) fn reason(&self, name: &str) -> String {
        self.core.applications[&name.parse::<ApplicationName>().unwrap()].reason().to_owned()
    }

    /// Lets the store catch up.
    pub(super) fn write_all(&mut self) {
        for (ticket, record) in std::mem::take(&mut self.unwritten) {
            self.store(record);
            self.core.written(ticket);
        }
        self.settle();
    }

    fn store(&mut self, record: Record) {
        match record {
            Record::Application(name, record) => {
                self.stored_applications.insert(name, *record);
            }
            Record::Node(node) => {
                self.stored_nodes.insert(node);
            }
            Record::NodeGone(node) => {
                self.stored_nodes.remove(&node);
            }
            Record::Drain(node, order) => {
                self.stored_drains.insert(node, order);
            }
            Record::DrainGone(node) => {
                self.stored_drains.remove(&node);
            }
            Record::Token(token) => {
                self.stored_tokens.insert(token.info.id.clone(), *token);
            }
            Record::TokenGone(id) => {
                self.stored_tokens.remove(&id);
            }
        }
    }

    /// Performs effects until there are none.
    fn settle(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return self.check();
            }
            for effect in effects {
                self.perform(effect);
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ToNode(session, body) => {
                let at = |(_, node): &(&String, &FakeNode)| node.session == Some(session);
                let name = self.nodes.iter().find(at).map(|(name, _)| name.clone());
                if let Some(name) = name {
                    self.node_hears(&name, body);
                }
            }
            Effect::ToDriver(session, body) => {
                if let Some(container) = self.drivers.get(&session) {
                    self.told.push((container.clone(), body));
                }
            }
            Effect::CloseNode(session) => {
                for node in self.nodes.values_mut().filter(|node| node.session == Some(session)) {
                    node.session = None;
                }
            }
            Effect::CloseDriver(session) => drop(self.drivers.remove(&session)),
            Effect::Write(ticket, record) if self.store_is_slow => {
                self.unwritten.push((ticket, record));
            }
            Effect::Write(ticket, record) => {
                self.store(record);
                self.core.written(ticket);
            }
            Effect::HigherTerm(term) => panic!("nobody has seen term {term}"),
        }
    }

    fn node_hears(&mut self, name: &str, body: node_command::Body) {
        match body {
            node_command::Body::Start(context) => self.start(name, context),
            node_command::Body::Kill(kill) => {
                let id = ContainerId::new(kill.container_id);
                let exit = v1::ContainerExit { signal: Some(9), ..Default::default() };
                self.end_on(name, &id, exit);
            }
            node_command::Body::Forget(forget) => {
                let id = ContainerId::new(forget.container_id);
                self.nodes.get_mut(name).unwrap().ended.remove(&id);
            }
            node_command::Body::Registered(_) | node_command::Body::ReadLog(_) => {}
        }
    }

    fn start(&mut self, name: &str, context: v1::LaunchContext) {
        if context.kind() == ContainerKind::Driver {
            self.check_driver_start(&context);
        }
        let id = ContainerId::new(context.container_id.clone());
        let node = self.nodes.get_mut(name).unwrap();
        if !node.unhealthy.is_empty() {
            let (container_id, reason) = (context.container_id, node.unhealthy.clone());
            self.num_refused += 1;
            let refused = v1::GrantRefused { container_id, reason };
            return self.say(name, node_message::Body::Refused(refused));
        }
        node.started_ms.insert(id.clone(), moment(self.now).wall_ms);
        let running = node.status(&context, ContainerState::Running);
        let before = node.running.insert(id, context);
        assert_eq!(before, None, "a container was started twice");
        self.say(name, node_message::Body::Container(running));
    }

    fn check_driver_start(&mut self, context: &v1::LaunchContext) {
        let last = self.epochs.entry(context.application.clone()).or_default();
        assert!(context.epoch > *last, "epoch {} after {last}", context.epoch);
        *last = context.epoch;
        let stored = &self.stored_applications[&context.application.parse().unwrap()];
        assert!(stored.max_epoch >= context.epoch, "a driver started before its record was kept");
        for (name, node) in &self.nodes {
            let is_partitioned = self.now - node.last_heard >= TIMING.lost_after;
            for other in node.running.values() {
                let is_twin = other.application == context.application
                    && other.kind() == ContainerKind::Driver;
                assert!(
                    !is_twin || is_partitioned,
                    "{} was started while {} may be alive on {name}",
                    context.container_id,
                    other.container_id
                );
            }
        }
    }

    fn check(&self) {
        for (name, node) in &self.nodes {
            let used = node.running.values().fold(Resources::default(), |sum, context| {
                sum.saturating_add(Resources::from_proto(context.resources.as_ref().unwrap()))
            });
            assert!(node.offered.fits(used), "node {name} offers {} and runs {used}", node.offered);
        }
    }
}

impl FakeNode {
    fn status(&self, context: &v1::LaunchContext, state: ContainerState) -> v1::ContainerStatus {
        let mut status = v1::ContainerStatus {
            container_id: context.container_id.clone(),
            application: context.application.clone(),
            attempt: context.attempt,
            kind: context.kind,
            resources: context.resources,
            pid: 1,
            started_ms: self.started_ms[&ContainerId::new(context.container_id.clone())],
            ..Default::default()
        };
        status.set_state(state);
        status
    }
}
