//! `millrace why` names the one cause and the command that mends it, for each of the troubles that
//! are injected here into real processes: what a user reads, word by word.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use futures::future::join_all;
use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::faults::control::{Control, Rule};
use millrace_integration_tests::processes::{self, Process};
use millrace_proto::v1::ApplicationState;
use serde_json::{Value, json};

/// What `millrace why` has to say of one application.
struct Expected {
    name: &'static str,
    /// How its first line begins, after the name.
    standing: &'static str,
    /// How its first line ends: kind of the cause, and code.
    cause: &'static str,
    /// What the first line names.
    says: &'static [&'static str],
    /// The link that does not hold.
    broken: &'static str,
    /// What the line with the mend holds.
    mend: &'static [&'static str],
}

impl Expected {
    /// What of it this answer does not say; none when it says all.
    fn missing(&self, said: &str) -> Option<String> {
        let first = said.lines().next().unwrap_or_default();
        let begin = format!("{} {}: ", self.name, self.standing);
        let mends: Vec<&str> = said.lines().filter(|line| line.starts_with("next: ")).collect();
        let broken = format!("! {} ", self.broken);
        let is_broken =
            self.broken.is_empty() || said.lines().any(|line| line.starts_with(&broken));
        if !first.starts_with(&begin) || !first.ends_with(&format!("({})", self.cause)) {
            return Some(format!("{begin} ... ({})", self.cause));
        }
        if mends.len() != 1 || !is_broken {
            return Some(format!("one mend, and {broken}"));
        }
        let of = |line: &str, wanted: &[&str]| {
            wanted.iter().find(|part| !line.contains(**part)).map(|part| (*part).to_owned())
        };
        of(first, self.says).or_else(|| of(mends[0], self.mend))
    }

    /// Waits until all of it is said; the answer.
    async fn is_said(&self, cluster: &Cluster) -> String {
        let said = within(PATIENCE, &format!("the cause of {}", self.name), async || {
            let said = cluster.millrace(&["why", self.name]).await.success().stdout;
            match self.missing(&said) {
                None => Ok(said),
                Some(missing) => Err(format!("without {missing:?}:\n{said}")),
            }
        })
        .await;
        println!("$ millrace why {}\n{said}", self.name);
        commands_exist(&said).await;
        said
    }
}

/// Every command of ours that the mend names is one, with those flags.
async fn commands_exist(said: &str) {
    let mend = said.lines().find(|line| line.starts_with("next: ")).expect("it names a mend");
    for command in mend.split('`').skip(1).step_by(2) {
        let mut words = command.split_whitespace();
        let program = words.next().expect("a command is not empty");
        if !["millrace", "millrace-worker"].contains(&program) {
            continue;
        }
        let help = [words.next().expect("a subcommand"), "--help"];
        let help = run(&binary(program), &help, &base_environment(), PATIENCE).await.success();
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(help.stdout.contains(flag), "{command}: no {flag} in {help}");
        }
    }
}

/// One executor, a stream and a prefix of its own, all by its name.
fn small(name: &'static str, path: &'static str) -> File {
    File { name, stream: name, path, executors: 1, ..File::default() }
}

/// One that nothing is read for, so that it commits nothing between two failures.
const IDLE: &str = "crashing";

const NODE: NodeSize = NodeSize { cores: 6, memory: "4GiB" };
/// Of the node's 6 cores it is 3.
const QUEUES: &str = "{ small = { cap = \"50%\" }, a = {}, b = {}, c = {} }";
/// What is behind in the hot shard when its reader comes: twice as much as it is read in this time.
const HOT_SECONDS: usize = 60;

