//! Reads what stands in S3: objects with their rows and tokens, and the uploads that are open.
//!
//! Never does: write or delete.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;

use super::CheckError;
use super::name::ObjectName;
use super::output::{Object, decompress, rows};

/// Metadata under which Millrace says which run wrote an object.
const TOKEN: &str = "millrace-token";

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its ETag, as S3 writes it.
    pub etag: String,
}

/// Lists the objects under a prefix, in the order of their keys.
///
/// # Errors
/// What S3 answers.
pub async fn list(client: &Client, bucket: &str, prefix: &str) -> Result<Vec<Listed>, CheckError> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let call = client.list_objects_v2().bucket(bucket).prefix(prefix);
        let page = call.set_continuation_token(token).send().await.map_err(|error| {
            CheckError(format!("list s3://{bucket}/{prefix}: {}", DisplayErrorContext(error)))
        })?;
        found.extend(page.contents().iter().filter_map(|object| {
            let etag = object.e_tag().unwrap_or_default().to_owned();
            Some(Listed { key: object.key()?.to_owned(), etag })
        }));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return Ok(found);
        }
    }
}

/// Reads every object under a prefix.
///
/// # Errors
/// What S3 answers, or an object that can not be unpacked or parsed.
pub async fn read_objects(
    client: &Client,
    bucket: &str,
    prefix: &str,
    application: &str,
) -> Result<Vec<Object>, CheckError> {
    let mut objects = Vec::new();
    for Listed { key, .. } in list(client, bucket, prefix).await? {
        let failed = |what: String| CheckError(format!("get s3://{bucket}/{key}: {what}"));
        let answer = client.get_object().bucket(bucket).key(&key).send().await;
        let answer = answer.map_err(|error| failed(DisplayErrorContext(error).to_string()))?;
        let token = answer.metadata().and_then(|metadata| metadata.get(TOKEN)).cloned();
        let bytes = answer.body.collect().await.map_err(|error| failed(error.to_string()))?;
        let plain = decompress(&key, &bytes.into_bytes())?;
        let rows = rows(&key, &plain)?;
        let name = ObjectName::parse(application, &key);
        objects.push(Object { key, name, token, rows });
    }
    Ok(objects)
}

/// Keys of the multipart uploads that are open under a prefix.
///
/// # Errors
/// What S3 answers.
pub async fn open_uploads(
    client: &Client,
    bucket: &str,
    prefix: &str,
) -> Result<Vec<String>, CheckError> {
    let mut found = Vec::new();
    let (mut key_marker, mut id_marker) = (None, None);
    loop {
        let call = client.list_multipart_uploads().bucket(bucket).prefix(prefix);
        let call = call.set_key_marker(key_marker).set_upload_id_marker(id_marker);
        let page = call.send().await.map_err(|error| {
            let error = DisplayErrorContext(error);
            CheckError(format!("list the uploads of s3://{bucket}/{prefix}: {error}"))
        })?;
        found.extend(page.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)));
        if page.is_truncated() != Some(true) {
            return Ok(found);
        }
        key_marker = page.next_key_marker().map(str::to_owned);
        id_marker = page.next_upload_id_marker().map(str::to_owned);
    }
}
