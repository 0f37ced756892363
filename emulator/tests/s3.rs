//! S3 as aws-sdk-s3 sees it.

mod common;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use common::{Clients, start};
use millrace_emulator::{Config, Handle};

const BUCKET: &str = "results";
const MIB: usize = 1 << 20;

async fn with_bucket() -> (Handle, Clients) {
    let (handle, clients) = start(Config::default()).await;
    clients.s3.create_bucket().bucket(BUCKET).send().await.expect("bucket");
    (handle, clients)
}

fn code<E: ProvideErrorMetadata>(error: &E) -> &str {
    error.code().unwrap_or("none")
}

async fn body_of(s3: &aws_sdk_s3::Client, key: &str, range: Option<&str>) -> Vec<u8> {
    let get = s3.get_object().bucket(BUCKET).key(key).set_range(range.map(str::to_owned));
    let answer = get.send().await.expect("get");
    answer.body.collect().await.expect("body").to_vec()
}

#[tokio::test]
async fn objects_round_trip_with_metadata_and_ranges() {
    let (handle, clients) = with_bucket().await;
    let s3 = &clients.s3;
    let put = s3
        .put_object()
        .bucket(BUCKET)
        .key("a/b c+d")
        .metadata("token", "42")
        .content_type("text/plain")
        .body(ByteStream::from_static(b"0123456789"));
    let etag = put.send().await.expect("put").e_tag.expect("etag");
    assert_eq!(etag, "\"781e5e245d69b566979b86e28d23f2c7\"");

    assert_eq!(body_of(s3, "a/b c+d", None).await, b"0123456789");
    assert_eq!(body_of(s3, "a/b c+d", Some("bytes=2-4")).await, b"234");
    assert_eq!(body_of(s3, "a/b c+d", Some("bytes=-3")).await, b"789");
    assert_eq!(body_of(s3, "a/b c+d", Some("bytes=8-100")).await, b"89");
    let past = s3.get_object().bucket(BUCKET).key("a/b c+d").range("bytes=10-11").send().await;
    assert_eq!(code(&past.expect_err("past the end")), "InvalidRange");

    let head = s3.head_object().bucket(BUCKET).key("a/b c+d").send().await.expect("head");
    assert_eq!(head.content_length(), Some(10));
    assert_eq!(head.content_type(), Some("text/plain"));
    assert_eq!(head.metadata().and_then(|m| m.get("token")).map(String::as_str), Some("42"));
    let missing = s3.head_object().bucket(BUCKET).key("none").send().await.expect_err("missing");
    assert!(missing.into_service_error().is_not_found());
    let missing = s3.get_object().bucket(BUCKET).key("none").send().await.expect_err("missing");
    assert!(missing.into_service_error().is_no_such_key());
    handle.stop().await;
}

#[tokio::test]
async fn a_bucket_of_another_region_is_named_with_it() {
    let (handle, clients) = start(Config::default()).await;
    let s3 = &clients.s3;
    let region = aws_sdk_s3::types::BucketLocationConstraint::EuWest1;
    let place =
        aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(region).build();
    let create = s3.create_bucket().bucket("far").create_bucket_configuration(place);
    create.send().await.expect("create");
    let asked = s3.head_bucket().bucket("far").send().await.expect_err("elsewhere");
    let answer = asked.raw_response().expect("an answer");
    assert_eq!(answer.status().as_u16(), 301);
    assert_eq!(answer.headers().get("x-amz-bucket-region"), Some("eu-west-1"));
    let put = s3.put_object().bucket("far").key("k").send().await.expect_err("elsewhere");
    assert_eq!(code(&put), "PermanentRedirect");
    let region = aws_sdk_s3::config::Region::new("eu-west-1");
    let there = aws_sdk_s3::Client::from_conf(s3.config().to_builder().region(region).build());
    there.put_object().bucket("far").key("k").send().await.expect("in its region");
    handle.stop().await;
}

