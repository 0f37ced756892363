//! Least privilege, on an AWS that checks rights: the whole word count runs with exactly the policy
//! that `millrace policy` prints, and whatever is taken out of it, `millrace preflight` names that
//! and nothing else.

use std::time::Duration;

use millrace_integration_tests::application::File;
use millrace_integration_tests::aws::Endpoint;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize, Policies};
use millrace_integration_tests::command::{Output, base_environment, binary, run};
use millrace_integration_tests::eventually::{PATIENCE, within};
use millrace_integration_tests::words::{Counts, assert_equal};
use millrace_integration_tests::{emulator, ministack, objects};
use millrace_proto::v1::ApplicationState;
use serde_json::Value;

/// The account of ministack.
const ACCOUNT: &str = "000000000000";

/// Runs `millrace` as this caller, without a cluster.
async fn millrace(caller: &Endpoint, arguments: &[&str]) -> Output {
    let mut environment = base_environment();
    environment.extend(caller.environment());
    run(&binary("millrace"), arguments, &environment, Duration::from_secs(60)).await
}

/// The policy of a role for an application file. Nothing listens at the endpoint: with the account
/// given, a policy is made of the file alone.
async fn policy(file: &str, role: &str) -> Value {
    let nobody = Endpoint {
        url: "http://127.0.0.1:9".to_owned(),
        access_key_id: "none".to_owned(),
        secret_access_key: "none".to_owned(),
    };
    let arguments = ["policy", file, "--account", ACCOUNT, "--for", role];
    millrace(&nobody, &arguments).await.success().json()
}

async fn policies(file: &str) -> Policies {
    Policies {
        application: policy(file, "application").await.to_string(),
        master: policy(file, "master").await.to_string(),
    }
}

/// The word count as a file of its own, in a directory that lives as long as the test.
fn file() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("the temporary directory can be written to");
    let path = directory.path().join("word-count.toml");
    std::fs::write(&path, File::default().toml()).expect("it is this test's own");
    let path = path.display().to_string();
    (directory, path)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn actions(policy: &Value) -> Vec<String> {
    let actions = list(&policy["Statement"]).iter().flat_map(|one| list(&one["Action"]));
    actions.map(|action| action.as_str().expect("a text").to_owned()).collect()
}

/// `policy` without this action.
fn without(policy: &Value, action: &str) -> Value {
    let less = list(&policy["Statement"]).iter().filter_map(|statement| {
        let mut statement = statement.clone();
        let kept: Vec<_> =
            list(&statement["Action"]).iter().filter(|one| *one != action).cloned().collect();
        let is_left = !kept.is_empty();
        statement["Action"] = kept.into();
        is_left.then_some(statement)
    });
    serde_json::json!({ "Version": policy["Version"], "Statement": less.collect::<Vec<_>>() })
}

/// One policy that allows what both do.
fn together(one: &Value, other: &Value) -> Value {
    let all: Vec<_> = list(&one["Statement"]).iter().chain(list(&other["Statement"])).collect();
    serde_json::json!({ "Version": one["Version"], "Statement": all })
}

