//! DynamoDB as aws-sdk-dynamodb sees it: the calls that a head and a master's store need.

mod common;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, ConditionCheck, KeySchemaElement, KeyType,
    KeysAndAttributes, Put, PutRequest, ReturnValue, ReturnValuesOnConditionCheckFailure,
    ScalarAttributeType, TransactWriteItem, WriteRequest,
};
use common::{Clients, create_table, start};
use millrace_emulator::{Config, Handle};

const TABLE: &str = "millrace";

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

async fn with_table() -> (Handle, Clients) {
    let (handle, clients) = start(Config::default()).await;
    create_table(&clients.dynamodb, TABLE, &["pk", "sk"]).await;
    (handle, clients)
}

#[tokio::test]
async fn a_conditional_update_returns_the_item_that_won() {
    let (handle, clients) = with_table().await;
    let commit = |batch: i64, expected: i64, id: &str| {
        clients
            .dynamodb
            .update_item()
            .table_name(TABLE)
            .key("pk", s("app"))
            .key("sk", s("head"))
            .update_expression("SET #batch = :next, commit_id = :id, epoch = :epoch")
            .condition_expression("attribute_not_exists(pk) OR (epoch = :epoch AND #batch = :now)")
            .expression_attribute_names("#batch", "batch")
            .expression_attribute_values(":next", n(batch))
            .expression_attribute_values(":now", n(expected))
            .expression_attribute_values(":epoch", n(1))
            .expression_attribute_values(":id", s(id))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
    };
    let first = commit(1, 0, "a").await.expect("no item yet");
    assert_eq!(first.attributes().and_then(|a| a.get("batch")), Some(&n(1)));
    commit(2, 1, "b").await.expect("batch is 1");
    let refused = commit(2, 1, "c").await.expect_err("batch is 2").into_service_error();
    let item = match refused {
        aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(e) => e.item.expect("the item that won"),
        other => panic!("{other:?}"),
    };
    assert_eq!(item.get("commit_id"), Some(&s("b")));
    assert_eq!(item.get("batch"), Some(&n(2)));
    handle.stop().await;
}

#[tokio::test]
async fn a_reserved_word_without_a_placeholder_is_refused() {
    let (handle, clients) = with_table().await;
    let update = clients.dynamodb.update_item().table_name(TABLE);
    let update = update
        .key("pk", s("app"))
        .key("sk", s("head"))
        .update_expression("SET batch = :b")
        .expression_attribute_values(":b", n(1));
    let refused = update.send().await.expect_err("reserved");
    assert_eq!(refused.code(), Some("ValidationException"));
    assert!(refused.message().is_some_and(|m| m.contains("reserved")), "{refused:?}");
    handle.stop().await;
}

#[tokio::test]
async fn an_item_above_400_kib_is_refused() {
    let (handle, clients) = with_table().await;
    let put = |size: usize| {
        let put = clients.dynamodb.put_item().table_name(TABLE);
        put.item("pk", s("a")).item("sk", s("b")).item("v", s(&"x".repeat(size))).send()
    };
    put(399 << 10).await.expect("fits");
    let refused = put(400 << 10).await.expect_err("too large");
    assert_eq!(refused.code(), Some("ValidationException"));
    assert!(refused.message().is_some_and(|m| m.contains("size")), "{refused:?}");
    handle.stop().await;
}

