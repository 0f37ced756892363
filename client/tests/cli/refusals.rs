//! What is wrong ends with two lines, the cause and the next move, and an exit code that is not 0;
//! none of it needs a cluster.

use std::time::Duration;

use crate::support::{Said, millrace, nobody, program, run};

const GOOD: &str = r#"
name = "word-count"
[batch]
interval = "1s"
[source.logs]
stream = "app-logs"
schema = { host = "string", message = "string", latency_ms = "double" }
[query]
sql = "SELECT host, count(*) AS n FROM logs GROUP BY host"
[sink]
path = "s3://results/word-count/"
"#;

/// `millrace plan` of the good file with these flags.
async fn plan(flags: &[&str]) -> Said {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("app.toml");
    std::fs::write(&file, GOOD).unwrap();
    let arguments: Vec<_> = ["plan".as_ref(), file.as_os_str()]
        .into_iter()
        .chain(flags.iter().map(|flag| flag.as_ref()))
        .collect();
    millrace(&arguments).await
}

#[tokio::test]
async fn a_described_cluster_needs_no_other() {
    let said = plan(&["--cluster", "1x4:8GiB", "--shards", "3"]).await;
    assert!(
        said.done().contains("fits: word-count starts with a driver and 1 executor"),
        "{said:?}"
    );
    assert_eq!(said.err, "");
    let json = plan(&["--cluster", "1x4:8GiB", "--shards", "3", "--json"]).await.json();
    assert_eq!((&json["verdict"], &json["sums"]["task_cores"]), (&"fits".into(), &1.into()));
}

#[tokio::test]
async fn executors_beyond_the_cluster_end_with_exit_code_3() {
    let flags = [
        "--set",
        "resources.executors=9",
        "--cluster",
        "2x4:8GiB",
        "--shards",
        "3",
        "--nodes-lost",
    ];
    let said = plan(&[&flags[..], &["0"]].concat()).await;
    let line = said.refused(3, "MR2005");
    assert!(line.contains("need 10 cores and 2 nodes offer 8: 7 fit"), "{said:?}");
    assert!(said.out.contains("--set resources.executors=7"), "{said:?}");
    let said = plan(&[&flags[..], &["1"]].concat()).await;
    assert!(said.refused(3, "MR2005").contains("with any 1 node lost 3 fit"), "{said:?}");
    let said = plan(&["--cluster", "2x4:8", "--shards", "3"]).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("NODESxCORES:MEMORY"), "{said:?}");
}

#[tokio::test]
async fn shards_that_nobody_tells_are_unknown() {
    let said = plan(&["--cluster", "1x4:8GiB"]).await;
    assert!(said.done().contains("fits: word-count"), "{said:?}");
    assert!(said.err.contains("shards of source logs are not known"), "{said:?}");
    let said = plan(&["--cluster", "1x4:8GiB", "--shards", "log=3"]).await;
    assert!(said.refused(1, "MR1003").contains("no source log"), "{said:?}");
}

async fn explain(text: &str) -> Said {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("app.toml");
    std::fs::write(&file, text).unwrap();
    millrace(&["explain".as_ref(), file.as_os_str()]).await
}

fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    GOOD.replacen(from, to, 1)
}

fn with_sql(sql: &str) -> String {
    with("SELECT host, count(*) AS n FROM logs GROUP BY host", sql)
}

#[tokio::test]
async fn a_good_file_has_a_plan() {
    let said = explain(GOOD).await;
    assert!(said.done().contains("Aggregate"), "{said:?}");
    assert_eq!(said.err, "");
}

#[tokio::test]
async fn a_file_that_is_no_toml_is_named_with_line_and_column() {
    let said = explain(&with("[batch]", "[batch")).await;
    assert!(said.refused(1, "MR1001").contains("app.toml:3:"), "{said:?}");
}

#[tokio::test]
async fn two_sources_of_one_name_are_named_with_their_place() {
    let said = explain(&with("[query]", "[source.logs]\nstream = \"b\"\n[query]")).await;
    assert!(said.refused(1, "MR1001").contains("app.toml:8:"), "{said:?}");
}