#[tokio::test]
async fn who_waits_is_told_for_what_and_a_hot_shard_is_named() {
    let environment = [("MILLRACE_MASTER_QUEUE", QUEUES)];
    let cluster = Cluster::start_with(&Judge::Emulator, &[NODE], &environment).await;
    cluster.aws.create_bucket("results").await;
    heat(&cluster).await;
    let hot = small("hot", "s3://results/hot/");
    let sql = "SELECT count(*) AS n FROM logs";
    let hot = File { sql, format: "bytes", interval: "2s", top: "queue = \"small\"", ..hot };
    cluster.submit(&File { executor_memory: "1GiB", ..hot }).await;
    cluster.wait_for_state("hot", ApplicationState::Running).await;
    cluster.wait_for_report("hot", "has its executor", |report| report.executors.len() == 1).await;
    let hot = Expected {
        name: "hot",
        standing: "is slow",
        cause: "hot_shard",
        says: &["shard logs/shardId-000000000000 is ", " s behind at ", " KiB/s"],
        broken: "input",
        mend: &[
            // The middle of the lower one of two shards.
            "`aws kinesis split-shard --stream-name hot --shard-to-split shardId-000000000000 \
             --new-starting-hash-key 85070591730234615865843651857942052864`",
        ],
    };
    // At once: in a minute its reader has caught up.
    hot.is_said(&cluster).await;

    let waiting = |name, top, executors| File { name, top, executors, ..File::default() };
    let labelled = "node_selector = { zone = \"z\" }";
    for file in [
        waiting("no-cores", "queue = \"a\"", 5),
        File { executor_memory: "3GiB", ..waiting("no-memory", "queue = \"b\"", 1) },
        waiting("queue-cap", "queue = \"small\"", 1),
        waiting("behind", "queue = \"small\"", 1),
        waiting("no-driver", "queue = \"c\"", 4),
        File { resources: labelled, ..waiting("no-label", "", 1) },
    ] {
        cluster.submit(&file).await;
    }
    let master = format!("`millrace-worker node --master {}", cluster.address);
    for expected in &waits() {
        let said = expected.is_said(&cluster).await;
        let is_about_room = ["no-cores", "no-memory", "no-driver"].contains(&expected.name);
        assert!(!is_about_room || said.contains(&master), "the master's own address: {said}");
        let free =
            "1 node offers 6 cores, 4GiB; free: 4 cores, 2816MiB; held by hot 2 cores, 1280MiB";
        assert!(said.contains(free), "who holds what: {said}");
    }
    for name in ["no-cores", "no-memory", "queue-cap", "behind", "no-driver", "no-label", "hot"] {
        let _ = cluster.millrace(&["kill", name]).await.success();
    }
    records_that_expire(&cluster).await;
}

/// A day passes for Kinesis while it is stopped, and what came meanwhile was read by nobody.
async fn records_that_expire(cluster: &Cluster) {
    cluster.aws.create_stream("lost", 1).await;
    cluster.aws.put_lines("lost", &["read".to_owned()]).await;
    let file = small("lost", "s3://results/lost/");
    cluster.submit(&file).await;
    has_written(cluster, file.name).await;
    cluster.stop(file.name, &[]).await;
    let control = Control::of(&cluster.aws.endpoint);
    control.advance_clock(Duration::from_secs(3600)).await;
    cluster.aws.put_lines("lost", &["never read".to_owned()]).await;
    control.advance_clock(Duration::from_secs(25 * 3600)).await;
    cluster.aws.put_lines("lost", &["kept".to_owned()]).await;
    cluster.submit(&file).await;
    let lost = failed(
        "lost",
        "data_lost, MR5001",
        &["records of logs/shardId-000000000000 after ", " and before "],
        &[
            "`millrace reset lost --to earliest`, then `millrace submit FILE`",
            "`millrace submit FILE --set source.logs.on_data_loss=continue`",
        ],
    );
    lost.is_said(cluster).await;
}

/// A minute of records in the first of two shards, as fast as a shard takes them. The minute passes
/// for Kinesis alone.
async fn heat(cluster: &Cluster) {
    cluster.aws.create_stream("hot", 2).await;
    let control = Control::of(&cluster.aws.endpoint);
    let kinesis = cluster.aws.endpoint.kinesis();
    for second in 0..HOT_SECONDS {
        let put = kinesis.put_record().stream_name("hot").partition_key("k");
        let data = Blob::new(vec![b'0' + u8::try_from(second % 10).unwrap(); 1_000_000]);
        put.explicit_hash_key("0").data(data).send().await.expect("a shard takes 1 MiB a second");
        control.advance_clock(Duration::from_secs(1)).await;
    }
}