#[tokio::test]
async fn a_put_with_if_none_match_never_replaces() {
    let (handle, clients) = with_bucket().await;
    let put = |body: &'static [u8]| {
        let body = ByteStream::from_static(body);
        clients.s3.put_object().bucket(BUCKET).key("k").if_none_match("*").body(body).send()
    };
    put(b"first").await.expect("nothing is there");
    let refused = put(b"second").await.expect_err("something is there");
    assert_eq!(code(&refused), "PreconditionFailed");
    assert_eq!(body_of(&clients.s3, "k", None).await, b"first");
    handle.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_fit_its_checksum_is_refused() {
    let (handle, clients) = with_bucket().await;
    let put = |key: &str| {
        let body = ByteStream::from_static(b"123456789");
        clients.s3.put_object().bucket(BUCKET).key(key).body(body)
    };
    let wrong = put("k").checksum_crc32("AAAAAA==").send().await;
    assert_eq!(code(&wrong.expect_err("CRC32")), "BadDigest");
    let wrong = put("k").content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await;
    assert_eq!(code(&wrong.expect_err("MD5")), "BadDigest");
    let right = put("k").checksum_crc64_nvme("rosUhgp5mIg=").send().await.expect("fits");
    assert_eq!(right.checksum_crc64_nvme(), Some("rosUhgp5mIg="));
    handle.stop().await;
}

#[tokio::test]
async fn a_streamed_body_with_a_trailing_checksum_is_stored() {
    let (handle, clients) = with_bucket().await;
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("body");
    let content: Vec<u8> = (0..3 * MIB).map(|n| (n % 251) as u8).collect();
    std::fs::write(&path, &content).expect("write");
    // A body from a file is sent in aws-chunked form with its checksum after it.
    let body = ByteStream::from_path(&path).await.expect("stream");
    let put = clients.s3.put_object().bucket(BUCKET).key("streamed").body(body);
    put.send().await.expect("put");
    assert!(body_of(&clients.s3, "streamed", None).await == content, "other bytes came back");
    handle.stop().await;
}

#[tokio::test]
async fn listings_have_pages_prefixes_and_delimiters() {
    let (handle, clients) = with_bucket().await;
    let s3 = &clients.s3;
    for n in 0..25 {
        let key = format!("day={}/part {n:02}", n % 3);
        s3.put_object().bucket(BUCKET).key(key).send().await.expect("put");
    }
    let mut pages = s3.list_objects_v2().bucket(BUCKET).max_keys(10).into_paginator().send();
    let (mut keys, mut num_pages) = (Vec::new(), 0);
    while let Some(page) = pages.next().await {
        let page = page.expect("page");
        num_pages += 1;
        keys.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
    }
    assert_eq!((keys.len(), num_pages), (25, 3));
    assert!(keys.is_sorted());

    let folders = s3.list_objects_v2().bucket(BUCKET).delimiter("/").send().await.expect("list");
    let prefixes: Vec<_> = folders.common_prefixes().iter().filter_map(|p| p.prefix()).collect();
    assert_eq!(prefixes, ["day=0/", "day=1/", "day=2/"]);
    let one = s3.list_objects().bucket(BUCKET).prefix("day=1/").send().await.expect("list");
    assert_eq!(one.contents().len(), 8);

    let ids = keys.iter().map(|k| ObjectIdentifier::builder().key(k).build().expect("id"));
    let delete = Delete::builder().set_objects(Some(ids.collect())).build().expect("delete");
    let deleted = s3.delete_objects().bucket(BUCKET).delete(delete).send().await.expect("delete");
    assert_eq!(deleted.deleted().len(), 25);
    s3.delete_bucket().bucket(BUCKET).send().await.expect("empty now");
    let gone = s3.head_bucket().bucket(BUCKET).send().await.expect_err("gone");
    assert!(gone.into_service_error().is_not_found());
    handle.stop().await;
}

#[tokio::test]
async fn a_copy_has_the_bytes_and_the_metadata() {
    let (handle, clients) = with_bucket().await;
    let body = ByteStream::from_static(b"copied");
    let put = clients.s3.put_object().bucket(BUCKET).key("from").metadata("a", "1").body(body);
    put.send().await.expect("put");
    let source = format!("{BUCKET}/from");
    let copy = clients.s3.copy_object().bucket(BUCKET).key("to").copy_source(source);
    copy.send().await.expect("copy");
    clients.s3.delete_object().bucket(BUCKET).key("from").send().await.expect("delete");
    assert_eq!(body_of(&clients.s3, "to", None).await, b"copied");
    let head = clients.s3.head_object().bucket(BUCKET).key("to").send().await.expect("head");
    assert_eq!(head.metadata().and_then(|m| m.get("a")).map(String::as_str), Some("1"));
    handle.stop().await;
}

