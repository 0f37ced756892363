//! Whole drivers against a fake world: every record becomes visible exactly once, whatever happens.

use std::collections::BTreeSet;
use std::future::Future;

use millrace_common::actors;
use millrace_common::application::parse_toml;
use millrace_common::clock::Clock as _;

use millrace_common::error::Code;

use super::*;
use crate::driver::runner::RunError;
use crate::driver::testing::{
    Fake, FakeExecutor, FakeMaster, TurnedClock, bad_record, eventually, query_error, slow_down,
};

const FILE: &str = r#"
name = "app"
[resources]
executors = 2
[batch]
interval = "100ms"
[source.logs]
type = "kinesis"
stream = "app-logs"
start = "earliest"
format = "text"
[query]
sql = "SELECT line FROM logs"
[sink]
type = "s3"
path = "s3://results/app/"
format = "json"
"#;

/// A test runs in an actix system on a runtime of two threads, as the driver does.
fn in_system(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    actors::block_on(runtime, async {
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, test).await.expect("the test takes too long");
    });
}

struct Running {
    master: FakeMaster,
    address: String,
    end: tokio::task::JoinHandle<End>,
}

fn launch(master: &FakeMaster, epoch: u64) -> v1::LaunchContext {
    v1::LaunchContext {
        container_id: "app-a1-driver".into(),
        application: "app".into(),
        attempt: 1,
        epoch,
        cluster: "local".into(),
        master_address: master.address.clone(),
        term: 1,
        host: "127.0.0.1".into(),
        ..Default::default()
    }
}

async fn start(fake: &Fake, epoch: u64) -> Running {
    start_with(fake, epoch, FILE).await
}

async fn start_with(fake: &Fake, epoch: u64, file: &str) -> Running {
    start_in(fake.world(), epoch, file).await
}

async fn start_in(world: World, epoch: u64, file: &str) -> Running {
    let master = FakeMaster::start().await;
    let spec = parse_toml("app.toml", file, &[]).unwrap();
    let driver = run(launch(&master, epoch), spec, world, CancellationToken::new());
    let end = tokio::task::spawn_local(driver);
    eventually("the driver asks for executors", || master.driver_at_work().is_some()).await;
    let address = master.driver_at_work().unwrap();
    Running { master, address, end }
}

impl Running {
    async fn executor(&self, fake: &Fake, name: &str) -> FakeExecutor {
        self.master.grant(name).await;
        FakeExecutor::start(fake, &self.address, name, false)
    }

    async fn stop(self) -> (End, v1::DriverFinished) {
        self.master.stop(false, 0).await;
        let end = self.end.await.unwrap();
        (end, self.master.finished().expect("the master heard of the end"))
    }
}

#[test]
fn the_next_revision_is_looked_at_while_this_one_goes_on() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the first batch", || fake.visible().len() == 10).await;
        let look = async |revision: u32, file: &str| {
            let spec = Some(parse_toml("app.toml", file, &[]).unwrap().to_proto());
            let check = Box::new(v1::CheckSpec { revision, spec });
            driver.master.send(Command::CheckSpec(check)).await;
            let is_told = || driver.master.checked().is_some_and(|told| told.revision == revision);
            eventually("an answer", is_told).await;
            driver.master.checked().unwrap().failure.map(|failure| failure.code)
        };
        assert_eq!(look(2, &FILE.replace("100ms", "200ms")).await, None);
        // The head holds positions of `logs`, which the next one would not have.
        let renamed =
            FILE.replace("source.logs", "source.lines").replace("FROM logs", "FROM lines");
        assert_eq!(look(3, &renamed).await.as_deref(), Some(Code::SourceChanged.as_str()));
        fake.put("a", 10..15);
        eventually("it goes on", || fake.visible().len() == 15).await;
        let (end, _) = driver.stop().await;
        assert!(matches!(end, End::Stopped), "{end:?}");
    });
}

