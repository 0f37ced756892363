//! The node with real processes, against a master that is only as clever as the test.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millrace_common::application::parse_toml;
use millrace_common::clock::SystemClock;
use millrace_common::config::{Sources, load};
use millrace_common::error::{Code, Error};
use millrace_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use millrace_proto::v1::{
    ContainerKind, ContainerState, ContainerStatus, KillContainer, LaunchContext, LogChunk,
    LogStream, NodeCommand, NodeMessage, NodeRegister, NodeRegistered, ReadLogChunk, Resources,
    node_command, node_message,
};
use millrace_worker::config::WorkerConfig;
use millrace_worker::node;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);

/// What a container of these tests does, by the variable MODE.
const PROGRAM: &str = r#"#!/bin/sh
shift 4
case "$MODE" in
  argv) for a in "$@"; do printf '%s\0' "$a"; done > argv.tmp; mv argv.tmp argv
        cat > /dev/null ;;
  fail) echo "the first line"; echo "it broke" >&2; exit 7 ;;
  talk) echo one; echo two; exec cat > /dev/null ;;
  stubborn) trap '' TERM; sleep 1000 & echo $! > child.tmp; mv child.tmp child
        while :; do wait; done ;;
esac
"#;

struct Service {
    sessions: mpsc::Sender<Session>,
}

/// One stream of a node, as the master sees it.
struct Session {
    incoming: Streaming<NodeMessage>,
    outgoing: mpsc::Sender<Result<NodeCommand, Status>>,
}

#[tonic::async_trait]
impl NodeService for Service {
    type SessionStream = ReceiverStream<Result<NodeCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outgoing, stream) = mpsc::channel(64);
        let session = Session { incoming: request.into_inner(), outgoing };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Master {
    address: String,
    sessions: mpsc::Receiver<Session>,
}

impl Master {
    async fn start() -> Self {
        let (incoming, address) = millrace_common::rpc::bind("127.0.0.1:0").await.unwrap();
        let (sender, sessions) = mpsc::channel(8);
        let service = NodeServiceServer::new(Service { sessions: sender });
        let server = millrace_common::rpc::server().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        Self { address: address.to_string(), sessions }
    }

    /// The next stream and its registration.
    async fn session(&mut self) -> (Session, NodeRegister) {
        let next = tokio::time::timeout(DEADLINE, self.sessions.recv()).await;
        let mut session = next.expect("the node connects").unwrap();
        let first = session.next().await;
        let Some(node_message::Body::Register(register)) = first.body else {
            panic!("{first:?} is no registration");
        };
        let heartbeat_interval_ms = 100;
        let registered = NodeRegistered { cluster: "test".to_owned(), heartbeat_interval_ms };
        session.send(1, node_command::Body::Registered(registered)).await;
        if !register.unhealthy.is_empty() {
            // Its first look at a slow disk took too long; it takes containers after the next.
            session.find(|body| health(body).filter(String::is_empty)).await;
        }
        (session, register)
    }
}

/// Of a heartbeat what ails the node, empty when nothing does.
fn health(body: node_message::Body) -> Option<String> {
    match body {
        node_message::Body::Heartbeat(heartbeat) => Some(heartbeat.unhealthy),
        _ => None,
    }
}

impl Session {
    async fn send(&self, term: u64, body: node_command::Body) {
        self.outgoing.send(Ok(NodeCommand { term, body: Some(body) })).await.unwrap();
    }

    async fn next(&mut self) -> NodeMessage {
        let next = tokio::time::timeout(DEADLINE, self.incoming.message()).await;
        next.expect("the node speaks").unwrap().expect("the stream goes on")
    }

    /// The first message that `wanted` makes something of; others are passed over.
    async fn find<T>(&mut self, wanted: impl Fn(node_message::Body) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = self.next().await.body.and_then(&wanted) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, search).await.expect("the message comes")
    }

    async fn status(&mut self, id: &str, state: ContainerState) -> ContainerStatus {
        self.find(|body| match body {
            node_message::Body::Container(status)
                if status.container_id == id && status.state() == state =>
            {
                Some(status)
            }
            _ => None,
        })
        .await
    }

    async fn start(&mut self, context: &LaunchContext) -> ContainerStatus {
        self.send(1, node_command::Body::Start(context.clone())).await;
        self.status(&context.container_id, ContainerState::Running).await
    }

    /// At most three bytes of what a container wrote.
    async fn read_log(&mut self, id: &str, offset: u64) -> LogChunk {
        let mut request = ReadLogChunk {
            request_id: offset + 1,
            container_id: id.to_owned(),
            offset,
            max_bytes: 3,
            ..Default::default()
        };
        request.set_stream(LogStream::Stdout);
        self.send(1, node_command::Body::ReadLog(request)).await;
        self.find(|body| match body {
            node_message::Body::LogChunk(chunk) => Some(chunk),
            _ => None,
        })
        .await
    }

    async fn kill(&mut self, id: &str, grace_ms: u64) {
        let container_id = id.to_owned();
        let kill = KillContainer { container_id, grace_ms, reason: "asked".to_owned() };
        self.send(1, node_command::Body::Kill(kill)).await;
    }
}

