//! A source that the Kinesis Client Library (KCL) read before: what its lease table says was
//! processed is not read, all else is, and where that is in doubt nothing begins.

#![allow(clippy::unwrap_used, reason = "what a test sets up must hold, in helpers as in tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use aws_sdk_kinesis::primitives::Blob;
use millrace_integration_tests::aggregate::{self, User};
use millrace_integration_tests::application::File;
use millrace_integration_tests::cluster::{Cluster, Judge, NodeSize};
use millrace_integration_tests::lines::{
    NAME, STREAM, application, failed, numbered, objects, rows_are, written,
};
use millrace_integration_tests::{reshard, truth};

const TABLE: &str = "records-kcl";
/// How often a worker of the played KCL renews: a third of its failover time.
const RENEWAL: Duration = Duration::from_millis(3_300);

/// A cluster, a stream and a lease table.
struct Scene {
    cluster: Cluster,
}

impl Scene {
    async fn start(num_shards: u8) -> Self {
        let cluster =
            Cluster::start(&Judge::Emulator, &[NodeSize { cores: 3, memory: "2GiB" }]).await;
        cluster.aws.create_stream(STREAM, num_shards).await;
        cluster.aws.create_bucket("results").await;
        let table = cluster.aws.endpoint.dynamodb().create_table().table_name(TABLE);
        let key = AttributeDefinition::builder().attribute_name("leaseKey");
        let schema = KeySchemaElement::builder().attribute_name("leaseKey");
        let made = table
            .attribute_definitions(key.attribute_type(ScalarAttributeType::S).build().unwrap())
            .key_schema(schema.key_type(KeyType::Hash).build().unwrap())
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        made.expect("the lease table is made");
        Self { cluster }
    }

    async fn put(&self, what: &str, num: usize) {
        self.cluster.aws.put_lines(STREAM, &numbered(what, num)).await;
    }

    /// Every record of the stream by shard, in order.
    async fn records(&self) -> BTreeMap<String, Vec<String>> {
        let mut by_shard = BTreeMap::<String, Vec<String>>::new();
        for (shard, number) in truth::records(&self.cluster.aws.endpoint, STREAM).await.into_keys()
        {
            by_shard.entry(shard).or_default().push(number);
        }
        by_shard
    }

    /// Writes a lease as the KCL does.
    async fn lease(&self, shard: &str, checkpoint: &str, sub: u64, owner: Option<(&str, u64)>) {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let number = |number: u64| AttributeValue::N(number.to_string());
        let put = self.cluster.aws.endpoint.dynamodb().put_item().table_name(TABLE);
        let mut put = put
            .item("leaseKey", text(shard))
            .item("checkpoint", text(checkpoint))
            .item("checkpointSubSequenceNumber", number(sub))
            .item("ownerSwitchesSinceCheckpoint", number(0))
            .item("leaseCounter", number(owner.map_or(0, |(_, counter)| counter)));
        if let Some((owner, _)) = owner {
            put = put.item("leaseOwner", text(owner));
        }
        put.send().await.expect("the lease is written");
    }

    /// Submits the application so that it takes the lease table over.
    async fn submit(&self) {
        let start = format!("start = {{ kcl = \"{TABLE}\" }}");
        let text = take_over().toml().replace("start = \"earliest\"", &start);
        let path = self.cluster.write("records.toml", &text);
        let _ = self.cluster.millrace(&["submit", &path]).await.success();
    }

    /// Submits it and gives the code and message of its refusal.
    async fn refused(&self) -> (String, String) {
        self.submit().await;
        let failure = failed(&self.cluster, NAME).await.failure.expect("a failure");
        (failure.code, failure.message)
    }
}

fn take_over() -> File {
    File { executors: 1, ..application() }
}

