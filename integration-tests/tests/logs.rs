//! Logs through the master's port: a line that a container on any node writes is seen within two
//! seconds, can be searched, is there after the application and after a restart of the master; who
//! follows gets each line once, whatever becomes of the master meanwhile; and a log takes no more of its node's disk than it may.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::command::binary;
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::processes::Process;
use millrace_proto::v1::{ApplicationState, ContainerState};

const APP: &str = "word-count";
/// The promise.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// The machine may be busy with something else for once.
const TRIES: usize = 5;
/// Times so far apart, in milliseconds, may be told in either order.
const SAME_TIME_MS: i64 = 100;
/// Lines that each container writes at a time.
const COUNTED: usize = 40;
const LOG_MAX: u64 = 256 << 10;
/// What the file system may need beside, and what is written between two looks.
const ALLOWANCE: u64 = 64 << 10;

/// A live container and where it writes.
struct Writer {
    id: String,
    node: String,
    log: PathBuf,
}

impl Writer {
    /// Writes lines as the container itself does: at the end of its standard error.
    fn write(&self, lines: &str) {
        let file = std::fs::OpenOptions::new().append(true).open(&self.log);
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
    }
}

async fn writers(cluster: &Cluster) -> Vec<Writer> {
    let live = cluster.containers(APP).await.into_iter().filter_map(|container| {
        let status = container.status?;
        let is_live = status.state() == ContainerState::Running;
        let log = PathBuf::from(&status.work_dir).join("stderr.log");
        is_live.then_some(Writer { id: status.container_id, node: container.node_id, log })
    });
    live.collect()
}