#[tokio::test]
async fn items_are_put_got_queried_scanned_and_deleted() {
    let (handle, clients) = with_table().await;
    let db = &clients.dynamodb;
    let put = |i: i64| {
        let item = PutRequest::builder().item("pk", s("app")).item("sk", s(&format!("{i:03}")));
        WriteRequest::builder().put_request(item.item("v", n(i)).build().expect("item")).build()
    };
    let batch = db.batch_write_item().request_items(TABLE, (0..25).map(put).collect());
    let left = batch.send().await.expect("batch write");
    assert!(left.unprocessed_items().is_none_or(|i| i.is_empty()));

    let query = db.query().table_name(TABLE).key_condition_expression("pk = :pk AND sk >= :sk");
    let query = query
        .expression_attribute_values(":pk", s("app"))
        .expression_attribute_values(":sk", s("010"))
        .limit(4);
    let mut pages = query.into_paginator().items().send();
    let mut found = Vec::new();
    while let Some(item) = pages.next().await {
        found.push(item.expect("item").get("v").cloned().expect("v"));
    }
    assert_eq!(found, (10..25).map(n).collect::<Vec<_>>());

    let keys = KeysAndAttributes::builder()
        .keys([("pk".into(), s("app")), ("sk".into(), s("003"))].into())
        .consistent_read(true)
        .build()
        .expect("keys");
    let got = db.batch_get_item().request_items(TABLE, keys).send().await.expect("batch get");
    assert_eq!(got.responses().and_then(|r| r.get(TABLE)).map(Vec::len), Some(1));

    let key = |sk: &str| [("pk".to_owned(), s("app")), ("sk".to_owned(), s(sk))].into();
    db.delete_item().table_name(TABLE).set_key(Some(key("003"))).send().await.expect("delete");
    let get = db.get_item().table_name(TABLE).set_key(Some(key("003"))).consistent_read(true);
    assert_eq!(get.send().await.expect("get").item(), None);
    assert_eq!(db.scan().table_name(TABLE).send().await.expect("scan").count(), 24);
    handle.stop().await;
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let (handle, clients) = with_table().await;
    let db = &clients.dynamodb;
    let put = |sk: &str| {
        let put = Put::builder().table_name(TABLE).item("pk", s("t")).item("sk", s(sk));
        TransactWriteItem::builder().put(put.build().expect("put")).build()
    };
    let check = ConditionCheck::builder()
        .table_name(TABLE)
        .key("pk", s("t"))
        .key("sk", s("first"))
        .condition_expression("attribute_exists(pk)")
        .build()
        .expect("check");
    let check = TransactWriteItem::builder().condition_check(check).build();
    let refused = db.transact_write_items().transact_items(put("second"));
    let refused = refused.transact_items(check.clone()).send().await.expect_err("no first");
    let refused = refused.into_service_error();
    assert!(refused.is_transaction_canceled_exception(), "{refused:?}");
    assert_eq!(db.scan().table_name(TABLE).send().await.expect("scan").count(), 0);
    let first = db.transact_write_items().transact_items(put("first"));
    first.send().await.expect("first");
    let both = db.transact_write_items().transact_items(put("second")).transact_items(check);
    both.send().await.expect("first is there");
    assert_eq!(db.scan().table_name(TABLE).send().await.expect("scan").count(), 2);
    handle.stop().await;
}

#[tokio::test]
async fn tables_are_listed_and_deleted() {
    let (handle, clients) = with_table().await;
    let db = &clients.dynamodb;
    let listed = db.list_tables().send().await.expect("list");
    assert_eq!(listed.table_names(), [TABLE]);
    let again = db.create_table().table_name(TABLE);
    let again = again
        .attribute_definitions(
            AttributeDefinition::builder()
                .attribute_name("pk")
                .attribute_type(ScalarAttributeType::S)
                .build()
                .expect("attribute"),
        )
        .key_schema(
            KeySchemaElement::builder()
                .attribute_name("pk")
                .key_type(KeyType::Hash)
                .build()
                .expect("key"),
        )
        .billing_mode(BillingMode::PayPerRequest);
    let again = again.send().await.expect_err("exists").into_service_error();
    assert!(again.is_resource_in_use_exception(), "{again:?}");
    db.delete_table().table_name(TABLE).send().await.expect("delete");
    let gone = common::eventually("the table is gone", || async {
        db.describe_table().table_name(TABLE).send().await.err()
    })
    .await;
    assert!(gone.into_service_error().is_resource_not_found_exception());
    handle.stop().await;
}
