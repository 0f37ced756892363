//! Least privilege: on an AWS that checks rights, the whole word count runs as a user who holds
//! only what `rights-policy.json` says: no List and no Delete on S3, no wildcard action.

use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::words::{Counts, assert_equal};
use millrace_integration_tests::{ministack, objects};
use millrace_proto::v1::ApplicationState;

/// The policy under which master, nodes, driver and executors run.
const POLICY: &str = include_str!("rights-policy.json");

#[tokio::test]
async fn the_policy_has_no_wildcard_action_and_only_puts_objects() {
    let policy: serde_json::Value = serde_json::from_str(POLICY).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let actions = statements.iter().flat_map(|statement| statement["Action"].as_array().unwrap());
    let actions: Vec<&str> = actions.map(|action| action.as_str().unwrap()).collect();
    assert!(actions.iter().all(|action| !action.contains('*')), "{actions:?}");
    let s3: Vec<_> = actions.iter().filter(|action| action.starts_with("s3:")).collect();
    assert_eq!(s3, [&"s3:PutObject"]);
}

#[tokio::test]
async fn the_word_count_runs_with_only_the_rights_of_the_policy() {
    let Some(python) = ministack::python("least privilege on ministack") else { return };
    let judge = Judge::MinistackWithRights(python, POLICY.to_owned());
    let cluster = Cluster::start(&judge, &[NodeSize { cores: 2, memory: "2GiB" }; 2]).await;
    println!("policy: integration-tests/tests/rights-policy.json\n{POLICY}");
    cluster.aws.create_stream("lines", 4).await;
    cluster.aws.create_bucket("results").await;
    let lines: Vec<String> = (0..400).map(|i| format!("a b{}", i % 4)).collect();
    cluster.aws.put_lines("lines", &lines).await;

    let application = File::default();
    cluster.submit(&application).await;
    cluster.wait_for_state(application.name, ApplicationState::Running).await;
    cluster.wait_for_words(application.name, "results", "word-count/", 800).await;
    cluster.stop(application.name, &[]).await;
    let found = objects::json_lines(&cluster.aws.endpoint, "results", "word-count/").await;
    let mut expected = Counts::from([("a".to_owned(), 400)]);
    expected.extend((0..4).map(|i| (format!("b{i}"), 100)));
    assert_equal(&objects::word_counts(&found), &expected);

    // The user really is held to the policy.
    let listed = cluster.caller.s3().list_objects_v2().bucket("results").send().await;
    let denied = format!("{:?}", listed.expect_err("listing is not in the policy"));
    assert!(denied.contains("AccessDenied"), "{denied}");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let Some(python) = ministack::python("a missing right on ministack") else { return };
    let policy = POLICY.replace("\"kinesis:GetRecords\"", "\"kinesis:ListTagsForStream\"");
    assert_ne!(policy, POLICY);
    let judge = Judge::MinistackWithRights(python, policy);
    let cluster = Cluster::start(&judge, &[NodeSize { cores: 4, memory: "2GiB" }]).await;
    cluster.aws.create_stream("lines", 2).await;
    cluster.aws.create_bucket("results").await;
    cluster.submit(&File::default()).await;
    // Rights may come back, so the application goes on trying, and says what it waits for.
    within(PATIENCE, "the missing right is named", async || {
        let application = cluster.application("word-count").await?;
        let degraded = application.report.map(|report| report.degraded).unwrap_or_default();
        let named = degraded.contains("MR3005") && degraded.contains("kinesis:GetRecords");
        if named { Ok(()) } else { Err(format!("degraded: {degraded:?}")) }
    })
    .await;
    let _ = cluster.millrace(&["kill", "word-count"]).await.success();
    cluster.wait_for_no_containers().await;
}
