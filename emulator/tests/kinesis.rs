//! Kinesis as aws-sdk-kinesis sees it.

mod common;

use std::collections::BTreeMap;

use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, ScalingType, Shard, ShardFilter, ShardFilterType, ShardIteratorType,
    StreamStatus,
};
use common::{Clients, start};
use futures::future::join_all;
use millrace_emulator::{Config, Handle};

const STREAM: &str = "logs";

async fn with_stream(shards: i32, limited: bool) -> (Handle, Clients) {
    let (handle, clients) = start(Config { limited, ..Config::default() }).await;
    let create = clients.kinesis.create_stream().stream_name(STREAM).shard_count(shards);
    create.send().await.expect("create");
    wait_active(&clients).await;
    (handle, clients)
}

async fn wait_active(clients: &Clients) {
    common::eventually("the stream is ACTIVE", || async {
        let answer = clients.kinesis.describe_stream_summary().stream_name(STREAM).send().await;
        let summary = answer.ok()?.stream_description_summary?;
        (*summary.stream_status() == StreamStatus::Active).then_some(())
    })
    .await;
}

async fn put(clients: &Clients, records: impl IntoIterator<Item = (String, Vec<u8>)>) -> i32 {
    let entry = |(key, data): (String, Vec<u8>)| {
        let entry = PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data));
        entry.build().expect("entry")
    };
    let records: Vec<_> = records.into_iter().map(entry).collect();
    let put = clients.kinesis.put_records().stream_name(STREAM).set_records(Some(records));
    put.send().await.expect("put").failed_record_count().unwrap_or(0)
}

async fn iterator(clients: &Clients, shard: &str, kind: ShardIteratorType) -> String {
    let call = clients.kinesis.get_shard_iterator().stream_name(STREAM).shard_id(shard);
    let answer = call.shard_iterator_type(kind).send().await.expect("iterator");
    answer.shard_iterator.expect("iterator")
}

async fn get(clients: &Clients, iterator: &str, limit: Option<i32>) -> GetRecordsOutput {
    let call = clients.kinesis.get_records().shard_iterator(iterator).set_limit(limit);
    call.send().await.expect("records")
}

async fn shards(clients: &Clients) -> Vec<Shard> {
    let answer = clients.kinesis.list_shards().stream_name(STREAM).send().await.expect("shards");
    answer.shards.unwrap_or_default()
}

/// Reads a shard from its trim horizon to its tip or end: the data, and the children if it ended.
async fn read_all(clients: &Clients, shard: &str) -> (Vec<Vec<u8>>, Option<Vec<String>>) {
    let mut next = iterator(clients, shard, ShardIteratorType::TrimHorizon).await;
    let mut data = Vec::new();
    loop {
        let answer = get(clients, &next, Some(100)).await;
        data.extend(answer.records().iter().map(|r| r.data().as_ref().to_vec()));
        match answer.next_shard_iterator() {
            None => {
                let children = answer.child_shards().iter().map(|c| c.shard_id().to_owned());
                return (data, Some(children.collect()));
            }
            Some(_) if answer.millis_behind_latest() == Some(0) => return (data, None),
            Some(iterator) => next = iterator.to_owned(),
        }
    }
}

#[tokio::test]
async fn what_is_put_is_read_in_order_with_growing_sequence_numbers() {
    let (handle, clients) = with_stream(1, false).await;
    for n in 0..3 {
        let records =
            (0..100).map(|m| (format!("k\"{m}"), format!("{}", n * 100 + m).into_bytes()));
        assert_eq!(put(&clients, records).await, 0);
    }
    let first = iterator(&clients, "shardId-000000000000", ShardIteratorType::TrimHorizon).await;
    let page = get(&clients, &first, Some(250)).await;
    assert_eq!(page.records().len(), 250);
    assert!(page.millis_behind_latest().is_some_and(|ms| ms > 0));
    let next = page.next_shard_iterator().expect("open").to_owned();
    let rest = get(&clients, &next, None).await;
    assert_eq!(rest.millis_behind_latest(), Some(0));
    let all: Vec<_> = page.records().iter().chain(rest.records()).collect();
    for (n, record) in all.iter().enumerate() {
        assert_eq!(record.data().as_ref(), n.to_string().as_bytes());
        assert_eq!(record.sequence_number().len(), 56);
        assert!(record.approximate_arrival_timestamp().is_some());
    }
    assert!(all.windows(2).all(|pair| pair[0].sequence_number() < pair[1].sequence_number()));
    assert_eq!(all[5].partition_key(), Some("k\"5"));
    handle.stop().await;
}

