//! A greedy application does not stop another one on its node: what eats memory or disk is ended,
//! says how much it had and was allowed; beside what computes without end the neighbour's batches go
//! on; and it loses no record and no container. And what every container is given and has given up,
//! as the kernel sees it.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use millrace_integration_tests::application::File;
use millrace_integration_tests::checker::{self, Subject, Watcher};
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::load::Load;
use millrace_integration_tests::processes;
use millrace_proto::v1::{ApplicationState, ContainerKind, ContainerState, ContainerStatus};

/// More than the 512 MiB of its executor, from any three records.
const EATS_MEMORY: &str = "SELECT length(repeat(line, 15000000)) AS n FROM \
    (SELECT line FROM logs LIMIT 3)";
/// Ten billion hashes for each record: a batch that no core ends.
const EATS_CPU: &str = "SELECT count(*) AS n FROM logs CROSS JOIN \
    (SELECT a.value * b.value AS x FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 100000) b) s \
    WHERE md5(CAST(x AS VARCHAR)) > line";
/// Of a core, in seconds, for an executor of that query: no start takes as much.
const CPU_EATEN: f64 = 5.0;
/// What a container may have on the disk.
const DISK: &str = "24MiB";
const DISK_EATEN: usize = 32 << 20;

async fn statuses(cluster: &Cluster, application: &str) -> Vec<ContainerStatus> {
    let containers = cluster.containers(application).await;
    containers.into_iter().filter_map(|container| container.status).collect()
}

async fn live(cluster: &Cluster, application: &str) -> Vec<ContainerStatus> {
    let mut statuses = statuses(cluster, application).await;
    statuses.retain(|status| status.state() == ContainerState::Running && status.pid != 0);
    statuses
}

/// Waits until a container of the application has ended for a reason that says all of `words`.
async fn ended_for(cluster: &Cluster, application: &str, words: &[&str]) -> ContainerStatus {
    within(PATIENCE, &format!("a container of {application} is ended"), async || {
        let statuses = statuses(cluster, application).await;
        let reason = |status: &ContainerStatus| {
            status.exit.as_ref().map_or_else(String::new, |exit| exit.reason.clone())
        };
        let is_it =
            |status: &&ContainerStatus| words.iter().all(|word| reason(status).contains(word));
        let found = statuses.iter().find(is_it).cloned();
        found.ok_or_else(|| format!("{:?}", statuses.iter().map(reason).collect::<Vec<_>>()))
    })
    .await
}

#[tokio::test]
async fn greedy_applications_do_not_stop_their_neighbour() {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    let size = NodeSize { cores: 7, memory: "6GiB" };
    cluster.add_worker(size, &[("MILLRACE_WORKER_CONTAINER_DISK", DISK)]);
    cluster.wait_for_nodes(1).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    let file = File::every_record();
    let mut load = Load::start(&cluster.aws.endpoint, file.stream, "results", "every-record/");
    let watcher = Watcher::start(&Subject::of(&cluster, &file));
    // The least driver that a plan takes has to live as long as all this takes.
    let path = cluster.write("every-record.toml", &file.toml());
    let least = format!("resources.driver.memory={}", millrace_common::budget::PROCESS);
    let _ = cluster.millrace(&["submit", &path, "--set", &least]).await.success();
    cluster.wait_for_state(file.name, ApplicationState::Running).await;
    cluster.wait_for_report(file.name, "has both", |report| report.executors.len() == 2).await;
    let neighbour = live(&cluster, file.name).await;
    assert_eq!(neighbour.len(), 3, "{neighbour:?}");
    neighbour.iter().for_each(is_isolated);

    let memory = File { name: "eats-memory", executors: 1, sql: EATS_MEMORY, ..File::default() };
    let memory = File { path: "s3://results/eats-memory/", ..memory };
    cluster.submit(&memory).await;
    let ended = ended_for(&cluster, memory.name, &["MR6009", " MiB of 512 MiB memory"]).await;
    println!("{}", ended.exit.as_ref().unwrap().reason);
    assert_eq!(ended.kind(), ContainerKind::Executor);
    let _ = cluster.millrace(&["kill", memory.name]).await.success();

    let disk = File { name: "eats-disk", executors: 1, ..File::default() };
    let disk = File { path: "s3://results/eats-disk/", ..disk };
    cluster.submit(&disk).await;
    cluster.wait_for_state(disk.name, ApplicationState::Running).await;
    cluster.wait_for_report(disk.name, "has one", |report| report.executors.len() == 1).await;
    let eater = live(&cluster, disk.name).await;
    let eater = eater.iter().find(|status| status.kind() == ContainerKind::Executor).unwrap();
    // Into its own temporary directory, as a query that spills.
    let temporary = PathBuf::from(&eater.work_dir).join("tmp");
    std::fs::write(temporary.join("eaten"), vec![7; DISK_EATEN]).unwrap();
    let ended = ended_for(&cluster, disk.name, &["MR6010", " MiB of 24 MiB disk"]).await;
    println!("{}", ended.exit.as_ref().unwrap().reason);
    assert_eq!(ended.container_id, eater.container_id);
    assert!(!temporary.exists(), "what it left is removed");
    assert!(Path::new(&eater.work_dir).join("stderr.log").exists(), "and its logs are kept");
    let _ = cluster.millrace(&["kill", disk.name]).await.success();

    beside_endless_computation(&cluster, file.name).await;

    // The neighbour has the same containers, one attempt, and every record once.
    let pids = |statuses: &[ContainerStatus]| -> Vec<u32> {
        statuses.iter().map(|status| status.pid).collect()
    };
    assert_eq!(pids(&live(&cluster, file.name).await), pids(&neighbour));
    load.stop_producing();
    cluster.stop(file.name, &["--drain"]).await;
    cluster.wait_for_no_containers().await;
    let seen = watcher.stop().await.expect("the watcher saw the end");
    checker::check(&Subject::of(&cluster, &file).drained().watched(seen)).await.assert_clean();
    let left = cgroups_of_tests();
    assert!(left.is_empty(), "cgroups are left: {left:?}");
}

