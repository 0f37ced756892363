//! docker-compose.yml, run without Docker: every service in a network namespace of its own, with the
//! file's command, environment, order and health check. The cluster grows from one worker to four
//! and shrinks to two under load, and no record is lost or doubled. Needs root; skipped loudly.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, Machine, Subject, Watcher};
use millrace_integration_tests::compose::{Composition, Network};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::load::Load;
use millrace_integration_tests::{ministack, skip};
use millrace_proto::v1::{self, ApplicationState, ContainerState, NodeState};

const TEST: &str = "docker-compose.yml, scaled from 1 to 4 to 2 workers";
const BUCKET: &str = "results";

/// An application, its stream, its load, and the checker's eye on it.
struct Running {
    file: File,
    load: Load,
    watcher: Watcher,
}

impl Running {
    async fn start(composition: &Composition, name: &'static str, path: &'static str) -> Self {
        let file = File { name, stream: name, path, ..File::every_record() };
        let endpoint = composition.aws();
        let made = ["produce", "--stream", name, "--create-shards", "2", "--count", "1"];
        let made = [&made[..], &["--generate", "app-logs"]].concat();
        let _ = composition.millrace(&made).await.success();
        let load = Load::start(&endpoint, name, BUCKET, &format!("{name}/"));
        let watcher = Watcher::start(&subject(composition, &file));
        let written = composition.path().join(format!("{name}.toml"));
        std::fs::write(&written, file.toml()).expect("the test's directory can be written to");
        let written = written.display().to_string();
        let _ = composition.millrace(&["submit", "--wait", &written]).await.success();
        Self { file, load, watcher }
    }

    /// Waits until what was put by now is visible.
    async fn keeps_up(&self) {
        let now = Instant::now();
        within(PATIENCE, &format!("{} keeps up", self.file.name), async || {
            let flow = self.load.flow.lock();
            let is_seen = flow.num_visible() > 0 && flow.oldest_open().is_none_or(|at| at > now);
            if is_seen {
                Ok(())
            } else {
                Err(format!("{} records are not visible", flow.num_open()))
            }
        })
        .await;
    }

    /// Ends the load, drains the application, and has every record judged.
    async fn ends_exactly(mut self, composition: &Composition) {
        self.load.stop_producing();
        let _ = composition.millrace(&["stop", self.file.name, "--drain"]).await.success();
        let request = v1::GetApplicationRequest { name: self.file.name.to_owned() };
        let answer = composition.client().get_application(request).await;
        let application = answer.expect("the master answers").into_inner().application;
        let state = application.map(|application| application.state());
        assert_eq!(state, Some(ApplicationState::Stopped));
        let seen = self.watcher.stop().await.expect("the watcher saw the end");
        let subject = subject(composition, &self.file).drained().watched(seen);
        let report = checker::check(&subject).await;
        report.assert_clean();
        println!("{}: {}", self.file.name, report.verdict(checker::Invariant::I1).seen);
    }
}

fn subject(composition: &Composition, file: &File) -> Subject {
    Subject {
        endpoint: composition.aws(),
        application: file.name.to_owned(),
        streams: [("logs".to_owned(), file.stream.to_owned())].into(),
        table: "millrace".to_owned(),
        bucket: BUCKET.to_owned(),
        prefix: format!("{}/", file.name),
        kind: checker::Kind::Records,
        out_of_range: checker::OutOfRange::default(),
        is_drained: false,
        master: Some(composition.published("master")),
        token: Some(composition.token()),
        machine: None,
        observations: None,
        earlier: checker::Truth::default(),
        excused: Vec::new(),
    }
}

async fn nodes(composition: &Composition) -> Vec<v1::Node> {
    let answer = composition.client().list_nodes(v1::ListNodesRequest {}).await;
    let mut nodes = answer.expect("the master answers").into_inner().nodes;
    nodes.retain(|node| node.state() == NodeState::Alive);
    nodes
}