struct Node {
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

fn config(master: &str, work_dir: &Path) -> WorkerConfig {
    let flags = [
        ("master", master),
        ("node_id", "n1"),
        ("cores", "4"),
        ("memory", "4GiB"),
        ("work_dir", work_dir.to_str().unwrap()),
        ("shutdown_grace", "200ms"),
        ("disk_check_interval", "100ms"),
        ("disk_recover_after", "300ms"),
    ];
    let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned()));
    load(&Sources { flags: flags.into_iter().collect(), ..Sources::default() }).unwrap().settings
}

fn program(directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;

    let path = directory.join("program");
    std::fs::write(&path, PROGRAM).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

impl Node {
    fn start(master: &Master) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&master.address, &directory.path().join("work"));
        let program = program(directory.path());
        let shutdown = CancellationToken::new();
        let run = node::run(config, program, SystemClock::shared(), shutdown.clone());
        Self { directory, shutdown, task: tokio::spawn(run) }
    }

    fn container(&self, id: &str) -> PathBuf {
        self.directory.path().join("work/containers").join(id)
    }

    async fn end(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        ended.expect("the node ends").unwrap().unwrap();
    }
}

fn context(id: &str, mode: &str) -> LaunchContext {
    let mut context = LaunchContext {
        container_id: id.to_owned(),
        application: "a".to_owned(),
        attempt: 1,
        resources: Some(Resources { cores: 1, memory_bytes: 1 << 30 }),
        ..Default::default()
    };
    context.set_kind(ContainerKind::Executor);
    context.env.insert("MODE".to_owned(), mode.to_owned());
    context
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with('Z'))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn arguments_and_environment_arrive_byte_for_byte() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, register) = master.session().await;
    assert_eq!(register.offered, Some(Resources { cores: 4, memory_bytes: 4 << 30 }));
    let mut context = context("a-a1-e1", "argv");
    let args = ["", "--", "a b", "'q' \"q\" \\", "$HOME `id` *", "line\nbreak", "äöü 水車", "-x="];
    context.args = args.map(str::to_owned).to_vec();
    let values = [("EMPTY", ""), ("TEXT", "a 'b' \"c\"\n=d"), ("UNICODE", "水車"), ("HOME", "/x")];
    context.env.extend(values.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let status = session.start(&context).await;
    let argv = node.container("a-a1-e1").join("argv");
    until("the program has written its arguments", || argv.exists()).await;
    let found = std::fs::read(argv).unwrap();
    let found: Vec<&[u8]> = found.split(|byte| *byte == 0).collect();
    assert_eq!(found[..args.len()], args.map(str::as_bytes));

    let environment = std::fs::read(format!("/proc/{}/environ", status.pid)).unwrap();
    let found: BTreeMap<&[u8], &[u8]> = environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            Some((&entry[..at], &entry[at + 1..]))
        })
        .collect();
    for (name, value) in values {
        assert_eq!(found.get(name.as_bytes()).copied(), Some(value.as_bytes()), "{name}");
    }
    assert_eq!(found[b"MILLRACE_CONTAINER_ID".as_slice()], b"a-a1-e1");
    assert!(!found.contains_key(b"CARGO_MANIFEST_DIR".as_slice()), "not on the allow-list");
    node.end().await;
    assert!(!is_alive(status.pid));
}

#[tokio::test]
async fn an_end_is_reported_again_in_the_next_session() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, _) = master.session().await;
    session.send(1, node_command::Body::Start(context("a-a1-e1", "fail"))).await;
    let status = session.status("a-a1-e1", ContainerState::Exited).await;
    let exit = status.exit.clone().unwrap();
    assert_eq!((exit.code, exit.signal, exit.requested), (Some(7), None, false));
    assert_eq!((exit.stderr_tail.as_str(), exit.reason.as_str()), ("it broke\n", "exit code 7"));

    drop(session);
    let (_session, register) = master.session().await;
    assert_eq!(register.containers.len(), 1);
    assert_eq!(register.containers[0].state(), ContainerState::Exited);
    assert_eq!(register.containers[0].exit, status.exit);
    node.end().await;
}

