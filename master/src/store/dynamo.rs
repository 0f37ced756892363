//! The store on DynamoDB: items under `cluster#<cluster>` in the one table.
//!
//! One function per call, each with its deadline; nothing is tried again here.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValue, TransactWriteItem, Update};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use millrace_common::aws::{self, Kind};
use millrace_common::error::{Code, Error};
use millrace_common::id::{ApplicationName, NodeId};
use millrace_common::table;
use millrace_proto::v1;
use prost::Message as _;

use super::codec;
use super::{DrainOrder, LeaderItem, Record, Snapshot, Store, StoreError};
use crate::application::state_name;

/// How long one call may take: well below the time after which a leader steps down.
const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// Items that are marked at once when a new leader takes over.
const CLAIMS_IN_FLIGHT: usize = 16;

const TERM: &str = "term";
const RECORD: &str = "record";
const ASKED_MS: &str = "asked_ms";
const DEADLINE_MS: &str = "deadline_ms";

/// Lets a write through when the item is there and no later leader has written it.
const NO_LATER_TERM: &str = "#term <= :term";
/// The same for an item that may be absent.
const ABSENT_OR_NO_LATER_TERM: &str = "attribute_not_exists(#term) OR #term <= :term";

type Item = HashMap<String, AttributeValue>;

/// The items of one cluster in one table.
#[derive(Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
    cluster: String,
}

impl DynamoStore {
    /// The items of `cluster` in `table`.
    #[must_use]
    pub fn new(client: Client, table: String, cluster: String) -> Self {
        Self { client, table, cluster }
    }

    fn pk(&self) -> AttributeValue {
        AttributeValue::S(table::cluster_pk(&self.cluster))
    }

