//! Cold starts are short and an idle worker is small: measured on the real binaries, from the start
//! of the process to the moment it serves.
//!
//! The best of three is taken: another load on the machine makes a start slower, never faster.

use std::time::{Duration, Instant};

use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::{emulator, processes};

const START: Duration = Duration::from_secs(1);
const IDLE_WORKER_BYTES: u64 = 50 * 1024 * 1024;
const TRIES: usize = 3;

#[tokio::test]
async fn the_emulator_starts_in_a_second() {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let directory = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let aws = emulator::start(directory.path()).await;
        aws.endpoint.kinesis().list_streams().send().await.unwrap();
        best = best.min(started.elapsed());
    }
    println!("emulator: {best:?}");
    assert!(best < START, "{best:?}");
}

#[tokio::test]
async fn master_and_worker_start_in_a_second_and_the_worker_is_small() {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    let mut master = Duration::MAX;
    for num in 0..TRIES {
        let started = Instant::now();
        let _ended_at_once = cluster.start_master_of(&format!("startup-{num}")).await;
        master = master.min(started.elapsed());
    }
    println!("master: {master:?}");
    assert!(master < START, "{master:?}");

    let mut worker = Duration::MAX;
    for num in 1..=TRIES {
        let started = Instant::now();
        cluster.add_worker(NodeSize { cores: 1, memory: "1GiB" }, &[]);
        cluster.wait_for_nodes(num).await;
        worker = worker.min(started.elapsed());
    }
    println!("worker: {worker:?}");
    assert!(worker < START, "{worker:?}");

    for process in &cluster.workers {
        let resident = processes::resident_bytes(process.pid()).unwrap();
        // Most of what is resident is text of the program, which all its processes on a host share.
        let taken = processes::proportional_bytes(process.pid()).unwrap();
        println!("idle worker: {} MiB of {} MiB resident", taken >> 20, resident >> 20);
        assert!(taken < IDLE_WORKER_BYTES, "{taken} bytes");
    }
}
