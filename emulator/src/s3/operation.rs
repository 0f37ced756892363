//! The name of the S3 operation that a request is, as the API calls it: for rules about faults.

use http::Method;

/// What of a request decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLine<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    /// Whether the Host header names the bucket.
    pub(crate) bucket_in_host: bool,
    pub(crate) copies: bool,
}

/// The operation, or `Unknown`.
pub(crate) fn operation_name(line: &RequestLine<'_>) -> &'static str {
    let path = line.path.trim_start_matches('/');
    let key =
        if line.bucket_in_host { Some(path) } else { path.split_once('/').map(|(_, key)| key) };
    let has_bucket = line.bucket_in_host || !path.is_empty();
    let has_key = key.is_some_and(|k| !k.is_empty());
    let asks = |name: &str| {
        line.query.split('&').any(|pair| pair.split_once('=').map_or(pair, |(n, _)| n) == name)
    };
    match (line.method.as_str(), has_bucket, has_key) {
        ("GET", false, _) => "ListBuckets",
        ("GET", true, false) if asks("location") => "GetBucketLocation",
        ("GET", true, false) if asks("uploads") => "ListMultipartUploads",
        ("GET", true, false) if asks("list-type") => "ListObjectsV2",
        ("GET", true, false) => "ListObjects",
        ("PUT", true, false) => "CreateBucket",
        ("HEAD", true, false) => "HeadBucket",
        ("DELETE", true, false) => "DeleteBucket",
        ("POST", true, false) if asks("delete") => "DeleteObjects",
        ("GET", true, true) if asks("uploadId") => "ListParts",
        ("GET", true, true) => "GetObject",
        ("HEAD", true, true) => "HeadObject",
        ("PUT", true, true) if asks("uploadId") => "UploadPart",
        ("PUT", true, true) if line.copies => "CopyObject",
        ("PUT", true, true) => "PutObject",
        ("POST", true, true) if asks("uploads") => "CreateMultipartUpload",
        ("POST", true, true) if asks("uploadId") => "CompleteMultipartUpload",
        ("DELETE", true, true) if asks("uploadId") => "AbortMultipartUpload",
        ("DELETE", true, true) => "DeleteObject",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let name = |method: Method, target: &str, bucket_in_host| {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let line = RequestLine { method: &method, path, query, bucket_in_host, copies: false };
            operation_name(&line)
        };
        assert_eq!(name(Method::GET, "/", false), "ListBuckets");
        assert_eq!(name(Method::GET, "/", true), "ListObjects");
        assert_eq!(name(Method::GET, "/b?list-type=2", false), "ListObjectsV2");
        assert_eq!(name(Method::PUT, "/b/k", false), "PutObject");
        assert_eq!(name(Method::PUT, "/k", true), "PutObject");
        assert_eq!(name(Method::PUT, "/k", false), "CreateBucket");
        assert_eq!(name(Method::PUT, "/b/k?partNumber=1&uploadId=x", false), "UploadPart");
        assert_eq!(name(Method::POST, "/b/k?uploads", false), "CreateMultipartUpload");
        assert_eq!(name(Method::POST, "/b/k?uploadId=x", false), "CompleteMultipartUpload");
        assert_eq!(name(Method::DELETE, "/b/k?uploadId=x", false), "AbortMultipartUpload");
        assert_eq!(name(Method::PATCH, "/b/k", false), "Unknown");
    }
}
