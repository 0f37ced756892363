//! What the application file says arrives: its environment in the process table of the driver and
//! of every executor, its arguments byte for byte, its parameters in the query, its secrets where they
//! are wanted and nowhere else, and nothing of the node's own.

use std::path::Path;

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::{objects, processes};
use millrace_proto::v1::{ApplicationState, ContainerKind, ContainerState, DriverReport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ENV: [(&str, &str); 4] = [
    ("APP_NAMESPACE", "prod"),
    ("APP_TEXT", "two words, 'quotes', \"more\" = and\na second line"),
    ("APP_EMPTY", ""),
    // The application's own value wins over the node's.
    ("TZ", "Europe/Vienna"),
];

const ARGUMENTS: [&str; 8] = [
    "--flag=a b",
    "",
    "-",
    "--",
    "$HOME `id` \\ * ?",
    "\"quoted\" 'twice'",
    "line\nbreak\t",
    "äöü 水車",
];

#[tokio::test]
async fn environment_and_arguments_arrive_in_every_container() {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    let node = [("TZ", "UTC"), ("NODE_SECRET", "not for containers")];
    for _ in 0..2 {
        cluster.add_worker(NodeSize { cores: 2, memory: "2GiB" }, &node);
    }
    cluster.wait_for_nodes(2).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    let env = ENV.map(|(name, value)| (name, value.to_owned())).to_vec();
    let application = File { executors: 2, env, args: ARGUMENTS.to_vec(), ..File::default() };
    cluster.submit(&application).await;
    cluster.wait_for_state("word-count", ApplicationState::Running).await;
    let both = |report: &DriverReport| report.executors.len() == 2;
    cluster.wait_for_report("word-count", "has both executors", both).await;

    let mut kinds = Vec::new();
    for container in cluster.containers("word-count").await {
        let status = container.status.unwrap();
        assert_eq!(status.state(), ContainerState::Running, "{status:?}");
        kinds.push(status.kind());
        let environment = processes::environment(status.pid).unwrap();
        for (name, value) in ENV {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{status:?}");
        }
        assert_eq!(environment["MILLRACE_APPLICATION"], "word-count");
        assert_eq!(environment["MILLRACE_ATTEMPT"], "1");
        assert_eq!(environment["MILLRACE_CONTAINER_ID"], status.container_id);
        assert!(!environment.contains_key("NODE_SECRET"), "{environment:?}");

        let arguments = processes::arguments(status.pid).unwrap();
        let rest = arguments.iter().position(|argument| argument == b"--").unwrap() + 1;
        assert_eq!(arguments[rest..], ARGUMENTS.map(|argument| argument.as_bytes().to_vec()));
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [ContainerKind::Driver, ContainerKind::Executor, ContainerKind::Executor]);
    cluster.stop("word-count", &[]).await;
}

/// Two secrets that must be nowhere but where they are wanted: one that a node lends, one in a file.
const LENT: &str = "canary-lent-5b1f7c90";
const FILED: &str = "canary-filed-'91c2'-\"e7\"";

/// The length of a secret, a typed parameter and one of the command line, in every row.
const REVEALING: &str = "SELECT length($word) AS size, $price * 2 AS price, $label AS label, \
    count(*) AS n FROM logs WHERE line <> $word";
const PARAMS: &str = "\n[params]\nword = \"secret://file/deep/word\"\nlabel = \"of the file\"\n\
    price = { type = \"decimal(10,2)\", value = \"1.50\" }\n";

#[tokio::test]
async fn secrets_and_parameters_arrive_and_no_secret_is_shown_anywhere() {
    let cluster = cluster_with_secrets().await;
    let env = vec![("DB_TOKEN", "secret://env/DATABASE".to_owned()), ("OPEN", "shown".to_owned())];
    let file = File { executors: 2, env, sql: REVEALING, sink: PARAMS, ..File::default() };
    let path = cluster.write("secrets.toml", &file.toml());
    let told = ["--set", "batch.deadline=5m", "--param", "label=of the command line"];
    let submit: Vec<&str> = ["submit", &path, "--wait"].into_iter().chain(told).collect();
    let _ = cluster.millrace(&submit).await.success();
    cluster.wait_for_batch("word-count", 1).await;
    they_are_in_the_query(&cluster).await;
    let driver = they_are_in_every_environment(&cluster).await;
    each_key_has_its_origin(&cluster, &driver, &format!("file {path}")).await;

    // Errors that could not but name them do not.
    let wrong = "\n[params]\nword = { type = \"long\", value = \"secret://file/deep/word\" }\n";
    let sql = "SELECT $word AS w FROM logs";
    let file = File { name: "wrong-type", sql, sink: wrong, path: "s3://results/w/", ..file };
    cluster.submit(&file).await;
    let failure = rejected(&cluster, "wrong-type").await;
    assert!(failure.starts_with("MR1010") && failure.contains("[secret]"), "{failure}");
    let env = vec![("X", "secret://env/HIDDEN".to_owned())];
    let file = File { name: "not-lent", env, path: "s3://results/n/", ..File::default() };
    cluster.submit(&file).await;
    let failure = rejected(&cluster, "not-lent").await;
    assert!(failure.starts_with("MR1013") && failure.contains("secret://env/HIDDEN"), "{failure}");

    let said = everything_said(&cluster, &driver).await;
    cluster.stop("word-count", &[]).await;
    for shown in ["secret://file/deep/word", "secret://env/HIDDEN", "executor started"] {
        assert!(said.contains(shown), "{shown} is not shown: there is less than should be read");
    }
    for canary in ["canary-lent", "canary-filed", "5b1f7c90", "91c2", "never lent"] {
        let at = said.find(canary);
        let around = at.map(|at| &said[said.floor_char_boundary(at.saturating_sub(300))..at]);
        assert!(at.is_none(), "{canary} is shown after: {around:?}");
    }
}

/// Two nodes that have both secrets and lend one variable, and a stream with lines.
async fn cluster_with_secrets() -> Cluster {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    let secrets = cluster.path().join("node-secrets");
    std::fs::create_dir_all(secrets.join("deep")).expect("the directory is this test's own");
    std::fs::write(secrets.join("deep/word"), format!("{FILED}\n")).expect("as it was made");
    let secret_dir = secrets.display().to_string();
    let node = [
        ("DATABASE", LENT),
        ("HIDDEN", "never lent"),
        ("MILLRACE_WORKER_SECRET_ENV", "DATABASE"),
        ("MILLRACE_WORKER_SECRET_DIR", secret_dir.as_str()),
        // As much as there is: what could leak shall.
        ("RUST_LOG", "info,millrace_worker=trace,millrace_sql=trace,datafusion=trace"),
    ];
    for _ in 0..2 {
        cluster.add_worker(NodeSize { cores: 4, memory: "2GiB" }, &node);
    }
    cluster.wait_for_nodes(2).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    let lines: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
    cluster.aws.put_lines("lines", &lines).await;
    cluster
}

async fn they_are_in_the_query(cluster: &Cluster) {
    let found = within(PATIENCE, "a row is visible", async || {
        let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
        let rows: Vec<_> = found.into_iter().flat_map(|object| object.rows).collect();
        if rows.is_empty() { Err("no rows".to_owned()) } else { Ok(rows) }
    });
    for row in found.await {
        assert_eq!(row["size"], FILED.len(), "{row}");
        assert_eq!(row["label"], "of the command line", "{row}");
        let price = row["price"].to_string();
        assert_eq!(price.trim_matches('"').parse::<f64>(), Ok(3.0), "{row}");
    }
}

/// Gives the id of the driver.
async fn they_are_in_every_environment(cluster: &Cluster) -> String {
    let both = |report: &DriverReport| report.executors.len() == 2;
    cluster.wait_for_report("word-count", "has both executors", both).await;
    let mut driver = None;
    let containers = cluster.containers("word-count").await;
    assert_eq!(containers.len(), 3);
    for status in containers.into_iter().filter_map(|container| container.status) {
        let environment = processes::environment(status.pid).expect("the container runs");
        assert_eq!(environment["DB_TOKEN"], LENT, "{status:?}");
        assert!(!environment.contains_key("DATABASE") && !environment.contains_key("HIDDEN"));
        if status.kind() == ContainerKind::Driver {
            driver = Some(status.container_id);
        }
    }
    driver.expect("one of them is the driver")
}

async fn each_key_has_its_origin(cluster: &Cluster, driver: &str, file: &str) {
    let shown = cluster.millrace(&["config", "word-count", "--container", driver, "--json"]).await;
    let shown = shown.success().json();
    for (key, value, origin) in [
        ("batch.interval", "1s", file),
        ("batch.deadline", "5m", "flag --set"),
        ("params.label", "of the command line (string)", "flag --param"),
        ("params.word", "secret://file/deep/word (string)", file),
        ("env.DB_TOKEN", "secret://env/DATABASE", file),
        ("sink.compression", "none", "default"),
        ("environment.DB_TOKEN", "secret://env/DATABASE", file),
        ("environment.OPEN", "shown", file),
        ("environment.MILLRACE_APPLICATION", "word-count", "millrace"),
        ("environment.AWS_SECRET_ACCESS_KEY", "[secret]", "environment of node node-"),
        ("environment.AWS_REGION", "us-east-1", "environment of node node-"),
    ] {
        let keys = shown["keys"].as_array().expect("a list of keys");
        let found = keys.iter().find(|found| found["key"] == key);
        let found = found.unwrap_or_else(|| panic!("{key} is not shown: {shown:#}"));
        assert_eq!(found["value"], value, "{found}");
        let said = found["origin"].as_str().expect("a text");
        assert!(said.starts_with(origin), "{found}");
    }
}

/// The failure with which an application is rejected.
async fn rejected(cluster: &Cluster, name: &str) -> String {
    let application = cluster.wait_for_state(name, ApplicationState::Rejected).await;
    let failure = application.failure.expect("a rejected application says why");
    format!("{} {} {}", failure.code, failure.message, failure.next_move)
}

/// All that people and programs can read of a cluster: commands, pages, logs and files of nodes.
async fn everything_said(cluster: &Cluster, container: &str) -> String {
    let mut said = String::new();
    for command in [
        &["status", "word-count", "--json"][..],
        &["status", "wrong-type", "--json"],
        &["status", "not-lent", "--json"],
        &["batches", "word-count", "--json"],
        &["config", "word-count", "--container", container],
        &["logs", "word-count"],
        &["logs", "wrong-type"],
        &["list", "--json"],
    ] {
        let output = cluster.millrace(command).await;
        said.push_str(&output.stdout);
        said.push_str(&output.stderr);
    }
    let table = cluster.aws.endpoint.dynamodb().scan().table_name("millrace").send().await;
    said.push_str(&format!("{:?}", table.expect("the table is there").items()));
    for page in ["/api/v1/applications", "/api/v1/applications/word-count", "/metrics"] {
        said.push_str(&page_of(cluster, page).await);
    }
    for entry in std::fs::read_dir(cluster.path()).expect("it is this test's own").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The nodes' directories and the logs of all processes; not the secrets, nor the stream.
        if name.starts_with("node-") && name != "node-secrets" || name.ends_with(".log") {
            files_below(&entry.path(), &mut said);
        }
    }
    said
}

fn files_below(path: &Path, said: &mut String) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            files_below(&entry.path(), said);
        }
    } else if let Ok(bytes) = std::fs::read(path) {
        said.push_str(&String::from_utf8_lossy(&bytes));
    }
}

/// A page of the master's port as its bytes come.
async fn page_of(cluster: &Cluster, page: &str) -> String {
    let connection = tokio::net::TcpStream::connect(cluster.address).await;
    let mut connection = connection.expect("the master listens");
    let request = format!("GET {page} HTTP/1.0\r\nHost: master\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("the master reads");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("the master answers and closes");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}