#[tokio::test]
async fn iterators_start_where_they_say() {
    let (handle, clients) = with_stream(1, false).await;
    let shard = "shardId-000000000000";
    put(&clients, (0..10).map(|n| ("k".to_owned(), vec![n]))).await;
    let latest = iterator(&clients, shard, ShardIteratorType::Latest).await;
    let oldest = iterator(&clients, shard, ShardIteratorType::TrimHorizon).await;
    let all = get(&clients, &oldest, None).await.records;
    let from = |kind, number: &str| {
        let call = clients.kinesis.get_shard_iterator().stream_name(STREAM).shard_id(shard);
        let call = call.shard_iterator_type(kind).starting_sequence_number(number);
        let clients = clients.clone();
        async move {
            let next = call.send().await.expect("iterator").shard_iterator.expect("iterator");
            let answer = get(&clients, &next, None).await;
            answer.records().iter().map(|r| r.data().as_ref()[0]).collect::<Vec<_>>()
        }
    };
    let number = all[4].sequence_number();
    assert_eq!(from(ShardIteratorType::AtSequenceNumber, number).await, [4, 5, 6, 7, 8, 9]);
    assert_eq!(from(ShardIteratorType::AfterSequenceNumber, number).await, [5, 6, 7, 8, 9]);

    put(&clients, [("k".to_owned(), vec![10])]).await;
    let answer = get(&clients, &latest, None).await;
    assert_eq!(answer.records().len(), 1);
    let time = *answer.records()[0].approximate_arrival_timestamp().expect("time");
    let call = clients.kinesis.get_shard_iterator().stream_name(STREAM).shard_id(shard);
    let call = call.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(time);
    let next = call.send().await.expect("iterator").shard_iterator.expect("iterator");
    let records = get(&clients, &next, None).await;
    assert_eq!(records.records().last().map(|r| r.data().as_ref()[0]), Some(10));
    handle.stop().await;
}

#[tokio::test]
async fn foreign_and_altered_arguments_are_refused_by_name() {
    let (handle, clients) = with_stream(2, false).await;
    let k = &clients.kinesis;
    let missing = k.put_record().stream_name("none").partition_key("k").data(Blob::new("x"));
    let missing = missing.send().await.expect_err("no such stream").into_service_error();
    assert!(missing.is_resource_not_found_exception());
    assert_eq!(missing.message(), Some("Stream none under account 000000000000 not found."));
    let again = k.create_stream().stream_name(STREAM).shard_count(1).send().await;
    assert!(again.expect_err("exists").into_service_error().is_resource_in_use_exception());
    let bad = k.get_records().shard_iterator("AAAAAAAAAA").send().await.expect_err("no iterator");
    assert!(bad.into_service_error().is_invalid_argument_exception());

    let put = k.put_record().stream_name(STREAM).partition_key("a").data(Blob::new("x"));
    let stored = put.send().await.expect("put");
    let other = if stored.shard_id().ends_with('0') { 1 } else { 0 };
    let foreign = k
        .get_shard_iterator()
        .stream_name(STREAM)
        .shard_id(format!("shardId-{other:012}"))
        .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
        .starting_sequence_number(stored.sequence_number());
    let foreign = foreign.send().await.expect_err("of the other shard");
    assert!(foreign.into_service_error().is_invalid_argument_exception());
    let key = "k".repeat(257);
    let long = k.put_record().stream_name(STREAM).partition_key(key).data(Blob::new("x"));
    assert_eq!(long.send().await.expect_err("key").code(), Some("ValidationException"));
    let large = k.put_record().stream_name(STREAM).partition_key("k");
    let large = large.data(Blob::new(vec![0; 1 << 20])).send().await.expect_err("1 MiB + key");
    assert_eq!(large.code(), Some("ValidationException"));
    handle.stop().await;
}