/// The lines of `millrace logs --json` with these flags: container, node, line.
async fn lines(cluster: &Cluster, flags: &[&str]) -> Vec<serde_json::Value> {
    let arguments: Vec<&str> = ["logs", APP, "--json"].iter().chain(flags).copied().collect();
    let said = cluster.millrace(&arguments).await.success();
    said.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// How long it took until a line of each container was shown.
async fn time_to_see(follower: &Process, writers: &[Writer], try_number: usize) -> Duration {
    let canary = |writer: &Writer| format!("canary {try_number} of {}", writer.id);
    let began = Instant::now();
    writers.iter().for_each(|writer| writer.write(&format!("{}\n", canary(writer))));
    within(PATIENCE, "every line is shown", async || {
        let log = follower.log();
        let is_shown = |writer: &&Writer| {
            let wanted = format!(" {} | {}", writer.id, canary(writer));
            log.lines().any(|line| line.ends_with(&wanted))
        };
        match writers.iter().find(|writer| !is_shown(writer)) {
            None => Ok(()),
            Some(missing) => Err(format!("nothing of {} yet", missing.id)),
        }
    })
    .await;
    began.elapsed()
}

#[tokio::test]
async fn logs_of_every_node_are_read_through_the_master() {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    for _ in 0..2 {
        let size = NodeSize { cores: 2, memory: "2GiB" };
        cluster.add_worker(size, &[("MILLRACE_WORKER_LOG_MAX", "256KiB")]);
    }
    cluster.wait_for_nodes(2).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    cluster.submit(&File::default()).await;
    cluster.wait_for_state(APP, ApplicationState::Running).await;
    cluster.wait_for_report(APP, "has both executors", |report| report.executors.len() == 2).await;
    let writers = writers(&cluster).await;
    let nodes: BTreeSet<&str> = writers.iter().map(|writer| writer.node.as_str()).collect();
    assert_eq!((writers.len(), nodes.len()), (3, 2), "driver and executors lie on both nodes");

    let mut environment = cluster.caller.environment();
    environment.push(("MILLRACE_MASTER".to_owned(), cluster.masters()));
    let follow = ["logs", APP, "-f"];
    let follower =
        Process::spawn("follower", &binary("millrace"), &follow, &environment, cluster.path());
    let mut best = Duration::MAX;
    for try_number in 0..TRIES {
        best = best.min(time_to_see(&follower, &writers, try_number).await);
        if best < SEEN_WITHIN {
            break;
        }
    }
    println!("a line of each container was shown after {best:?}");
    assert!(best < SEEN_WITHIN, "{best:?}");
    goes_on_under_another_master(&mut cluster, &follower, &writers).await;
    drop(follower);

    is_searched(&cluster, &writers).await;
    is_kept_small(&cluster, &writers[0]).await;

    cluster.stop(APP, &[]).await;
    cluster.master.kill();
    cluster.restart_master().await;
    cluster.wait_for_nodes(2).await;
    let found = lines(&cluster, &["--grep", "^canary 0"]).await;
    let found: BTreeSet<&str> =
        found.iter().filter_map(|line| line["container_id"].as_str()).collect();
    // That of the first has made place for newer lines.
    let kept: BTreeSet<&str> = writers[1..].iter().map(|writer| writer.id.as_str()).collect();
    assert_eq!(found, kept, "the lines outlive application and master");
}

/// The master is killed, and ended in order, while everybody writes.
async fn goes_on_under_another_master(
    cluster: &mut Cluster,
    follower: &Process,
    writers: &[Writer],
) {
    let mut number = 0;
    let mut write = || {
        for _ in 0..COUNTED {
            for writer in writers {
                writer.write(&format!("count {number:04} of {}\n", writer.id));
            }
            number += 1;
        }
        number
    };
    write();
    cluster.master.kill();
    write();
    cluster.restart_master().await;
    let written = write();
    each_line_is_shown_once(follower, writers, written).await;
    let ended = cluster.master.terminate(PATIENCE).await;
    assert!(ended.success(), "{ended}");
    write();
    cluster.restart_master().await;
    let written = write();
    each_line_is_shown_once(follower, writers, written).await;
    assert!(follower.log().contains("waiting for it, 60 s at most"), "{}", follower.log());
    cluster.wait_for_nodes(2).await;
}

async fn each_line_is_shown_once(follower: &Process, writers: &[Writer], written: usize) {
    let shown = |log: &str, writer: &Writer| -> Vec<usize> {
        let (begin, end) = (format!(" {} | count ", writer.id), format!(" of {}", writer.id));
        let numbers = log
            .lines()
            .filter_map(|line| line.split_once(&begin)?.1.strip_suffix(&end)?.parse().ok());
        numbers.collect()
    };
    within(PATIENCE, "the last line of each container is shown", async || {
        let log = follower.log();
        let late = writers.iter().find(|writer| !shown(&log, writer).contains(&(written - 1)));
        late.map_or(Ok(()), |late| Err(format!("that of {} is not, of {written}", late.id)))
    })
    .await;
    let log = follower.log();
    for writer in writers {
        let numbers = shown(&log, writer);
        assert!(numbers.iter().copied().eq(0..written), "{}: {numbers:?}\n{log}", writer.id);
    }
}

async fn is_searched(cluster: &Cluster, writers: &[Writer]) {
    let all = lines(cluster, &[]).await;
    let levels: BTreeSet<&str> = all.iter().filter_map(|line| line["level"].as_str()).collect();
    assert!(levels.contains("info"), "{levels:?}");
    let times: Vec<i64> = all.iter().filter_map(|line| line["time_ms"].as_i64()).collect();
    assert_eq!(times.len(), all.len(), "every line has a time");
    // Threads of one container may take their times and write in another order.
    let is_in_order = times.windows(2).all(|pair| pair[0] <= pair[1] + SAME_TIME_MS);
    assert!(is_in_order, "the lines of all containers come in the order of time: {times:?}");

    let found = lines(cluster, &["--grep", "^canary 0 of [a-z0-9-]+$"]).await;
    let found: BTreeSet<(&str, &str)> = found
        .iter()
        .map(|line| (line["container_id"].as_str().unwrap(), line["node_id"].as_str().unwrap()))
        .collect();
    let wanted: BTreeSet<(&str, &str)> =
        writers.iter().map(|writer| (writer.id.as_str(), writer.node.as_str())).collect();
    assert_eq!(found, wanted);

    let ago = lines(cluster, &["--since", "1h"]).await;
    assert!(ago.len() >= all.len(), "all of it is younger than an hour");
    // The last line by its time: what the application says afterwards is older.
    writers[1].write("2100-01-01T00:00:00Z  WARN test: from afar\n");
    let late = lines(cluster, &["--since", "2099-12-31T23:59:59Z"]).await;
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!(
        (&late[0]["level"], &late[0]["container_id"]),
        (&"warn".into(), &writers[1].id.clone().into())
    );

    let refused = cluster.millrace(&["logs", APP, "--grep", "("]).await;
    refused.assert_refused("MR1003", &["\"(\""]);
}

/// Far more than the log may hold is written to it.
async fn is_kept_small(cluster: &Cluster, writer: &Writer) {
    let mut number = 0;
    for _ in 0..16 {
        let lines: Vec<String> =
            (0..2_000).map(|n| format!("filling {:08}\n", number + n)).collect();
        writer.write(&lines.concat());
        number += lines.len();
    }
    let written = number * "filling 00000000\n".len();
    assert!(written as u64 > 2 * LOG_MAX);
    within(PATIENCE, "the log is small again", async || {
        let metadata = writer.log.metadata().map_err(|error| error.to_string())?;
        let on_disk = metadata.blocks() * 512;
        if on_disk <= LOG_MAX + ALLOWANCE { Ok(()) } else { Err(format!("{on_disk} bytes")) }
    })
    .await;
    let kept = lines(cluster, &["--container", &writer.id]).await;
    let texts: Vec<&str> = kept.iter().filter_map(|line| line["line"].as_str()).collect();
    assert!(texts[0].ends_with("bytes of this log are kept no more"), "{}", texts[0]);
    let newest = format!("filling {:08}", number - 1);
    assert!(texts.contains(&newest.as_str()), "the newest lines are kept");
    let filling = texts.iter().filter(|text| text.starts_with("filling "));
    assert!(filling.clone().all(|text| text.len() == newest.len()), "no line is cut");
    let filling: Vec<&&str> = filling.collect();
    assert!(filling.is_sorted(), "in their order");
}
