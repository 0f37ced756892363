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

#[tokio::test]
async fn a_local_cluster_comes_up_works_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster").display().to_string();
    let base = base_environment();
    let up = ["local", "up", "--dir", &dir, "--workers", "2", "--cores", "2"];
    let _ = millrace(&base, &up).await.success();
    millrace(&base, &up).await.assert_refused("MR6006", &[&dir]);

    let outcome = first_application(&base, &dir, directory.path()).await;
    let _ = millrace(&base, &["local", "down", "--dir", &dir]).await.success();
    within(PATIENCE, "no process names the directory", async || {
        match processes::naming(directory.path()).as_slice() {
            [] => Ok(()),
            pids => Err(format!("{pids:?}")),
        }
    })
    .await;
    outcome.unwrap();
    millrace(&base, &["local", "env", "--dir", &dir]).await.assert_refused("MR6006", &[&dir]);
}

/// The steps of the README. An `Err` instead of a panic, so that the cluster is always taken down.
async fn first_application(
    base: &[(String, String)],
    dir: &str,
    directory: &Path,
) -> Result<(), String> {
    let mut environment = base.to_vec();
    let printed = millrace(base, &["local", "env", "--dir", dir]).await;
    environment.extend(exports(&printed.stdout));
    for name in ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "MILLRACE_MASTER"] {
        if !environment.iter().any(|(key, _)| key == name) {
            return Err(format!("{name} is not exported: {printed}"));
        }
    }
    let expect = |output: Output, text: &str| {
        let fits = output.code == 0 && output.stdout.contains(text);
        if fits { Ok(output) } else { Err(format!("no {text:?}: {output}")) }
    };
    expect(millrace(&environment, &["nodes"]).await, "node-1")?;
    let nodes = expect(millrace(&environment, &["nodes", "--json"]).await, "node-2")?;
    serde_json::from_str::<serde_json::Value>(&nodes.stdout)
        .map_err(|e| format!("{e}: {nodes}"))?;

    let produce = ["produce", "--stream", "lines", "--generate", "app-logs", "--count", "500"];
    let produce = [produce.as_slice(), &["--create-shards", "2"]].concat();
    expect(millrace(&environment, &produce).await, "")?;
    let path = directory.join("application.toml");
    std::fs::write(&path, File::default().toml()).map_err(|error| error.to_string())?;
    let path = path.display().to_string();
    expect(millrace(&environment, &["explain", &path]).await, "Aggregate")?;
    expect(millrace(&environment, &["submit", "--wait", &path]).await, "word-count")?;
    within(PATIENCE, "a batch is listed", async || {
        expect(millrace(&environment, &["batches", "word-count", "--json"]).await, "number")
    })
    .await;
    expect(millrace(&environment, &["list"]).await, "word-count")?;
    expect(millrace(&environment, &["status", "word-count"]).await, "running")?;
    expect(millrace(&environment, &["stop", "word-count"]).await, "stopped")?;
    expect(millrace(&environment, &["list"]).await, "stopped")?;
    Ok(())
}