#[test]
fn batches_are_cut_run_and_committed_and_a_stop_leaves_nothing_pending() {
    in_system(async {
        let fake = Fake::with_shards(&["a", "b"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the first batch", || fake.visible().len() == 10).await;
        let _e2 = driver.executor(&fake, "app-a1-e2").await;
        eventually("two receivers", || {
            driver.master.report().is_some_and(|report| report.receivers.len() == 2)
        })
        .await;
        fake.put("a", 10..15);
        fake.put("b", 15..20);
        eventually("more batches", || fake.visible().len() == 20).await;
        eventually("the master hears of all", || {
            driver.master.batches().iter().map(|batch| batch.num_records).sum::<u64>() == 20
        })
        .await;
        let numbers: Vec<u64> = driver.master.batches().iter().map(|batch| batch.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        eventually("the blocks are dropped", || fake.num_blocks() == 0).await;
        let report = driver.master.report().unwrap();
        assert_eq!((report.task_cores_total, report.num_shards), (4, 2));
        let (end, finished) = driver.stop().await;
        assert!(matches!(end, End::Stopped), "{end:?}");
        assert_eq!(finished.state(), v1::ApplicationState::Stopped);
        assert_eq!(fake.visible(), (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn nothing_new_makes_no_batch() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..3);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the batch", || fake.visible().len() == 3).await;
        eventually("the master has heard of it", || driver.master.batches().len() == 1).await;
        // Some more intervals pass.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(driver.master.batches().len(), 1);
        driver.stop().await;
    });
}

#[test]
fn a_batch_is_marked_as_published_once_when_no_other_follows() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..3);
        let clock = TurnedClock::shared();
        let world = World { clock: clock.clone(), ..fake.world() };
        let driver = start_in(world, 1, FILE).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the batch", || fake.visible().len() == 3).await;
        // It may have rested meanwhile, should this machine be slow; else it is made to.
        eventually("the mark", || {
            clock.turn(Duration::from_secs(1));
            fake.marks() == (1, true)
        })
        .await;
        for _ in 0..100 {
            clock.turn(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What is committed meanwhile says how long the shard was idle, and has no files.
        assert_eq!(fake.marks().0, 1, "one write for one rest");
        driver.stop().await;
    });
}

#[test]
fn a_killed_executors_blocks_are_read_again() {
    in_system(async {
        let fake = Fake::with_shards(&["a", "b", "c", "d"]);
        let driver = start(&fake, 1).await;
        let e1 = driver.executor(&fake, "app-a1-e1").await;
        let _e2 = driver.executor(&fake, "app-a1-e2").await;
        eventually("both read", || {
            driver.master.report().is_some_and(|report| report.receivers.len() == 2)
        })
        .await;
        fake.hold_runs(true);
        for (number, shard) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let first = number as u64 * 10;
            fake.put(shard, first..first + 10);
        }
        eventually("a run begins", || fake.num_runs() > 0).await;
        drop(e1);
        driver.master.end("app-a1-e1").await;
        eventually("the run is begun again", || fake.num_runs() > 1).await;
        fake.hold_runs(false);
        eventually("everything is visible", || fake.visible().len() >= 40).await;
        assert_eq!(fake.visible(), (0..40).collect::<Vec<_>>());
        fake.put("a", 40..50);
        eventually("the shard has moved", || fake.visible().len() == 50).await;
        driver.stop().await;
        assert_eq!(fake.visible(), (0..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_silent_executor_is_given_back_and_its_shards_move() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start(&fake, 1).await;
        let e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("it reads", || {
            driver.master.report().is_some_and(|report| report.receivers.len() == 1)
        })
        .await;
        // The master does not hear of this death.
        drop(e1);
        eventually("it is given back", || driver.master.released() == ["app-a1-e1"]).await;
        let _e2 = driver.executor(&fake, "app-a1-e2").await;
        fake.put("a", 0..5);
        eventually("the other reads on", || fake.visible().len() == 5).await;
        driver.stop().await;
    });
}

#[test]
fn an_executor_that_is_to_go_is_given_back_when_nothing_needs_it() {
    in_system(async {
        let fake = Fake::with_shards(&["a", "b"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the first batch", || fake.visible().len() == 10).await;
        let _e2 = driver.executor(&fake, "app-a1-e2").await;
        eventually("two receivers", || {
            driver.master.report().is_some_and(|report| report.receivers.len() == 2)
        })
        .await;
        // A run that uses it goes on to its end.
        fake.hold_runs(true);
        let runs = fake.num_runs();
        fake.put("a", 10..15);
        fake.put("b", 15..20);
        eventually("a run begins", || fake.num_runs() > runs).await;
        driver.master.retire("app-a1-e1").await;
        eventually("its shards have moved", || {
            let report = driver.master.report().unwrap();
            report.receivers.iter().all(|receiver| receiver.container_id == "app-a1-e2")
        })
        .await;
        assert_eq!(driver.master.released(), Vec::<String>::new(), "while a run uses it");
        fake.hold_runs(false);
        eventually("it is given back", || driver.master.released() == ["app-a1-e1"]).await;
        fake.put("a", 20..30);
        eventually("the other reads on", || fake.visible().len() == 30).await;
        let report = driver.master.report().unwrap();
        assert_eq!(report.executors.len(), 1);
        let num_runs: u32 = driver.master.batches().iter().map(|batch| batch.num_runs - 1).sum();
        assert_eq!(num_runs, 0, "no batch was run twice");
        driver.stop().await;
        assert_eq!(fake.visible(), (0..30).collect::<Vec<_>>());
    });
}

#[test]
fn a_source_goes_on_behind_the_leases_of_the_kcl() {
    in_system(async {
        let fake = Fake::with_shards(&["a", "b", "c"]);
        fake.put("a", 0..10);
        fake.put("b", 10..20);
        fake.put("c", 20..25);
        fake.split("c", &["d", "e"]);
        fake.put("d", 25..30);
        fake.lease("a", "4");
        fake.lease("b", "TRIM_HORIZON");
        fake.lease("c", "SHARD_END");
        let file = FILE.replacen("\"earliest\"", "{ kcl = \"app-logs-kcl\" }", 1);
        let driver = start_with(&fake, 1, &file).await;
        // It dies before its first commit: the next one takes over the same, whatever was changed.
        driver.end.abort();
        fake.lease("e", "LATEST");
        let driver = start_with(&fake, 2, &file).await;
        let _e1 = driver.executor(&fake, "app-a2-e1").await;
        let expected: Vec<u64> = (4..20).chain(25..30).collect();
        eventually("what was left", || fake.visible().len() >= expected.len()).await;
        driver.stop().await;
        assert_eq!(fake.visible(), expected);
        fake.put("a", 30..33);
        let driver = start_with(&fake, 3, &file).await;
        let _e1 = driver.executor(&fake, "app-a3-e1").await;
        eventually("what is new", || fake.visible().len() > expected.len()).await;
        driver.stop().await;
        assert_eq!(fake.visible(), [expected, (30..33).collect()].concat());
    });
}

#[test]
fn the_last_executor_is_kept_until_another_comes() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        driver.master.retire("app-a1-e1").await;
        fake.put("a", 0..5);
        eventually("it reads on", || fake.visible().len() == 5).await;
        assert_eq!(driver.master.released(), Vec::<String>::new());
        let _e2 = driver.executor(&fake, "app-a1-e2").await;
        eventually("it is given back", || driver.master.released() == ["app-a1-e1"]).await;
        fake.put("a", 5..10);
        eventually("the other reads on", || fake.visible().len() == 10).await;
        driver.stop().await;
    });
}

#[test]
fn a_driver_that_is_to_move_ends_at_the_edge_of_its_batch_and_says_so() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        fake.hold_runs(true);
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("a run begins", || fake.num_runs() > 0).await;
        driver.master.hand_over().await;
        fake.hold_runs(false);
        let end = driver.end.await.unwrap();
        assert_eq!(end.exit_code(), millrace_common::exit::HANDED_OVER);
        let finished = driver.master.finished().expect("the master heard of the end");
        assert!(finished.handed_over && finished.failure.is_none(), "{finished:?}");
        assert_eq!(fake.visible(), (0..10).collect::<Vec<_>>(), "its batch is published");
    });
}

