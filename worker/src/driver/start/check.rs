//! The specification against the world: the query, the streams, the bucket.
//!
//! Promises: every fault is found before the driver asks for executors, and is one error with its
//! next move. Never does: write.

use std::collections::BTreeMap;

use async_trait::async_trait;
use millrace_common::application::{ApplicationSpec, S3Location};
use millrace_common::aws::{self, Clients};
use millrace_common::error::{Code, Error};
use millrace_common::retry::{self, Backoff};

use crate::driver::receivers::discovery::{Description, Streams};

/// Tries per check; a start that fails for longer is worth a new attempt.
const TRIES: u32 = 6;

/// Buckets as the start needs them.
#[async_trait]
pub trait Buckets: Send + Sync + 'static {
    /// Sees that the bucket is there, in whatever region.
    async fn check(&self, location: &S3Location) -> Result<(), Error>;
}

/// S3 itself.
#[derive(Clone, Debug)]
pub struct S3Buckets {
    clients: Clients,
}

impl S3Buckets {
    /// Through these clients.
    #[must_use]
    pub fn new(clients: Clients) -> Self {
        Self { clients }
    }

    async fn head(&self, bucket: &str) -> Result<(), (bool, Error)> {
        let Err(error) = self.clients.s3.head_bucket().bucket(bucket).send().await else {
            return Ok(());
        };
        let kind = aws::kind(&error);
        // HeadBucket needs the right to list, which an application need not have: then the first
        // upload tells.
        // A bucket of another region is used there.
        if kind == aws::Kind::Forbidden
            || aws::region_of(&error).is_some_and(|_| kind == aws::Kind::Region)
        {
            return Ok(());
        }
        let resource = format!("bucket {bucket}");
        Err((kind.is_transient(), aws::explain("s3", "HeadBucket", &resource, &error)))
    }
}

#[async_trait]
impl Buckets for S3Buckets {
    async fn check(&self, location: &S3Location) -> Result<(), Error> {
        let head = || self.head(&location.bucket);
        retry::call(Backoff::CALL, TRIES, |(again, _): &(bool, Error)| *again, head)
            .await
            .map_err(|(_, error)| error)
    }
}

/// What the checks found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The streams, by source.
    pub streams: BTreeMap<String, Description>,
}

/// Checks streams and buckets. (The query is checked by making the runner.)
///
/// # Errors
/// The first fault, in the order of the file.
pub async fn check(
    spec: &ApplicationSpec,
    kinesis: &dyn Streams,
    buckets: &dyn Buckets,
) -> Result<Checked, Error> {
    let mut streams = BTreeMap::new();
    for (name, source) in &spec.sources {
        let description = kinesis.describe(&source.stream).await?;
        if !description.active {
            return Err(Error::new(
                Code::StreamNotActive,
                format!("stream {} of source {name} is {}", source.stream, description.status),
                "wait until the stream is ACTIVE, then submit again",
            ));
        }
        streams.insert(name.clone(), description);
    }
    buckets.check(&spec.sink.path).await?;
    if let Some(path) = &spec.sink.dead_letter_path
        && path.bucket != spec.sink.path.bucket
    {
        buckets.check(path).await?;
    }
    Ok(Checked { streams })
}
