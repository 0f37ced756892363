//! Who may do what: a local cluster with the tokens that it made itself, asked by everybody with
//! every token, on every method and route; then names, revisions, and the API by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use millrace_common::access::{Secret, Secrets, read_secrets, read_token};
use millrace_integration_tests::application::File;
use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_integration_tests::dataset::repository_root;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::{ministack, processes, skip};
use millrace_proto::v1;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

/// A local cluster, which makes its tokens itself.
struct Local {
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Drop for Local {
    fn drop(&mut self) {
        processes::naming(self.directory.path()).into_iter().for_each(processes::kill_by_id);
    }
}

impl Local {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("the temporary directory can be written to");
        let mut local = Self { directory, environment: base_environment() };
        let dir = local.dir().display().to_string();
        let up = ["local", "up", "--dir", &dir, "--workers", "2", "--cores", "4"];
        let _ = local.millrace(&up).await.success();
        let printed = local.millrace(&["local", "env", "--dir", &dir]).await.success();
        let exports = printed.stdout.lines().filter_map(|line| line.strip_prefix("export "));
        let pairs = exports.filter_map(|line| line.split_once('='));
        let pairs =
            pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()));
        local.environment.extend(pairs.collect::<Vec<_>>());
        local
    }

    fn dir(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    fn variable(&self, name: &str) -> String {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("`local env` prints no {name}")).1.clone()
    }

    /// As the administrator.
    async fn millrace(&self, arguments: &[&str]) -> Output {
        run(&binary("millrace"), arguments, &self.environment, PATIENCE).await
    }

    /// As somebody with this token, or with none.
    async fn as_bearer(&self, token: &str, arguments: &[&str]) -> Output {
        let mut environment = self.environment.clone();
        environment.retain(|(name, _)| name != "MILLRACE_TOKEN_FILE");
        environment.push(("MILLRACE_TOKEN".to_owned(), token.to_owned()));
        run(&binary("millrace"), arguments, &environment, PATIENCE).await
    }

    async fn token(&self, name: &str, role: &str, more: &[&str]) -> String {
        let arguments = [&["token", "create", name, "--role", role], more].concat();
        self.millrace(&arguments).await.success().stdout.trim().to_owned()
    }

    fn write(&self, file: &File) -> String {
        let path = self.directory.path().join(format!("{}.toml", file.name));
        std::fs::write(&path, file.toml()).expect("the test's directory can be written to");
        path.display().to_string()
    }

    async fn history(&self, name: &str) -> serde_json::Value {
        self.millrace(&["history", name, "--json"]).await.success().json()
    }

    fn master(&self) -> SocketAddr {
        self.variable("MILLRACE_MASTER")
            .trim_start_matches("http://")
            .parse()
            .expect("it is well-formed")
    }

    /// The launch contexts of the live containers of an application, driver first.
    async fn contexts(&self, application: &str) -> Vec<v1::LaunchContext> {
        let status = self.millrace(&["status", application, "--json"]).await.success().json();
        let is_live = |container: &&serde_json::Value| container["state"] == "running";
        let containers = status["containers"]
            .as_array()
            .expect("JSON of the documented shape")
            .iter()
            .filter(is_live);
        let ids: Vec<&str> = containers
            .map(|c| c["container_id"].as_str().expect("JSON of the documented shape"))
            .collect();
        let nodes = std::fs::read_dir(self.dir().join("nodes"))
            .expect("the cluster's files and ports can be used");
        let nodes: Vec<PathBuf> = nodes
            .map(|node| node.expect("the cluster's files and ports can be used").path())
            .collect();
        let mut found: Vec<v1::LaunchContext> = ids
            .iter()
            .filter_map(|id| {
                let files = nodes.iter().map(|node| node.join("containers").join(id));
                let file = files.map(|dir| dir.join("launch.pb")).find(|file| file.exists())?;
                let mode = file
                    .metadata()
                    .expect("the cluster's files and ports can be used")
                    .permissions()
                    .mode()
                    & 0o777;
                assert_eq!(mode, 0o600, "{}", file.display());
                v1::LaunchContext::decode(
                    std::fs::read(file)
                        .expect("the cluster's files and ports can be used")
                        .as_slice(),
                )
                .ok()
            })
            .collect();
        found.sort_by_key(|context| context.kind);
        found
    }
}