#[test]
fn a_command_of_a_deposed_master_is_not_obeyed() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the first batch", || fake.visible().len() == 10).await;
        let stop = v1::StopDriver::default();
        driver.master.send_at(0, v1::driver_command::Body::Stop(stop)).await;
        // It opens another session, tells what it published, and goes on.
        eventually("it is back", || driver.master.num_sessions() == 2).await;
        fake.put("a", 10..20);
        eventually("it goes on", || fake.visible().len() == 20).await;
        driver.stop().await;
    });
}

#[test]
fn blocks_that_do_not_chain_are_refused_and_read_again() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        driver.master.grant("app-a1-e1").await;
        let _skipping = FakeExecutor::start(&fake, &driver.address, "app-a1-e1", true);
        eventually("everything is visible", || fake.visible().len() == 10).await;
        driver.stop().await;
        assert_eq!(fake.visible(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn an_executor_may_register_before_the_master_tells_of_its_grant() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..3);
        let driver = start(&fake, 1).await;
        let _early = FakeExecutor::start(&fake, &driver.address, "app-a1-e1", false);
        driver.master.grant("app-a1-e1").await;
        eventually("it reads", || fake.visible().len() == 3).await;
        driver.stop().await;
    });
}

#[test]
fn children_follow_their_parents_and_a_drain_reads_them_all() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the parent is read", || fake.visible().len() == 10).await;
        fake.put("a", 10..12);
        fake.split("a", &["b", "c"]);
        fake.put("b", 20..25);
        fake.put("c", 30..35);
        driver.master.stop(true, 0).await;
        let end = driver.end.await.unwrap();
        assert!(matches!(end, End::Stopped), "{end:?}");
        let expected: Vec<u64> = (0..12).chain(20..25).chain(30..35).collect();
        assert_eq!(fake.visible(), expected);
    });
}

