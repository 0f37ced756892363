//! Bytes of no protocol, lengths that nobody has and versions that there are not, against every
//! port that a cluster listens on: one line each, no memory, and everything goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::Cluster;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::processes;
use millrace_proto::v1::{ApplicationState, ContainerKind, ContainerState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::codegen::{Service as _, http};
use tonic::transport::{Channel, Endpoint};

use super::small_cluster;

/// What a process may grow by: less than two of the messages that were announced to it.
const GROWTH_MAX: u64 = 24 << 20;
/// Connections of each kind that are held open beside one another.
const HELD: usize = 16;
/// Connections of a flood.
const FLOOD: usize = 200;
/// Lines that a flood may write.
const FLOOD_LINES_MAX: usize = 40;
/// How long a stranger may be kept.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A length of 1 GiB, as many protocols of one's own begin.
const GIB: &[u8] = &[0x40, 0, 0, 0, 1, 2, 3, 4];
const TLS: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
/// A frame of HTTP/2 with the greatest length that can be written.
const FRAME: &[u8] = &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0];

/// A process that listens, and where its log is.
#[derive(Debug)]
struct Listener {
    name: String,
    pid: u32,
    port: SocketAddr,
    log: PathBuf,
}

impl Listener {
    fn lines_with(&self, needle: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).expect("a process has a log");
        text.lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
    }

    /// Waits for the line about `peer`; there must be one, and no second.
    async fn one_line_about(&self, peer: &str, what: &str) -> String {
        let what = format!("{}: a line about {what}", self.name);
        within(PATIENCE, &what, async || match self.lines_with(peer).as_slice() {
            [line] => Ok(line.clone()),
            [] => Err("none".to_owned()),
            more => panic!("{what}: not one: {more:?}"),
        })
        .await
    }

    fn resident(&self) -> u64 {
        processes::resident_bytes(self.pid).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn is_emulator(&self) -> bool {
        self.name == "emulator"
    }
}

/// Every port that any process of the cluster listens on.
async fn listeners(cluster: &Cluster) -> Vec<Listener> {
    let mut all = Vec::new();
    let mut add = |name: &str, pid: u32, log: PathBuf| {
        for port in processes::listening(pid).expect("the process lives") {
            all.push(Listener { name: name.to_owned(), pid, port, log: log.clone() });
        }
    };
    add("emulator", cluster.aws.process().pid(), cluster.path().join("emulator.log"));
    add("master", cluster.master.pid(), cluster.path().join("master-test.log"));
    for (index, worker) in cluster.workers.iter().enumerate() {
        let name = format!("node-{}", index + 1);
        add(&name, worker.pid(), cluster.path().join(format!("{name}.log")));
    }
    for container in cluster.containers("word-count").await {
        let status = container.status.expect("a container has a status");
        if status.state() == ContainerState::Running {
            let log = PathBuf::from(&status.work_dir).join("stderr.log");
            let name = if status.kind() == ContainerKind::Driver { "driver" } else { "executor" };
            add(name, status.pid, log);
        }
    }
    all
}

/// Sends bytes and leaves the connection open; the own address is how the log names it.
async fn send(to: SocketAddr, bytes: &[u8]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(to).await.expect("the port is open");
    stream.write_all(bytes).await.expect("a few bytes are taken");
    let own = stream.local_addr().expect("a connection has an address").to_string();
    (stream, own)
}

/// Waits for the other side to close.
async fn is_closed(stream: &mut TcpStream, what: &str) {
    let read = async {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut rest).await;
    };
    let closed = tokio::time::timeout(CLOSED_WITHIN, read).await;
    closed.unwrap_or_else(|_| panic!("{what}: the connection stays open"));
}

/// Bytes that are no protocol, with what the line about them says at a gRPC port.
fn strangers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let garbage = (0..65_536_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0] | 0x80);
    vec![
        ("garbage", garbage.collect(), "no protocol that is spoken here"),
        ("a 1 GiB length prefix", GIB.to_vec(), "no protocol that is spoken here"),
        ("TLS", TLS.to_vec(), "TLS is not spoken here"),
        ("another HTTP", b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n".to_vec(), "version of HTTP"),
        ("a long frame", [PREFACE, FRAME].concat(), "with 16777215 bytes"),
    ]
}

async fn one_line_for_each_stranger(listener: &Listener) {
    for (what, bytes, said) in strangers() {
        let (mut stream, own) = send(listener.port, &bytes).await;
        is_closed(&mut stream, what).await;
        let line = listener.one_line_about(&own, what).await;
        assert!(line.contains("WARN") && line.contains("a connection is closed"), "{line}");
        if !listener.is_emulator() {
            assert!(line.contains("MR2010") && line.contains(said), "{what}: {line}");
        }
    }
}

/// Announces a message of 1 GiB on a method that there is, and calls one of another version.
async fn calls_that_no_service_hears(listener: &Listener, method: &str) {
    let endpoint = Endpoint::from_shared(format!("http://{}", listener.port));
    let channel = endpoint.expect("an address is a URI").connect().await.expect("it is gRPC");
    let before = listener.lines_with("a call is refused").len();
    // Five bytes: not compressed, 1 GiB.
    let status = call(channel.clone(), method, "\0@\0\0\0").await;
    assert_eq!(status, tonic::Code::OutOfRange, "{}", listener.name);
    let status = call(channel.clone(), "/millrace.v2.NodeService/Session", "").await;
    assert_eq!(status, tonic::Code::Unimplemented, "{}", listener.name);
    within(PATIENCE, "a line for each", async || {
        let lines = listener.lines_with("a call is refused").split_off(before);
        match lines.as_slice() {
            [long, other] => {
                let is_told = long.contains("1073741824 bytes") && long.contains(method);
                assert!(is_told && long.contains("MR2010"), "{long}");
                assert!(other.contains("another version"), "{other}");
                Ok(())
            }
            lines if lines.len() < 2 => Err(format!("{lines:?}")),
            lines => panic!("{}: more than one line each: {lines:?}", listener.name),
        }
    })
    .await;
}

