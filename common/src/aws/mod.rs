//! AWS as Millrace uses it: clients with deadlines, errors by name, the server's date.
//!
//! The clients never retry by themselves: who calls knows whether a call may be sent again, and at
//! which pace. Nothing here knows what the calls are for.

mod account;
mod explain;
mod patience;
pub mod rights;
mod server_date;
mod streams;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

pub use self::explain::{Kind, detail, error_code, explain, in_region, kind, region_of};
pub use self::server_date::ServerDate;
pub use self::streams::StreamClients;
use crate::error::{Code, Error};

/// How long a connection to AWS may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one call may take; a part of 16 MiB at 1 MiB/s fits.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What sessions of assumed roles are called in the logs of AWS.
const ROLE_SESSION: &str = "millrace";

/// What an application or a process says about AWS; the SDK's usual chain decides the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwsSettings {
    /// Region; none: environment, profile, or the instance's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// One endpoint for all services, as `http://127.0.0.1:4566`; none: the public ones, or
    /// `AWS_ENDPOINT_URL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Profile of the AWS configuration files; none: `AWS_PROFILE`, or the usual chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Role to assume with those credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
}

impl AwsSettings {
    /// These settings, where they say something, and `general` where they say nothing.
    #[must_use]
    pub fn over(&self, general: &Self) -> Self {
        let or = |own: &Option<String>, other: &Option<String>| own.clone().or(other.clone());
        Self {
            region: or(&self.region, &general.region),
            endpoint: or(&self.endpoint, &general.endpoint),
            profile: or(&self.profile, &general.profile),
            // A profile of one's own is another caller: the general role is not its.
            role_arn: match self.profile {
                Some(_) => self.role_arn.clone(),
                None => or(&self.role_arn, &general.role_arn),
            },
        }
    }
}

/// The three services. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Kinesis Data Streams.
    pub kinesis: aws_sdk_kinesis::Client,
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// S3.
    pub s3: aws_sdk_s3::Client,
    region: String,
    shared: SdkConfig,
    /// How answers are waited for; none: as the SDK does, each to its own deadline.
    http: Option<SharedHttpClient>,
}

impl Clients {
    /// Reads the environment and makes the clients; connects to nothing yet.
    ///
    /// # Errors
    /// [`Code::Credentials`] when no region is set anywhere.
    pub async fn load(settings: &AwsSettings) -> Result<Self, Error> {
        Self::load_with(settings, None, None).await
    }

    /// As [`Clients::load`], for a command that a person waits for: what does not answer is told by
    /// `tell`, in words, after 2 s, and given up on after 12 s.
    ///
    /// # Errors
    /// As [`Clients::load`].
    pub async fn for_a_person(
        settings: &AwsSettings,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Self::load_with(settings, None, Some(patience::client(Box::new(tell)))).await
    }

    /// Others with these settings, that wait as these do.
    ///
    /// # Errors
    /// As [`Clients::load`].
    pub async fn beside(&self, settings: &AwsSettings) -> Result<Self, Error> {
        Self::load_with(settings, None, self.http.clone()).await
    }

    /// As [`Clients::load`], with these keys instead of the environment's: for a local cluster,
    /// which a user's real account must not reach.
    ///
    /// # Errors
    /// As [`Clients::load`].
    pub async fn with_keys(
        settings: &AwsSettings,
        access_key: &str,
        secret_key: &str,
    ) -> Result<Self, Error> {
        let keys = Credentials::new(access_key, secret_key, None, None, "given");
        Self::load_with(settings, Some(keys), None).await
    }

    async fn load_with(
        settings: &AwsSettings,
        keys: Option<Credentials>,
        http: Option<SharedHttpClient>,
    ) -> Result<Self, Error> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(CALL_TIMEOUT)
                    .operation_timeout(CALL_TIMEOUT)
                    .build(),
            );
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(keys) = keys {
            loader = loader.credentials_provider(keys);
        }
        if let Some(http) = &http {
            loader = loader.http_client(http.clone());
        }
        // Boxed: the chain of credentials is a large future, and every caller would carry it.
        let mut shared = Box::pin(loader.load()).await;
        if let Some(role) = &settings.role_arn {
            shared = Box::pin(assume(shared, role)).await;
        }
        let Some(region) = shared.region().map(ToString::to_string) else {
            return Err(Error::new(
                Code::Credentials,
                "no AWS region is set",
                "set AWS_REGION, or `region` under [aws] in the application file",
            ));
        };
        Ok(Self {
            kinesis: aws_sdk_kinesis::Client::new(&shared),
            dynamodb: aws_sdk_dynamodb::Client::new(&shared),
            s3: s3_client(&shared, None),
            region,
            shared,
            http,
        })
    }

    /// The region that the clients talk to.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// An S3 client for a bucket in another region.
    #[must_use]
    pub fn s3_in(&self, region: &str) -> aws_sdk_s3::Client {
        if region.is_empty() || region == self.region {
            return self.s3.clone();
        }
        s3_client(&self.shared, Some(region))
    }
}

/// The same configuration for who has assumed `role`; the calls to STS are its own.
async fn assume(caller: SdkConfig, role: &str) -> SdkConfig {
    let provider = AssumeRoleProvider::builder(role)
        .session_name(ROLE_SESSION)
        .configure(&caller)
        .build()
        .await;
    caller.to_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

/// Path-style addresses wherever the endpoint is not AWS's own: `bucket.127.0.0.1` is no host.
fn s3_client(shared: &SdkConfig, region: Option<&str>) -> aws_sdk_s3::Client {
    let own_endpoint = shared.endpoint_url().is_some()
        || ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]
            .iter()
            .any(|v| std::env::var_os(v).is_some());
    let mut config = aws_sdk_s3::config::Builder::from(shared).force_path_style(own_endpoint);
    if let Some(region) = region {
        config = config.region(Region::new(region.to_owned()));
    }
    aws_sdk_s3::Client::from_conf(config.build())
}