#[tokio::test]
async fn streams_are_named_by_arn_listed_and_deleted() {
    let (handle, clients) = with_stream(1, false).await;
    let k = &clients.kinesis;
    let summary = k.describe_stream_summary().stream_name(STREAM).send().await.expect("summary");
    let arn = summary.stream_description_summary().expect("summary").stream_arn().to_owned();
    assert_eq!(arn, "arn:aws:kinesis:us-east-1:000000000000:stream/logs");
    let described = k.describe_stream().stream_arn(&arn).send().await.expect("describe");
    let description = described.stream_description().expect("description");
    assert_eq!((description.stream_name(), description.shards().len()), (STREAM, 1));
    assert!(description.stream_creation_timestamp().secs() > 1_700_000_000);
    k.create_stream().stream_name("other").shard_count(1).send().await.expect("create");
    let listed = k.list_streams().send().await.expect("list");
    assert_eq!(listed.stream_names(), [STREAM, "other"]);
    k.delete_stream().stream_name(STREAM).send().await.expect("delete");
    let gone = k.describe_stream_summary().stream_arn(&arn).send().await.expect_err("gone");
    assert!(gone.into_service_error().is_resource_not_found_exception());
    handle.stop().await;
}

#[tokio::test]
async fn shards_are_listed_in_pages_and_by_filter() {
    let (handle, clients) = with_stream(25, false).await;
    let k = &clients.kinesis;
    let mut seen = Vec::new();
    let mut page = k.list_shards().stream_name(STREAM).max_results(10).send().await.expect("page");
    loop {
        assert!(page.shards().len() <= 10);
        seen.extend(page.shards().iter().map(|s| s.shard_id().to_owned()));
        let Some(token) = page.next_token() else {
            break;
        };
        let both = k.list_shards().stream_name(STREAM).next_token(token).send().await;
        assert!(both.expect_err("exclusive").into_service_error().is_invalid_argument_exception());
        page = k.list_shards().next_token(token).max_results(10).send().await.expect("page");
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());
    let after = ShardFilter::builder()
        .r#type(ShardFilterType::AfterShardId)
        .shard_id("shardId-000000000022")
        .build()
        .expect("filter");
    let after = k.list_shards().stream_name(STREAM).shard_filter(after).send().await.expect("list");
    assert_eq!(after.shards().len(), 2);
    handle.stop().await;
}

/// Reads every listed shard, checks its place among its parents and children, and counts how often
/// each record was read.
async fn read_through_children(clients: &Clients) -> BTreeMap<Vec<u8>, u32> {
    let listed: BTreeMap<String, Shard> =
        shards(clients).await.into_iter().map(|s| (s.shard_id().to_owned(), s)).collect();
    assert_eq!(listed.len(), 6, "first, two children, their merger, and its two children");
    let mut read = BTreeMap::new();
    for (id, shard) in &listed {
        let (data, children) = read_all(clients, id).await;
        let numbers = shard.sequence_number_range().expect("range");
        assert_eq!(children.is_some(), numbers.ending_sequence_number().is_some(), "{id}");
        for child in children.unwrap_or_default() {
            let parents =
                [listed[&child].parent_shard_id(), listed[&child].adjacent_parent_shard_id()];
            assert!(parents.contains(&Some(id.as_str())), "{child} of {id}");
        }
        for record in data {
            *read.entry(record).or_insert(0) += 1;
        }
    }
    read
}