/// One call with exactly these bytes; its status.
async fn call(mut channel: Channel, method: &str, body: &str) -> tonic::Code {
    let request = http::Request::post(format!("http://test{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body.to_owned()))
        .expect("a well-formed request");
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("the connection lives");
    let answer = channel.call(request).await.expect("an answer comes");
    let status = tonic::Status::from_header_map(answer.headers());
    status.unwrap_or_else(|| panic!("no status at once: {answer:?}")).code()
}

/// A method with a message, by who serves it.
fn method_of(name: &str) -> &'static [&'static str] {
    match name {
        "master" => &[
            "/millrace.v1.ClientService/ListNodes",
            "/millrace.v1.NodeService/Session",
            "/millrace.v1.ResourceService/Session",
        ],
        "driver" => &["/millrace.v1.DriverService/Session"],
        "executor" => &[
            "/millrace.v1.BlockService/Fetch",
            "/worker.WorkerService/CoordinatorChannel",
            "/worker.WorkerService/ExecuteTask",
        ],
        _ => &[],
    }
}

/// A body of 1 GiB is refused before it is read.
async fn an_endless_body_is_refused(emulator: &Listener) {
    let head = "POST / HTTP/1.1\r\nhost: test\r\nx-amz-target: Kinesis_20131202.PutRecords\r\n\
                content-length: 1073741824\r\n\r\n";
    let (mut stream, _) = send(emulator.port, head.as_bytes()).await;
    let mut answer = [0; 12];
    let read = stream.read_exact(&mut answer);
    let read = tokio::time::timeout(CLOSED_WITHIN, read).await.expect("it answers at once");
    read.expect("an answer comes");
    assert_eq!(answer.as_slice(), b"HTTP/1.1 413");
    let lines = emulator.lines_with("1073741824 bytes");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

/// Many at once, held open while the memory is looked at.
async fn a_flood_costs_neither_memory_nor_log(
    all: &[Listener],
    before: &BTreeMap<SocketAddr, u64>,
) {
    for listener in all {
        let mut held = Vec::new();
        for (_, bytes, _) in strangers() {
            for _ in 0..HELD {
                held.push(send(listener.port, &bytes).await);
            }
        }
        // Of no kind yet, so that nobody can close it.
        for _ in 0..HELD {
            held.push(send(listener.port, &PREFACE[..5]).await);
        }
        let grown = listener.resident().saturating_sub(before[&listener.port]);
        println!("{} on {}: {} KiB more", listener.name, listener.port, grown >> 10);
        assert!(grown < GROWTH_MAX, "{}: {grown} bytes", listener.name);
    }
    let listener = all.iter().find(|listener| listener.name == "driver").expect("a driver listens");
    let num_before = listener.lines_with("a connection is closed").len();
    for _ in 0..FLOOD {
        let (mut stream, _) = send(listener.port, GIB).await;
        is_closed(&mut stream, "one of a flood").await;
    }
    let num_lines = listener.lines_with("a connection is closed").len() - num_before;
    assert!(num_lines < FLOOD_LINES_MAX, "{num_lines} lines for {FLOOD} connections");
}

#[tokio::test]
async fn every_port_turns_strangers_away_and_goes_on() {
    let mut cluster = small_cluster().await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    cluster.aws.put_lines("lines", &["a b c".to_owned()]).await;
    let file = File { executors: 1, ..File::default() };
    cluster.submit(&file).await;
    cluster.wait_for_words(file.name, "results", "word-count/", 3).await;

    let all = listeners(&cluster).await;
    let names: Vec<&str> = all.iter().map(|listener| listener.name.as_str()).collect();
    // A node listens nowhere: its stream to the master is the only way to it.
    assert_eq!(names, ["emulator", "master", "driver", "executor"], "{all:?}");
    let before = all.iter().map(|listener| (listener.port, listener.resident())).collect();
    for listener in &all {
        one_line_for_each_stranger(listener).await;
        for method in method_of(&listener.name) {
            calls_that_no_service_hears(listener, method).await;
        }
    }
    an_endless_body_is_refused(&all[0]).await;
    a_flood_costs_neither_memory_nor_log(&all, &before).await;

    cluster.aws.put_lines("lines", &["d e f g".to_owned()]).await;
    cluster.wait_for_words(file.name, "results", "word-count/", 7).await;
    let application = cluster.wait_for_state(file.name, ApplicationState::Running).await;
    assert_eq!(application.attempts.len(), 1, "{application:?}");
    let pids = |all: &[Listener]| all.iter().map(|listener| listener.pid).collect::<Vec<_>>();
    assert_eq!(pids(&listeners(&cluster).await), pids(&all), "the same processes as before");
    cluster.workers.iter_mut().for_each(processes::Process::assert_running);
    for listener in &all {
        let panics = listener.lines_with("panicked");
        assert!(panics.is_empty(), "{}: {panics:?}", listener.name);
    }
    cluster.stop(file.name, &[]).await;
}
