//! One AWS surface as a test sees it: an endpoint, credentials, and SDK clients of our own making,
//! so that a defect in the clients of the product can not hide itself.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::BehaviorVersion;
use aws_sdk_s3::primitives::ByteStream;

use crate::eventually::{PATIENCE, within};
use crate::processes::Process;

/// Region of every test.
pub const REGION: &str = "us-east-1";

/// Where AWS is, and who calls it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
}

impl Endpoint {
    /// The environment by which every AWS SDK finds this endpoint.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_REGION", REGION),
            // What boto3 reads.
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", &self.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_access_key),
            // No look at a metadata service that is not there.
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(&self.access_key_id, &self.secret_access_key, None, None, "test")
    }

    /// A Kinesis client.
    #[must_use]
    pub fn kinesis(&self) -> aws_sdk_kinesis::Client {
        aws_sdk_kinesis::Client::from_conf(
            aws_sdk_kinesis::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(aws_sdk_kinesis::config::Region::new(REGION))
                .endpoint_url(&self.url)
                .credentials_provider(self.credentials())
                .build(),
        )
    }

    /// A DynamoDB client.
    #[must_use]
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(
            aws_sdk_dynamodb::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(aws_sdk_dynamodb::config::Region::new(REGION))
                .endpoint_url(&self.url)
                .credentials_provider(self.credentials())
                .build(),
        )
    }

    /// An S3 client with path-style addresses.
    #[must_use]
    pub fn s3(&self) -> aws_sdk_s3::Client {
        aws_sdk_s3::Client::from_conf(
            aws_sdk_s3::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(aws_sdk_s3::config::Region::new(REGION))
                .endpoint_url(&self.url)
                .credentials_provider(self.credentials())
                .force_path_style(true)
                .build(),
        )
    }

    /// Puts `lines` into `stream`, spread over its shards by their content, each once: the failed
    /// part of an answer is put again.
    ///
    /// # Panics
    /// When a line can not be put within the deadline.
    pub async fn put_lines(&self, stream: &str, lines: &[String]) {
        let kinesis = self.kinesis();
        for (index, part) in lines.chunks(500).enumerate() {
            let mut open: Vec<_> =
                part.iter().enumerate().map(|(i, line)| (index * 500 + i, line)).collect();
            within(Duration::from_secs(60), "the lines are put", async || {
                let entries = open.iter().map(|(key, line)| {
                    aws_sdk_kinesis::types::PutRecordsRequestEntry::builder()
                        .partition_key(key.to_string())
                        .data(aws_sdk_kinesis::primitives::Blob::new(line.as_bytes()))
                        .build()
                        .expect("key and data are set")
                });
                let answer = kinesis
                    .put_records()
                    .stream_name(stream)
                    .set_records(Some(entries.collect()))
                    .send()
                    .await
                    .map_err(|error| format!("{error:?}"))?;
                let failed: Vec<_> = (open.iter().zip(answer.records()))
                    .filter(|(_, result)| result.error_code().is_some())
                    .map(|(entry, _)| *entry)
                    .collect();
                open = failed;
                if open.is_empty() { Ok(()) } else { Err(format!("{} failed", open.len())) }
            })
            .await;
        }
    }
}

/// A running judge: an AWS surface of its own, ended when dropped.
#[derive(Debug)]
pub struct Aws {
    /// Where it listens, with credentials that may do everything.
    pub endpoint: Endpoint,
    pub(crate) process: Process,
}

impl Aws {
    /// The process behind the endpoint.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Makes a stream and waits until it is active.
    ///
    /// # Panics
    /// When it can not be made.
    pub async fn create_stream(&self, stream: &str, num_shards: u8) {
        let kinesis = self.endpoint.kinesis();
        kinesis
            .create_stream()
            .stream_name(stream)
            .shard_count(num_shards.into())
            .send()
            .await
            .unwrap_or_else(|error| panic!("create stream {stream}: {error:?}"));
        self.stream_is_active(stream).await;
    }

    /// Waits until a stream is active, as it is again some time after a reshard.
    ///
    /// # Panics
    /// When it does not become so.
    pub async fn stream_is_active(&self, stream: &str) {
        let kinesis = self.endpoint.kinesis();
        within(PATIENCE, &format!("stream {stream} is active"), async || {
            let answer = kinesis.describe_stream_summary().stream_name(stream).send().await;
            let answer = answer.map_err(|error| format!("{error:?}"))?;
            let summary = answer.stream_description_summary().ok_or("no summary")?;
            match summary.stream_status().as_str() {
                "ACTIVE" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// When it can not be made.
    pub async fn create_bucket(&self, bucket: &str) {
        let made = self.endpoint.s3().create_bucket().bucket(bucket).send().await;
        made.unwrap_or_else(|error| panic!("create bucket {bucket}: {error:?}"));
    }

    /// Makes a bucket in another region than the one that the tests work in.
    ///
    /// # Panics
    /// When it can not be made.
    pub async fn create_bucket_in(&self, bucket: &str, region: &str) {
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(region.into())
            .build();
        let create = self.endpoint.s3().create_bucket().bucket(bucket);
        let made = create.create_bucket_configuration(place).send().await;
        made.unwrap_or_else(|error| panic!("create bucket {bucket} in {region}: {error:?}"));
    }

    /// As [`Endpoint::put_lines`].
    ///
    /// # Panics
    /// When a line can not be put within the deadline.
    pub async fn put_lines(&self, stream: &str, lines: &[String]) {
        self.endpoint.put_lines(stream, lines).await;
    }

    /// Puts an object.
    ///
    /// # Panics
    /// When it can not be put.
    pub async fn put_object(&self, bucket: &str, key: &str, body: &'static [u8]) {
        let put = self.endpoint.s3().put_object().bucket(bucket).key(key);
        let put = put.body(ByteStream::from_static(body)).send().await;
        put.unwrap_or_else(|error| panic!("put s3://{bucket}/{key}: {error:?}"));
    }
}
