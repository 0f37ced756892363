//! The store on DynamoDB: items under `cluster#<cluster>` in the one table.
//!
//! One function per call, each with its deadline; nothing is tried again here.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use millrace_common::aws::{self, Kind};
use millrace_common::error::{Code, Error};
use millrace_common::id::{ApplicationName, NodeId};
use millrace_common::table;
use millrace_proto::v1;
use prost::Message as _;

use super::codec;
use super::{LeaderItem, Record, Snapshot, Store, StoreError};
use crate::application::state_name;

/// How long one call may take: well below the time after which a leader steps down.
const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// Items that are marked at once when a new leader takes over.
const CLAIMS_IN_FLIGHT: usize = 16;

const TERM: &str = "term";
const RECORD: &str = "record";

/// Refuses a write when a later leader has written the item.
const NO_LATER_TERM: &str = "attribute_not_exists(#term) OR #term <= :term";

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

    /// Marks an item with the term, so that an older leader can not write it any more.
    async fn claim(&self, term: u64, sk: String) -> Result<(), StoreError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(table::PK, self.pk())
            .key(table::SK, AttributeValue::S(sk))
            .update_expression("SET #term = :term")
            .condition_expression("attribute_exists(#term) AND #term <= :term")
            .expression_attribute_names("#term", TERM)
            .expression_attribute_values(":term", number(term));
        self.timed("UpdateItem", call.send()).await.map(drop)
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
            Err(_) => Err(StoreError::Passing(Error::new(
                Code::AwsUnreachable,
                format!(
                    "dynamodb:{action} on table {} had no answer in {CALL_DEADLINE:?}",
                    self.table
                ),
                "see the endpoint (AWS_ENDPOINT_URL), the network and the region",
            ))),
        }
    }

    async fn put_item(&self, term: u64, sk: String, rest: Item) -> Result<(), StoreError> {
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(rest))
            .item(table::PK, self.pk())
            .item(table::SK, AttributeValue::S(sk))
            .item(TERM, number(term))
            .condition_expression(NO_LATER_TERM)
            .expression_attribute_names("#term", TERM)
            .expression_attribute_values(":term", number(term));
        self.timed("PutItem", call.send()).await.map(drop)
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
        let mut items: Vec<Item> = Vec::new();
        let mut start: Option<Item> = None;
        loop {
            let call = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("#pk = :pk")
                .expression_attribute_names("#pk", table::PK)
                .expression_attribute_values(":pk", self.pk())
                .set_exclusive_start_key(start);
            let answer = self.timed("Query", call.send()).await?;
            items.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                break;
            }
        }
        let mut claims = Vec::new();
        for item in &items {
            let sk = read_text(item, table::SK);
            if sk.contains('#') {
                claims.push(self.claim(term, sk));
            }
        }
        stream::iter(claims).buffer_unordered(CLAIMS_IN_FLIGHT).try_collect::<()>().await?;
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
            Record::NodeGone(_) => {
                let call = self
                    .client
                    .delete_item()
                    .table_name(&self.table)
                    .key(table::PK, self.pk())
                    .key(table::SK, AttributeValue::S(sk))
                    .condition_expression(NO_LATER_TERM)
                    .expression_attribute_names("#term", TERM)
                    .expression_attribute_values(":term", number(term));
                self.timed("DeleteItem", call.send()).await.map(drop)
            }
        }
    }

    async fn reset_head(
        &self,
        name: &ApplicationName,
        to: &v1::StartPosition,
    ) -> Result<u64, StoreError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(table::PK, AttributeValue::S(table::application_pk(name)))
            .key(table::SK, AttributeValue::S(table::HEAD_SK.to_owned()))
            .update_expression("SET #reset = :reset")
            .condition_expression("attribute_exists(#pk) AND #cluster = :cluster")
            .expression_attribute_names("#reset", table::HEAD_RESET)
            .expression_attribute_names("#pk", table::PK)
            .expression_attribute_names("#cluster", table::HEAD_CLUSTER)
            .expression_attribute_values(":reset", AttributeValue::B(Blob::new(to.encode_to_vec())))
            .expression_attribute_values(":cluster", AttributeValue::S(self.cluster.clone()))
            .return_values(ReturnValue::AllNew);
        let answer = self.timed("UpdateItem", call.send()).await?;
        let item = answer.attributes.unwrap_or_default();
        Ok(read_number(&item, table::HEAD_BATCH))
    }
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

fn read_text(item: &Item, name: &str) -> String {
    match item.get(name) {
        Some(AttributeValue::S(text)) => text.clone(),
        _ => String::new(),
    }
}