/// What a method answers to an empty message and this token.
async fn call(address: &str, path: &str, token: Option<&str>) -> tonic::Status {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address is a URI");
    let mut grpc =
        tonic::client::Grpc::new(channel.connect().await.expect("somebody listens there"));
    grpc.ready().await.expect("the cluster's files and ports can be used");
    let mut request = tonic::Request::new(v1::ListNodesRequest {});
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("it is well-formed");
        request.metadata_mut().insert("authorization", value);
    }
    let codec = tonic_prost::ProstCodec::<v1::ListNodesRequest, v1::ListNodesRequest>::default();
    let path =
        http::uri::PathAndQuery::try_from(path).expect("the cluster's files and ports can be used");
    match grpc.unary(request, path, codec).await {
        Ok(_) => tonic::Status::ok(""),
        Err(status) => status,
    }
}

/// The status of a GET.
async fn get(address: SocketAddr, path: &str, token: Option<&str>) -> u16 {
    let mut stream =
        TcpStream::connect(address).await.expect("the cluster's files and ports can be used");
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\n{}connection: close\r\n\r\n",
        token.unwrap_or_default()
    );
    stream.write_all(request.as_bytes()).await.expect("the cluster's files and ports can be used");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the cluster's files and ports can be used");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
}

/// Every method of these descriptors, by service.
fn methods(descriptors: &[u8]) -> BTreeMap<String, Vec<String>> {
    let set =
        prost_types::FileDescriptorSet::decode(descriptors).expect("descriptors of the build");
    let mut all = BTreeMap::new();
    for file in &set.file {
        for service in &file.service {
            let path = |method: &prost_types::MethodDescriptorProto| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            };
            all.insert(service.name().to_owned(), service.method.iter().map(path).collect());
        }
    }
    all
}

/// Words of a stream of text lines.
async fn produce(local: &Local) {
    let produce = ["produce", "--stream", "lines", "--generate", "app-logs", "--count", "300"];
    let _ = local.millrace(&[&produce[..], &["--create-shards", "2"]].concat()).await.success();
}

const ROUTES: [&str; 7] = [
    "/metrics",
    "/api/v1/cluster",
    "/api/v1/nodes",
    "/api/v1/applications",
    "/api/v1/applications/word-count",
    "/api/v1/applications/word-count/batches",
    "/api/v1/containers",
];

/// Tokens that are no good for anything.
struct Bad {
    expired: String,
    foreign: String,
    other_application: String,
}

async fn nothing_of_the_master_is_open(local: &Local, bad: &Bad) {
    let master = local.master();
    let all = methods(v1::FILE_DESCRIPTOR_SET);
    assert_eq!(all.len(), 6, "a new service needs a place in this test: {:?}", all.keys());
    for path in all.values().flatten() {
        let answer = async |token| call(&master.to_string(), path, token).await;
        for token in [None, Some("mr_nonsense_00"), Some("mr_node"), Some(bad.foreign.as_str())] {
            let status = answer(token).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{path} {token:?}: {status}");
            assert!(status.message().contains("MR2020"), "{path}: {status}");
        }
        let status = answer(Some(&bad.expired)).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{path}: {status}");
        assert!(status.message().contains("MR2021"), "{path}: {status}");
        // A container may open its session, where its application is asked for; nothing else.
        if !path.ends_with("ResourceService/Session") {
            let status = answer(Some(&bad.other_application)).await;
            assert_eq!(status.code(), Code::PermissionDenied, "{path}: {status}");
        }
    }
    for path in ROUTES {
        assert_eq!(get(master, path, None).await, 401, "{path}");
        assert_eq!(get(master, path, Some(&bad.expired)).await, 401, "{path}");
        assert_eq!(get(master, path, Some(&bad.other_application)).await, 403, "{path}");
    }
    let admin =
        read_token(&local.dir().join("admin.token")).expect("the cluster has made its tokens");
    assert_eq!(get(master, "/healthz", None).await, 200, "health is open to all");
    for path in ROUTES {
        assert_eq!(get(master, path, Some(admin.reveal())).await, 200, "{path}");
    }
    for path in ["/nothing-here", "/api/v1", "/metrics/", "//metrics"] {
        assert_eq!(get(master, path, Some(admin.reveal())).await, 403, "{path} has no rule");
        assert_eq!(get(master, path, None).await, 401, "{path}");
    }
}