fn waits() -> [Expected; 6] {
    let waits = |name, cause, says, mend| Expected {
        name,
        standing: "is waiting",
        cause,
        says,
        broken: "cluster",
        mend,
    };
    [
        waits(
            "no-cores",
            "no_cores",
            &[
                "needs a driver of 1 core, 256MiB and 5 executors of 1 core, 512MiB",
                "free now: 4 cores",
            ],
            &["`millrace scale hot --executors N`", "`millrace stop hot`"],
        ),
        waits(
            "no-memory",
            "no_memory",
            &["1 executor of 1 core, 3GiB", "free now: 4 cores, 2816MiB on 1 nodes"],
            &["`millrace scale hot --executors N`", "`millrace stop hot`"],
        ),
        waits(
            "queue-cap",
            "queue",
            &[
                "queue small may hold 50% of the cluster (3 cores, 2GiB), and holds 2 cores, 1280MiB",
            ],
            &["`millrace queues`", "`millrace submit FILE --upgrade --set queue=NAME`"],
        ),
        waits("behind", "behind", &["queued behind queue-cap"], &["`millrace why queue-cap`"]),
        waits(
            "no-driver",
            "driver_place",
            &["needs a driver of 1 core, 256MiB", "where 4 such executors fit without the driver"],
            &["`millrace stop hot`"],
        ),
        waits(
            "no-label",
            "labels",
            &["on nodes with zone=z; none of 1 nodes has that"],
            &[" --label zone=z`", "`node_selector`"],
        ),
    ]
}

/// The action of a rule that refuses a call.
fn refusal(status: u16, code: &str, message: &str) -> Value {
    json!({ "type": "fail", "status": status, "code": code, "message": message })
}

fn denied(name: &str, service: &'static str, operation: &'static str, message: &str) -> Rule {
    let (status, code) = match service {
        "s3" => (403, "AccessDenied"),
        _ => (400, "AccessDeniedException"),
    };
    Rule::new(name, service, operation, refusal(status, code, message))
}

const KMS: &str = "User: arn:aws:iam::000000000000:user/test is not authorized to perform: \
    kms:GenerateDataKey on resource: arn:aws:kms:us-east-1:000000000000:key/k1 because no \
    identity-based policy allows it";
const SKEWED: &str = "Signature expired: 20200101T000000Z is now earlier than 20200101T001500Z";

/// What is injected below AWS's API before the applications start.
fn rules() -> Vec<Rule> {
    let skewed = refusal(400, "InvalidSignatureException", SKEWED);
    let elsewhere = "The bucket you are attempting to access must be addressed using the specified \
        endpoint: it is in eu-west-1";
    let elsewhere = refusal(301, "PermanentRedirect", elsewhere);
    let throttle = || json!({ "type": "throttle" });
    vec![
        Rule::new("throttled", "kinesis", "GetRecords", throttle()).containing("stream/throttled"),
        denied("no-read", "kinesis", "GetRecords", "no").containing("stream/no-read"),
        Rule::new("skewed", "kinesis", "GetRecords", skewed).containing("stream/skewed"),
        denied("no-put", "s3", "CreateMultipartUpload", "Access Denied").containing("/no-put/"),
        denied("no-key", "s3", "CreateMultipartUpload", KMS).containing("/no-key/"),
        Rule::new("region", "s3", "CreateMultipartUpload", elsewhere).containing("/elsewhere/"),
        Rule::new("slow", "s3", "UploadPart", json!({ "type": "delay", "ms": 2_500 }))
            .containing("/slow-sink/"),
    ]
}

/// What is injected once the head is there: the driver has begun, and goes on trying.
fn rules_of_heads() -> Vec<Rule> {
    let head = |name| format!("\"pk\":{{\"S\":\"application#{name}\"}}");
    let throttle = json!({ "type": "throttle" });
    vec![
        Rule::new("slow-table", "dynamodb", "UpdateItem", throttle).containing(&head("slow-table")),
        denied("no-write", "dynamodb", "UpdateItem", "no").containing(&head("no-write")),
    ]
}

const RIGHTS: &str =
    "`millrace preflight FILE` tries every right, `millrace policy FILE` prints them";

/// More than the 512 MiB of its executor, from any three records.
const EATS_MEMORY: &str = "SELECT length(repeat(line, 60000000)) AS n FROM \
    (SELECT line FROM logs LIMIT 3)";
/// But for one value a division by zero.
const POISON: &str = "SELECT _shard_id AS shard, _sequence_number AS seq, line AS data, \
    1 / (CASE WHEN line = 'a b7' THEN 0 ELSE 1 END) AS one FROM logs";