#[tokio::test]
async fn what_the_kcl_processed_is_not_read_and_all_else_is_once() {
    let scene = Scene::start(4).await;
    scene.put("old", 200).await;
    // The first shard is split and ends; so does the last, unread to its end.
    reshard::split(&scene.cluster.aws, STREAM, 0).await;
    reshard::split(&scene.cluster.aws, STREAM, 4).await;
    scene.put("split", 200).await;
    let mut truth = truth::records(&scene.cluster.aws.endpoint, STREAM).await;
    let records = scene.records().await;
    let shards: Vec<&String> = records.keys().collect();
    assert_eq!(shards.len(), 8, "four, and two children of two: {shards:?}");
    // The KCL is through with the first shard, and has begun with one of its children; it is in
    // the midst of the second and of the last, and has a lease on the third and nothing more. The
    // other children have no lease yet.
    let at = |shard: &str, place: usize| records[shard][place].clone();
    let half = |shard: &str| records[shard].len() / 2;
    let (ended, begun, midst, parent) = (shards[0], shards[4], shards[1], shards[3]);
    scene.lease(ended, "SHARD_END", 0, None).await;
    truth.retain(|(shard, _), _| shard != ended);
    for shard in [begun, midst, parent] {
        let place = half(shard);
        scene.lease(shard, &at(shard, place), 0, None).await;
        for number in &records[shard][..=place] {
            truth.remove(&(shard.clone(), number.clone()));
        }
    }
    scene.lease(shards[2], "TRIM_HORIZON", 0, None).await;
    // What version 3.5 keeps in the same table.
    let metrics = scene.cluster.aws.endpoint.dynamodb().put_item().table_name(TABLE);
    let metrics = metrics.item("leaseKey", AttributeValue::S("worker-1".into()));
    let metrics = metrics.item("entityType", AttributeValue::S("WORKER_METRICS".into()));
    metrics.send().await.expect("the metrics are written");

    scene.submit().await;
    rows_are(&scene.cluster, truth.len()).await;
    scene.cluster.stop(NAME, &["--drain"]).await;
    truth::assert_each_record_once(&objects(&scene.cluster).await, &truth);

    // From then on the head says where to go on, and nobody reads the table.
    let deleted = scene.cluster.aws.endpoint.dynamodb().delete_table().table_name(TABLE);
    deleted.send().await.expect("the lease table is deleted");
    scene.put("new", 100).await;
    scene.submit().await;
    rows_are(&scene.cluster, truth.len() + 100).await;
    scene.cluster.stop(NAME, &["--drain"]).await;
    let mut now = truth::records(&scene.cluster.aws.endpoint, STREAM).await;
    now.retain(|key, data| truth.contains_key(key) || data.starts_with("new"));
    truth::assert_each_record_once(&objects(&scene.cluster).await, &now);
}

#[tokio::test]
async fn a_doubt_is_refused_with_its_shard() {
    let scene = Scene::start(1).await;
    let users: Vec<User<'_>> = [&b"one"[..], b"two", b"three"]
        .into_iter()
        .map(|data| User { key: "k", hash_key: None, data })
        .collect();
    for data in [aggregate::of(&users), b"four".to_vec()] {
        let put = scene.cluster.aws.endpoint.kinesis().put_record().stream_name(STREAM);
        put.partition_key("k").data(Blob::new(data)).send().await.expect("the record is put");
    }
    let records = scene.records().await;
    let (shard, numbers) = records.first_key_value().unwrap();

    // No lease of this stream.
    scene.lease("000000000000:other:1:shardId-000000000000", "LATEST", 0, None).await;
    let (code, message) = scene.refused().await;
    assert_eq!(code, "MR5005", "{message}");
    assert!(message.contains(TABLE) && message.contains("no lease of the stream"), "{message}");
    // A checkpoint that does not say what was processed.
    scene.lease(shard, "LATEST", 0, None).await;
    let (code, message) = scene.refused().await;
    assert_eq!(code, "MR5005", "{message}");
    assert!(message.contains(shard) && message.contains("does not say"), "{message}");
    // One in the middle of an aggregate.
    scene.lease(shard, &numbers[0], 1, None).await;
    let (code, message) = scene.refused().await;
    assert_eq!(code, "MR5005", "{message}");
    let place = format!("{shard} (at {}, user record 1 of 0 to 2)", numbers[0]);
    assert!(message.contains(&place), "{message}");

    // A worker that renews its lease.
    let renew = async {
        let mut renewals = tokio::time::interval(RENEWAL);
        for counter in 1u64.. {
            let _ = renewals.tick().await;
            scene.lease(shard, &numbers[0], 2, Some(("worker-1", counter))).await;
        }
    };
    let (code, message) = tokio::select! {
        refused = scene.refused() => refused,
        () = renew => unreachable!("it renews for ever"),
    };
    assert_eq!(code, "MR5004", "{message}");
    for word in [TABLE, shard, "worker-1"] {
        assert!(message.contains(word), "{word} in {message}");
    }
    assert_eq!(written(&scene.cluster).await, Vec::<String>::new(), "nothing has begun");

    // It dies: its owner stands in the lease still, and nobody renews it.
    scene.submit().await;
    rows_are(&scene.cluster, 1).await;
    scene.cluster.stop(NAME, &["--drain"]).await;
    assert_eq!(written(&scene.cluster).await, ["four"]);
}
