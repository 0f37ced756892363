//! `millrace ls` and `millrace cat`: a look at what applications wrote, without another tool.
//!
//! Never does: change anything in S3.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::Object;
use jiff::Timestamp;
use millrace_common::aws::{AwsSettings, Kind, explain, kind};
use millrace_common::error::{Code, Error, Result};
use millrace_common::retry::{self, Backoff};
use serde::Serialize;

use super::aws;
use super::buckets::s3_of;
use crate::ended::Outcome;
use crate::output::{Align, Output, table};
use crate::times::show_time;

/// Tries of a call that only reads.
const TRIES: u32 = 5;

/// A bucket and a prefix or key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    bucket: String,
    key: String,
}

/// An object as `millrace ls --json` shows it.
#[derive(Clone, Debug, Serialize)]
struct ObjectView {
    path: String,
    bytes: i64,
    modified_ms: Option<i64>,
}

pub(super) async fn ls(output: &Output, path: &str) -> Outcome {
    let path = parse(path)?;
    let objects =
        list(&s3_of(&aws(output, &AwsSettings::default()).await?, &path.bucket).await, &path)
            .await?;
    let views: Vec<_> = objects.iter().map(|object| view(&path.bucket, object)).collect();
    output.result(&views, || {
        if views.is_empty() {
            output.say(&format!("nothing below s3://{}/{}", path.bucket, path.key));
            return String::new();
        }
        const COLUMNS: [(&str, Align); 3] =
            [("BYTES", Align::Right), ("MODIFIED", Align::Left), ("OBJECT", Align::Left)];
        table(
            &COLUMNS,
            views.iter().map(|view| {
                vec![
                    view.bytes.to_string(),
                    view.modified_ms.map_or_else(|| "-".to_owned(), show_time),
                    view.path.clone(),
                ]
            }),
        )
    })
}

pub(super) async fn cat(output: &Output, path: &str) -> Outcome {
    let path = some_of_a_bucket(parse(path)?)?;
    let client = s3_of(&aws(output, &AwsSettings::default()).await?, &path.bucket).await;
    if !path.key.ends_with('/') {
        return write_object(&client, output, &path).await;
    }
    for object in list(&client, &path).await? {
        let key = object.key.unwrap_or_default();
        write_object(&client, output, &Path { bucket: path.bucket.clone(), key }).await?;
    }
    Ok(())
}

/// Every object below a prefix, page by page, in the order of keys.
async fn list(client: &Client, path: &Path) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = retry::call(
            Backoff::CALL,
            TRIES,
            |error| kind(error).is_transient(),
            || {
                client
                    .list_objects_v2()
                    .bucket(&path.bucket)
                    .prefix(&path.key)
                    .set_continuation_token(token.clone())
                    .send()
            },
        )
        .await
        .map_err(|error| {
            explain("s3", "ListObjectsV2", &format!("bucket {}", path.bucket), &error)
        })?;
        objects.extend(page.contents.unwrap_or_default());
        token = page.next_continuation_token;
        if token.is_none() {
            return Ok(objects);
        }
    }
}

/// Writes the bytes of one object to standard output as they come.
async fn write_object(client: &Client, output: &Output, path: &Path) -> Outcome {
    let name = format!("s3://{}/{}", path.bucket, path.key);
    let answer = retry::call(
        Backoff::CALL,
        TRIES,
        |error| kind(error).is_transient(),
        || client.get_object().bucket(&path.bucket).key(&path.key).send(),
    )
    .await
    .map_err(|error| match (kind(&error), error.as_service_error()) {
        (Kind::Missing, Some(service)) if service.is_no_such_key() => Error::new(
            Code::FileUnreadable,
            format!("{name} does not exist"),
            "list what is there with `millrace ls`; a prefix ends with /",
        ),
        _ => explain("s3", "GetObject", &name, &error),
    })?;
    let mut body = answer.body;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| {
            Error::new(
                Code::AwsUnreachable,
                format!("reading {name} broke off"),
                "run the command again",
            )
            .caused_by(error)
        })?;
        output.bytes(&bytes)?;
    }
    Ok(())
}

fn view(bucket: &str, object: &Object) -> ObjectView {
    ObjectView {
        path: format!("s3://{bucket}/{}", object.key().unwrap_or_default()),
        bytes: object.size().unwrap_or_default(),
        modified_ms: object
            .last_modified()
            .and_then(|time| Timestamp::from_second(time.secs()).ok())
            .map(Timestamp::as_millisecond),
    }
}

fn parse(text: &str) -> Result<Path> {
    let refuse = || {
        Error::new(
            Code::InvalidValue,
            format!("{text:?} is not an S3 path"),
            "write s3://bucket/prefix/, as s3://results/word-count/",
        )
    };
    let rest = text.strip_prefix("s3://").ok_or_else(refuse)?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(refuse());
    }
    Ok(Path { bucket: bucket.to_owned(), key: key.to_owned() })
}

/// Refuses a path that names a whole bucket: nobody means to print that.
fn some_of_a_bucket(path: Path) -> Result<Path> {
    if !path.key.is_empty() {
        return Ok(path);
    }
    let bucket = &path.bucket;
    Err(Error::new(
        Code::InvalidValue,
        format!("s3://{bucket} names a bucket and no object in it"),
        format!(
            "write s3://{bucket}/KEY, or s3://{bucket}/PREFIX/ for all below it; `millrace ls \
             s3://{bucket}/` lists what is there"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bucket_and_key() {
        let path = |bucket: &str, key: &str| Path { bucket: bucket.into(), key: key.into() };
        assert_eq!(parse("s3://results/a/b/").unwrap(), path("results", "a/b/"));
        assert_eq!(parse("s3://results").unwrap(), path("results", ""));
        let whole = parse("s3://results/").and_then(some_of_a_bucket).unwrap_err();
        assert!(whole.next_move().contains("s3://results/PREFIX/"), "{whole}");
        some_of_a_bucket(parse("s3://results/a/").unwrap()).unwrap();
        for wrong in ["results/a", "s3://", "s3:///a", "/tmp/a"] {
            assert_eq!(parse(wrong).unwrap_err().code(), Code::InvalidValue, "{wrong}");
        }
    }
}