#[tokio::test]
async fn containers_go_on_while_the_master_is_away() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, _) = master.session().await;
    let before = session.start(&context("a-a1-e1", "talk")).await;
    drop(session);
    let (_session, register) = master.session().await;
    assert_eq!(register.containers.len(), 1);
    assert_eq!(register.containers[0].pid, before.pid);
    assert_eq!(register.containers[0].state(), ContainerState::Running);
    assert!(is_alive(before.pid));
    node.end().await;
}

#[tokio::test]
async fn a_container_that_ignores_sigterm_is_killed_with_its_group() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, _) = master.session().await;
    let status = session.start(&context("a-a1-e1", "stubborn")).await;
    let child = node.container("a-a1-e1").join("child");
    until("the program has a child", || child.exists()).await;
    let child: u32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
    assert!(is_alive(child));
    session.kill("a-a1-e1", 100).await;
    let ended = session.status("a-a1-e1", ContainerState::Exited).await;
    let exit = ended.exit.unwrap();
    assert_eq!((exit.signal, exit.requested, exit.reason.as_str()), (Some(9), true, "asked"));
    assert!(!is_alive(status.pid));
    until("its child is gone too", || !is_alive(child)).await;
    node.end().await;
}

#[tokio::test]
async fn the_node_has_the_last_word_on_its_capacity() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, _) = master.session().await;
    let mut large = context("a-a1-e1", "talk");
    large.resources = Some(Resources { cores: 5, memory_bytes: 1 });
    session.send(1, node_command::Body::Start(large)).await;
    let refused = session
        .find(|body| match body {
            node_message::Body::Refused(refused) => Some(refused),
            _ => None,
        })
        .await;
    assert_eq!(refused.container_id, "a-a1-e1");
    assert!(refused.reason.contains("5 cores"), "{}", refused.reason);
    node.end().await;
}

#[tokio::test]
async fn logs_are_read_in_pieces_to_their_end() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, _) = master.session().await;
    session.start(&context("a-a1-e1", "talk")).await;
    let log = node.container("a-a1-e1").join("stdout.log");
    until("both lines are written", || std::fs::read(&log).is_ok_and(|text| text == b"one\ntwo\n"))
        .await;
    let mut read = Vec::new();
    let mut offset = 0;
    while offset < 8 {
        let chunk = session.read_log("a-a1-e1", offset).await;
        assert!(!chunk.at_end, "it may still write");
        read.extend_from_slice(&chunk.data);
        offset = chunk.next_offset;
    }
    assert_eq!(read, b"one\ntwo\n");
    session.kill("a-a1-e1", 0).await;
    session.status("a-a1-e1", ContainerState::Exited).await;
    assert!(session.read_log("a-a1-e1", 8).await.at_end);
    for unknown in ["a-a1-e9", "../lock"] {
        let failure = session.read_log(unknown, 0).await.failure.expect("there is no such log");
        assert_eq!(failure.code, "MR2008");
    }
    node.end().await;
}

#[tokio::test]
async fn a_work_directory_has_one_worker() {
    let master = Master::start().await;
    let node = Node::start(&master);
    let work_dir = node.directory.path().join("work");
    until("the node holds its directory", || work_dir.join("lock").exists()).await;
    let second = node::run(
        config(&master.address, &work_dir),
        PathBuf::new(),
        SystemClock::shared(),
        CancellationToken::new(),
    );
    let error = tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::DirectoryUnusable);
    let file = node.directory.path().join("program");
    let third = node::run(
        config(&master.address, &file),
        PathBuf::new(),
        SystemClock::shared(),
        CancellationToken::new(),
    );
    assert_eq!(third.await.unwrap_err().code(), Code::DirectoryUnusable);
    node.end().await;
}

/// A worker of the real binary.
struct Worker(Child);

impl Worker {
    fn start(master: &Master, work_dir: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_millrace-worker"))
            .args(["--master", &master.address, "--node-id", "n1", "--cores", "4"])
            .args(["--memory", "4GiB", "--shutdown-grace", "2s", "--work-dir"])
            .arg(work_dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let killed = self.0.kill().and_then(|()| self.0.wait());
        assert!(killed.is_ok(), "{killed:?}");
    }
}

/// An application of which no call is ever made.
const APPLICATION: &str = r#"
    name = "a"

