//! Where the buckets of an application are: uploads go to each bucket's own region.
//!
//! Promises: a region that S3 tells is used, also to who may not list the bucket. Never does: fail;
//! the checks and the first upload say what is wrong with a bucket.

use std::collections::BTreeMap;

use millrace_common::application::{ApplicationSpec, S3Location};
use millrace_common::aws::{self, Clients};
use millrace_common::retry::{self, Backoff};

/// Tries per bucket.
const TRIES: u32 = 4;

/// Regions by bucket, and the application's own for the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketRegions {
    general: String,
    known: BTreeMap<String, String>,
}

impl BucketRegions {
    /// The region of a bucket.
    #[must_use]
    pub fn of(&self, bucket: &str) -> &str {
        self.known.get(bucket).map_or(&self.general, String::as_str)
    }

    /// All buckets in one region.
    #[must_use]
    pub fn all_in(region: &str) -> Self {
        Self { general: region.to_owned(), known: BTreeMap::new() }
    }
}

/// Asks S3 for the region of each bucket.
pub async fn bucket_regions(spec: &ApplicationSpec, clients: &Clients) -> BucketRegions {
    let mut regions = BucketRegions::all_in(clients.region());
    for S3Location { bucket, .. } in
        std::iter::once(&spec.sink.path).chain(&spec.sink.dead_letter_path)
    {
        let head = || clients.s3.head_bucket().bucket(bucket).send();
        let passes = |error: &_| aws::kind(error).is_transient();
        let region = match retry::call(Backoff::CALL, TRIES, passes, head).await {
            Ok(answer) => answer.bucket_region,
            Err(error) => aws::region_of(&error).map(ToOwned::to_owned),
        };
        if let Some(region) = region.filter(|region| !region.is_empty()) {
            if region != clients.region() {
                tracing::info!(bucket, region, "uploads go to the region of the bucket");
            }
            regions.known.insert(bucket.clone(), region);
        }
    }
    regions
}