#[test]
fn a_drain_that_takes_too_long_says_so() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start(&fake, 1).await;
        // No executor: nothing can be read.
        driver.master.stop(true, 300).await;
        let end = driver.end.await.unwrap();
        assert_eq!(end.exit_code(), 5);
        let finished = driver.master.finished().unwrap();
        assert_eq!(finished.failure.unwrap().code, "MR4010");
    });
}

#[test]
fn a_drain_ends_at_its_deadline_while_s3_takes_no_parts() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.fail_next_runs(vec![slow_down(); 1_000]);
        fake.put("a", 0..5);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("a run fails", || fake.num_runs() > 0).await;
        driver.master.stop(true, 300).await;
        let asked = std::time::Instant::now();
        let end = driver.end.await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!(end.exit_code(), 5, "{end:?}");
        let failure = driver.master.finished().unwrap().failure.unwrap();
        assert_eq!(failure.code, "MR4010");
        assert!(failure.message.contains("MR3009") && failure.message.contains("SlowDown"));
        assert_eq!((fake.visible(), fake.head().unwrap().batch), (Vec::<u64>::new(), 0));
        // The next start reads it again.
        fake.fail_next_runs(Vec::new());
        let driver = start(&fake, 2).await;
        let _e1 = driver.executor(&fake, "app-a2-e1").await;
        eventually("the batch", || fake.visible().len() == 5).await;
        driver.stop().await;
    });
}

