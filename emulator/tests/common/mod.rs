//! What the integration tests share: an emulator in this process and the clients of aws-sdk-rust.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::future::Future;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use millrace_emulator::{Config, Emulator, Handle};

/// How long a state may take to come about before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The three clients.
#[derive(Debug, Clone)]
pub struct Clients {
    pub kinesis: aws_sdk_kinesis::Client,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub s3: aws_sdk_s3::Client,
}

/// Starts an emulator in this process.
pub async fn start(config: Config) -> (Handle, Clients) {
    let handle = Emulator::start(config).await.expect("the emulator starts");
    let clients = clients(&handle.endpoint());
    (handle, clients)
}

/// Clients as an application makes them: nothing is set but endpoint, region and credentials.
pub fn clients(endpoint: &str) -> Clients {
    let shared = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(
            aws_credential_types::provider::SharedCredentialsProvider::new(Credentials::new(
                "test", "test", None, None, "tests",
            )),
        )
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .build();
    Clients {
        kinesis: aws_sdk_kinesis::Client::new(&shared),
        dynamodb: aws_sdk_dynamodb::Client::new(&shared),
        s3: aws_sdk_s3::Client::new(&shared),
    }
}

/// Polls until `probe` yields something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, probe: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "did not come about: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