/// While two applications compute without end on a machine of few cores, the neighbour commits.
async fn beside_endless_computation(cluster: &Cluster, neighbour: &str) {
    let greedy = [("eats-cpu", "s3://results/eats-cpu/"), ("eats-on", "s3://results/eats-on/")];
    for (name, path) in greedy {
        let file = File { name, path, executors: 1, sql: EATS_CPU, ..File::default() };
        cluster.submit(&file).await;
    }
    for (name, _) in greedy {
        within(PATIENCE, "its executor computes", async || {
            let statuses = live(cluster, name).await;
            let executor = statuses.iter().find(|it| it.kind() == ContainerKind::Executor);
            let eaten = executor.map_or(0.0, |executor| cpu_seconds(executor.pid));
            if eaten >= CPU_EATEN { Ok(()) } else { Err(format!("{name}: {eaten} s of a core")) }
        })
        .await;
    }
    let batch = cluster.application(neighbour).await.unwrap().report.unwrap().batch;
    cluster.wait_for_batch(neighbour, batch + 5).await;
    for (name, _) in greedy {
        let eater = cluster.application(name).await.unwrap();
        assert_eq!(eater.report.unwrap().batch, 0, "{name} computes still");
        let _ = cluster.millrace(&["kill", name]).await.success();
    }
}

/// What a process took of the cores so far, in seconds; 0 when it is gone.
fn cpu_seconds(pid: u32) -> f64 {
    /// Of the kernel's clock, for what it tells of processes.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// What the kernel says of a container.
fn is_isolated(status: &ContainerStatus) {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", status.pid)).expect("it runs")
    };
    let id = &status.container_id;
    assert!(read("status").lines().any(|line| line == "NoNewPrivs:\t1"), "{id}");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(core[4..6], ["1", "1"], "{id}: no dump is as small");
    assert_eq!(read("oom_score_adj").trim(), "500", "{id}");
    let stat = read("stat");
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap();
    assert_eq!(group, status.pid.to_string(), "{id} leads a group of its own");
    let environment = processes::environment(status.pid).unwrap();
    let directory = Path::new(&status.work_dir);
    assert_eq!(Path::new(&environment["TMPDIR"]), directory.join("tmp"), "{id}");
    let mode = directory.join("tmp").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{id}: nobody else looks into it");
    let cgroups = read("cgroup");
    match cgroups.lines().find(|line| line.contains(&format!(".{id}"))) {
        Some(line) => println!("{id}: cgroup {line}"),
        None => println!("{id}: no cgroup can be made here; its memory is watched"),
    }
}

/// Cgroups of the nodes of tests that are on this machine.
fn cgroups_of_tests() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("millrace.") && name.contains(".eats-") {
                    found.push(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}