/// Driver and executors serve their own attempt and nobody else.
async fn nothing_of_the_containers_is_open(local: &Local, bad: &Bad) {
    let contexts = local.contexts("word-count").await;
    assert!(contexts.len() >= 2, "a driver and its executors: {contexts:?}");
    let own = contexts[0].token.clone();
    assert!(!own.is_empty() && contexts.iter().all(|context| context.token == own));
    let secrets =
        read_secrets(&local.dir().join("cluster.secret")).expect("the cluster has made its secret");
    let earlier = secrets.container_token("word-count", contexts[0].attempt + 1);
    let all = methods(v1::FILE_DESCRIPTOR_SET);
    let driver = contexts.iter().map(|context| &context.driver_address);
    let driver = driver
        .filter(|address| !address.is_empty())
        .max()
        .expect("the cluster's files and ports can be used")
        .clone();
    let status = local.millrace(&["status", "word-count", "--json"]).await.success().json();
    let executors = status["executors"].as_array().expect("JSON of the documented shape");
    let executors = executors
        .iter()
        .map(|e| e["address"].as_str().expect("JSON of the documented shape").to_owned());
    let served: Vec<(String, Vec<String>)> =
        std::iter::once((driver, all["DriverService"].clone()))
            .chain(executors.map(|address| {
                let engine = "/worker.WorkerService/ExecuteTask".to_owned();
                let paths = [&all["TaskService"][..], &all["BlockService"][..], &[engine]].concat();
                (address, paths)
            }))
            .collect();
    assert!(served.len() >= 2, "{served:?}");
    for (address, paths) in &served {
        for path in paths {
            let status = call(address, path, None).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{path}: {status}");
            let admin = secrets.admin_token();
            for token in [admin.reveal(), earlier.reveal(), &bad.other_application, &bad.expired] {
                let status = call(address, path, Some(token)).await;
                assert_eq!(status.code(), Code::PermissionDenied, "{path}: {status}");
            }
        }
    }
    // With the own token the call arrives: it is the block that is not there.
    let status = call(&served[1].0, "/millrace.v1.BlockService/Fetch", Some(&own)).await;
    assert!(!matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied), "{status}");
}