/// Every line computed many times over.
const HEAVY: &str = "SELECT word, count(*) AS n FROM (SELECT unnest(string_to_array(line, ' ')) \
    AS word FROM (SELECT line, unnest(generate_series(1, 20000)) AS i FROM logs)) GROUP BY word";

/// Those that meet one thing, all on one cluster at once.
fn files() -> Vec<File> {
    vec![
        small("well", "s3://results/well/"),
        small("throttled", "s3://results/throttled/"),
        small("no-read", "s3://results/no-read/"),
        small("skewed", "s3://results/skewed/"),
        small("no-put", "s3://results/no-put/"),
        small("no-key", "s3://results/no-key/"),
        small("elsewhere", "s3://results/elsewhere/"),
        small("slow-sink", "s3://results/slow-sink/"),
        File { sql: HEAVY, interval: "50ms", ..small("hurried", "s3://results/hurried/") },
        File { sql: POISON, ..small("poison", "s3://results/poison/") },
        File { sql: EATS_MEMORY, ..small("greedy", "s3://results/greedy/") },
        small("gone", "s3://results/gone/"),
        small("slow-table", "s3://results/slow-table/"),
        small("no-write", "s3://results/no-write/"),
        small(IDLE, "s3://results/crashing/"),
        small("taken", "s3://results/taken/"),
    ]
}

#[tokio::test]
async fn what_goes_wrong_is_named_with_what_mends_it() {
    let node = NodeSize { cores: 40, memory: "40GiB" };
    // Between two attempts there is time to ask.
    let environment = [("MILLRACE_MASTER_ATTEMPT_BACKOFF", "15s")];
    let cluster = Cluster::start_with(&Judge::Emulator, &[node], &environment).await;
    let control = Control::of(&cluster.aws.endpoint);
    control.set_transition(Duration::ZERO).await;
    control.add(&rules()).await;
    cluster.aws.create_bucket("results").await;
    let lines: Vec<String> = (0..40).map(|i| format!("a b{i}")).collect();
    for file in files() {
        cluster.aws.create_stream(file.stream, 2).await;
        if file.name != IDLE {
            cluster.aws.put_lines(file.stream, &lines).await;
        }
        cluster.submit(&file).await;
    }
    tokio::join!(
        those_of_aws(&cluster),
        those_of_batches(&cluster),
        a_stream_that_is_deleted(&cluster),
        a_table_that_refuses(&cluster, &control),
        a_driver_that_is_killed_again_and_again(&cluster),
        a_name_that_is_taken(&cluster),
    );
    all_is_well(&cluster).await;
}

/// While others were starting it may have been slow: it keeps up when there is room again.
async fn all_is_well(cluster: &Cluster) {
    let links = ["state", "driver", "executors", "input", "commits", "batches"];
    let said = within(PATIENCE, "it keeps up", async || {
        cluster.aws.put_lines("well", &["a b".to_owned()]).await;
        let said = cluster.millrace(&["why", "well"]).await.success().stdout;
        let lines: Vec<&str> = said.lines().collect();
        let holds = |(line, link): (&&str, &str)| line.starts_with(&format!("  {link} "));
        let is_well = lines.len() == 1 + links.len()
            && lines[0] == "well runs and keeps up"
            && lines[1..].iter().zip(links).all(holds);
        if is_well { Ok(said) } else { Err(said) }
    })
    .await;
    println!("$ millrace why well\n{said}");
}

fn slow(
    name: &'static str,
    cause: &'static str,
    says: &'static [&'static str],
    broken: &'static str,
    mend: &'static [&'static str],
) -> Expected {
    Expected { name, standing: "is slow", cause, says, broken, mend }
}

fn failed(
    name: &'static str,
    cause: &'static str,
    says: &'static [&'static str],
    mend: &'static [&'static str],
) -> Expected {
    Expected { name, standing: "is failed", cause, says, broken: "state", mend }
}

/// Says what is expected of each, and ends it.
async fn are_said(cluster: &Cluster, all: &[Expected]) {
    for expected in all {
        let _ = expected.is_said(cluster).await;
        if expected.standing == "is slow" {
            let _ = cluster.millrace(&["kill", expected.name]).await.success();
        }
    }
}

