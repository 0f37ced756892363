//! Each guard around the engine, with the fault it was made for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_sql::schema::BadRecordPolicy;
use millrace_worker::driver::runner::{BatchRunner, DistributedRunner, RunError};
use millrace_worker::executor::sink::StoreError;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Behaviour, Cluster, eventually, options, records, runner, source};
use crate::proxy::Proxy;

/// Queries whose scan is, and is not, below a shuffle.
const SHAPES: [&str; 3] = [
    "SELECT k, v FROM logs",
    "SELECT k, count(*) AS n FROM logs GROUP BY k",
    "SELECT v FROM logs ORDER BY v",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_loses_no_row() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 1_000, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(1_000, 1_000, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(2_000, 10, 10), Behaviour::Panic);
    for sql in SHAPES {
        let runner = runner(sql).await;
        let error = cluster.run(&runner).await.unwrap_err();
        let RunError::Query { detail, .. } = error else { panic!("{sql}: {error:?}") };
        assert!(detail.contains("on purpose"), "{sql}: {detail}");
    }
    assert!(cluster.executors[1].pool.panics() >= 3);
    assert_eq!(cluster.executors[0].pool.panics(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_with_other_counts_than_planned_is_not_committed() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 10, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(10, 10, 10), Behaviour::Good);
    let runner = runner(SHAPES[1]).await;
    let mut plan = cluster.plan();
    plan.sources[0].blocks[1].records = 11;
    let error = runner.run(plan, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Incomplete { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_is_not_there_is_named() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 10, 10), Behaviour::Good);
    let runner = runner(SHAPES[1]).await;
    let mut plan = cluster.plan();
    plan.sources[0].blocks[0].executor = 1;
    let error = runner.run(plan, CancellationToken::new()).await.unwrap_err();
    let RunError::BlockLost { block, executor, .. } = error else { panic!("{error:?}") };
    assert_eq!((block.as_str(), &*executor), ("logs-0", "app-a1-e2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_peer_is_named_within_seconds() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    let behind: std::net::SocketAddr =
        cluster.executors[1].target.url.trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::start(behind).await;
    cluster.executors[1].target.url = format!("http://{}", proxy.address).into();
    cluster.put(0, "logs", &records(0, 100, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(100, 100, 10), Behaviour::Good);
    for sql in SHAPES {
        let runner = runner(sql).await;
        cluster.run(&runner).await.unwrap();
    }
    proxy.freeze();
    for sql in SHAPES {
        let runner = runner(sql).await;
        let started = Instant::now();
        let error = cluster.run(&runner).await.unwrap_err();
        let elapsed = started.elapsed();
        let RunError::ExecutorSuspected { executor, .. } = error else {
            panic!("{sql}: {error:?}")
        };
        assert_eq!(&*executor, "app-a1-e2", "{sql}");
        // Some 4 s where there is time; not by the run's own deadline, in any case.
        assert!(elapsed < cluster.deadline / 2, "{sql}: {elapsed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_gone_is_named() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 100, 10), Behaviour::Good);
    // Bound and not listening, so that nobody else gets the port.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = nobody.local_addr().unwrap();
    cluster.executors[1].target.url = format!("http://{address}").into();
    let runner = runner(SHAPES[1]).await;
    let error = cluster.run(&runner).await.unwrap_err();
    let RunError::ExecutorSuspected { executor, .. } = error else { panic!("{error:?}") };
    assert_eq!(&*executor, "app-a1-e2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_compute_threads_do_not_look_dead() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    let busy = Behaviour::Spin(Duration::from_secs(8));
    cluster.put(0, "logs", &records(0, 100, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(100, 100, 10), busy);
    let runner = runner(SHAPES[1]).await;
    let started = Instant::now();
    let output = cluster.run(&runner).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(8));
    assert_eq!(output.sources["logs"].records, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_stops_its_producers() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    for number in 0..200 {
        let wait = Behaviour::Wait(Duration::from_millis(50));
        cluster.put(number % 2, "logs", &records(0, 10, 10), wait);
    }
    let runner = Arc::new(runner(SHAPES[1]).await);
    let (plan, cancel) = (cluster.plan(), CancellationToken::new());
    let run = tokio::spawn({
        let (runner, cancel) = (Arc::clone(&runner), cancel.clone());
        async move { runner.run(plan, cancel).await }
    });
    let gets = |cluster: &Cluster| -> u64 {
        let each = cluster.executors.iter();
        each.map(|executor| executor.blocks.num_gets.load(Ordering::SeqCst)).sum()
    };
    eventually("the scans at work", || gets(&cluster) > 4).await;
    cancel.cancel();
    assert!(matches!(run.await.unwrap(), Err(RunError::Cancelled)));
    let after = gets(&cluster);
    assert!(after < 100, "{after}");
    // Two blocks' time on each executor: whoever still reads would have been seen.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(gets(&cluster) <= after + 2, "{} after {after}", gets(&cluster));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_at_its_deadline() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.deadline = Duration::from_millis(300);
    let slow = Behaviour::Wait(Duration::from_secs(60));
    cluster.put(0, "logs", &records(0, 10, 10), slow);
    let runner = runner(SHAPES[1]).await;
    let started = Instant::now();
    let error = cluster.run(&runner).await.unwrap_err();
    assert!(matches!(error, RunError::Deadline { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_store_keep_their_code_and_are_tried_again() {
    let mut cluster = Cluster::start(&[1]).await;
    cluster.put(0, "logs", &records(0, 10, 10), Behaviour::Good);
    let runner = runner(SHAPES[0]).await;
    let error = |code: &str, retryable: bool| StoreError {
        code: code.to_owned(),
        detail: "said by the test".to_owned(),
        retryable,
        next_move: String::new(),
    };
    cluster.store.fail_next(vec![error("SlowDown", true), error("InternalError", true)]);
    assert_eq!(cluster.run(&runner).await.unwrap().rows, 10);
    cluster.store.fail_next(vec![error("AccessDenied", false)]);
    let refused = cluster.run(&runner).await.unwrap_err();
    let RunError::Sink { retryable: false, code, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(code, "AccessDenied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_fails_on_its_data_blames_no_executor() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 10, 10), Behaviour::Good);
    cluster.put(1, "logs", &records(10, 10, 10), Behaviour::Good);
    for sql in ["SELECT 1 / (v - 15) AS x FROM logs", "SELECT CAST(s AS INT) AS x FROM logs"] {
        let runner = runner(sql).await;
        let error = cluster.run(&runner).await.unwrap_err();
        assert!(matches!(error, RunError::Query { .. }), "{sql}: {error:?}");
    }
}

/// The trap that this holds shut costs 90 to 180 ms per query: a socket without TCP_NODELAY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_takes_milliseconds() {
    let mut cluster = Cluster::start(&[1, 1]).await;
    cluster.put(0, "logs", &records(0, 8, 4), Behaviour::Good);
    cluster.put(1, "logs", &records(8, 8, 4), Behaviour::Good);
    let logs = source("logs", &[("k", "long")], BadRecordPolicy::Fail);
    let sql = "SELECT k, count(*) AS n FROM logs GROUP BY k";
    let runner = DistributedRunner::prepare(options(vec![logs], sql)).await.unwrap();
    // On a busy machine most runs wait for a processor; what the path itself costs shows in the
    // fastest. With the trap open, every run is beyond the limit. A debug build plans some ten
    // times slower than the 20 ms that a release build must keep.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 60 } else { 20 });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut elapsed = Vec::new();
    while !elapsed.iter().any(|took| *took < limit) {
        assert!(Instant::now() < deadline, "no run took less than {limit:?}: {elapsed:?}");
        elapsed.push(cluster.run(&runner).await.unwrap().elapsed);
    }
}
