//! Heads in DynamoDB: hash key `application#<name>`, range key `head` or `chunk#...`.
//!
//! Promises: each call is one request with a deadline (the client's); each answer is matched by
//! name; an item that is not a head is refused with what is wrong about it.
//! Never does: retry, scan, or write an attribute that is the master's.

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use millrace_common::aws::{self, Kind};
use millrace_common::error::{Code, Error};
use millrace_common::head::{
    ChunkName, HEAD_VERSION, HeadItem, Item, StoredBody, attribute, parse_chunk_data, parse_head,
};
use millrace_common::id::ApplicationName;
use millrace_common::table;

use super::store::{
    AcquireWrite, CommitWrite, HeadStore, PublishedMark, StoreFailure, WriteFailure,
};

/// The head of one application in the cluster's table.
#[derive(Clone, Debug)]
pub struct DynamoHeadStore {
    client: Client,
    table: String,
    pk: String,
}

impl DynamoHeadStore {
    /// The head of `application` in `table`; connects to nothing yet.
    #[must_use]
    pub fn new(client: Client, table: impl Into<String>, application: &ApplicationName) -> Self {
        Self { client, table: table.into(), pk: table::application_pk(application) }
    }

    fn resource(&self) -> String {
        format!("table {}", self.table)
    }

    fn update_head(&self) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .key(table::PK, text(&self.pk))
            .key(table::SK, text(table::HEAD_SK))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    async fn send(
        &self,
        update: UpdateItemFluentBuilder,
    ) -> Result<UpdateItemOutput, WriteFailure> {
        let error = match update.send().await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        if let Some(UpdateItemError::ConditionalCheckFailedException(refused)) =
            error.as_service_error()
        {
            let item = refused.item().map(|item| self.head_item(item)).transpose()?;
            return Err(WriteFailure::Refused(item.map(Box::new)));
        }
        Err(self.failure("UpdateItem", &error).into())
    }

    fn failure<E>(&self, action: &str, error: &SdkError<E, HttpResponse>) -> StoreFailure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let explained = aws::explain("dynamodb", action, &self.resource(), error);
        match aws::kind(error) {
            // The SDK learns a skew from the date of the refusal and signs the next call right.
            Kind::Throttled
            | Kind::Timeout
            | Kind::Unreachable
            | Kind::ServerFault
            | Kind::ClockSkew => StoreFailure::Again(explained),
            Kind::Missing | Kind::Forbidden | Kind::Credentials | Kind::Region => {
                StoreFailure::Denied(explained)
            }
            Kind::Conditional | Kind::ExpiredIterator | Kind::Other => {
                match aws::error_code(error) {
                    // Another write to the item was under way.
                    Some("TransactionConflictException" | "ReplicatedWriteConflictException") => {
                        StoreFailure::Again(explained)
                    }
                    _ => StoreFailure::Broken(explained),
                }
            }
        }
    }

    fn head_item(&self, item: &Item) -> Result<HeadItem, StoreFailure> {
        parse_head(item).map_err(|what| {
            StoreFailure::Broken(Error::new(
                Code::HeadUnreadable,
                format!("the head {} in {} is damaged: {what}", self.pk, self.resource()),
                "restore the item from a backup, or reset the application to a start position",
            ))
        })
    }
}