async fn those_of_aws(cluster: &Cluster) {
    let all = [
        failed(
            "no-put",
            "forbidden, MR3005",
            &["AccessDenied", "s3://results/no-put/"],
            &[
                "\"s3:PutObject\"",
                "arn:aws:s3:::results/no-put/*",
                RIGHTS,
                "then `millrace submit FILE`",
            ],
        ),
        failed(
            "no-key",
            "forbidden, MR3005",
            &["kms:GenerateDataKey", "key/k1"],
            &["\"kms:GenerateDataKey\"", "key/k1", RIGHTS, "then `millrace submit FILE`"],
        ),
        failed(
            "elsewhere",
            "region, MR3004",
            &["s3://results/elsewhere/", "it is in eu-west-1"],
            &["`millrace submit FILE --set aws.region=REGION`", "`millrace preflight FILE`"],
        ),
        slow(
            "no-read",
            "forbidden, MR3005",
            &["logs/shardId-00000000000", "kinesis:GetRecords", "AccessDeniedException"],
            "input",
            &["allow kinesis:GetRecords on", "stream no-read", RIGHTS, "it goes on by itself"],
        ),
        slow(
            "throttled",
            "shard_throttled, MR3009",
            &["logs/shardId-00000000000", "kinesis:GetRecords"],
            "input",
            &["`aws kinesis update-shard-count --stream-name throttled --target-shard-count 4 "],
        ),
        slow(
            "skewed",
            "clock_skew, MR3007",
            &["logs/shardId-00000000000", "20200101T000000Z is now earlier than 20200101T001500Z"],
            "input",
            &["set the clock of node-1: `chronyc makestep`", "`millrace preflight FILE`"],
        ),
    ];
    are_said(cluster, &all).await;
}

async fn those_of_batches(cluster: &Cluster) {
    let all = [
        failed(
            "poison",
            "poison_batch, MR4004",
            &["batch ", " of poison failed", "logs/shardId-00000000000", "ivi"],
            &["correct the query", "`millrace logs poison`", "`millrace submit FILE`"],
        ),
        slow(
            "greedy",
            "out_of_memory, MR6009",
            &["container greedy-a1-e", " MiB of 512 MiB memory"],
            "executors",
            &["`millrace submit FILE --upgrade --set resources.executor.memory=1GiB`"],
        ),
        slow(
            "slow-sink",
            "slow_sink",
            &[" ms of an interval of 1000 ms: ", " ms of it with the object store"],
            "batches",
            &["`millrace submit FILE --upgrade --set batch.interval="],
        ),
        slow(
            "hurried",
            "interval_too_short",
            &[" ms of an interval of 50 ms: ", "longer than the interval"],
            "batches",
            &[
                "`millrace submit FILE --upgrade --set batch.interval=",
                "`millrace scale hurried --executors 2`",
            ],
        ),
    ];
    // Side by side: what was slow once is told of for a minute.
    join_all(all.chunks(1).map(|one| are_said(cluster, one))).await;
}

/// Waits until it has written something.
async fn has_written(cluster: &Cluster, name: &str) {
    within(PATIENCE, &format!("a batch of {name}"), async || {
        match cluster.batches(name).await.iter().any(|batch| batch.num_rows > 0) {
            true => Ok(()),
            false => Err(format!("{:?}", cluster.application(name).await.map(|a| a.reason))),
        }
    })
    .await;
}

async fn a_stream_that_is_deleted(cluster: &Cluster) {
    has_written(cluster, "gone").await;
    cluster.aws.endpoint.kinesis().delete_stream().stream_name("gone").send().await.unwrap();
    let gone = failed(
        "gone",
        "stream, MR3002",
        &["stream gone of source logs was deleted while it was read"],
        &[
            "`aws kinesis create-stream --stream-name gone --shard-count ",
            "`millrace reset gone --to earliest`, then `millrace submit FILE`",
        ],
    );
    gone.is_said(cluster).await;
}

