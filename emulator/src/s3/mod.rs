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
    let mut builder = S3ServiceBuilder::new(Backend { store, clock, region: region.into() });
    builder.set_auth(KnownKeys(credentials.to_vec()));
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
    use super::bucket_of_host;

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
