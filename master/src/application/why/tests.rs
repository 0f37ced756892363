//! One test per cause, from the facts that show it.

use std::sync::LazyLock;

use millrace_common::resources::ByteSize;

use super::*;

const NOW_MS: i64 = 1_000_000;

static CLUSTER: LazyLock<Surroundings> = LazyLock::new(|| Surroundings {
    address: "10.0.0.5:7070".to_owned(),
    table: "heads".to_owned(),
    num_nodes: 2,
    offered: Resources::new(8, ByteSize::mib(8_192)),
    free: Resources::new(1, ByteSize::mib(512)),
    holders: vec![
        ("words".to_owned(), Resources::new(4, ByteSize::mib(4_096))),
        ("etl".to_owned(), Resources::new(3, ByteSize::mib(3_072))),
    ],
});

fn running() -> v1::Application {
    v1::Application {
        name: "words".to_owned(),
        state: State::Running.into(),
        spec: Some(v1::ApplicationSpec {
            batch: Some(v1::BatchSpec { interval_ms: 1_000, ..Default::default() }),
            sources: vec![v1::SourceSpec {
                name: "logs".to_owned(),
                stream: "app-logs".to_owned(),
                ..Default::default()
            }],
            sink: Some(v1::SinkSpec {
                path: "s3://results/words/".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        num_executors: 2,
        report: Some(v1::DriverReport { num_shards: 4, ..Default::default() }),
        ..Default::default()
    }
}

fn with_report(change: impl FnOnce(&mut v1::DriverReport)) -> v1::Application {
    let mut application = running();
    change(application.report.as_mut().unwrap());
    application
}

fn facts(application: &v1::Application) -> Facts<'_> {
    Facts {
        application,
        containers: &[],
        batches: &[],
        waits: None,
        failures: (0, 5),
        cluster: &CLUSTER,
        now_ms: NOW_MS,
    }
}

/// The kind and the sentence of the one cause.
fn named(facts: &Facts<'_>) -> (Kind, String) {
    let cause = why(facts).cause.expect("a cause");
    assert!(cause.next_move.contains('`'), "no command mends {}", cause.what);
    (cause.kind(), cause.what)
}

fn failure(code: Code, message: &str) -> Option<v1::Failure> {
    let (code, message) = (code.as_str().to_owned(), message.to_owned());
    Some(v1::Failure { code, message, next_move: "mend it".to_owned(), ..Default::default() })
}

fn trouble(of: Of, subject: &str, code: Code) -> v1::Application {
    with_report(|report| {
        let failure = failure(code, "AWS says no");
        let subject = subject.to_owned();
        report.troubles = vec![v1::Trouble { kind: of.into(), subject, failure }];
    })
}

fn batch(run_ms: u64, store_ms: u64) -> v1::Batch {
    v1::Batch {
        run_ms,
        store_ms,
        committed_ms: NOW_MS - 1_010,
        published_ms: NOW_MS - 1_000,
        num_runs: 1,
        ..Default::default()
    }
}

#[test]
fn an_application_that_keeps_up_has_no_cause() {
    let application = running();
    let answer = why(&facts(&application));
    assert_eq!((answer.standing(), answer.cause), (v1::Standing::Well, None));
}

#[test]
fn what_somebody_ended_has_no_cause() {
    for state in [State::Stopped, State::Killed] {
        let application = v1::Application { state: state.into(), ..running() };
        assert_eq!(why(&facts(&application)).standing(), v1::Standing::Ended);
    }
}

#[test]
fn a_failure_is_told_with_its_code_and_its_next_move() {
    let kinds = [
        (Code::StreamMissing, Kind::Stream),
        (Code::DataLost, Kind::DataLost),
        (Code::BucketRegion, Kind::Region),
        (Code::Forbidden, Kind::Forbidden),
        (Code::Credentials, Kind::Credentials),
        (Code::BatchFailed, Kind::PoisonBatch),
        (Code::HeadForeign, Kind::NameTaken),
        (Code::SqlType, Kind::Specification),
        (Code::TableMissing, Kind::Table),
    ];
    for (code, kind) in kinds {
        let state = State::Failed.into();
        let application =
            v1::Application { state, failure: failure(code, "it is so"), ..running() };
        let answer = why(&facts(&application));
        assert_eq!(answer.standing(), v1::Standing::Failed);
        let cause = answer.cause.unwrap();
        assert_eq!((cause.kind(), cause.what.as_str()), (kind, "it is so"));
        assert_eq!(cause.code, code.as_str());
        assert!(cause.next_move.contains('`'), "{}", cause.next_move);
    }
}

/// Waiting because the scheduler says so: the answer to `why`.
fn waiting_for(wait: &Wait, selector: Vec<v1::LabelRequirement>) -> v1::Cause {
    let mut application =
        v1::Application { state: State::Queued.into(), report: None, ..running() };
    application.spec.as_mut().unwrap().node_selector = selector;
    let answer = why(&Facts { waits: Some(wait), ..facts(&application) });
    assert_eq!(answer.standing(), v1::Standing::Waiting);
    let place = answer.links.iter().find(|link| link.name == "cluster").unwrap();
    assert!(!place.holds && place.says.contains("held by words 4 cores"), "{}", place.says);
    let cause = answer.cause.unwrap();
    assert_eq!((cause.kind(), cause.what.as_str()), (wait.lack, wait.reason.as_str()));
    cause
}

#[test]
fn what_is_waited_for_is_the_schedulers_line_and_what_mends_it() {
    let worker = "`millrace-worker node --master 10.0.0.5:7070";
    let free = "`millrace scale etl --executors N` or `millrace stop etl`";
    for (lack, mend) in [
        (Kind::NoNodes, worker),
        (Kind::NoCores, free),
        (Kind::NoMemory, free),
        (Kind::DriverPlace, worker),
        (Kind::Queue, "`millrace submit FILE --upgrade --set queue=NAME`"),
    ] {
        let wait = Wait::new(lack, "needs 4 cores; free: 2".to_owned());
        let next = waiting_for(&wait, Vec::new()).next_move;
        assert!(next.contains(mend), "{next}");
    }
    let wait = Wait::new(Kind::Labels, "no node has zone=a".to_owned());
    let zone = v1::LabelRequirement { label: "zone".to_owned(), values: vec!["a".to_owned()] };
    let next = waiting_for(&wait, vec![zone]).next_move;
    assert!(next.contains(&format!("{worker} --label zone=a`")), "{next}");
    let behind = Some("etl".parse().unwrap());
    let wait = Wait { lack: Kind::Behind, reason: "behind etl".to_owned(), behind };
    let next = waiting_for(&wait, Vec::new()).next_move;
    assert!(next.contains("`millrace why etl`"), "{next}");
}

#[test]
fn a_driver_that_fails_again_and_again_is_counted() {
    let attempt = v1::Attempt {
        number: 3,
        ended_ms: NOW_MS - 5,
        end_reason: "exit code 137".to_owned(),
        container_id: "words-a3-d".to_owned(),
        ..Default::default()
    };
    let attempts = vec![attempt];
    let application =
        v1::Application { state: State::Queued.into(), attempts, report: None, ..running() };
    let of_driver = Facts { failures: (3, 5), ..facts(&application) };
    let (kind, what) = named(&of_driver);
    assert_eq!(kind, Kind::CrashLoop);
    assert!(what.contains("attempt 3") && what.contains("exit code 137"), "{what}");
    assert!(what.contains("3 of 5"), "{what}");
    // The same end, by its memory.
    let mut status = v1::ContainerStatus {
        container_id: "words-a3-d".to_owned(),
        kind: v1::ContainerKind::Driver.into(),
        resources: Some(v1::Resources { memory_bytes: 768 << 20, ..Default::default() }),
        exit: Some(v1::ContainerExit::default()),
        ..Default::default()
    };
    status.exit.as_mut().unwrap().set_exceeded(v1::container_exit::Limit::Memory);
    let containers = [status];
    let facts = Facts { containers: &containers, ..of_driver };
    assert_eq!(named(&facts).0, Kind::OutOfMemory);
    let next = why(&facts).cause.unwrap().next_move;
    assert!(next.contains("--set resources.driver.memory=1536MiB"), "{next}");
}

#[test]
fn an_executor_that_was_ended_for_its_memory_is_news_for_a_while() {
    let application = running();
    let exit = v1::ContainerExit {
        reason: "ended by its node: it held 9 MiB".to_owned(),
        ..Default::default()
    };
    let mut status = v1::ContainerStatus {
        container_id: "words-a1-e2".to_owned(),
        kind: v1::ContainerKind::Executor.into(),
        ended_ms: NOW_MS - 1_000,
        exit: Some(exit),
        ..Default::default()
    };
    let containers = [status.clone()];
    let ended_otherwise = Facts { containers: &containers, ..facts(&application) };
    assert_eq!(why(&ended_otherwise).standing(), v1::Standing::Well);
    status.exit.as_mut().unwrap().set_exceeded(v1::container_exit::Limit::Memory);
    let containers = [status];
    let facts = Facts { containers: &containers, ..facts(&application) };
    assert_eq!(named(&facts).0, Kind::OutOfMemory);
    let later = Facts { now_ms: NOW_MS + 3_600_000, ..facts };
    assert_eq!(why(&later).standing(), v1::Standing::Well);
    let committed = [v1::Batch { committed_ms: NOW_MS, ..Default::default() }];
    let recovered = Facts { batches: &committed, ..facts };
    assert_eq!(why(&recovered).standing(), v1::Standing::Well);
}

#[test]
fn what_aws_refuses_is_told_by_what_it_was_asked_for() {
    let cases = [
        (Of::Shard, Code::Throttled, Kind::ShardThrottled),
        (Of::Commit, Code::Throttled, Kind::TableThrottled),
        (Of::Shard, Code::AwsOther, Kind::ShardUnreadable),
        (Of::Commit, Code::Forbidden, Kind::Forbidden),
        (Of::Commit, Code::ClockSkew, Kind::ClockSkew),
        (Of::Batch, Code::Forbidden, Kind::Forbidden),
        (Of::Batch, Code::BatchFailed, Kind::PoisonBatch),
        (Of::Commit, Code::AwsUnreachable, Kind::AwsUnreachable),
    ];
    for (of, code, kind) in cases {
        let application = trouble(of, "logs/shard-3", code);
        let (named, what) = named(&facts(&application));
        assert_eq!((named, what.as_str()), (kind, "logs/shard-3: AWS says no"));
    }
}

#[test]
fn a_batch_that_takes_too_long_is_blamed_on_what_took_the_time() {
    let application = running();
    let computing = [batch(1_500, 200), batch(1_700, 200)];
    let (kind, what) = named(&Facts { batches: &computing, ..facts(&application) });
    assert_eq!(kind, Kind::IntervalTooShort);
    assert!(what.contains("1600 ms") && what.contains("1000 ms"), "{what}");
    let next = why(&Facts { batches: &computing, ..facts(&application) }).cause.unwrap().next_move;
    assert!(next.contains("`millrace submit FILE --upgrade --set batch.interval=2s`"), "{next}");
    assert!(next.contains("`millrace scale words --executors 3`"), "{next}");
    let storing = [batch(1_500, 1_200)];
    assert_eq!(named(&Facts { batches: &storing, ..facts(&application) }).0, Kind::SlowSink);
    let publishing = [v1::Batch { published_ms: NOW_MS + 2_000, ..batch(300, 100) }];
    assert_eq!(named(&Facts { batches: &publishing, ..facts(&application) }).0, Kind::SlowSink);
    let long_ago = Facts { now_ms: NOW_MS + 3_600_000, ..facts(&application) };
    assert_eq!(why(&Facts { batches: &computing, ..long_ago }).standing(), v1::Standing::Well);
    let quick = [batch(300, 100)];
    let facts = Facts { batches: &quick, ..facts(&application) };
    assert_eq!(why(&facts).standing(), v1::Standing::Well);
}

#[test]
fn a_hot_shard_is_behind_alone() {
    let late = |shard: &str, behind, rate| v1::LateShard {
        source: "logs".to_owned(),
        shard_id: shard.to_owned(),
        millis_behind_latest: behind,
        bytes_per_second: rate,
        stream: "app-logs".to_owned(),
        split_at: "77".to_owned(),
    };
    let with = |late_shards: Vec<v1::LateShard>| {
        with_report(|report| {
            report.millis_behind_latest = late_shards[0].millis_behind_latest;
            report.late_shards = late_shards;
        })
    };
    let hot = with(vec![late("a", 60_000, 1_900 << 10), late("b", 2_000, 10)]);
    let (kind, what) = named(&facts(&hot));
    assert_eq!(kind, Kind::HotShard);
    assert!(what.contains("logs/a is 60 s behind"), "{what}");
    let next = why(&facts(&hot)).cause.unwrap().next_move;
    let split = "--stream-name app-logs --shard-to-split a --new-starting-hash-key 77`";
    assert!(next.contains(split), "{next}");
    let all = with(vec![late("a", 60_000, 1_900 << 10), late("b", 50_000, 1_900 << 10)]);
    assert_eq!(named(&facts(&all)).0, Kind::CatchingUp);
    let slow = with(vec![late("a", 60_000, 1_000)]);
    assert_eq!(named(&facts(&slow)).0, Kind::CatchingUp);
    let little = with(vec![late("a", 2_000, 1_900 << 10)]);
    assert_eq!(why(&facts(&little)).standing(), v1::Standing::Well);
}

#[test]
fn missing_executors_are_told_behind_worse() {
    let application = trouble(Of::Commit, "", Code::Throttled);
    let wait = Wait::new(Kind::NoCores, "1 of 3 waits".to_owned());
    let facts = Facts { waits: Some(&wait), ..facts(&application) };
    let answer = why(&facts);
    assert_eq!(answer.standing(), v1::Standing::Slow);
    assert_eq!(answer.others[0].kind(), Kind::NoCores);
    assert_eq!(answer.cause.unwrap().kind(), Kind::TableThrottled);
}

#[test]
fn a_driver_that_can_say_what_it_failed_of_is_no_crash_loop() {
    let attempt = v1::Attempt {
        number: 2,
        ended_ms: NOW_MS - 5,
        end_reason: "MR3005: denied".to_owned(),
        failure: failure(Code::Forbidden, "denied"),
        ..Default::default()
    };
    let queued = v1::Application {
        state: State::Queued.into(),
        attempts: vec![attempt],
        report: None,
        ..running()
    };
    let (kind, what) = named(&facts(&queued));
    assert_eq!(kind, Kind::Forbidden);
    assert_eq!(what, "driver attempt 2: MR3005: denied; tried again until it passes");
    // What an earlier submission or revision met is not this one's.
    let upgraded = v1::Application { revision: 2, ..queued.clone() };
    assert_eq!(named(&facts(&upgraded)).0, Kind::Starting);
    let again = v1::Application { submitted_ms: NOW_MS, ..queued };
    assert_eq!(named(&facts(&again)).0, Kind::Starting);
}

#[test]
fn an_end_after_too_many_failures_is_told_by_the_last_of_them() {
    let attempt = v1::Attempt {
        number: 5,
        ended_ms: NOW_MS,
        end_reason: "ended by signal 6".to_owned(),
        container_id: "words-a5-d".to_owned(),
        ..Default::default()
    };
    let failed = v1::Application {
        state: State::Failed.into(),
        attempts: vec![attempt],
        failure: failure(Code::AttemptsExhausted, "failed 5 times"),
        ..running()
    };
    let facts = Facts { failures: (5, 5), ..facts(&failed) };
    let cause = why(&facts).cause.unwrap();
    assert_eq!((cause.kind(), cause.code.as_str()), (Kind::CrashLoop, "MR2007"));
    assert!(cause.what.contains("attempt 5") && cause.what.contains("5 of 5"), "{}", cause.what);
    assert!(cause.next_move.contains("`millrace logs words --container words-a5-d`"));
    assert!(cause.next_move.contains("then `millrace submit FILE`"), "{}", cause.next_move);
}

/// Every command that a mend names, for every code: complete, with what it is about in it.
#[test]
fn what_mends_a_failure_is_a_command_with_the_names_in_it() {
    let has_run = [v1::Batch { published_ms: 1, num_runs: 1, ..Default::default() }];
    for (code, of, message, mend) in [
        (
            Code::Throttled,
            Of::Shard,
            "logs/s-1 throttled",
            "--stream-name app-logs --target-shard-count 2",
        ),
        (Code::Throttled, Of::Commit, "slow", "`aws dynamodb update-table --table-name heads "),
        (
            Code::StreamMissing,
            Of::Unspecified,
            "app-logs",
            "`aws kinesis create-stream --stream-name app-logs",
        ),
        (Code::StreamMissing, Of::Unspecified, "app-logs", "`millrace reset words --to earliest`"),
        (
            Code::DataLost,
            Of::Unspecified,
            "records of logs/s-1",
            "`millrace reset words --to earliest`",
        ),
        (
            Code::DataLost,
            Of::Unspecified,
            "records of logs/s-1",
            "--set source.logs.on_data_loss=continue`",
        ),
        (Code::TableMissing, Of::Unspecified, "gone", "`millrace init --table heads`"),
        (Code::BucketMissing, Of::Unspecified, "gone", "`millrace init --bucket results`"),
        (Code::Forbidden, Of::Shard, "no", "`millrace policy FILE`"),
        (Code::ClockSkew, Of::Shard, "late", "`chronyc makestep`"),
        (Code::BucketRegion, Of::Batch, "moved", "--set aws.region=REGION`"),
        (Code::HeadForeign, Of::Unspecified, "taken", "--set name=OTHER`"),
        (Code::BatchFailed, Of::Batch, "batch 3", "`millrace logs words`"),
        (Code::SqlType, Of::Unspecified, "sum(text)", "`millrace explain FILE`"),
        (Code::Internal, Of::Batch, "oh", "`millrace logs words`"),
    ] {
        let application = trouble(of, "", code);
        let facts = Facts { batches: &has_run, ..facts(&application) };
        let next = facts.of_failure(&failure(code, message).unwrap(), of).next_move;
        assert!(next.contains(mend), "{code:?}: {next}");
    }
}

#[test]
fn a_batch_that_does_not_end_is_blamed_on_what_it_waits_for() {
    let open = |busy, since_ms| {
        with_report(|report| {
            report.num_batches_in_flight = 1;
            report.batch = 16;
            report.last_commit_ms = NOW_MS - since_ms;
            (report.task_cores_busy, report.task_cores_total) = (busy, 2);
        })
    };
    let (kind, what) = named(&facts(&open(2, 90_000)));
    assert_eq!(kind, Kind::IntervalTooShort);
    assert!(
        what.starts_with("batch 17 is open and nothing was committed for 90 s; 2 of 2"),
        "{what}"
    );
    assert_eq!(named(&facts(&open(0, 90_000))).0, Kind::SlowSink);
    assert_eq!(why(&facts(&open(2, 30_000))).standing(), v1::Standing::Well);
}
