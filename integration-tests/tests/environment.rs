//! What the application file says arrives: its environment in the process table of the driver and
//! of every executor, its arguments byte for byte, and nothing of the node's own secrets.

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::processes;
use millrace_proto::v1::{ApplicationState, ContainerKind, ContainerState};

const ENV: [(&str, &str); 4] = [
    ("APP_NAMESPACE", "prod"),
    ("APP_TEXT", "two words, 'quotes', \"more\" = and\na second line"),
    ("APP_EMPTY", ""),
    // The application's own value wins over the node's.
    ("TZ", "Europe/Vienna"),
];

const ARGUMENTS: [&str; 8] = [
    "--flag=a b",
    "",
    "-",
    "--",
    "$HOME `id` \\ * ?",
    "\"quoted\" 'twice'",
    "line\nbreak\t",
    "äöü 水車",
];

#[tokio::test]
async fn environment_and_arguments_arrive_in_every_container() {
    let mut cluster = Cluster::start(&Judge::Emulator, &[]).await;
    let node = [("TZ", "UTC"), ("NODE_SECRET", "not for containers")];
    for _ in 0..2 {
        cluster.add_worker(NodeSize { cores: 2, memory: "2GiB" }, &node);
    }
    cluster.wait_for_nodes(2).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    let env = ENV.map(|(name, value)| (name, value.to_owned())).to_vec();
    let application = File { executors: 2, env, args: ARGUMENTS.to_vec(), ..File::default() };
    cluster.submit(&application).await;
    cluster.wait_for_state("word-count", ApplicationState::Running).await;
    let both = |report: &millrace_proto::v1::DriverReport| report.executors.len() == 2;
    cluster.wait_for_report("word-count", "has both executors", both).await;

    let mut kinds = Vec::new();
    for container in cluster.containers("word-count").await {
        let status = container.status.unwrap();
        assert_eq!(status.state(), ContainerState::Running, "{status:?}");
        kinds.push(status.kind());
        let environment = processes::environment(status.pid).unwrap();
        for (name, value) in ENV {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{status:?}");
        }
        assert_eq!(environment["MILLRACE_APPLICATION"], "word-count");
        assert_eq!(environment["MILLRACE_ATTEMPT"], "1");
        assert_eq!(environment["MILLRACE_CONTAINER_ID"], status.container_id);
        assert!(!environment.contains_key("NODE_SECRET"), "{environment:?}");

        let arguments = processes::arguments(status.pid).unwrap();
        let rest = arguments.iter().position(|argument| argument == b"--").unwrap() + 1;
        assert_eq!(arguments[rest..], ARGUMENTS.map(|argument| argument.as_bytes().to_vec()));
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [ContainerKind::Driver, ContainerKind::Executor, ContainerKind::Executor]);
    cluster.stop("word-count", &[]).await;
}