#[tokio::test]
async fn records_of_split_and_merged_shards_are_read_once_through_their_children() {
    let (handle, clients) = with_stream(1, false).await;
    let k = &clients.kinesis;
    let keyed = |range: std::ops::Range<u32>| {
        range.map(|n| (format!("key-{n}"), n.to_be_bytes().to_vec())).collect::<Vec<_>>()
    };
    put(&clients, keyed(0..100)).await;
    let middle = (u128::MAX / 2 + 1).to_string();
    let split = k.split_shard().stream_name(STREAM).shard_to_split("shardId-000000000000");
    split.new_starting_hash_key(middle).send().await.expect("split");
    wait_active(&clients).await;
    put(&clients, keyed(100..200)).await;
    let merge = k.merge_shards().stream_name(STREAM).shard_to_merge("shardId-000000000001");
    merge.adjacent_shard_to_merge("shardId-000000000002").send().await.expect("merge");
    wait_active(&clients).await;
    put(&clients, keyed(200..300)).await;
    let scale = k.update_shard_count().stream_name(STREAM).target_shard_count(2);
    let scaled = scale.scaling_type(ScalingType::UniformScaling).send().await.expect("scale");
    assert_eq!(scaled.current_shard_count(), Some(1));
    wait_active(&clients).await;
    put(&clients, keyed(300..400)).await;

    let read = read_through_children(&clients).await;
    assert_eq!(read.len(), 400);
    assert!(read.values().all(|times| *times == 1));
    let open = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().expect("filter");
    let open = k.list_shards().stream_name(STREAM).shard_filter(open).send().await.expect("list");
    assert_eq!(open.shards().len(), 2);
    handle.stop().await;
}

#[tokio::test]
async fn a_full_shard_fails_its_records_and_no_others() {
    let (handle, clients) = with_stream(2, true).await;
    let entry = |n: usize, hash: &str| {
        let entry = PutRecordsRequestEntry::builder().partition_key(format!("k{n}"));
        let entry = entry.data(Blob::new(vec![b'x'; 30_000])).explicit_hash_key(hash);
        entry.build().expect("entry")
    };
    let low = (0..100).map(|n| entry(n, "0"));
    let high = (100..110).map(|n| entry(n, "340282366920938463463374607431768211455"));
    let records: Vec<_> = low.chain(high).collect();
    let put = clients.kinesis.put_records().stream_name(STREAM).set_records(Some(records));
    let answer = put.send().await.expect("put");
    let failed: Vec<_> = answer.records().iter().filter(|r| r.error_code().is_some()).collect();
    assert_eq!(Some(failed.len() as i32), answer.failed_record_count());
    assert!((60..70).contains(&failed.len()), "{} of 100 x 30 KB failed", failed.len());
    assert!(answer.records()[100..].iter().all(|r| r.sequence_number().is_some()));
    let failure = failed[0];
    assert_eq!(failure.error_code(), Some("ProvisionedThroughputExceededException"));
    let message = failure.error_message().unwrap_or_default();
    assert_eq!(
        message,
        "Rate exceeded for shard shardId-000000000000 in stream logs under account 000000000000."
    );
    handle.stop().await;
}

#[tokio::test]
async fn more_reads_than_five_in_a_second_are_refused() {
    let (handle, clients) = with_stream(1, true).await;
    let next = iterator(&clients, "shardId-000000000000", ShardIteratorType::TrimHorizon).await;
    // All at once: a slow machine may give a sixth its turn, but not all of them.
    let reads = (0..32).map(|_| clients.kinesis.get_records().shard_iterator(&next).send());
    let refused = join_all(reads).await.into_iter().find_map(Result::err);
    let refused = refused.expect("one of them").into_service_error();
    assert!(refused.is_provisioned_throughput_exceeded_exception(), "{refused:?}");
    handle.stop().await;
}