async fn create_upload(s3: &aws_sdk_s3::Client, key: &str) -> String {
    let upload = s3.create_multipart_upload().bucket(BUCKET).key(key).send().await.expect("create");
    upload.upload_id.expect("id")
}

async fn put_part(
    s3: &aws_sdk_s3::Client,
    key: &str,
    id: &str,
    n: i32,
    size: usize,
) -> CompletedPart {
    let body = ByteStream::from(vec![b'0' + n as u8; size]);
    let part = s3.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(n).body(body);
    let etag = part.send().await.expect("part").e_tag.expect("etag");
    CompletedPart::builder().part_number(n).e_tag(etag).build()
}

async fn complete(
    s3: &aws_sdk_s3::Client,
    key: &str,
    id: &str,
    parts: &[CompletedPart],
) -> Result<String, String> {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
    let call = s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
    match call.multipart_upload(parts).send().await {
        Ok(answer) => Ok(answer.e_tag.expect("etag")),
        Err(error) => Err(code(&error).to_owned()),
    }
}

#[tokio::test]
async fn parts_become_an_object_once_and_a_repeated_complete_succeeds() {
    let (handle, clients) = with_bucket().await;
    let s3 = &clients.s3;
    let id = create_upload(s3, "big").await;
    let parts = [put_part(s3, "big", &id, 1, 5 * MIB).await, put_part(s3, "big", &id, 2, 10).await];
    let listed = s3.list_parts().bucket(BUCKET).key("big").upload_id(&id).send().await;
    assert_eq!(listed.expect("parts").parts().len(), 2);
    let invisible = s3.list_objects_v2().bucket(BUCKET).send().await.expect("list");
    assert_eq!(invisible.contents().len(), 0);
    let uploads = s3.list_multipart_uploads().bucket(BUCKET).send().await.expect("uploads");
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));

    let etag = complete(s3, "big", &id, &parts).await.expect("complete");
    assert!(etag.ends_with("-2\""), "{etag}");
    assert_eq!(complete(s3, "big", &id, &parts).await, Ok(etag));
    let body = body_of(s3, "big", None).await;
    assert_eq!(body.len(), 5 * MIB + 10);
    assert_eq!(body_of(s3, "big", Some("bytes=5242879-5242881")).await, b"122");
    let uploads = s3.list_multipart_uploads().bucket(BUCKET).send().await.expect("uploads");
    assert_eq!(uploads.uploads().len(), 0);
    handle.stop().await;
}

#[tokio::test]
async fn wrong_completes_are_refused_by_name() {
    let (handle, clients) = with_bucket().await;
    let s3 = &clients.s3;
    let id = create_upload(s3, "k").await;
    let first = put_part(s3, "k", &id, 1, 100).await;
    let second = put_part(s3, "k", &id, 2, 100).await;
    let refused = |parts: Vec<CompletedPart>, id: &str| {
        let (s3, id) = (s3.clone(), id.to_owned());
        async move { complete(&s3, "k", &id, &parts).await.expect_err("refused") }
    };
    assert_eq!(refused(vec![first.clone(), second.clone()], &id).await, "EntityTooSmall");
    assert_eq!(refused(vec![second.clone(), first.clone()], &id).await, "InvalidPartOrder");
    let unknown = CompletedPart::builder().part_number(3).e_tag("\"none\"").build();
    assert_eq!(refused(vec![unknown], &id).await, "InvalidPart");
    assert_eq!(refused(vec![first.clone()], "nothing").await, "NoSuchUpload");

    s3.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send().await.expect("abort");
    assert_eq!(refused(vec![first], &id).await, "NoSuchUpload");
    let again = s3.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send().await;
    assert_eq!(code(&again.expect_err("aborted")), "NoSuchUpload");
    handle.stop().await;
}

#[tokio::test]
async fn an_unknown_access_key_is_told_what_to_do() {
    let (handle, _) = with_bucket().await;
    let config = aws_sdk_s3::Config::builder()
        .behavior_version_latest()
        .endpoint_url(handle.endpoint())
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_s3::config::Credentials::new("who", "x", None, None, "t"))
        .build();
    let refused = aws_sdk_s3::Client::from_conf(config).list_buckets().send().await;
    let refused = refused.expect_err("unknown key");
    assert_eq!(code(&refused), "InvalidAccessKeyId");
    assert!(refused.message().is_some_and(|m| m.contains("--credentials")));
    handle.stop().await;
}