/// A driver with the token of another application, or of another attempt of its own, is refused.
async fn nobody_acts_for_another(local: &Local, bad: &Bad) {
    use millrace_proto::v1::driver_message::Body;
    use millrace_proto::v1::resource_service_client::ResourceServiceClient;
    let secrets =
        read_secrets(&local.dir().join("cluster.secret")).expect("the cluster has made its secret");
    let stale = secrets.container_token("word-count", 77).reveal().to_owned();
    for token in [&bad.other_application, &stale] {
        let channel =
            Channel::from_shared(local.variable("MILLRACE_MASTER")).expect("an address is a URI");
        let mut client =
            ResourceServiceClient::new(channel.connect().await.expect("somebody listens there"));
        let register = v1::DriverRegister {
            application: "word-count".to_owned(),
            attempt: 1,
            container_id: "word-count-a1-driver".to_owned(),
            ..Default::default()
        };
        let first = v1::DriverMessage { body: Some(Body::Register(register)) };
        let mut request = tonic::Request::new(tokio_stream::iter([first]));
        let value = format!("Bearer {token}").parse().expect("it is well-formed");
        request.metadata_mut().insert("authorization", value);
        let status = client.session(request).await.expect_err("it must be refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("MR2022"), "{status}");
    }
}

/// A name that runs, and who has it; the same submission twice; one in the place of another.
async fn names_and_revisions(local: &Local, submitter: &str) {
    let file = File::default();
    let path = local.write(&file);
    let refused = local.as_bearer(submitter, &["submit", &path]).await;
    refused.assert_refused("MR2002", &["word-count of bob is", "since 20", "revision 1"]);
    let again = ["submit", &path, "--request-id", "first", "--json"];
    let again = local.as_bearer(submitter, &again).await.success().json();
    assert_eq!((&again["repeated"], &again["revision"]), (&true.into(), &1.into()), "{again}");
    let other = local.write(&File { interval: "2s", ..file.clone() });
    let reused = local.as_bearer(submitter, &["submit", &other, "--request-id", "first"]).await;
    reused.assert_refused("MR2024", &["first", "revision 1"]);

    // The running driver finds what no file can show, and goes on.
    let absent = local.write(&File { stream: "absent", ..file.clone() });
    let upgrade = ["submit", &absent, "--upgrade", "--drop-source", "logs"];
    let refused = local.as_bearer(submitter, &upgrade).await;
    refused.assert_refused("MR3002", &["revision 2", "revision 1 stays", "absent"]);
    let repointed = local.write(&File { stream: "other-lines", ..file.clone() });
    let refused = local.as_bearer(submitter, &["submit", &repointed, "--upgrade"]).await;
    refused.assert_refused("MR4009", &["revision 3", "revision 1 stays"]);
    let history = local.history("word-count").await;
    assert_eq!(
        history["attempts"].as_array().expect("JSON of the documented shape").len(),
        1,
        "{history}"
    );

    let batches = local.millrace(&["batches", "word-count", "--json"]).await.success().stdout;
    let marked = File { env: vec![("MARK", "second".to_owned())], ..file };
    let upgrade = ["submit", &local.write(&marked), "--upgrade", "--wait"].map(str::to_owned);
    let upgrade: Vec<&str> = upgrade.iter().map(String::as_str).collect();
    let _ = local.as_bearer(submitter, &upgrade).await.success();
    let history = local.history("word-count").await;
    let revisions = history["revisions"].as_array().expect("JSON of the documented shape");
    let states: Vec<_> = revisions
        .iter()
        .map(|r| r["state"].as_str().expect("JSON of the documented shape"))
        .collect();
    assert_eq!(states, ["ended", "refused", "refused", "active"], "{history}");
    assert_eq!(history["owner"], "bob");
    assert_eq!(revisions[1]["failure"]["code"], "MR3002");
    let of_attempts = history["attempts"]
        .as_array()
        .expect("JSON of the documented shape")
        .iter()
        .map(|a| &a["revision"]);
    assert_eq!(of_attempts.cloned().collect::<Vec<_>>(), [1, 4], "{history}");
    let first = &history["attempts"][0]["end_reason"];
    assert_eq!(first, "revision 4 was to follow");
    let text = local.millrace(&["history", "word-count"]).await.success().stdout;
    assert!(text.contains("refused") && text.contains("MR3002"), "{text}");
    // It went on from its head: no batch was made anew.
    let driver = &local.contexts("word-count").await[0];
    assert_eq!((driver.attempt, driver.env["MARK"].as_str()), (2, "second"));
    assert!(driver.head_expected, "{batches}");
}

/// A program in another language, from the proto files alone; and the same message as JSON.
async fn the_api_by_itself(local: &Local) {
    let test = "submit, watch and stop from Python";
    let Some(python) = ministack::python(test) else { return };
    let program = repository_root().join("examples/python/application.py").display().to_string();
    let mut environment = local.environment.clone();
    environment.extend(base_environment());
    let python = async |arguments: &[&str]| {
        let arguments = [&[program.as_str()], arguments].concat();
        run(&python, &arguments, &environment, PATIENCE).await
    };
    if python(&["--help"]).await.stderr.contains("ModuleNotFoundError") {
        skip::note(test, "MILLRACE_PYTHON has no grpcio and grpcio-tools");
        return;
    }
    let what = ["--name", "from-python", "--stream", "lines", "--path", "s3://results/python/"];
    let submit = [&["submit", "--request-id", "py-1"], &what[..]].concat();
    let said = python(&submit).await.success();
    assert_eq!(said.stdout.trim(), "from-python attempt 1 revision 1");
    let said = python(&["watch", "from-python", "--batches", "1"]).await.success();
    assert!(said.stdout.contains("running batch 1"), "{said}");

    let json = python(&[&submit[..], &["--print-json"]].concat()).await.success().stdout;
    let path = local.directory.path().join("request.json");
    std::fs::write(&path, &json).expect("the test's directory can be written to");
    let path = path.display().to_string();
    let again = ["submit", "--from-json", &path, "--json"];
    let again = local.millrace(&again).await.success().json();
    assert_eq!(again["repeated"], true, "the very same message: {again}");
    let said = python(&["stop", "from-python"]).await.success();
    assert!(said.stdout.contains("APPLICATION_STATE_STOP"), "{said}");

    for (from, to, code, named) in [
        ("RECORD_FORMAT_TEXT", "RECORD_FORMAT_XML", "MR1009", "RECORD_FORMAT_XML"),
        ("\"RECORD_FORMAT_TEXT\"", "77", "MR1008", "unknown value 77"),
        ("\"query\"", "\"args\": [], \"qeury\"", "MR1009", "qeury"),
        ("\"storageLevel\": \"STORAGE_LEVEL_MEMORY_AND_DISK\",", "", "MR1008", "storage_level"),
    ] {
        std::fs::write(&path, json.replace(from, to))
            .expect("the test's directory can be written to");
        let refused = local.millrace(&["submit", "--from-json", &path]).await;
        refused.assert_refused(code, &[named]);
    }
}

/// The master itself refuses what is absent or unknown, whoever sends it.
async fn the_master_fills_nothing_in(local: &Local) {
    use millrace_proto::v1::client_service_client::ClientServiceClient;
    let admin =
        read_token(&local.dir().join("admin.token")).expect("the cluster has made its tokens");
    let channel =
        Channel::from_shared(local.variable("MILLRACE_MASTER")).expect("an address is a URI");
    let mut client =
        ClientServiceClient::new(channel.connect().await.expect("somebody listens there"));
    let file = File { name: "strict", ..File::default() };
    let toml = file.toml();
    let whole = millrace_common::application::parse_toml("strict.toml", &toml, &[])
        .expect("the file is well-formed");
    let whole = whole.to_proto();
    let mut unknown = whole.clone();
    unknown.sources[0].format = 99;
    let mut no_source = whole.clone();
    no_source.sources[0].start = None;
    let no_sink = v1::ApplicationSpec { sink: None, ..whole.clone() };
    let no_batch = v1::ApplicationSpec { batch: None, ..whole };
    for (spec, named) in [
        (None, "no specification"),
        (Some(unknown), "unknown value 99"),
        (Some(no_source), "`start`"),
        (Some(no_sink), "`sink`"),
        (Some(no_batch), "`batch`"),
    ] {
        let request = v1::SubmitApplicationRequest { spec, ..Default::default() };
        let mut request = tonic::Request::new(request);
        let value = format!("Bearer {}", admin.reveal()).parse().expect("it is well-formed");
        request.metadata_mut().insert("authorization", value);
        let status = client.submit_application(request).await.expect_err("it must be refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with("MR1008") && status.message().contains(named));
    }
}

fn all_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(all_files(&path)) } else { files.push(path) }
    }
    files
}