/// The checks of findings with this verdict.
fn verdicts(value: &Value, verdict: &str) -> Vec<String> {
    let of = list(&value["findings"]).iter().filter(|finding| finding["verdict"] == verdict);
    of.map(|finding| finding["check"].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test]
async fn the_word_count_runs_with_exactly_the_policy_that_is_printed() {
    let Some(python) = ministack::python("least privilege on ministack") else { return };
    let (_directory, path) = file();
    let policies = policies(&path).await;
    println!("policy of the application: {}", policies.application);
    let judge = Judge::MinistackWithRights(python, policies);
    let cluster = Cluster::start(&judge, &[NodeSize { cores: 2, memory: "2GiB" }; 2]).await;
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
async fn preflight_names_exactly_what_is_taken_out_of_the_policy() {
    let Some(python) = ministack::python("preflight on ministack") else { return };
    let (directory, path) = file();
    let whole = policy(&path, "application").await;
    let operator = policy(&path, "operator").await;
    let all = actions(&whole);
    assert!(all.len() >= 10 && all.iter().all(|action| !action.contains('*')), "{all:?}");
    let s3: Vec<_> = all.iter().filter(|action| action.starts_with("s3:")).collect();
    assert_eq!(s3, ["s3:PutObject"]);

    let aws = ministack::start(&python, true, directory.path()).await;
    let _ = millrace(&aws.endpoint, &["init"]).await.success();
    aws.create_stream("lines", 2).await;
    aws.create_bucket("results").await;
    let arguments = ["policy", &path, "--account", ACCOUNT, "--optional"];
    let surer = millrace(&aws.endpoint, &arguments).await.success().json();
    let mut wanted = vec![
        together(&surer, &operator).to_string(),
        whole.to_string(),
        together(&whole, &operator).to_string(),
    ];
    wanted.extend(all.iter().map(|action| without(&whole, action).to_string()));
    let callers = ministack::many_users(&python, &aws.endpoint, &wanted).await;
    let preflight = async |caller| millrace(caller, &["preflight", &path, "--json"]).await;

    // With the operator's rights nothing at all is left behind.
    let clean = preflight(&callers[0]).await.success();
    assert_eq!(clean.json()["account"], ACCOUNT, "by STS");
    assert_eq!(verdicts(&clean.json(), "warning"), Vec::<String>::new(), "{clean}");
    assert_eq!(verdicts(&clean.json(), "optional"), Vec::<String>::new(), "{clean}");
    let open = aws.endpoint.s3().list_multipart_uploads().bucket("results").send().await.unwrap();
    assert!(open.uploads().is_empty(), "{open:?}");
    // With the application's alone, an upload that nobody may abort is named.
    let clean = preflight(&callers[1]).await.success();
    assert_eq!(clean.json()["missing"], serde_json::json!([]), "{clean}");
    assert_eq!(verdicts(&clean.json(), "warning"), ["left open"], "{clean}");
    // What only makes it surer is named, and stops nothing.
    let surer = preflight(&callers[2]).await.success().json();
    assert_eq!(surer["missing"], serde_json::json!([]), "{surer}");
    assert_eq!(verdicts(&surer, "optional"), ["s3:ListMultipartUploadParts"], "{surer}");
    let optional = list(&surer["findings"]).iter().find(|one| one["verdict"] == "optional");
    let add: Value = serde_json::from_str(optional.unwrap()["add"].as_str().unwrap()).unwrap();
    assert_eq!(add["Resource"], serde_json::json!(["arn:aws:s3:::results/word-count/*"]));
    let written = aws.endpoint.dynamodb().scan().table_name("millrace").send().await.unwrap();
    assert_eq!(written.count(), 0, "{written:?}");

    for (action, caller) in all.iter().zip(&callers[3..]) {
        let output = preflight(caller).await;
        assert_eq!(output.code, 1, "{output}");
        let error: Value = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(error["code"], "MR3012", "{output}");
        assert!(error["message"].as_str().unwrap().ends_with(&format!("may not {action}")));
        let value = output.json();
        assert_eq!(value["missing"], serde_json::json!([action]), "{output}");
        let denied = list(&value["findings"]).iter().find(|one| one["verdict"] == "missing");
        let add = denied.unwrap()["add"].as_str().unwrap();
        let add: Value = serde_json::from_str(add).unwrap();
        let mut of = list(&whole["Statement"]).iter();
        let of = of.find(|one| list(&one["Action"]).iter().any(|other| other == action));
        assert_eq!(add["Action"], serde_json::json!([action]), "{output}");
        assert_eq!(add["Resource"], of.unwrap()["Resource"], "{output}");
    }
}

#[tokio::test]
async fn a_source_is_read_by_a_role_of_its_own() {
    let Some(python) = ministack::python("roles on ministack") else { return };
    let (directory, path) = file();
    let role = format!("arn:aws:iam::{ACCOUNT}:role/millrace-reader");
    let setting = format!("source.logs.aws.role_arn={role}");
    let aws = ministack::start(&python, true, directory.path()).await;
    let _ = millrace(&aws.endpoint, &["init"]).await.success();
    aws.create_stream("lines", 1).await;
    aws.create_bucket("results").await;
    let arguments = ["policy", &path, "--account", ACCOUNT, "--set", &setting];
    let whole = millrace(&aws.endpoint, &arguments).await.success().json();
    let mut statements = list(&whole["Statement"]).iter();
    let assume = statements.find(|one| one["Sid"] == "AssumeRoles").expect("the role is in it");
    assert_eq!(assume["Action"], serde_json::json!(["sts:AssumeRole"]));
    assert_eq!(assume["Resource"], serde_json::json!([role]));
    let all = actions(&whole);
    let is_of_stream = |action: &&String| action.starts_with("kinesis:");
    let less = |drop: bool| {
        let dropped = all.iter().filter(|action| is_of_stream(action) == drop);
        dropped.fold(whole.clone(), |policy, action| without(&policy, action))
    };
    let (of_role, of_user) = (less(false).to_string(), less(true));
    let (made, caller) =
        ministack::role(&python, &aws.endpoint, &of_role, &of_user.to_string()).await;
    assert_eq!(made, role);

    let alone = millrace(&caller, &["preflight", &path, "--json"]).await;
    let missing = alone.json()["missing"].clone();
    let reading =
        ["kinesis:DescribeStreamSummary", "kinesis:ListShards", "kinesis:GetShardIterator"];
    assert_eq!(missing, serde_json::json!(reading), "{alone}");
    let arguments = ["preflight", &path, "--set", &setting, "--json"];
    let by_role = millrace(&caller, &arguments).await.success();
    assert_eq!(by_role.json()["missing"], serde_json::json!([]), "{by_role}");
    assert!(verdicts(&by_role.json(), "ok").contains(&"sts:AssumeRole".to_owned()), "{by_role}");

    let unable = without(&of_user, "sts:AssumeRole").to_string();
    let [unable] = &ministack::many_users(&python, &aws.endpoint, &[unable]).await[..] else {
        panic!("one user is made of one policy");
    };
    let refused = millrace(unable, &arguments).await;
    assert_eq!(refused.json()["missing"], serde_json::json!(["sts:AssumeRole"]), "{refused}");
    assert_eq!(verdicts(&refused.json(), "untried"), ["kinesis:DescribeStreamSummary"]);
}

/// The emulator has no STS.
#[tokio::test]
async fn without_an_account_preflight_tries_what_needs_none() {
    let (directory, path) = file();
    let aws = emulator::start(directory.path()).await;
    let _ = millrace(&aws.endpoint, &["init", "--bucket", "results"]).await.success();
    let output = millrace(&aws.endpoint, &["preflight", &path, "--json"]).await;
    let error: Value = serde_json::from_str(&output.stderr).expect("an error is one object");
    assert_eq!(error["code"], "MR3012", "{output}");
    assert!(error["message"].as_str().expect("a text").contains("stream lines"), "{output}");
    let value = output.json();
    assert_eq!(value["account"], Value::Null, "{output}");
    assert_eq!(verdicts(&value, "untried")[0], "account", "{output}");
    let said = &list(&value["findings"])[0]["detail"];
    assert!(said.as_str().expect("a text").contains("give it with --account"), "{output}");
    assert!(verdicts(&value, "ok").contains(&"s3:PutObject".to_owned()), "{output}");
    assert!(verdicts(&value, "ok").contains(&"dynamodb:UpdateItem".to_owned()), "{output}");
    // The stream tells it.
    aws.create_stream("lines", 1).await;
    let output = millrace(&aws.endpoint, &["preflight", &path, "--json"]).await.success();
    assert_eq!(output.json()["account"], ACCOUNT, "{output}");
}

#[tokio::test]
async fn a_missing_right_is_named_while_the_application_runs() {
    let Some(python) = ministack::python("a missing right on ministack") else { return };
    let (_directory, path) = file();
    let whole = policies(&path).await;
    let application = without(&policy(&path, "application").await, "kinesis:GetRecords");
    let policies = Policies { application: application.to_string(), ..whole };
    let judge = Judge::MinistackWithRights(python, policies);
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