async fn a_table_that_refuses(cluster: &Cluster, control: &Control) {
    for name in ["slow-table", "no-write"] {
        has_written(cluster, name).await;
    }
    control.add(&rules_of_heads()).await;
    for name in ["slow-table", "no-write"] {
        cluster.aws.put_lines(name, &["c d".to_owned()]).await;
    }
    let all = [
        slow(
            "slow-table",
            "table_throttled, MR3009",
            &["dynamodb:UpdateItem on table millrace", "ProvisionedThroughputExceededException"],
            "commits",
            &["`aws dynamodb update-table --table-name millrace --billing-mode PAY_PER_REQUEST`"],
        ),
        slow(
            "no-write",
            "forbidden, MR3005",
            &["dynamodb:UpdateItem on table millrace", "AccessDeniedException"],
            "commits",
            &["allow dynamodb:UpdateItem on table millrace", RIGHTS, "it goes on by itself"],
        ),
    ];
    are_said(cluster, &all).await;
}

async fn a_driver_that_is_killed_again_and_again(cluster: &Cluster) {
    cluster.wait_for_state("crashing", ApplicationState::Running).await;
    for attempt in 1..=2 {
        let pid = within(PATIENCE, "its driver runs", async || {
            let begun = cluster.application("crashing").await?.attempts.len();
            let pid = cluster.driver("crashing").await.filter(|_| begun == attempt);
            pid.ok_or_else(|| format!("{begun} attempts"))
        })
        .await;
        processes::kill_by_id(pid);
    }
    let crashing = Expected {
        name: "crashing",
        standing: "is waiting",
        cause: "crash_loop",
        says: &["driver attempt 2: ended by signal 9", "failure 2 of 5 without a commit"],
        broken: "driver",
        mend: &["`millrace logs crashing --container crashing-a2-driver`"],
    };
    crashing.is_said(cluster).await;
    let _ = cluster.millrace(&["kill", "crashing"]).await.success();
}

/// Another cluster on the same table.
struct Other {
    master: String,
    _processes: [Process; 2],
}

impl Other {
    async fn start(cluster: &Cluster) -> Self {
        let master = cluster.start_master_of("other").await;
        let address = std::fs::read_to_string(cluster.path().join("master-other.port")).unwrap();
        let address = address.trim().to_owned();
        let work = cluster.path().join("other-node").display().to_string();
        let of_worker = ["--host", "127.0.0.1", "--cores", "2", "--memory", "2GiB", "--work-dir"];
        let mut arguments = vec!["node", "--master", &address, "--node-id", "other-node"];
        arguments.extend(of_worker);
        arguments.push(&work);
        let environment = cluster.caller.environment();
        let worker = binary("millrace-worker");
        let worker =
            Process::spawn("other-node", &worker, &arguments, &environment, cluster.path());
        Self { master: address, _processes: [worker, master] }
    }

    async fn millrace(&self, cluster: &Cluster, arguments: &[&str]) -> Output {
        let mut environment = base_environment();
        environment.extend(cluster.caller.environment());
        environment.push(("MILLRACE_MASTER".to_owned(), self.master.clone()));
        run(&binary("millrace"), arguments, &environment, PATIENCE).await
    }
}

async fn a_name_that_is_taken(cluster: &Cluster) {
    cluster.wait_for_state("taken", ApplicationState::Running).await;
    let file = small("taken", "s3://results/taken/");
    let path = cluster.write("taken-again.toml", &file.toml());
    // In the same cluster it is refused at once: who has it, since when, and what to do.
    let refused = cluster.millrace(&["submit", &path]).await;
    refused.assert_refused("MR2002", &["application taken is RUNNING since ", "in attempt 1"]);
    assert!(refused.stderr.contains("`millrace stop taken`"), "{refused}");
    // Another cluster on the table learns of it from the head.
    let other = Other::start(cluster).await;
    let submitted = within(PATIENCE, "the other cluster takes it", async || {
        let output = other.millrace(cluster, &["submit", &path]).await;
        if output.code == 0 { Ok(()) } else { Err(output.to_string()) }
    });
    submitted.await;
    let taken = failed(
        "taken",
        "name_taken, MR4003",
        &["the name taken belongs to cluster \"test\" in this table", "epoch 1"],
        &["take another name: `millrace submit FILE --set name=OTHER`"],
    );
    let said = within(PATIENCE, "the name is taken", async || {
        let said = other.millrace(cluster, &["why", "taken"]).await.success().stdout;
        match taken.missing(&said) {
            None => Ok(said),
            Some(missing) => Err(format!("without {missing:?}:\n{said}")),
        }
    })
    .await;
    println!("$ millrace why taken\n{said}");
    commands_exist(&said).await;
}