    [aws]
    region = "us-east-1"

    [source.logs]
    type = "kinesis"
    stream = "logs"
    format = "text"

    [query]
    sql = "SELECT * FROM logs"

    [sink]
    type = "s3"
    path = "s3://bucket/a/"
    format = "json"
"#;

/// An executor whose driver is never there: it lives for its grace time. Comes back when it is up.
async fn start_lonely(session: &mut Session, work_dir: &Path, id: &str) -> u32 {
    let mut context = context(id, "");
    context.driver_address = "127.0.0.1:9".to_owned();
    context.host = "127.0.0.1".to_owned();
    context.spec = Some(parse_toml("a.toml", APPLICATION, &[]).unwrap().to_proto());
    let pid = session.start(&context).await.pid;
    let log = work_dir.join("containers").join(id).join("stderr.log");
    let is_up = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("executor started"));
    until("the executor is up", || is_up() || !is_alive(pid)).await;
    assert!(is_alive(pid), "{:?}", std::fs::read_to_string(&log));
    pid
}

#[tokio::test]
async fn nothing_is_left_when_the_worker_is_killed() {
    let mut master = Master::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&master, directory.path());
    let (mut session, _) = master.session().await;
    let mut pids = Vec::new();
    for id in ["a-a1-e1", "a-a1-e2"] {
        pids.push(start_lonely(&mut session, directory.path(), id).await);
    }
    worker.0.kill().unwrap();
    worker.0.wait().unwrap();
    let began = Instant::now();
    until("the containers have ended", || pids.iter().all(|pid| !is_alive(*pid))).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_ends_its_containers_first() {
    use nix::sys::signal::{Signal, kill};

    let mut master = Master::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&master, directory.path());
    let (mut session, _) = master.session().await;
    let pid = start_lonely(&mut session, directory.path(), "a-a1-e1").await;
    let worker_pid = nix::unistd::Pid::from_raw(worker.0.id().try_into().unwrap());
    kill(worker_pid, Signal::SIGTERM).unwrap();
    let ended = session.status("a-a1-e1", ContainerState::Exited).await;
    let exit = ended.exit.unwrap();
    assert!(exit.requested, "{exit:?}");
    assert!(!is_alive(pid));
    let rest = async { while let Ok(Some(_)) = session.incoming.message().await {} };
    tokio::time::timeout(DEADLINE, rest).await.expect("the stream is closed in order");
    drop(session);
    until("the worker has ended", || !is_alive(worker.0.id())).await;
    assert!(worker.0.wait().unwrap().success());
}

/// `/dev/full` answers every write as a full disk does.
#[test]
fn a_container_whose_log_can_not_be_written_ends_with_its_own_exit_code() {
    for role in ["driver", "executor"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut container = Command::new(env!("CARGO_BIN_EXE_millrace-worker"))
            .args([role, "--launch", "/nowhere/launch.pb", "--"])
            .env("RUST_LOG", "trace")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(full)
            .spawn()
            .unwrap();
        // Held to the end, so that it does not take its node for dead.
        let _stdin = container.stdin.take();
        let ended = container.wait().unwrap();
        assert_eq!(ended.code(), Some(1), "{role}: a panic would end it with 101");
    }
}

#[tokio::test]
async fn a_node_without_a_work_directory_says_so_and_takes_nothing_until_it_is_back() {
    let mut master = Master::start().await;
    let node = Node::start(&master);
    let (mut session, _) = master.session().await;
    assert_eq!(session.find(health).await, "");
    let (work, away) = (node.directory.path().join("work"), node.directory.path().join("away"));
    std::fs::rename(&work, &away).unwrap();
    let is_bad = |body| health(body).filter(|text| !text.is_empty());
    let text = session.find(is_bad).await;
    assert!(text.starts_with("MR6008: the disk of"), "{text}");
    session.send(1, node_command::Body::Start(context("a-a1-e1", "talk"))).await;
    let refused = session.find(|body| match body {
        node_message::Body::Refused(refused) => Some(refused),
        _ => None,
    });
    assert!(refused.await.reason.contains("MR6008"));
    std::fs::rename(&away, &work).unwrap();
    let is_well = |body| health(body).filter(String::is_empty);
    session.find(is_well).await;
    session.start(&context("a-a1-e2", "talk")).await;
    node.end().await;
}