#[async_trait]
impl HeadStore for DynamoHeadStore {
    async fn read(&self) -> Result<Option<HeadItem>, StoreFailure> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(table::PK, text(&self.pk))
            .key(table::SK, text(table::HEAD_SK))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| self.failure("GetItem", &error))?;
        answer.item().map(|item| self.head_item(item)).transpose()
    }

    async fn acquire(&self, write: &AcquireWrite) -> Result<HeadItem, WriteFailure> {
        let mine = "#cluster = :cluster AND #epoch < :epoch";
        let condition = if write.may_create {
            format!("attribute_not_exists({}) OR ({mine})", table::PK)
        } else {
            mine.to_owned()
        };
        let mut sets = "SET #epoch = :epoch, #owner = :owner, #cluster = :cluster, \
                        #batch = if_not_exists(#batch, :zero)"
            .to_owned();
        let mut update = self
            .update_head()
            .condition_expression(condition)
            .expression_attribute_names("#epoch", table::HEAD_EPOCH)
            .expression_attribute_names("#cluster", table::HEAD_CLUSTER)
            .expression_attribute_names("#batch", table::HEAD_BATCH)
            .expression_attribute_names("#owner", attribute::OWNER)
            .expression_attribute_values(":epoch", number(write.epoch))
            .expression_attribute_values(":owner", text(&write.owner))
            .expression_attribute_values(":cluster", text(&write.cluster))
            .expression_attribute_values(":zero", number(0));
        if !write.starts.is_empty() {
            sets.push_str(", #starts = if_not_exists(#starts, :starts)");
            update = update
                .expression_attribute_names("#starts", attribute::STARTS)
                .expression_attribute_values(":starts", binary(&write.starts));
        }
        let update = update.update_expression(sets).return_values(ReturnValue::AllNew);
        let output = self.send(update).await?;
        match output.attributes() {
            Some(item) => Ok(self.head_item(item)?),
            None => Err(StoreFailure::Broken(Error::internal(
                "DynamoDB applied a write and answered no item",
            ))
            .into()),
        }
    }

    async fn commit(&self, write: &CommitWrite) -> Result<(), WriteFailure> {
        let mut sets = "SET #batch = :batch, #commit_id = :commit_id, #spec_hash = :spec_hash, \
                        #version = :version"
            .to_owned();
        let mut removes = Vec::new();
        let mut update = self
            .update_head()
            .condition_expression("#epoch = :epoch AND #batch = :before")
            .expression_attribute_names("#epoch", table::HEAD_EPOCH)
            .expression_attribute_names("#batch", table::HEAD_BATCH)
            .expression_attribute_names("#commit_id", table::HEAD_COMMIT_ID)
            .expression_attribute_names("#spec_hash", attribute::SPEC_HASH)
            .expression_attribute_names("#version", attribute::VERSION)
            .expression_attribute_names("#body", attribute::BODY)
            .expression_attribute_names("#chunk_count", attribute::CHUNK_COUNT)
            .expression_attribute_names("#chunk_hash", attribute::CHUNK_HASH)
            .expression_attribute_values(":epoch", number(write.epoch))
            .expression_attribute_values(":batch", number(write.batch))
            .expression_attribute_values(":before", number(write.batch.saturating_sub(1)))
            .expression_attribute_values(":commit_id", text(&write.commit_id))
            .expression_attribute_values(":spec_hash", text(&write.spec_hash))
            .expression_attribute_values(":version", number(u64::from(HEAD_VERSION)));
        match &write.body {
            StoredBody::Inline(bytes) => {
                sets.push_str(", #body = :body");
                update = update.expression_attribute_values(":body", binary(bytes));
                removes.extend(["#chunk_count", "#chunk_hash"]);
            }
            StoredBody::Chunked { count, hash } => {
                sets.push_str(", #chunk_count = :count, #chunk_hash = :hash");
                update = update
                    .expression_attribute_values(":count", number(u64::from(*count)))
                    .expression_attribute_values(":hash", binary(hash));
                removes.push("#body");
            }
            StoredBody::None => removes.extend(["#body", "#chunk_count", "#chunk_hash"]),
        }
        if let Some(starts) = &write.starts {
            sets.push_str(", #starts = :starts");
            update = update
                .expression_attribute_names("#starts", attribute::STARTS)
                .expression_attribute_values(":starts", binary(starts));
        }
        if write.clears_repair {
            removes.push("#repair");
            update = update.expression_attribute_names("#repair", table::HEAD_REPAIR);
        }
        if write.clears_reset {
            removes.push("#reset");
            update = update.expression_attribute_names("#reset", table::HEAD_RESET);
        }
        let update = update.update_expression(format!("{sets} REMOVE {}", removes.join(", ")));
        self.send(update).await.map(|_| ())
    }

    async fn mark_published(&self, mark: &PublishedMark) -> Result<(), WriteFailure> {
        let update = self
            .update_head()
            .update_expression("SET #published = :commit_id")
            .condition_expression("#commit_id = :commit_id")
            .expression_attribute_names("#published", table::HEAD_PUBLISHED)
            .expression_attribute_names("#commit_id", table::HEAD_COMMIT_ID)
            .expression_attribute_values(":commit_id", text(&mark.commit_id));
        self.send(update).await.map(|_| ())
    }

    async fn put_chunk(&self, name: &ChunkName, bytes: &[u8]) -> Result<(), StoreFailure> {
        self.client
            .put_item()
            .table_name(&self.table)
            .item(table::PK, text(&self.pk))
            .item(table::SK, text(&name.sk()))
            .item(attribute::DATA, binary(bytes))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.failure("PutItem", &error))
    }

    async fn read_chunk(&self, name: &ChunkName) -> Result<Option<Vec<u8>>, StoreFailure> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(table::PK, text(&self.pk))
            .key(table::SK, text(&name.sk()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| self.failure("GetItem", &error))?;
        Ok(answer.item().and_then(parse_chunk_data).map(<[u8]>::to_vec))
    }

    async fn delete_chunk(&self, name: &ChunkName) -> Result<(), StoreFailure> {
        self.client
            .delete_item()
            .table_name(&self.table)
            .key(table::PK, text(&self.pk))
            .key(table::SK, text(&name.sk()))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.failure("DeleteItem", &error))
    }

    async fn list_chunks(&self) -> Result<Vec<ChunkName>, StoreFailure> {
        let mut names = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let answer = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("#pk = :pk AND begins_with(#sk, :prefix)")
                .projection_expression("#sk")
                .expression_attribute_names("#pk", table::PK)
                .expression_attribute_names("#sk", table::SK)
                .expression_attribute_values(":pk", text(&self.pk))
                .expression_attribute_values(":prefix", text(table::CHUNK_SK_PREFIX))
                .consistent_read(true)
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|error| self.failure("Query", &error))?;
            let keys = answer.items().iter().filter_map(|item| item.get(table::SK)?.as_s().ok());
            names.extend(keys.filter_map(|sk| ChunkName::of_sk(sk)));
            match answer.last_evaluated_key() {
                Some(key) if !key.is_empty() => from = Some(key.clone()),
                _ => return Ok(names),
            }
        }
    }
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn binary(value: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}
