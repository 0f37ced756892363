//! The plan as people meet it: a cluster of nine nodes, and each inequality that fails.

use super::*;
use crate::application::parse_toml;
use crate::labels::Labels;
use crate::resources::ByteSize;

const WORD_COUNT: &str = r#"
name = "word-count"
[resources]
executors = 16
executor = { cores = 2, memory = "3GiB" }
driver = { cores = 1, memory = "512MiB" }
[source.logs]
type = "kinesis"
stream = "app-logs"
format = "text"
[query]
sql = "SELECT line FROM logs"
[sink]
type = "s3"
path = "s3://results/word-count/"
"#;

struct Case {
    spec: ApplicationSpec,
    nodes: Vec<Node>,
    shards: BTreeMap<String, u32>,
    num_lost: usize,
    share: Option<Share>,
}

impl Case {
    fn new(cluster: &str, settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let Described(nodes) = cluster.parse().unwrap();
        Self {
            spec: parse_toml("app.toml", WORD_COUNT, &settings).unwrap(),
            nodes,
            shards: BTreeMap::from([("logs".to_owned(), 36)]),
            num_lost: 0,
            share: None,
        }
    }

    fn plan(&self) -> Plan {
        plan(Question {
            spec: &self.spec,
            nodes: &self.nodes,
            share: self.share.as_ref(),
            num_lost: self.num_lost,
            shards: &self.shards,
        })
    }
}

fn line<'a>(plan: &'a Plan, what: &str) -> &'a Line {
    plan.lines.iter().find(|line| line.what == what).unwrap_or_else(|| panic!("{what}: {plan:?}"))
}

fn settings(plan: &Plan) -> Vec<&str> {
    plan.mends.iter().flat_map(|mend| mend.settings.iter().map(String::as_str)).collect()
}

#[test]
fn the_seed_fits_on_its_cluster() {
    let plan = Case::new("4x8:32GiB,1x1:4GiB", &[]).plan();
    assert_eq!(plan.verdict, Verdict::Fits, "{plan:#?}");
    assert_eq!((plan.sums.executors, plan.sums.task_cores), (16, 32));
    assert_eq!(plan.sums.shards_per_executor, Some(3));
    let source = &plan.sums.sources[0];
    assert_eq!((source.num_receivers, source.shards_per_executor_min), (Some(16), Some(2)));
    assert_eq!((source.read_bytes_per_s, source.read_calls_per_s), (Some(72 << 20), Some(180)));
    let forecast = &plan.sums.forecast;
    assert_eq!((forecast.files_per_hour, forecast.files_per_day), (5_760, 138_240));
    assert_eq!((forecast.writes_per_batch, forecast.write_units_per_batch), (2, 12));
    assert_eq!((forecast.batches_per_hour, forecast.s3_requests_per_hour), (360, 17_280));
    assert_eq!((plan.why(), plan.mends.len()), (None, 0));
    assert!(plan.refusal().is_none());
}

