//! Making S3 buckets, for emulators and first steps. Never does: change a bucket that is there.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use millrace_common::aws::{Clients, explain};
use millrace_common::error::Result;

/// The region in which a bucket is made when none is named, and that can not be named.
const REGION_UNNAMED: &str = "us-east-1";

/// Makes a bucket in the region of `clients`; false when the caller has it already.
///
/// # Errors
/// What S3 answers, explained; also for a bucket of somebody else.
pub(super) async fn create_if_missing(clients: &Clients, bucket: &str) -> Result<bool> {
    let region = clients.region();
    let place = (region != REGION_UNNAMED).then(|| {
        let region = BucketLocationConstraint::from(region);
        CreateBucketConfiguration::builder().location_constraint(region).build()
    });
    let made = clients.s3.create_bucket().bucket(bucket).set_create_bucket_configuration(place);
    match made.send().await {
        Ok(_) => Ok(true),
        Err(error) => {
            let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
            match code {
                Some("BucketAlreadyOwnedByYou") => Ok(false),
                _ => Err(explain("s3", "CreateBucket", &format!("bucket {bucket}"), &error)),
            }
        }
    }
}
