//! `millrace local` when something is in its way: nothing is left running, and the cause is shown.
//! Programs that play the cluster's parts are shell scripts; the real ones are tested end to end.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{Said, program, run};
use tempfile::TempDir;

/// A directory with `millrace` in it, away from the other programs of the build.
fn away() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let own = temp.path().join("millrace");
    if std::fs::hard_link(program(), &own).is_err() {
        std::fs::copy(program(), &own).unwrap();
    }
    (temp, own)
}

fn script(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn local(own: &Path, command: &str) -> Said {
    let cluster = own.with_file_name("cluster").display().to_string();
    let arguments = ["local", command, "--dir", &cluster];
    run(own, &arguments, &[("PATH", "/usr/bin:/bin")]).await
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let (_temp, own) = away();
    let said = local(&own, "up").await;
    assert!(said.refused(1, "MR6006").contains("millrace-emulator"), "{said:?}");
}

#[tokio::test]
async fn an_emulator_that_fails_is_shown_with_its_last_words() {
    let (temp, own) = away();
    script(temp.path(), "millrace-emulator", "echo the disk is full >&2; exit 3");
    script(temp.path(), "millrace-master", "exit 0");
    script(temp.path(), "millrace-worker", "exit 0");
    let said = local(&own, "up").await;
    assert!(said.refused(1, "MR6006").contains("emulator has ended"), "{said:?}");
    assert!(said.err.contains("the disk is full"), "{said:?}");
    assert!(!temp.path().join("cluster/cluster.json").exists(), "nothing is recorded");
}

#[tokio::test]
async fn a_later_part_that_fails_takes_the_earlier_ones_down() {
    let (temp, own) = away();
    // The address is no server's, so that making the table fails while the emulator lives.
    let pid = temp.path().join("pid");
    let text = format!(
        "echo $$ > {}; printf 127.0.0.1:9 > \"$6.new\"; mv \"$6.new\" \"$6\"; \
         exec sleep 600",
        pid.display()
    );
    script(temp.path(), "millrace-emulator", &text);
    script(temp.path(), "millrace-master", "exit 0");
    script(temp.path(), "millrace-worker", "exit 0");
    let said = local(&own, "up").await;
    said.refused(1, "MR3008");
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!lives(pid.trim()), "process {pid} is left");
    assert!(!temp.path().join("cluster/cluster.json").exists(), "nothing is recorded");
}

/// True while the process is there and no zombie (nobody waits for it any more).
fn lives(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn nothing_there_is_said() {
    let (_temp, own) = away();
    local(&own, "env").await.refused(1, "MR6006");
    local(&own, "status").await.refused(1, "MR6006");
    let down = local(&own, "down").await;
    assert_eq!(down.done(), "", "down has nothing to do, which is no error");
    assert!(down.err.contains("no local cluster"), "{down:?}");
}

#[tokio::test]
async fn a_record_of_processes_that_ended_is_not_taken_for_a_cluster() {
    let (temp, own) = away();
    let cluster = temp.path().join("cluster");
    std::fs::create_dir(&cluster).unwrap();
    // Our own process id with another start: it must not be signalled.
    let record = format!(
        r#"{{"endpoint":"http://127.0.0.1:1","master":"http://127.0.0.1:2","processes":[
            {{"role":"emulator","pid":{},"identity":"earlier","log":"/tmp/log"}}]}}"#,
        std::process::id()
    );
    std::fs::write(cluster.join("cluster.json"), record).unwrap();
    local(&own, "env").await.refused(1, "MR6006");
    let down = local(&own, "down").await;
    assert!(down.done().contains("ended 0 processes"), "{down:?}");
    assert!(!cluster.join("cluster.json").exists());
}
