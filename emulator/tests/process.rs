//! The process `millrace-emulator`: start, port in use, clean stop, and what survives SIGKILL.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};
use aws_sdk_s3::primitives::ByteStream;
use common::{Clients, DEADLINE, clients};

/// A child that is killed when the test ends early.
struct Process {
    child: Child,
    endpoint: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-emulator"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn spawn(dir: &Path) -> Process {
    let dir = dir.to_str().expect("UTF-8");
    let mut child = command(&["--listen", "127.0.0.1:0", "--data-dir", dir, "--no-limits"])
        .stderr(Stdio::inherit())
        .spawn()
        .expect("spawn");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let endpoint = line.trim().strip_prefix("listening on ").expect("the line of readiness");
    Process { endpoint: endpoint.to_owned(), child }
}

fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        assert!(start.elapsed() < DEADLINE, "the process does not end");
        std::thread::yield_now();
    }
}

async fn create_stream(clients: &Clients) {
    clients
        .kinesis
        .create_stream()
        .stream_name("logs")
        .shard_count(2)
        .send()
        .await
        .expect("create");
    common::eventually("the stream takes records", || async {
        let put = clients.kinesis.put_record().stream_name("logs").partition_key("k");
        put.data(Blob::new("first")).send().await.ok()
    })
    .await;
}

async fn count_records(clients: &Clients) -> usize {
    let mut count = 0;
    for shard in ["shardId-000000000000", "shardId-000000000001"] {
        let call = clients.kinesis.get_shard_iterator().stream_name("logs").shard_id(shard);
        let call = call.shard_iterator_type(ShardIteratorType::TrimHorizon);
        let mut next = call.send().await.expect("iterator").shard_iterator.expect("iterator");
        loop {
            let page = clients.kinesis.get_records().shard_iterator(&next).send().await;
            let page = page.expect("records");
            count += page.records().len();
            if page.millis_behind_latest() == Some(0) {
                break;
            }
            next = page.next_shard_iterator().expect("open").to_owned();
        }
    }
    count
}

/// Puts records and objects until the emulator dies, and returns how many were acknowledged.
async fn put_until_death(clients: Clients, pid: u32) -> (usize, usize) {
    let (mut records, mut objects) = (1, 0);
    let start = Instant::now();
    loop {
        let entry = |n: usize| {
            let entry = PutRecordsRequestEntry::builder().partition_key(format!("{n}"));
            entry.data(Blob::new(vec![b'x'; 1000])).build().expect("entry")
        };
        let put = clients.kinesis.put_records().stream_name("logs");
        match put.set_records(Some((0..50).map(entry).collect())).send().await {
            Ok(answer) => {
                assert_eq!(answer.failed_record_count().unwrap_or(0), 0);
                records += 50;
            }
            Err(_) => return (records, objects),
        }
        let body = ByteStream::from(vec![b'y'; 10_000]);
        let key = format!("object-{objects:05}");
        match clients.s3.put_object().bucket("results").key(key).body(body).send().await {
            Ok(_) => objects += 1,
            Err(_) => return (records, objects),
        }
        if objects == 20 {
            // Killed from beside, so that it dies in the middle of whatever it does.
            tokio::task::spawn_blocking(move || kill(pid, "KILL"));
        }
        assert!(start.elapsed() < DEADLINE, "the emulator does not die");
    }
}

fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut process = spawn(dir.path());
    let first = clients(&process.endpoint);
    create_stream(&first).await;
    first.s3.create_bucket().bucket("results").send().await.expect("bucket");
    let upload = first.s3.create_multipart_upload().bucket("results").key("big").send().await;
    let upload_id = upload.expect("upload").upload_id.expect("id");
    let part = first.s3.upload_part().bucket("results").key("big").upload_id(&upload_id);
    let part = part.part_number(1).body(ByteStream::from_static(b"part")).send().await;
    let etag = part.expect("part").e_tag.expect("etag");
    common::create_table(&first.dynamodb, "heads", &["pk"]).await;
    let item = || aws_sdk_dynamodb::types::AttributeValue::S("head".into());
    first.dynamodb.put_item().table_name("heads").item("pk", item()).send().await.expect("item");
    let (records, objects) = put_until_death(first, process.child.id()).await;
    wait(&mut process.child);

    let process = spawn(dir.path());
    let second = clients(&process.endpoint);
    let found = count_records(&second).await;
    assert!((records..=records + 50).contains(&found), "{records} acknowledged, {found} found");
    let listed = second.s3.list_objects_v2().bucket("results").send().await.expect("list");
    assert!((objects..=objects + 1).contains(&listed.contents().len()));
    for object in listed.contents() {
        let get = second.s3.get_object().bucket("results").key(object.key().expect("key"));
        let body = get.send().await.expect("get").body.collect().await.expect("body");
        assert_eq!(body.to_vec().len(), 10_000);
    }
    let got = second.dynamodb.get_item().table_name("heads").key("pk", item()).send().await;
    assert!(got.expect("get").item().is_some());
    let parts = aws_sdk_s3::types::CompletedMultipartUpload::builder()
        .parts(aws_sdk_s3::types::CompletedPart::builder().part_number(1).e_tag(etag).build());
    let complete = second.s3.complete_multipart_upload().bucket("results").key("big");
    let complete = complete.upload_id(upload_id).multipart_upload(parts.build());
    complete.send().await.expect("the upload survives");
}

#[test]
fn a_port_in_use_is_said_with_the_next_move() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("addr").to_string();
    let mut child = command(&["--listen", &addr]).spawn().expect("spawn");
    let status = wait(&mut child);
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(1));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("error[MR6001]: ") && lines[0].contains(&addr), "{said}");
    assert!(lines[1].starts_with("next: ") && lines[1].contains("--listen"), "{said}");
}

#[test]
fn sigterm_ends_it_cleanly_and_the_port_file_names_the_address() {
    let dir = tempfile::tempdir().expect("temp dir");
    let port_file = dir.path().join("port");
    let path = port_file.to_str().expect("UTF-8");
    let mut child =
        command(&["--listen", "127.0.0.1:0", "--port-file", path]).spawn().expect("spawn");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line");
    let addr = std::fs::read_to_string(&port_file).expect("port file");
    assert_eq!(line.trim(), format!("listening on http://{}", addr.trim()));
    kill(child.id(), "TERM");
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[tokio::test]
async fn small_calls_are_answered_without_waiting_for_more() {
    let dir = tempfile::tempdir().expect("temp dir");
    let process = spawn(dir.path());
    let clients = clients(&process.endpoint);
    create_stream(&clients).await;
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let put = clients.kinesis.put_record().stream_name("logs").partition_key("k");
        let start = Instant::now();
        put.data(Blob::new("x")).send().await.expect("put");
        fastest = fastest.min(start.elapsed());
    }
    // Nagle's algorithm with delayed acknowledgement costs 40 ms, and that in each call.
    assert!(fastest < Duration::from_millis(40), "{fastest:?}");
}
