//! `millrace plan` and `millrace submit` before a real master and a real stream.

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_proto::v1::ApplicationState;

#[tokio::test]
async fn plan_and_submit_say_the_same_of_a_live_cluster() {
    let nodes = [NodeSize { cores: 4, memory: "2GiB" }];
    let cluster = Cluster::start(&Judge::Emulator, &nodes).await;
    cluster.aws.create_stream("lines", 6).await;
    cluster.aws.create_bucket("results").await;
    let small = cluster.write("small.toml", &File::default().toml());
    let large = cluster.write("large.toml", &File { executors: 400, ..File::default() }.toml());

    // Shards come from the stream itself.
    let plan = cluster.millrace(&["plan", &small, "--json"]).await.success().json();
    assert_eq!(plan["verdict"], "fits", "{plan}");
    assert_eq!(plan["sums"]["sources"][0]["num_shards"], 6, "{plan}");
    assert_eq!(plan["sums"]["shards_per_executor"], 3, "{plan}");
    assert_eq!(plan["sums"]["task_cores"], 2, "{plan}");
    let shown = cluster.millrace(&["plan", &small]).await.success();
    assert!(shown.stdout.contains("6 shards x 2MiB/s = 12MiB/s, 30 calls/s"), "{shown}");
    assert!(shown.stdout.contains("starts with a driver and 2 executors"), "{shown}");

    // What can never fit is refused by both, with one arithmetic and the change that mends it.
    let planned = cluster.millrace(&["plan", &large]).await;
    let submitted = cluster.millrace(&["submit", &large]).await;
    let arithmetic = "400 executors x 1 core + the driver's 1 need 401 cores and 1 node offers 4";
    for output in [&planned, &submitted] {
        assert_eq!(output.code, 3, "{output}");
        output.assert_refused("MR2005", &[arithmetic, "3 fit"]);
        assert!(output.stderr.contains("next: --set resources.executors=3"), "{output}");
    }
    assert!(planned.stdout.contains("--set resources.executors=3"), "{planned}");
    assert!(submitted.stderr.contains("400 x (1 core, 512MiB)"), "the table too: {submitted}");
    cluster.millrace(&["status", "word-count"]).await.assert_refused("MR2003", &["word-count"]);

    // The mend mends.
    let mended = ["submit", &large, "--set", "resources.executors=3"];
    let _ = cluster.millrace(&mended).await.success();
    cluster.wait_for_state("word-count", ApplicationState::Running).await;

    // What does not fit now waits, and both say why; a described cluster knows nothing of that.
    let other = cluster.write("other.toml", &File { name: "other", ..File::default() }.toml());
    let plan = cluster.millrace(&["plan", &other]).await.success();
    assert!(plan.stdout.contains("waits: submit takes other and queues it"), "{plan}");
    let submitted = cluster.millrace(&["submit", &other]).await.success();
    assert!(submitted.stderr.contains("queued: needs a driver"), "{submitted}");
    let described = ["plan", &other, "--cluster", "1x4:2GiB", "--shards", "6"];
    let plan = cluster.millrace(&described).await.success();
    assert!(plan.stdout.contains("fits: other starts"), "{plan}");
    // Its own containers are not in its way.
    let plan =
        cluster.millrace(&["plan", &large, "--set", "resources.executors=3"]).await.success();
    assert!(plan.stdout.contains("fits: word-count starts"), "{plan}");
    for name in ["other", "word-count"] {
        let _ = cluster.millrace(&["kill", name]).await.success();
    }
}