#[tokio::test]
async fn an_unknown_key_is_named_with_the_nearest_one() {
    let said = explain(&with("interval", "intervall")).await;
    assert!(said.refused(1, "MR1002").contains("app.toml:4:1"), "{said:?}");
    assert!(said.err.contains("did you mean `interval`"), "{said:?}");
}

#[tokio::test]
async fn an_unknown_column_is_named_with_candidates() {
    let said = explain(&with_sql("SELECT hots FROM logs")).await;
    assert!(said.refused(1, "MR1004").contains("hots"), "{said:?}");
    assert!(said.err.contains("host"), "{said:?}");
}

#[tokio::test]
async fn sql_that_does_not_parse_is_refused() {
    let said = explain(&with_sql("SELECT host FRM logs WHERE")).await;
    said.refused(1, "MR1005");
}

#[tokio::test]
async fn a_type_that_does_not_fit_is_refused() {
    let said = explain(&with_sql("SELECT sum(message) AS n FROM logs")).await;
    said.refused(1, "MR1006");
}

#[tokio::test]
async fn intervals_that_are_none_are_refused() {
    for interval in ["0s", "-1s", "1", "99999999999999999999s"] {
        let said = explain(&with("\"1s\"", &format!("{interval:?}"))).await;
        said.refused(1, "MR1003");
    }
}

#[tokio::test]
async fn sink_paths_that_are_none_are_refused() {
    for path in ["s3://results/../other/", "/tmp/results/", "s3://"] {
        let said = explain(&with("s3://results/word-count/", path)).await;
        assert!(said.refused(1, "MR1003").contains(path), "{said:?}");
    }
}

#[tokio::test]
async fn settings_change_the_file_before_it_is_checked() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("app.toml").display().to_string();
    std::fs::write(&file, GOOD).unwrap();
    millrace(&["explain", &file, "--set", "batch.interval=5s"]).await.done();
    let said = millrace(&["explain", &file, "--set", "batch.intervall=5s"]).await;
    said.refused(1, "MR1002");
    let said = millrace(&["explain", &file, "--set", "batch.interval"]).await;
    assert!(said.refused(1, "MR1003").contains("--set batch.interval"), "{said:?}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let said = millrace(&["submit", "/nowhere/app.toml"]).await;
    assert!(said.refused(1, "MR6005").contains("/nowhere/app.toml"), "{said:?}");
}

#[tokio::test]
async fn a_wrong_file_is_found_before_the_master_is_asked() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("app.toml").display().to_string();
    std::fs::write(&file, with_sql("SELECT hots FROM logs")).unwrap();
    millrace(&["submit", &file, "--master", "127.0.0.1:9"]).await.refused(1, "MR1004");
}

/// How long a master that may be restarting is waited for, and some room for a busy machine.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_master_that_is_not_there_is_named_and_waited_for_a_while() {
    let (_silent, address) = nobody();
    let said = millrace(&["list", "--master", &address]).await;
    let line = said.refused(1, "MR2001");
    assert!(line.contains(&address) && line.contains("refused"), "{said:?}");
    assert!(said.took < GIVEN_UP_WITHIN, "{said:?}");
    assert!(said.err.contains("MILLRACE_MASTER"), "{said:?}");
    let first = said.err.lines().next().unwrap();
    assert!(first.starts_with("warning: ") && first.contains(&address), "{said:?}");
    assert!(first.ends_with("waiting for it, 10 s at most"), "{said:?}");
    assert_eq!(said.err.lines().count(), 3, "it is said once: {said:?}");
}

#[tokio::test]
async fn a_listener_that_says_nothing_is_no_master() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let said = millrace(&["list", "--master", &address]).await;
    assert!(said.refused(1, "MR2001").contains(&address), "{said:?}");
    assert!(said.took < GIVEN_UP_WITHIN, "{said:?}");
}

#[tokio::test]
async fn a_listener_that_speaks_http_1_is_no_master() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.ok();
        }
    });
    let said = millrace(&["list", "--master", &address]).await;
    assert!(said.refused(1, "MR2001").contains(&address), "{said:?}");
    server.abort();
}

#[tokio::test]
async fn text_that_is_no_address_is_refused() {
    let said = millrace(&["list", "--master", "not an address"]).await;
    said.refused(1, "MR1003");
}