#[test]
fn one_core_too_few_is_named_with_its_numbers_and_mended() {
    let plan = Case::new("4x8:32GiB", &[]).plan();
    assert_eq!(plan.verdict, Verdict::Never);
    let error = plan.refusal().unwrap();
    assert_eq!(error.code(), Code::DoesNotFit);
    for part in
        ["16 executors x 2 cores + the driver's 1 need 33 cores", "4 nodes offer 32", "15 fit"]
    {
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(plan.mends[0].settings, ["resources.executors=15"]);
    assert!(error.next_move().starts_with("--set resources.executors=15"), "{error}");
    assert!(error.next_move().contains("add 1 node of 8 cores, 32GiB"), "{error}");
    assert!(settings(&plan).contains(&"resources.executor.cores=1"), "{plan:?}");
    let mended = Case::new("4x8:32GiB", &["resources.executors=15"]).plan();
    assert_eq!(mended.verdict, Verdict::Fits);
    assert_eq!(Case::new("5x8:32GiB", &[]).plan().verdict, Verdict::Fits);
}

#[test]
fn memory_pieces_and_too_large_containers_are_told_apart() {
    let why = |cluster: &str, settings: &[&str]| Case::new(cluster, settings).plan().why().unwrap();
    let memory = why("5x8:8GiB", &[]);
    assert!(memory.contains("need 48.5GiB of memory and 5 nodes offer 40GiB: 10 fit"), "{memory}");
    let pieces = why("15x7:32GiB", &["resources.executor.cores=4"]);
    assert!(
        pieces.contains("15 nodes offer in sum (105 cores, 480GiB) but not in pieces: 15 fit"),
        "{pieces}"
    );
    let large = why("9x8:32GiB", &["resources.executor.cores=9"]);
    assert!(
        large.contains("an executor asks for 9 cores and no node offers more than 8"),
        "{large}"
    );
    let large = why("9x8:2GiB", &[]);
    assert!(large.contains("an executor asks for 3GiB of memory and no node offers"), "{large}");
    let both = why("1x8:2GiB,1x1:32GiB", &["resources.executors=1"]);
    assert!(both.contains("an executor asks for 2 cores, 3GiB and no node offers both"), "{both}");
    let driver = why("9x8:32GiB", &["resources.driver.cores=9"]);
    assert!(driver.contains("the driver asks for 9 cores and no node offers more"), "{driver}");
}

#[test]
fn what_others_hold_makes_it_wait_and_not_refused() {
    let mut case = Case::new("4x8:32GiB,1x1:4GiB", &[]);
    case.nodes[0].free = Resources::new(2, ByteSize::mib(8 << 10));
    let plan = case.plan();
    assert_eq!(plan.verdict, Verdict::Waits);
    assert!(plan.refusal().is_none());
    let why = plan.why().unwrap();
    assert!(why.contains("need 33 cores and 5 nodes have free 27: 13 fit"), "{why}");
    assert_eq!(line(&plan, "executors").has, "16 fit beside the driver, 13 now");
    assert_eq!(plan.mends[0].settings, ["resources.executors=13"]);
}

#[test]
fn a_queue_that_may_take_no_more_makes_it_wait() {
    let mut case = Case::new("5x8:32GiB", &[]);
    let now = |cores: u32| Resources::new(cores, ByteSize::mib(64 << 10));
    case.share = Some(Share { queue: "etl".to_owned(), now: now(33) });
    assert_eq!(case.plan().verdict, Verdict::Fits);
    case.share = Some(Share { queue: "etl".to_owned(), now: now(20) });
    let plan = case.plan();
    assert_eq!(plan.verdict, Verdict::Waits, "{plan:#?}");
    let why = plan.why().unwrap();
    assert!(why.contains("need 33 cores, 48.5GiB and queue etl may take 20 cores, 64GiB"), "{why}");
    assert_eq!(settings(&plan), ["resources.executors=9", "resources.executor.cores=1"]);
    assert!(plan.mends.iter().all(|mend| mend.num_nodes == 0), "nodes do not help: {plan:#?}");
}

#[test]
fn a_range_needs_its_minimum_and_takes_what_there_is() {
    let range = "resources.executors={min=2,max=20}";
    let plan = Case::new("4x8:32GiB", &[range]).plan();
    assert_eq!((plan.verdict, plan.sums.executors), (Verdict::Fits, 15));
    let plan = Case::new("1x4:32GiB", &[range]).plan();
    assert_eq!(plan.verdict, Verdict::Never);
    let changes = ["resources.executors.min=1", "resources.executor.cores=1"];
    assert_eq!(settings(&plan), changes, "{plan:#?}");
}

#[test]
fn lost_nodes_are_the_worst_ones() {
    let mut case = Case::new("5x8:32GiB", &[]);
    case.num_lost = 1;
    let plan = case.plan();
    assert_eq!(plan.verdict, Verdict::Never);
    assert!(line(&plan, "executors").has.contains("with any 1 node lost 15 fit"), "{plan:#?}");
    let why = plan.why().unwrap();
    assert!(why.contains("need 33 cores and 4 of 5 nodes offer 32: with any 1 node"), "{why}");
    case.nodes.push(Node::empty("more", Resources::new(8, ByteSize::mib(32 << 10))));
    assert_eq!(case.plan().verdict, Verdict::Fits);
    case.num_lost = 6;
    let why = case.plan().why().unwrap();
    assert!(why.contains("the driver fits on 6 nodes and 6 may be lost"), "{why}");
}

#[test]
fn nodes_that_it_may_not_use_do_not_count() {
    let mut case = Case::new("5x8:32GiB", &["resources.node_selector={ zone = \"a\" }"]);
    assert_eq!(case.plan().verdict, Verdict::Fits, "a described node has what is asked for");
    for node in &mut case.nodes {
        let zone = if node.name == "node-5" { "b" } else { "a" };
        let labels = Labels::from_map([("zone".to_owned(), zone.to_owned())]).unwrap();
        *node = node.clone().labelled(labels);
    }
    let plan = case.plan();
    assert_eq!((plan.verdict, plan.sums.num_nodes), (Verdict::Never, 4));
    assert!(line(&plan, "cluster").has.contains("1 node it may not use"), "{plan:#?}");
    let change = "add 1 node of 8 cores, 32GiB with the labels zone=a";
    assert!(plan.mends.iter().any(|mend| mend.change == change), "{plan:#?}");
    case.nodes.drain(..4);
    let why = case.plan().why().unwrap();
    let part = "the driver needs a node, and there is none that it may be placed on (with the labels \
                zone=a)";
    assert!(why.contains(part), "{why}");
}

#[test]
fn a_process_that_does_not_fit_into_its_own_memory_is_refused() {
    let plan = Case::new("9x8:32GiB", &["resources.executor.memory=128MiB"]).plan();
    assert_eq!(plan.verdict, Verdict::Never);
    let why = plan.why().unwrap();
    assert!(why.contains("96MiB + 48MiB = 144MiB of memory and it is to have 128MiB"), "{why}");
    assert_eq!(settings(&plan), ["resources.executor.memory=160MiB"]);
    let tight = Case::new("9x8:32GiB", &["resources.executor.memory=256MiB"]).plan();
    assert_eq!(tight.verdict, Verdict::Fits);
    let line = line(&tight, "executor memory");
    assert_eq!(
        (line.status, line.setting.as_deref()),
        (Status::Tight, Some("resources.executor.memory=320MiB"))
    );
    let driver = Case::new("9x8:32GiB", &["resources.driver.memory=64MiB"]).plan();
    assert_eq!(settings(&driver), ["resources.driver.memory=96MiB"]);
}

#[test]
fn limits_that_only_slow_it_down_are_said_and_refuse_nothing() {
    let plan =
        Case::new("5x8:32GiB", &["batch.interval=50ms", "sink.partition_by=[\"line\"]"]).plan();
    assert_eq!(plan.verdict, Verdict::Fits);
    let requests = line(&plan, "S3 requests");
    assert_eq!(requests.status, Status::Tight, "{plan:#?}");
    let interval = requests.setting.as_deref().unwrap();
    let plan = Case::new("5x8:32GiB", &[interval, "sink.partition_by=[\"line\"]"]).plan();
    assert_eq!(line(&plan, "S3 requests").status, Status::Ok, "{plan:#?}");

    let mut case = Case::new("1x8:32GiB", &["resources.executors=1", "batch.interval=50ms"]);
    case.shards.insert("logs".to_owned(), 2_000);
    let plan = case.plan();
    assert_eq!(line(&plan, "DynamoDB").status, Status::Tight, "{plan:#?}");
    assert_eq!(line(&plan, "batch buffer").status, Status::Ok);
    assert_eq!(plan.verdict, Verdict::Fits);

    case.spec.batch.interval = std::time::Duration::from_secs(10);
    let plan = case.plan();
    let buffer = line(&plan, "batch buffer");
    assert_eq!((plan.verdict, buffer.status), (Verdict::Fits, Status::Tight), "{plan:#?}");
    let why = buffer.why.as_deref().unwrap();
    assert!(why.contains("are cut every 1s") && why.ends_with("of every 10s"), "{why}");
}

#[test]
fn unknown_shards_are_said_to_be_unknown() {
    let mut case = Case::new("5x8:32GiB", &[]);
    case.shards.clear();
    let plan = case.plan();
    assert_eq!(plan.verdict, Verdict::Fits);
    assert_eq!(plan.sums.shards_per_executor, None);
    for what in ["receivers of logs", "batch buffer", "reads of app-logs"] {
        assert_eq!(line(&plan, what).status, Status::Unknown, "{what}");
    }
}

#[test]
fn a_node_to_add_is_said_with_all_that_it_needs() {
    // 16.3GB, as a machine tells it: rounded down it would not hold what was tried.
    let offered = Resources::new(8, ByteSize::bytes(16_315_789_312));
    let mut case = Case::new("1x8:16GiB", &["resources.executors=5"]);
    case.nodes = vec![Node::empty("odd", offered)];
    let plan = case.plan();
    let mend = plan.mends.iter().find(|mend| mend.num_nodes > 0).unwrap();
    assert_eq!(mend.change, "add 1 node of 8 cores, 15584MiB");
    assert!(mend.node.fits(offered), "{mend:?}");
}

#[test]
fn a_key_is_set_once() {
    let given = ["env.A=b".to_owned(), "resources.executors=40".to_owned()];
    let settings = ["resources.executors=40", "resources.driver.memory=64MiB"];
    let plan = Case::new("4x8:32GiB", &settings).plan();
    assert!(!plan.mends.is_empty());
    for mend in &plan.mends {
        let told = mend.settings_after(&given);
        let mut keys: Vec<&str> =
            told.iter().filter_map(|it| Some(it.split_once('=')?.0)).collect();
        assert_eq!(keys[0], "env.A");
        keys.sort_unstable();
        assert!(keys.windows(2).all(|two| two[0] != two[1]), "{told:?}");
    }
}

#[test]
fn every_mend_mends() {
    for cluster in ["4x8:32GiB", "2x3:16GiB", "40x1:64GiB", "5x8:8GiB", "1x2:1GiB", "3x4:3GiB"] {
        let plan = Case::new(cluster, &[]).plan();
        assert_eq!(plan.verdict, Verdict::Never, "{cluster}");
        assert!(!plan.mends.is_empty(), "{cluster}");
        for mend in &plan.mends {
            let settings: Vec<&str> = mend.settings.iter().map(String::as_str).collect();
            let mut case = Case::new(cluster, &settings);
            for n in 0..mend.num_nodes {
                case.nodes.push(Node::empty(format!("new-{n}"), mend.node));
            }
            assert_eq!(case.plan().verdict, Verdict::Fits, "{cluster}: {mend:?}");
        }
    }
}