/// What was done is written down with its outcome, and no secret is, anywhere but in its own file.
fn the_audit_log_tells(local: &Local) {
    let text = std::fs::read_to_string(local.dir().join("audit.jsonl"))
        .expect("the cluster's files and ports can be used");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let has = |who: &str, action: &str, application: &str, outcome: &str| {
        lines.iter().any(|line| {
            let says = |key: &str| line[key].as_str().unwrap_or_default();
            let of = says("application") == application;
            of && says("who") == who && says("action") == action && says("outcome") == outcome
        })
    };
    let bob = "bob (submitter)";
    assert!(has(bob, "submit", "word-count", "done"), "{text}");
    assert!(has(bob, "submit", "word-count", "refused"), "{text}");
    assert!(has(bob, "upgrade", "word-count", "done"), "{text}");
    assert!(has("root (admin)", "create token", "", "done"), "{text}");
    assert!(has("node", "register", "", "done"), "{text}");
    assert!(has("unknown", "refused", "", "refused"), "{text}");
    assert!(has("other attempt 1", "register", "word-count", "refused"), "{text}");
    let private = ["cluster.secret", "node.token", "admin.token", "launch.pb"];
    for file in all_files(&local.dir()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let is_private = private.iter().any(|name| file.ends_with(name));
        let holds = ["mr_user.", "mr_container.", "mr_node_", "mrsecret_"];
        let found = holds.iter().find(|secret| text.contains(**secret));
        assert!(is_private || found.is_none(), "{} holds {found:?}", file.display());
    }
    for pid in processes::naming(local.directory.path()) {
        let environment = processes::environment(pid).unwrap_or_default();
        assert!(!environment.contains_key("MILLRACE_TOKEN_FILE"), "{environment:?}");
    }
}

