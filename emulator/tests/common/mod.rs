//! What the integration tests share: an emulator in this process and the clients of aws-sdk-rust.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::future::Future;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use millrace_emulator::{Config, Emulator, Handle};

/// How long a state may take to come about before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The three clients.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) kinesis: aws_sdk_kinesis::Client,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) s3: aws_sdk_s3::Client,
}

/// Starts an emulator in this process.
pub(crate) async fn start(config: Config) -> (Handle, Clients) {
    let handle = Emulator::start(config).await.expect("the emulator starts");
    let clients = clients(&handle.endpoint());
    (handle, clients)
}

/// Clients as an application makes them: nothing is set but endpoint, region and credentials.
pub(crate) fn clients(endpoint: &str) -> Clients {
    let shared = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(
            Credentials::new("test", "test", None, None, "tests"),
        ))
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .build();
    Clients {
        kinesis: aws_sdk_kinesis::Client::new(&shared),
        dynamodb: aws_sdk_dynamodb::Client::new(&shared),
        s3: aws_sdk_s3::Client::new(&shared),
    }
}

/// Makes a table of text keys, the first the hash key, and waits until it is there.
pub(crate) async fn create_table(db: &aws_sdk_dynamodb::Client, table: &str, keys: &[&str]) {
    let mut create = db.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for (n, name) in keys.iter().enumerate() {
        let kind = if n == 0 { KeyType::Hash } else { KeyType::Range };
        let key = KeySchemaElement::builder().attribute_name(*name).key_type(kind);
        let text = ScalarAttributeType::S;
        let attribute = AttributeDefinition::builder().attribute_name(*name).attribute_type(text);
        create = create
            .key_schema(key.build().expect("key"))
            .attribute_definitions(attribute.build().expect("attribute"));
    }
    create.send().await.expect("create");
    eventually("the table is ACTIVE", || async {
        let answer = db.describe_table().table_name(table).send().await.ok()?;
        (answer.table()?.table_status()?.as_str() == "ACTIVE").then_some(())
    })
    .await;
}

/// Polls until `probe` yields something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    probe: impl Fn() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "did not come about: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