#[tokio::test]
async fn a_reset_without_a_terminal_needs_yes() {
    let said = millrace(&["reset", "word-count", "--to", "earliest"]).await;
    assert!(said.refused(1, "MR6007").contains("word-count"), "{said:?}");
    assert!(said.err.contains("--yes"), "{said:?}");
}

#[tokio::test]
async fn errors_for_programs_are_one_object() {
    let (_silent, address) = nobody();
    let said = millrace(&["list", "--json", "--master", &address]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["code"], "MR2001");
    assert_eq!(error["exit_code"], 1);
    assert!(error["message"].as_str().unwrap().contains(&address), "{said:?}");
    assert!(!error["next"].as_str().unwrap().is_empty(), "{said:?}");
}

#[tokio::test]
async fn a_wrong_command_line_is_one_object_too() {
    for (line, names) in [
        (&["--json", "batches", "wc", "--limit", "0"][..], "--limit"),
        (&["logs", "wc", "--jsn", "--json"], "--jsn"),
        (&["--json"], "command"),
    ] {
        let said = millrace(line).await;
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
        let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
        assert_eq!((&error["code"], &error["exit_code"]), (&"MR1003".into(), &2.into()));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(names) && !message.contains("Usage"), "{said:?}");
        assert!(!message.contains("error:"), "{said:?}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_has_exit_code_2() {
    for line in ["", "sumbit", "stop", "reset a --to noon", "stop a --deadline 5s", "produce"] {
        let arguments: Vec<_> = line.split_whitespace().collect();
        let said = millrace(&arguments).await;
        assert_eq!(said.code, Some(2), "{line}: {said:?}");
        assert_eq!(said.out, "", "{line}");
    }
}

#[tokio::test]
async fn aws_without_a_region_is_said_at_once() {
    let said = millrace(&["init"]).await;
    assert!(said.err.contains("AWS_REGION"), "{said:?}");
    said.refused(1, "MR3006");
}

#[tokio::test]
async fn an_s3_path_that_is_none_is_refused() {
    let said = millrace(&["ls", "results/word-count"]).await;
    assert!(said.refused(1, "MR1003").contains("results/word-count"), "{said:?}");
}

/// Runs a command whose AWS takes connections and never says a word; gives the endpoint too.
async fn in_vain(arguments: &[&str]) -> (Said, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    (run(&program(), arguments, &environment).await, endpoint)
}

/// The promise is 20 s; the rest is for a busy machine.
const IN_VAIN_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_named_and_given_up_on() {
    let (said, endpoint) = in_vain(&["cat", "s3://results/word-count/part"]).await;
    said.refused(1, "MR3008");
    let waiting = format!("waiting for an answer of {endpoint}");
    assert_eq!(said.err.lines().filter(|line| *line == waiting).count(), 1, "{said:?}");
    assert!(said.took < IN_VAIN_WITHIN, "{said:?}");
}

#[tokio::test]
async fn many_calls_in_vain_take_no_longer_than_one() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("app.toml");
    std::fs::write(&file, GOOD).unwrap();
    let (said, _) = in_vain(&["preflight", &file.display().to_string(), "--json"]).await;
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((said.code, &error["code"]), (Some(1), &"MR3012".into()), "{said:?}");
    assert!(said.took < IN_VAIN_WITHIN, "{said:?}");
    let found: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let failed = found["findings"].as_array().unwrap().iter();
    assert!(failed.filter(|finding| finding["verdict"] == "failed").count() > 6, "{said:?}");
}

#[tokio::test]
async fn completions_know_every_command() {
    let said = millrace(&["completion", "bash"]).await;
    for command in ["submit", "batches", "produce", "local", "explain", "reset"] {
        assert!(said.done().contains(command), "{command} is not completed");
    }
}

#[tokio::test]
async fn every_example_has_a_plan() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut seen = 0;
    let files = std::fs::read_dir(examples).unwrap().map(|e| e.unwrap().path().join("app.toml"));
    // That of Python is a program.
    for file in files.filter(|file| !file.parent().is_some_and(|of| of.ends_with("python"))) {
        let said = millrace(&["explain".as_ref(), file.as_os_str()]).await;
        assert!(said.done().contains("BlockScanExec"), "{}: {said:?}", file.display());
        seen += 1;
    }
    assert!(seen >= 3, "{seen} examples");
}