/// A worker without the cluster's token for nodes is told so by its exit, and is no node.
async fn no_worker_comes_in_without_the_token_of_nodes(local: &Local, bad: &Bad, admin: &str) {
    let masters = local.master().to_string();
    let work = local.directory.path().join("uninvited").display().to_string();
    let node = ["node", "--master", &masters, "--node-id", "uninvited", "--work-dir", &work];
    let run = async |more: &[&str]| {
        let arguments = [&node[..], &["--host", "127.0.0.1"], more].concat();
        run(&binary("millrace-worker"), &arguments, &base_environment(), PATIENCE).await
    };
    let refused = run(&[]).await;
    refused.assert_refused("MR2020", &["no token"]);
    assert!(refused.stderr.contains("with --token-file node.token"), "{refused}");
    let file = local.directory.path().join("uninvited.token");
    let path = file.display().to_string();
    for (token, code) in [
        (bad.foreign.as_str(), "MR2020"),
        (&bad.expired, "MR2021"),
        (&bad.other_application, "MR2022"),
        (admin, "MR2022"),
    ] {
        std::fs::write(&file, token).expect("the test's directory can be written to");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("the file is this test's own");
        run(&["--token-file", &path]).await.assert_refused(code, &[]);
    }
    let nodes = local.millrace(&["nodes"]).await.success().stdout;
    assert!(!nodes.contains("uninvited"), "{nodes}");
}

