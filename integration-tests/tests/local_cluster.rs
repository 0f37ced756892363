//! A person's first hour: a local cluster comes up with one command, takes the environment it
//! prints, runs an application, shows it, and is gone without a trace with another command.

use std::path::Path;

use millrace_integration_tests::application::File;
use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::processes;

async fn millrace(environment: &[(String, String)], arguments: &[&str]) -> Output {
    run(&binary("millrace"), arguments, environment, PATIENCE).await
}

/// What `export NAME=VALUE` lines say.
fn exports(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("export "));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
        .collect()
}

/// Ends what a failing test leaves behind.
struct Leftovers<'a>(&'a Path);

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        processes::naming(self.0).into_iter().for_each(processes::kill_by_id);
    }
}

#[tokio::test]
async fn a_local_cluster_comes_up_works_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster").display().to_string();
    let base = base_environment();
    let _leftovers = Leftovers(directory.path());
    let up = ["local", "up", "--dir", &dir, "--workers", "2", "--cores", "2"];
    let _ = millrace(&base, &up).await.success();
    millrace(&base, &up).await.assert_refused("MR6006", &[&dir]);

    let mut environment = base.clone();
    let printed = millrace(&base, &["local", "env", "--dir", &dir]).await.success();
    environment.extend(exports(&printed.stdout));
    for name in ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "MILLRACE_MASTER"] {
        assert!(environment.iter().any(|(key, _)| key == name), "no {name}: {printed}");
    }
    first_application(&environment, directory.path()).await;

    let _ = millrace(&base, &["local", "down", "--dir", &dir]).await.success();
    within(PATIENCE, "no process names the directory", async || {
        match processes::naming(directory.path()).as_slice() {
            [] => Ok(()),
            pids => Err(format!("{pids:?}")),
        }
    })
    .await;
    millrace(&base, &["local", "env", "--dir", &dir]).await.assert_refused("MR6006", &[&dir]);
}

/// The steps of the README.
async fn first_application(environment: &[(String, String)], directory: &Path) {
    let run = async |arguments: &[&str], shows: &str| {
        let output = millrace(environment, arguments).await.success();
        assert!(output.stdout.contains(shows), "no {shows:?}: {output}");
        output
    };
    run(&["nodes"], "node-1").await;
    let nodes = run(&["nodes", "--json"], "node-2").await.json();
    assert!(!nodes.is_null());
    let produce = ["produce", "--stream", "lines", "--generate", "app-logs", "--count", "500"];
    run(&[produce.as_slice(), &["--create-shards", "2"]].concat(), "").await;

    let path = directory.join("application.toml");
    std::fs::write(&path, File::default().toml()).expect("the test's directory can be written to");
    let path = path.display().to_string();
    run(&["explain", &path], "Aggregate").await;
    run(&["plan", &path], "fits: word-count starts with a driver and 2 executors").await;
    run(&["submit", "--wait", &path], "word-count").await;
    within(PATIENCE, "a batch is listed", async || {
        let batches = millrace(environment, &["batches", "word-count", "--json"]).await.success();
        if batches.stdout.contains("num_records") { Ok(()) } else { Err(batches.to_string()) }
    })
    .await;
    run(&["list"], "word-count").await;
    run(&["status", "word-count"], "running").await;
    run(&["logs", "word-count"], "").await;
    run(&["stop", "word-count"], "stopped").await;
    run(&["list"], "stopped").await;
}
