//! S3: buckets, objects and multipart uploads on files, behind s3s for the wire.
//!
//! Promise: an object is seen whole or not at all; what is acknowledged is with the operating system;
//! every checksum that a client sends is verified; the multipart rules are those of the real
//! service. s3s reads and writes the protocol and checks signatures; `store` and `uploads` keep the
//! state; `objects` and `multipart` are the operations.

mod api;
mod checksums;
mod content;
mod listing;
mod listings;
mod multipart;
mod objects;
mod operation;
mod pieces;
mod store;
mod uploads;

use std::io;
use std::path::Path;
use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::Timestamp;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

pub(crate) use self::operation::{RequestLine, operation_name};
use self::store::Store;
use crate::clock::Clock;

/// The operations on the state.
#[derive(Clone)]
pub(crate) struct Backend {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    region: Arc<str>,
}

/// Opens the state in `dir` and makes the service that answers requests.
///
/// # Errors
/// When the directory cannot be read or written.
pub(crate) fn open(
    dir: &Path,
    region: &str,
    credentials: &[(String, String)],
    clock: Arc<dyn Clock>,
) -> io::Result<S3Service> {
    let store = Arc::new(Store::open(dir)?);
    let backend = Backend { store: store.clone(), clock, region: region.into() };
    let mut builder = S3ServiceBuilder::new(backend);
    builder.set_auth(KnownKeys(credentials.to_vec()));
    builder.set_access(Regions(store));
    builder.set_host(Hosts);
    Ok(builder.build())
}

/// The access keys that may sign.
struct KnownKeys(Vec<(String, String)>);

#[async_trait::async_trait]
impl S3Auth for KnownKeys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let known = self.0.iter().find(|(key, _)| key == access_key);
        known.map(|(_, secret)| SecretKey::from(secret.as_str())).ok_or_else(|| {
            s3_error!(
                InvalidAccessKeyId,
                "The emulator does not know the access key {access_key}; use test with secret \
                 test, or start it with --credentials KEY:SECRET"
            )
        })
    }
}

/// Sends a request that is signed for another region than its bucket's there, as S3 does.
struct Regions(Arc<Store>);

#[async_trait::async_trait]
impl S3Access for Regions {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "A signature is required"));
        }
        // These are answered from everywhere.
        if ["CreateBucket", "GetBucketLocation"].contains(&request.s3_op().name()) {
            return Ok(());
        }
        let Some(bucket) = request.s3_path().get_bucket_name() else { return Ok(()) };
        let header = request.headers().get(http::header::AUTHORIZATION);
        let signed = header.and_then(|header| header.to_str().ok()).and_then(signed_region);
        let region = self.0.lock().buckets.get(bucket).map(|bucket| bucket.region.clone());
        match (signed, region) {
            (Some(signed), Some(region)) if signed != region => Err(elsewhere(&region)),
            _ => Ok(()),
        }
    }
}

/// The region that a request is signed for: `Credential=KEY/DATE/REGION/s3/aws4_request`.
fn signed_region(authorization: &str) -> Option<&str> {
    let (_, credential) = authorization.split_once("Credential=")?;
    credential.split([',', ' ']).next()?.split('/').nth(2)
}

fn elsewhere(region: &str) -> S3Error {
    let mut error = s3_error!(
        PermanentRedirect,
        "The bucket you are attempting to access must be addressed using the specified endpoint."
    );
    error.set_status_code(http::StatusCode::MOVED_PERMANENTLY);
    if let Ok(region) = http::HeaderValue::try_from(region) {
        error.set_headers(
            [(http::HeaderName::from_static("x-amz-bucket-region"), region)].into_iter().collect(),
        );
    }
    error
}

/// Tells virtual-hosted requests (`bucket.localhost`, `bucket.s3.anything`) from path-style ones.
struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let virtual_host = VirtualHost::new(host);
        Ok(match bucket_of_host(host) {
            Some(bucket) => virtual_host.with_bucket(bucket),
            None => virtual_host,
        })
    }
}

/// The bucket in a Host header, if it names one.
pub(crate) fn bucket_of_host(host: &str) -> Option<&str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name.parse::<std::net::IpAddr>().is_ok() || name.starts_with("s3.") {
        return None;
    }
    let bucket = [".s3.", ".s3-"].iter().find_map(|mark| name.split_once(mark).map(|(b, _)| b));
    bucket.or_else(|| name.strip_suffix(".localhost")).filter(|b| !b.is_empty())
}

/// A failure of the machine, not of the request.
fn internal(what: &str, error: &dyn std::fmt::Display) -> S3Error {
    tracing::error!(%error, "{what}");
    S3Error::with_message(S3ErrorCode::InternalError, format!("{what}: {error}"))
}

/// Milliseconds since 1970 as the second that S3 shows.
fn timestamp(ms: u64) -> Timestamp {
    let seconds = std::time::Duration::from_secs(ms / 1000);
    Timestamp::from(std::time::SystemTime::UNIX_EPOCH + seconds)
}

#[cfg(test)]
mod tests {
    use super::{bucket_of_host, signed_region};

    #[test]
    fn the_region_of_a_signature_is_found() {
        let header = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0";
        assert_eq!(signed_region(header), Some("eu-west-1"));
        assert_eq!(signed_region("Basic dGVzdA=="), None);
    }

    #[test]
    fn buckets_are_found_in_hosts() {
        assert_eq!(bucket_of_host("logs.localhost:4566"), Some("logs"));
        assert_eq!(bucket_of_host("my.logs.s3.localhost:4566"), Some("my.logs"));
        assert_eq!(bucket_of_host("logs.s3.us-east-1.amazonaws.com"), Some("logs"));
        assert_eq!(bucket_of_host("localhost:4566"), None);
        assert_eq!(bucket_of_host("s3.localhost:4566"), None);
        assert_eq!(bucket_of_host("127.0.0.1:4566"), None);
        assert_eq!(bucket_of_host("emulator:4566"), None);
    }
}
