//! S3 buckets: finding them wherever they are, and making them, for emulators and first steps. Never
//! does: change a bucket that is there.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use millrace_common::aws::{Clients, explain, region_of};
use millrace_common::error::Result;

/// The region in which a bucket is made when none is named, and that can not be named.
const REGION_UNNAMED: &str = "us-east-1";

/// The client for a bucket, in the bucket's own region; where that can not be found out, the general
/// one, whose calls then say what is wrong.
pub(super) async fn s3_of(clients: &Clients, bucket: &str) -> Client {
    let region = match clients.s3.head_bucket().bucket(bucket).send().await {
        Ok(answer) => answer.bucket_region,
        Err(error) => region_of(&error).map(ToOwned::to_owned),
    };
    clients.s3_in(region.as_deref().unwrap_or_default())
}

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