    fn failed<E>(
        &self,
        action: &str,
        error: &SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>,
    ) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let kind = aws::kind(error);
        let explained = aws::explain("dynamodb", action, &format!("table {}", self.table), error);
        match kind {
            Kind::Conditional => StoreError::Refused,
            kind if kind.is_transient() => StoreError::Passing(explained),
            _ => StoreError::Lasting(explained),
        }
    }

    /// Marks an item with the term, so that an older leader can not write it any more, and gives
    /// it as it is from then on.
    async fn claim(&self, term: u64, sk: String) -> Result<Item, StoreError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(table::PK, self.pk())
            .key(table::SK, AttributeValue::S(sk))
            .update_expression("SET #term = :term")
            .condition_expression(NO_LATER_TERM)
            .expression_attribute_names("#term", TERM)
            .expression_attribute_values(":term", number(term))
            .return_values(ReturnValue::AllNew);
        let answer = self.timed("UpdateItem", call.send()).await?;
        Ok(answer.attributes.unwrap_or_default())
    }

    /// The range keys of everything there is, read consistently.
    async fn keys(&self) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        let mut start: Option<Item> = None;
        loop {
            let call = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("#pk = :pk")
                .projection_expression("#sk")
                .expression_attribute_names("#pk", table::PK)
                .expression_attribute_names("#sk", table::SK)
                .expression_attribute_values(":pk", self.pk())
                .set_exclusive_start_key(start);
            let answer = self.timed("Query", call.send()).await?;
            keys.extend(answer.items().iter().map(|item| read_text(item, table::SK)));
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(keys);
            }
        }
    }

    async fn timed<T, E>(
        &self,
        action: &str,
        call: impl Future<Output = Result<T, SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>>>,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(outcome) => outcome.map_err(|error| self.failed(action, &error)),
            Err(_) => Err(self.late(action)),
        }
    }

    fn late(&self, action: &str) -> StoreError {
        StoreError::Passing(Error::new(
            Code::AwsUnreachable,
            format!("dynamodb:{action} on table {} had no answer in {CALL_DEADLINE:?}", self.table),
            "see the endpoint (AWS_ENDPOINT_URL), the network and the region",
        ))
    }

    /// Writes an item that is there already and that no later leader has written; makes one that
    /// is not there, if this term still leads.
    async fn put_item(&self, term: u64, sk: String, rest: Item) -> Result<(), StoreError> {
        let mut item = rest;
        item.insert(table::PK.to_owned(), self.pk());
        item.insert(table::SK.to_owned(), AttributeValue::S(sk));
        item.insert(TERM.to_owned(), number(term));
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item.clone()))
            .condition_expression(NO_LATER_TERM)
            .expression_attribute_names("#term", TERM)
            .expression_attribute_values(":term", number(term));
        match self.timed("PutItem", call.send()).await {
            Ok(_) => Ok(()),
            Err(StoreError::Refused) => self.create_item(term, item).await,
            Err(error) => Err(error),
        }
    }

    async fn create_item(&self, term: u64, item: Item) -> Result<(), StoreError> {
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#pk)")
            .expression_attribute_names("#pk", table::PK)
            .build()
            .map_err(incomplete)?;
        let write = TransactWriteItem::builder().put(put).build();
        match self.write_as_leader("PutItem", term, write).await {
            // An item that is there has just refused us by its term.
            Err(StoreError::Deposed) => Err(StoreError::Refused),
            outcome => outcome,
        }
    }

    /// One write that is applied only while the leader item has this term, whoever has delayed it
    /// for how long. It needs no right beside those of the two writes.
    async fn write_as_leader(
        &self,
        action: &str,
        term: u64,
        write: TransactWriteItem,
    ) -> Result<(), StoreError> {
        let leads = Update::builder()
            .table_name(&self.table)
            .key(table::PK, self.pk())
            .key(table::SK, AttributeValue::S(table::LEADER_SK.to_owned()))
            .update_expression("SET #term = :term")
            .condition_expression("#term = :term")
            .expression_attribute_names("#term", TERM)
            .expression_attribute_values(":term", number(term))
            .build()
            .map_err(incomplete)?;
        let leads = TransactWriteItem::builder().update(leads).build();
        let call = self.client.transact_write_items().transact_items(leads).transact_items(write);
        let outcome = match tokio::time::timeout(CALL_DEADLINE, call.send()).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(self.late(action)),
        };
        let Err(error) = outcome else { return Ok(()) };
        let cancelled = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled,
            _ => return Err(self.failed(action, &error)),
        };
        let has_failed = |index: usize| {
            let reason = cancelled.cancellation_reasons().get(index);
            reason.and_then(|reason| reason.code()) == Some("ConditionalCheckFailed")
        };
        match (has_failed(0), has_failed(1)) {
            (true, _) => Err(StoreError::Deposed),
            (false, true) => Err(StoreError::Refused),
            // A conflict with another write, or throttled.
            (false, false) => Err(StoreError::Passing(
                Error::new(
                    Code::Throttled,
                    format!("dynamodb:{action} on table {} was cancelled", self.table),
                    "nothing: it is tried again",
                )
                .caused_by(error),
            )),
        }
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn read_leader(&self) -> Result<Option<LeaderItem>, StoreError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(table::PK, self.pk())
            .key(table::SK, AttributeValue::S(table::LEADER_SK.to_owned()))
            .consistent_read(true);
        let answer = self.timed("GetItem", call.send()).await?;
        Ok(answer.item.map(|item| LeaderItem {
            term: read_number(&item, TERM),
            counter: read_number(&item, "counter"),
            instance: read_text(&item, "instance"),
            place: read_text(&item, "place"),
            address: read_text(&item, "address"),
            is_released: matches!(item.get("released"), Some(AttributeValue::Bool(true))),
        }))
    }

    async fn write_leader(
        &self,
        item: &LeaderItem,
        expected: Option<&LeaderItem>,
    ) -> Result<(), StoreError> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .item(table::PK, self.pk())
            .item(table::SK, text(table::LEADER_SK))
            .item(TERM, number(item.term))
            .item("counter", number(item.counter))
            .item("instance", text(&item.instance))
            .item("place", text(&item.place))
            .item("address", text(&item.address))
            .item("released", AttributeValue::Bool(item.is_released));
        let call = match expected {
            None => call
                .condition_expression("attribute_not_exists(#pk)")
                .expression_attribute_names("#pk", table::PK),
            Some(expected) => call
                .condition_expression("#term = :term AND #counter = :counter")
                .expression_attribute_names("#term", TERM)
                .expression_attribute_names("#counter", "counter")
                .expression_attribute_values(":term", number(expected.term))
                .expression_attribute_values(":counter", number(expected.counter)),
        };
        self.timed("PutItem", call.send()).await.map(drop)
    }

    async fn load(&self, term: u64) -> Result<Snapshot, StoreError> {
        // The leader item has no kind in its key; its term is in it already.
        let keys = self.keys().await?.into_iter().filter(|sk| sk.contains('#'));
        let claims: Vec<_> = keys.map(|sk| self.claim(term, sk)).collect();
        let items: Vec<Item> =
            stream::iter(claims).buffer_unordered(CLAIMS_IN_FLIGHT).try_collect().await?;
        let mut snapshot = Snapshot::default();
        for item in items {
            let sk = read_text(&item, table::SK);
            let Some((kind, id)) = sk.split_once('#') else { continue };
            match kind {
                "application" => {
                    let name: ApplicationName = id.parse().map_err(StoreError::Lasting)?;
                    let Some(AttributeValue::B(bytes)) = item.get(RECORD) else { continue };
                    let record = codec::decode(&sk, bytes.as_ref()).map_err(StoreError::Lasting)?;
                    snapshot.applications.push((name, record));
                }
                "node" => snapshot.nodes.push(NodeId::new(id)),
                "drain" => {
                    let deadline_ms = read_time(&item, DEADLINE_MS);
                    let asked_ms = read_time(&item, ASKED_MS).unwrap_or_default();
                    snapshot.drains.push((NodeId::new(id), DrainOrder { asked_ms, deadline_ms }));
                }
                "token" => {
                    let Some(AttributeValue::B(bytes)) = item.get(RECORD) else { continue };
                    let token = codec::decode_token(&sk, bytes.as_ref());
                    snapshot.tokens.push(token.map_err(StoreError::Lasting)?);
                }
                _ => tracing::warn!(item = %sk, "an item of an unknown kind is left alone"),
            }
        }
        Ok(snapshot)
    }

    async fn put(&self, term: u64, record: &Record) -> Result<(), StoreError> {
        let sk = record.key();
        match record {
            Record::Application(_, record) => {
                let shown = &record.application;
                let item = HashMap::from([
                    (RECORD.to_owned(), AttributeValue::B(Blob::new(codec::encode(record)))),
                    // For people who look at the table.
                    ("state".to_owned(), AttributeValue::S(state_name(shown.state()).to_owned())),
                    ("attempt".to_owned(), number(record.last_attempt.into())),
                    ("epoch".to_owned(), number(record.max_epoch)),
                ]);
                self.put_item(term, sk, item).await
            }
            Record::Node(_) => self.put_item(term, sk, Item::new()).await,
            Record::Drain(_, order) => {
                let time = |ms: i64| AttributeValue::N(ms.to_string());
                let deadline = order.deadline_ms.map(|ms| (DEADLINE_MS.to_owned(), time(ms)));
                let asked = (ASKED_MS.to_owned(), time(order.asked_ms));
                self.put_item(term, sk, deadline.into_iter().chain([asked]).collect()).await
            }
            Record::Token(token) => {
                let bytes = Blob::new(codec::encode_token(token));
                let item = HashMap::from([
                    (RECORD.to_owned(), AttributeValue::B(bytes)),
                    // For people who look at the table.
                    ("name".to_owned(), AttributeValue::S(token.info.name.clone())),
                ]);
                self.put_item(term, sk, item).await
            }
            Record::NodeGone(_) | Record::DrainGone(_) | Record::TokenGone(_) => {
                let call = self
                    .client
                    .delete_item()
                    .table_name(&self.table)
                    .key(table::PK, self.pk())
                    .key(table::SK, AttributeValue::S(sk))
                    .condition_expression(ABSENT_OR_NO_LATER_TERM)
                    .expression_attribute_names("#term", TERM)
                    .expression_attribute_values(":term", number(term));
                self.timed("DeleteItem", call.send()).await.map(drop)
            }
        }
    }

    async fn reset_head(
        &self,
        term: u64,
        name: &ApplicationName,
        to: &v1::StartPosition,
    ) -> Result<u64, StoreError> {
        let key = AttributeValue::S(table::application_pk(name));
        let mark = Update::builder()
            .table_name(&self.table)
            .key(table::PK, key.clone())
            .key(table::SK, AttributeValue::S(table::HEAD_SK.to_owned()))
            .update_expression("SET #reset = :reset")
            .condition_expression("attribute_exists(#pk) AND #cluster = :cluster")
            .expression_attribute_names("#reset", table::HEAD_RESET)
            .expression_attribute_names("#pk", table::PK)
            .expression_attribute_names("#cluster", table::HEAD_CLUSTER)
            .expression_attribute_values(":reset", AttributeValue::B(Blob::new(to.encode_to_vec())))
            .expression_attribute_values(":cluster", AttributeValue::S(self.cluster.clone()))
            .build()
            .map_err(incomplete)?;
        let mark = TransactWriteItem::builder().update(mark).build();
        self.write_as_leader("UpdateItem", term, mark).await?;
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(table::PK, key)
            .key(table::SK, AttributeValue::S(table::HEAD_SK.to_owned()))
            .consistent_read(true);
        let answer = self.timed("GetItem", call.send()).await?;
        Ok(read_number(&answer.item.unwrap_or_default(), table::HEAD_BATCH))
    }

    async fn repair_head(
        &self,
        term: u64,
        name: &ApplicationName,
        repair: &v1::RepairRequest,
    ) -> Result<(), StoreError> {
        let word = AttributeValue::B(Blob::new(repair.encode_to_vec()));
        let mark = Update::builder()
            .table_name(&self.table)
            .key(table::PK, AttributeValue::S(table::application_pk(name)))
            .key(table::SK, AttributeValue::S(table::HEAD_SK.to_owned()))
            .update_expression("SET #repair = :repair")
            .condition_expression(
                "#cluster = :cluster AND #batch = :batch AND #commit_id = :commit_id \
                 AND (attribute_not_exists(#published) OR #published <> :commit_id)",
            )
            .expression_attribute_names("#repair", table::HEAD_REPAIR)
            .expression_attribute_names("#cluster", table::HEAD_CLUSTER)
            .expression_attribute_names("#batch", table::HEAD_BATCH)
            .expression_attribute_names("#commit_id", table::HEAD_COMMIT_ID)
            .expression_attribute_names("#published", table::HEAD_PUBLISHED)
            .expression_attribute_values(":repair", word)
            .expression_attribute_values(":cluster", AttributeValue::S(self.cluster.clone()))
            .expression_attribute_values(":batch", number(repair.batch))
            .expression_attribute_values(":commit_id", AttributeValue::S(repair.commit_id.clone()))
            .build()
            .map_err(incomplete)?;
        let mark = TransactWriteItem::builder().update(mark).build();
        self.write_as_leader("UpdateItem", term, mark).await.map(drop)
    }
}

fn incomplete(error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    StoreError::Lasting(Error::internal("a write lacks a part").caused_by(error))
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn read_number(item: &Item, name: &str) -> u64 {
    match item.get(name) {
        Some(AttributeValue::N(text)) => text.parse().unwrap_or(0),
        _ => 0,
    }
}

fn read_time(item: &Item, name: &str) -> Option<i64> {
    match item.get(name) {
        Some(AttributeValue::N(text)) => text.parse().ok(),
        _ => None,
    }
}

fn read_text(item: &Item, name: &str) -> String {
    match item.get(name) {
        Some(AttributeValue::S(text)) => text.clone(),
        _ => String::new(),
    }
}