async fn is_of_workers(composition: &Composition, num: usize) {
    within(PATIENCE, &format!("{num} nodes are alive"), async || {
        let nodes = nodes(composition).await;
        if nodes.len() == num { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    let addresses: BTreeSet<IpAddr> =
        nodes(composition).await.iter().map(|node| node.host.parse().expect("found out")).collect();
    let workers = composition.instances("worker");
    let wanted: BTreeSet<IpAddr> =
        workers.iter().map(|worker| worker.place.address.into()).collect();
    assert_eq!(addresses, wanted, "each node gives the address by which the others reach it");
}

/// The nodes on which an application has live containers.
async fn nodes_of(composition: &Composition, application: &str) -> BTreeSet<String> {
    let request = v1::ListContainersRequest { application: application.to_owned() };
    let answer = composition.client().list_containers(request).await;
    let containers = answer.expect("the master answers").into_inner().containers;
    let is_live = |container: &v1::Container| {
        let state = container.status.as_ref().map(v1::ContainerStatus::state);
        matches!(state, Some(ContainerState::Running | ContainerState::Granted))
    };
    containers.into_iter().filter(is_live).map(|container| container.node_id).collect()
}

/// The driver and the executors listen for one another, and not for this machine.
async fn is_reached_from_inside_only(composition: &Composition, application: &str) {
    let request = v1::GetApplicationRequest { name: application.to_owned() };
    let answer = composition.client().get_application(request).await;
    let report = answer.expect("the master answers").into_inner().application;
    let executors = report.and_then(|application| application.report).unwrap_or_default().executors;
    let address: SocketAddr = executors[0].address.parse().expect("an address and a port");
    let connect = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let inside = ["bash", "-c", &connect].map(str::to_owned);
    let _ = composition.instances("master")[0].run(&inside).await.success();
    let outside = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    assert!(outside.is_err(), "{address} is reached from outside: {outside:?}");
}

#[tokio::test]
async fn a_composition_is_scaled_under_load_and_loses_nothing() {
    if let Some(reason) = Network::why_not_here() {
        return skip::note(TEST, &reason);
    }
    let Some(python) = ministack::python(TEST) else { return };
    let mut composition = Composition::new(&python, &[("MILLRACE_WORKER_CORES", "6")]).await;
    for name in composition.names() {
        assert!(composition.service(name).is_published_on_loopback, "{name}");
    }
    composition.scale("worker", 1).await;
    is_of_workers(&composition, 1).await;
    let first = Running::start(&composition, "first", "s3://results/first/").await;
    first.keeps_up().await;
    is_reached_from_inside_only(&composition, "first").await;

    composition.scale("worker", 4).await;
    is_of_workers(&composition, 4).await;
    let second = Running::start(&composition, "second", "s3://results/second/").await;
    second.keeps_up().await;
    let used = nodes_of(&composition, "second").await;
    assert!(used.iter().any(|node| node != "worker"), "new workers get work: {used:?}");
    let said = composition.millrace(&["logs", "second", "--json"]).await.success();
    for node in &used {
        let named = format!("\"node_id\":\"{node}\"");
        assert!(said.stdout.contains(&named), "logs of {node}, which can not be reached: {said}");
    }

    composition.scale("worker", 2).await;
    is_of_workers(&composition, 2).await;
    first.keeps_up().await;
    second.keeps_up().await;
    let left: BTreeSet<String> =
        composition.instances("worker").iter().map(|worker| worker.name.clone()).collect();
    for name in ["first", "second"] {
        let used = nodes_of(&composition, name).await;
        assert!(used.is_subset(&left), "{name} runs on {used:?}, and {left:?} are left");
    }

    first.ends_exactly(&composition).await;
    second.ends_exactly(&composition).await;
    let directory = composition.path().to_owned();
    composition.down().await;
    let left = Machine { directory, ..Machine::default() }.leftovers();
    assert_eq!(left.processes, [], "nothing runs on");
}