#[tokio::test]
async fn a_cluster_with_tokens_opens_to_those_it_should_and_to_nobody_else() {
    let local = Local::start().await;
    for file in ["cluster.secret", "node.token", "admin.token", "audit.jsonl"] {
        let mode = local.dir().join(file).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    let viewer = local.token("ann", "viewer", &["--expires", "30d"]).await;
    let submitter = local.token("bob", "submitter", &[]).await;
    let expired = local.token("old", "admin", &["--expires", "1ms"]).await;
    let foreign = Secrets::from(Secret::generate().unwrap()).admin_token().reveal().to_owned();
    produce(&local).await;
    let path = local.write(&File::default());
    local.as_bearer("", &["nodes"]).await.assert_refused("MR2020", &["no token"]);
    local.as_bearer(&foreign, &["nodes"]).await.assert_refused("MR2020", &["not of this cluster"]);
    local.as_bearer(&expired, &["nodes"]).await.assert_refused("MR2021", &["expired"]);
    let _ = local.as_bearer(&viewer, &["nodes"]).await.success();
    local
        .as_bearer(&viewer, &["submit", &path])
        .await
        .assert_refused("MR2022", &["ann", "submitter"]);
    let _ = local
        .as_bearer(&submitter, &["submit", &path, "--wait", "--request-id", "first"])
        .await
        .success();
    let drain = ["node", "drain", "node-1"];
    local.as_bearer(&submitter, &drain).await.assert_refused("MR2022", &["bob", "admin"]);
    let create = ["token", "create", "eve", "--role", "admin"];
    local.as_bearer(&submitter, &create).await.assert_refused("MR2022", &["bob"]);

    let other =
        File { name: "other", executors: 1, path: "s3://results/other/", ..File::default() };
    let _ = local.millrace(&["submit", "--wait", &local.write(&other)]).await.success();
    let other_application = local.contexts("other").await[0].token.clone();
    let bad = Bad { expired, foreign, other_application };
    within(PATIENCE, "the executors of word-count are reported", async || {
        let status = local.millrace(&["status", "word-count", "--json"]).await.success().json();
        let executors = status["executors"].as_array().map_or(0, Vec::len);
        if executors == 2 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    nothing_of_the_master_is_open(&local, &bad).await;
    nothing_of_the_containers_is_open(&local, &bad).await;
    nobody_acts_for_another(&local, &bad).await;
    let admin = read_token(&local.dir().join("admin.token")).unwrap();
    no_worker_comes_in_without_the_token_of_nodes(&local, &bad, admin.reveal()).await;
    let _ = local.millrace(&["kill", "other"]).await.success();

    within(PATIENCE, "a batch is committed", async || {
        let batches = local.millrace(&["batches", "word-count", "--json"]).await.success();
        if batches.stdout.contains("num_records") { Ok(()) } else { Err(batches.to_string()) }
    })
    .await;
    let make = ["produce", "--stream", "other-lines", "--generate", "app-logs", "--count", "1"];
    let _ = local.millrace(&[&make[..], &["--create-shards", "1"]].concat()).await.success();
    names_and_revisions(&local, &submitter).await;
    the_api_by_itself(&local).await;
    the_master_fills_nothing_in(&local).await;

    let tokens = local.millrace(&["token", "list", "--json"]).await.success().json();
    let tokens = tokens.as_array().unwrap();
    let of_bob = tokens.iter().find(|token| token["name"] == "bob").unwrap();
    let id = of_bob["id"].as_str().unwrap();
    let _ = local.millrace(&["token", "revoke", id]).await.success();
    local.as_bearer(&submitter, &["nodes"]).await.assert_refused("MR2021", &["revoked"]);
    let dir = local.dir().display().to_string();
    the_audit_log_tells(&local);
    let _ = local.millrace(&["local", "down", "--dir", &dir]).await.success();
}

#[tokio::test]
async fn without_a_secret_nobody_else_reaches_the_master() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let arguments = ["--listen", listen, "--region", "us-east-1"];
        let refused =
            run(&binary("millrace-master"), &arguments, &base_environment(), PATIENCE).await;
        refused.assert_refused("MR2023", &[listen]);
    }
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().display().to_string();
    let init = ["token", "init", "--dir", &dir];
    let millrace = binary("millrace");
    let _ = run(&millrace, &init, &base_environment(), PATIENCE).await.success();
    run(&millrace, &init, &base_environment(), PATIENCE)
        .await
        .assert_refused("MR6007", &["cluster.secret"]);
    let secret = directory.path().join("cluster.secret");
    let before = std::fs::read(&secret).unwrap();
    let keep = ["token", "init", "--keep", "--dir", &dir];
    let _ = run(&millrace, &keep, &base_environment(), PATIENCE).await.success();
    assert_eq!(std::fs::read(&secret).unwrap(), before);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let secret = secret.display().to_string();
    let arguments = ["--listen", "0.0.0.0:0", "--region", "us-east-1", "--secret-file", &secret];
    let refused = run(&binary("millrace-master"), &arguments, &base_environment(), PATIENCE).await;
    refused.assert_refused("MR6005", &["644"]);
}