#[test]
fn a_drain_ends_at_its_deadline_while_s3_completes_nothing() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.refuse_completes(true);
        fake.put("a", 0..5);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the batch is committed", || fake.head().unwrap().batch == 1).await;
        driver.master.stop(true, 300).await;
        let asked = std::time::Instant::now();
        let end = driver.end.await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!(end.exit_code(), 5, "{end:?}");
        let failure = driver.master.finished().unwrap().failure.unwrap();
        assert_eq!(failure.code, "MR4010");
        assert!(failure.message.contains("at its next start"), "{failure:?}");
        assert!(failure.message.contains("MR3009"), "{failure:?}");
        assert_eq!(fake.visible(), Vec::<u64>::new());
        // The next start completes it before it reads, and tells of it.
        fake.refuse_completes(false);
        let driver = start(&fake, 2).await;
        assert_eq!(fake.visible(), (0..5).collect::<Vec<_>>());
        eventually("the master hears of it", || !driver.master.batches().is_empty()).await;
        let told = driver.master.batches().remove(0);
        assert_eq!((told.number, told.num_records, told.num_files), (1, 5, 1), "{told:?}");
        assert!(told.recovered && told.published_ms > 0 && told.committed_ms == 0, "{told:?}");
        let totals = |report: &v1::DriverReport| (report.records_total, report.rows_total);
        eventually("the head's totals", || {
            driver.master.report().is_some_and(|report| totals(&report) == (5, 5))
        })
        .await;
        driver.stop().await;
        assert_eq!(fake.visible(), (0..5).collect::<Vec<_>>());
    });
}

/// A driver that can not complete what another one committed, once it says so.
async fn start_held_up(fake: &Fake) -> Running {
    fake.refuse_completes(true);
    fake.put("a", 0..5);
    let first = start(fake, 1).await;
    let _e1 = first.executor(fake, "app-a1-e1").await;
    eventually("the batch is committed", || fake.head().unwrap().batch == 1).await;
    first.master.stop(true, 100).await;
    assert_eq!(first.end.await.unwrap().exit_code(), 5);
    let master = FakeMaster::start().await;
    let spec = parse_toml("app.toml", FILE, &[]).unwrap();
    let driver = run(launch(&master, 2), spec, fake.world(), CancellationToken::new());
    let end = tokio::task::spawn_local(driver);
    eventually("it says what it does", || {
        master.report().is_some_and(|report| {
            report.doing.contains("batch 1") && report.degraded.contains("MR3009")
        })
    })
    .await;
    Running { master, address: String::new(), end }
}

#[test]
fn a_driver_that_completes_what_was_left_heeds_a_stop() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start_held_up(&fake).await;
        let (end, finished) = driver.stop().await;
        assert_eq!(end.exit_code(), 0, "{end:?}");
        assert_eq!(finished.state(), v1::ApplicationState::Stopped);
        assert!(finished.reason.contains("batch 1"), "{finished:?}");
        assert_eq!(fake.visible(), Vec::<u64>::new());
        // It is left to the next start.
        fake.refuse_completes(false);
        let driver = start(&fake, 3).await;
        assert_eq!(fake.visible(), (0..5).collect::<Vec<_>>());
        driver.stop().await;
    });
}

#[test]
fn a_driver_that_completes_what_was_left_hears_the_master() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start_held_up(&fake).await;
        let spec = Some(parse_toml("app.toml", FILE, &[]).unwrap().to_proto());
        let check = Box::new(v1::CheckSpec { revision: 2, spec });
        driver.master.send(Command::CheckSpec(check)).await;
        eventually("an answer", || driver.master.checked().is_some()).await;
        assert_eq!(driver.master.checked().unwrap().failure, None);
        // A drain without a deadline waits, and is done when it can be.
        driver.master.stop(true, 0).await;
        driver.master.grant("app-a2-e1").await;
        assert_eq!(fake.visible(), Vec::<u64>::new());
        fake.refuse_completes(false);
        eventually("it is at work", || driver.master.driver_at_work().is_some()).await;
        let address = driver.master.driver_at_work().unwrap();
        let _e1 = FakeExecutor::start(&fake, &address, "app-a2-e1", false);
        let end = driver.end.await.unwrap();
        assert!(matches!(end, End::Stopped), "{end:?}");
        assert_eq!(fake.visible(), (0..5).collect::<Vec<_>>());
    });
}

#[test]
fn a_driver_that_completes_what_was_left_heeds_the_deadline_of_a_drain() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start_held_up(&fake).await;
        driver.master.stop(true, 300).await;
        let end = driver.end.await.unwrap();
        assert_eq!(end.exit_code(), 5, "{end:?}");
        let failure = driver.master.finished().unwrap().failure.unwrap();
        assert!(failure.code == "MR4010" && failure.message.contains("MR3009"), "{failure:?}");
    });
}

