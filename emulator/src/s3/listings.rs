//! ListObjects and ListObjectsV2.

use s3s::dto::*;
use s3s::{S3Result, s3_error};

use super::listing::{Page, Query, list};
use super::store::Object as StoredObject;
use super::{Backend, timestamp};

/// Keys in a page when no limit is given, and at most.
const MAX_KEYS: i32 = 1000;

impl Backend {
    pub(super) fn list_v1(&self, input: ListObjectsInput) -> S3Result<ListObjectsOutput> {
        let max_keys = max_keys(input.max_keys)?;
        let state = self.store.lock();
        let query = Query {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref(),
            after: input.marker.as_deref().filter(|m| !m.is_empty()),
            max: max_keys as usize,
        };
        let page = list(&state.bucket(&input.bucket)?.objects, &query);
        let text = Encoding::of(input.encoding_type.as_ref());
        let next = page.next_after.as_deref().map(|n| text.write(n));
        let (contents, common_prefixes) = shapes(&page, text);
        Ok(ListObjectsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(text.write(query.prefix)),
            marker: Some(text.write(query.after.unwrap_or_default())),
            max_keys: Some(max_keys),
            is_truncated: Some(next.is_some()),
            next_marker: next,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: query.delimiter.map(|d| text.write(d)),
            encoding_type: input.encoding_type.clone(),
            ..Default::default()
        })
    }

    pub(super) fn list_v2(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        let max_keys = max_keys(input.max_keys)?;
        let continued = input.continuation_token.as_deref().map(read_token).transpose()?;
        let state = self.store.lock();
        let query = Query {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref(),
            after: continued.as_deref().or(input.start_after.as_deref()),
            max: max_keys as usize,
        };
        let page = list(&state.bucket(&input.bucket)?.objects, &query);
        let text = Encoding::of(input.encoding_type.as_ref());
        let next = page.next_after.as_ref();
        let next = next.map(|n| base64_simd::URL_SAFE_NO_PAD.encode_to_string(n));
        let (contents, common_prefixes) = shapes(&page, text);
        Ok(ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(text.write(query.prefix)),
            max_keys: Some(max_keys),
            key_count: Some((contents.len() + common_prefixes.len()) as i32),
            continuation_token: input.continuation_token.clone(),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: query.delimiter.map(|d| text.write(d)),
            encoding_type: input.encoding_type.clone(),
            start_after: input.start_after.as_deref().map(|s| text.write(s)),
            request_charged: None,
        })
    }
}

fn max_keys(asked: Option<i32>) -> S3Result<i32> {
    match asked {
        Some(negative) if negative < 0 => Err(s3_error!(
            InvalidArgument,
            "Argument maxKeys must be an integer between 0 and 2147483647"
        )),
        asked => Ok(asked.unwrap_or(MAX_KEYS).min(MAX_KEYS)),
    }
}

fn read_token(token: &str) -> S3Result<String> {
    base64_simd::URL_SAFE_NO_PAD
        .decode_to_vec(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

fn shapes(page: &Page<'_, StoredObject>, text: Encoding) -> (Vec<Object>, Vec<CommonPrefix>) {
    let object = |(key, object): &(&str, &StoredObject)| Object {
        key: Some(text.write(key)),
        e_tag: Some(ETag::Strong(object.record.etag.clone())),
        last_modified: Some(timestamp(object.record.modified_ms)),
        size: Some(object.size() as i64),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    };
    let prefix = |p: &&str| CommonPrefix { prefix: Some(text.write(p)) };
    let entries = page.entries.iter().map(object).collect();
    (entries, page.common_prefixes.iter().map(prefix).collect())
}

/// How keys are written into a listing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    pub(crate) fn of(asked: Option<&EncodingType>) -> Self {
        if asked.is_some_and(|e| e.as_str() == EncodingType::URL) { Self::Url } else { Self::Plain }
    }

    pub(crate) fn write(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => text
                .bytes()
                .map(|b| match b {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                        char::from(b).to_string()
                    }
                    b' ' => "+".to_owned(),
                    _ => format!("%{b:02X}"),
                })
                .collect(),
        }
    }
}
