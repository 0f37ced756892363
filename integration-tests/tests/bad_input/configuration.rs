//! What is wrong in the configuration of a process: named with its place before anything starts.

use std::path::Path;

use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_integration_tests::emulator;

use super::AT_ONCE;

/// A process with this configuration file and environment, to its end.
async fn start(
    program: &str,
    directory: &Path,
    file: &str,
    environment: &[(&str, &str)],
    flags: &[&str],
) -> Output {
    let path = directory.join("configuration.toml");
    std::fs::write(&path, file).expect("the temporary directory can be written to");
    let path = path.display().to_string();
    let mut arguments = vec!["--config", path.as_str()];
    arguments.extend_from_slice(flags);
    let mut all = base_environment();
    all.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    run(&binary(program), &arguments, &all, AT_ONCE).await
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_place_and_the_nearest() {
    let directory = tempfile::tempdir().unwrap();
    for (program, file, near) in [
        ("millrace-master", "listne = \"127.0.0.1:0\"", "listen"),
        ("millrace-worker", "min_fre_disk = \"1GiB\"", "min_free_disk"),
    ] {
        let output = start(program, directory.path(), file, &[], &[]).await;
        let key = file.split(' ').next().unwrap();
        output.assert_refused("MR6003", &["configuration.toml", key]);
        assert!(output.stderr.contains(&format!("did you mean {near}?")), "{output}");
    }
    for (program, variable, near) in [
        ("millrace-master", "MILLRACE_MASTER_CLUSTR", "cluster"),
        ("millrace-worker", "MILLRACE_WORKER_CORSE", "cores"),
    ] {
        let output = start(program, directory.path(), "", &[(variable, "1")], &[]).await;
        output.assert_refused("MR6003", &[variable]);
        assert!(output.stderr.contains(&format!("did you mean {near}?")), "{output}");
    }
    for program in ["millrace-master", "millrace-worker", "millrace-emulator"] {
        let flag = ["--no-such-flag"];
        let output = run(&binary(program), &flag, &base_environment(), AT_ONCE).await;
        assert_eq!(output.code, 2, "{output}");
        assert!(output.stderr.contains(flag[0]), "{output}");
    }
}

#[tokio::test]
async fn a_bad_unit_is_refused_with_key_value_and_origin() {
    let directory = tempfile::tempdir().unwrap();
    let heartbeat = "heartbeat_interval = \"5 parsecs\"";
    let output = start("millrace-master", directory.path(), heartbeat, &[], &[]).await;
    output.assert_refused("MR6004", &["heartbeat_interval", "5 parsecs", "configuration.toml"]);
    let variable = [("MILLRACE_WORKER_MEMORY", "4XB")];
    let output = start("millrace-worker", directory.path(), "", &variable, &[]).await;
    output.assert_refused("MR6004", &["memory", "4XB", "MILLRACE_WORKER_MEMORY"]);
    let flag = ["--shutdown-grace", "10"];
    let output = start("millrace-worker", directory.path(), "", &[], &flag).await;
    output.assert_refused("MR6004", &["shutdown_grace", "\"10\"", "flag --shutdown-grace"]);
    let output = start("millrace-worker", directory.path(), "cores = [1", &[], &[]).await;
    output.assert_refused("MR6004", &["configuration.toml", "not well-formed TOML"]);
}

#[tokio::test]
async fn of_two_values_the_winner_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let variable = [("MILLRACE_WORKER_CORES", "2")];
    let print = ["--print-config"];
    let output = start("millrace-worker", directory.path(), "cores = 1", &variable, &print).await;
    let output = output.success();
    let won = "cores = \"2\" (environment variable MILLRACE_WORKER_CORES) wins over \"1\" (file ";
    assert!(output.stderr.contains(won), "{output}");
    let is_cores = |line: &&str| line.starts_with("cores ");
    let line = output.stdout.lines().find(is_cores).unwrap_or_default();
    assert!(line.contains("= \"2\"  # environment variable MILLRACE_WORKER_CORES"), "{output}");
    let flags = ["--cores", "3", "--print-config"];
    let output = start("millrace-worker", directory.path(), "cores = 1", &variable, &flags).await;
    let output = output.success();
    for lost in ["\"1\" (file ", "\"2\" (environment variable MILLRACE_WORKER_CORES)"] {
        let won = format!("cores = \"3\" (flag --cores) wins over {lost}");
        assert!(output.stderr.contains(&won), "{won}: {output}");
    }
    // Who agrees is no conflict.
    let output = start("millrace-worker", directory.path(), "cores = 2", &variable, &print).await;
    assert!(!output.success().stderr.contains("wins over"));
}

#[tokio::test]
async fn a_directory_that_can_not_be_written_to_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let environment = base_environment();
    // Nobody makes a directory there, not even root.
    let flags = ["--work-dir", "/proc/millrace-work"];
    let output = run(&binary("millrace-worker"), &flags, &environment, AT_ONCE).await;
    output.assert_refused("MR6002", &["/proc/millrace-work"]);
    let file = directory.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("below").display().to_string();
    let output =
        run(&binary("millrace-worker"), &["--work-dir", &below], &environment, AT_ONCE).await;
    output.assert_refused("MR6002", &[&below]);
    let flags = ["--listen", "127.0.0.1:0", "--data-dir", &below];
    let output = run(&binary("millrace-emulator"), &flags, &environment, AT_ONCE).await;
    output.assert_refused("MR6002", &[&below]);

    let aws = emulator::start(directory.path()).await;
    let mut environment = base_environment();
    environment.extend(aws.endpoint.environment());
    let flags = ["--listen", "127.0.0.1:0", "--port-file", &below];
    let output = run(&binary("millrace-master"), &flags, &environment, AT_ONCE).await;
    output.assert_refused("MR6002", &[&below]);
}