#[test]
fn a_next_driver_goes_on_where_the_last_one_committed() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.put("a", 0..10);
        let driver = start(&fake, 1).await;
        let e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the first batch", || fake.visible().len() == 10).await;
        driver.stop().await;
        drop(e1);
        let batch = fake.head().unwrap().batch;
        fake.put("a", 10..20);
        // The master grants the same epoch again: the driver asks for a higher one.
        let driver = start(&fake, 1).await;
        assert_eq!(fake.head().unwrap().epoch, 2);
        // No executor is there that could make another.
        let names_it = || driver.master.report().is_some_and(|report| report.batch == batch);
        eventually("its report names the last batch", names_it).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the next batch", || fake.visible().len() == 20).await;
        assert!(fake.head().unwrap().batch > batch);
        driver.stop().await;
        assert_eq!(fake.visible(), (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn a_fenced_driver_ends_at_once_and_commits_nothing() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        fake.fence(9);
        fake.put("a", 0..5);
        let end = driver.end.await.unwrap();
        let End::Failed(error, _) = end else { panic!("{end:?}") };
        assert_eq!(error.code(), Code::Fenced);
        assert_eq!(fake.visible(), Vec::<u64>::new());
    });
}

#[test]
fn a_query_that_fails_three_times_stops_the_application_and_once_does_not() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.fail_next_runs(vec![query_error()]);
        fake.put("a", 0..5);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the second run succeeds", || fake.visible().len() == 5).await;
        fake.fail_next_runs(vec![query_error(), query_error(), query_error()]);
        fake.put("a", 5..7);
        let end = driver.end.await.unwrap();
        let End::Failed(error, false) = end else { panic!("{end:?}") };
        assert_eq!(error.code(), Code::BatchFailed);
        assert!(error.message().contains("logs/a from 5 to 7"), "{error}");
        assert_eq!(fake.visible(), (0..5).collect::<Vec<_>>());
    });
}

#[test]
fn a_record_that_does_not_fit_is_named_under_a_code_of_its_own() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.fail_next_runs(vec![bad_record(); 3]);
        fake.put("a", 0..5);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        let end = driver.end.await.unwrap();
        let End::Failed(error, false) = end else { panic!("{end:?}") };
        assert_eq!(error.code(), Code::BadRecord);
        assert!(error.message().contains("record 3 of logs/a"), "{error}");
        assert!(error.next_move().contains("on_bad_record"), "{error:?}");
        assert_eq!(fake.visible(), Vec::<u64>::new());
    });
}

#[test]
fn what_is_before_a_block_that_fails_is_written_and_the_block_is_named() {
    in_system(async {
        let fake = Fake::with_shards(&["a", "b", "c", "d"]);
        for (number, shard) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let first = number as u64 * 10;
            fake.put(shard, first..first + 10);
        }
        fake.poison(25);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        let end = driver.end.await.unwrap();
        let End::Failed(error, false) = end else { panic!("{end:?}") };
        assert_eq!(error.code(), Code::BatchFailed);
        assert!(error.message().contains("it covers logs/c from its start to 10"), "{error}");
        assert!(!error.message().contains("logs/d"), "{error}");
        assert_eq!(fake.visible(), (0..20).collect::<Vec<_>>());
        let known = driver.master.failures().expect("the master knows, for the next attempt");
        assert_eq!(known.batch, fake.head().unwrap().batch + 1);
        assert!(known.count >= 3, "{known:?}");
    });
}

#[test]
fn an_s3_that_fails_for_a_while_delays_and_loses_nothing() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        fake.fail_next_runs(vec![slow_down(); 5]);
        fake.put("a", 0..5);
        let driver = start(&fake, 1).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        eventually("the sixth run succeeds", || fake.visible().len() == 5).await;
        assert!(fake.num_runs() >= 6);
        driver.stop().await;
    });
}

#[test]
fn a_start_in_the_future_is_refused_before_executors_are_asked_for() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let master = FakeMaster::start().await;
        let file = FILE.replace("start = \"earliest\"", "start = 2999-01-01T00:00:00Z");
        let spec = parse_toml("app.toml", &file, &[]).unwrap();
        let end = run(launch(&master, 1), spec, fake.world(), CancellationToken::new()).await;
        assert!(
            matches!(&end, End::Rejected(error) if error.code() == Code::InvalidValue),
            "{end:?}"
        );
        assert!(!master.has_asked_for_executors());
        assert!(fake.head().is_none(), "nothing was written");
    });
}

#[test]
fn an_executor_that_fails_twice_gets_no_work_for_ten_minutes() {
    in_system(async {
        let fake = Fake::with_shards(&["a", "b", "c", "d"]);
        let clock = TurnedClock::shared();
        let mut world = fake.world();
        world.clock = clock.clone();
        let driver = start_in(world, 1, FILE).await;
        let _e1 = driver.executor(&fake, "app-a1-e1").await;
        let _e2 = driver.executor(&fake, "app-a1-e2").await;
        let readers = || -> BTreeSet<String> {
            let report = driver.master.report().unwrap_or_default();
            report.receivers.into_iter().map(|receiver| receiver.container_id).collect()
        };
        let excluded = || -> Vec<String> {
            let report = driver.master.report().unwrap_or_default();
            let excluded =
                |e: v1::ExecutorReport| (!e.excluded_reason.is_empty()).then_some(e.container_id);
            report.executors.into_iter().filter_map(excluded).collect()
        };
        eventually("both read", || readers().len() == 2).await;
        // A query that fails is nobody's fault.
        let suspected = RunError::ExecutorSuspected {
            executor: "app-a1-e1".into(),
            detail: "no report within 10s".into(),
        };
        fake.fail_next_runs(vec![suspected.clone(), query_error(), query_error()]);
        fake.put("a", 0..10);
        eventually("the batch", || fake.visible().len() == 10).await;
        assert_eq!(excluded(), Vec::<String>::new());

        fake.fail_next_runs(vec![suspected]);
        fake.put("a", 10..20);
        fake.put("b", 20..30);
        eventually("it is excluded", || excluded() == ["app-a1-e1"]).await;
        eventually("its shards have moved", || {
            readers() == BTreeSet::from(["app-a1-e2".to_owned()])
        })
        .await;
        eventually("the work goes on", || fake.visible().len() == 30).await;
        let report = driver.master.report().unwrap();
        let reason = &report.executors[0].excluded_reason;
        assert!(reason.contains("no report within 10s"), "{reason}");
        let left_ms = report.executors[0].excluded_until_ms - clock.now_ms();
        assert!((500_000..=600_000).contains(&left_ms), "{left_ms} ms left");

        clock.turn(Duration::from_secs(600));
        eventually("it is back", || excluded().is_empty()).await;
        fake.put("a", 30..40);
        fake.put("b", 40..50);
        eventually("the work goes on", || fake.visible().len() == 50).await;
        assert_eq!(driver.master.avoided(), Vec::<String>::new());
        driver.stop().await;
        assert_eq!(fake.visible(), (0..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_node_on_which_four_executors_fail_is_named_to_the_master() {
    in_system(async {
        let fake = Fake::with_shards(&["a"]);
        let suspected = |number: u32| RunError::ExecutorSuspected {
            executor: format!("app-a1-e{number}").into(),
            detail: "no report within 10s".into(),
        };
        let driver = start(&fake, 1).await;
        let mut executors = Vec::new();
        for number in 1..=4 {
            executors.push(driver.executor(&fake, &format!("app-a1-e{number}")).await);
        }
        eventually("all are here", || {
            driver.master.report().is_some_and(|report| report.executors.len() == 4)
        })
        .await;
        fake.fail_next_runs((1..=4).map(suspected).collect());
        fake.put("a", 0..10);
        eventually("the node is avoided", || driver.master.avoided() == ["n1"]).await;
        // All that is there is on it: one of them goes on.
        eventually("the work goes on", || fake.visible().len() == 10).await;
        driver.stop().await;
    });
}
