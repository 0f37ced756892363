//! The one DynamoDB table of a cluster: its keys, and how it is made.
//!
//! Hash key `pk`, range key `sk`, both strings. What the items hold belongs to those who write them.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
};

use crate::aws;
use crate::error::{Code, Error};
use crate::id::ApplicationName;

/// Name of the hash key.
pub const PK: &str = "pk";
/// Name of the range key.
pub const SK: &str = "sk";
/// Range key of an application's head.
pub const HEAD_SK: &str = "head";
/// Range key of the leader item of a cluster.
pub const LEADER_SK: &str = "leader";
/// Attribute of a head, a number: the attempt that owns it.
pub const HEAD_EPOCH: &str = "epoch";
/// Attribute of a head, a string: the cluster whose master may start drivers for it.
pub const HEAD_CLUSTER: &str = "cluster";
/// Attribute of a head, a number: the last committed batch. The name is a reserved word of
/// DynamoDB's, so expressions must call it `#batch`.
pub const HEAD_BATCH: &str = "batch";
/// Attribute of a head, a string: the id of the commit that wrote the batch.
pub const HEAD_COMMIT_ID: &str = "commit_id";
/// Attribute of a head, binary: an encoded [`millrace_proto::v1::StartPosition`], by which the
/// master asks the next start to give up the positions. This and
/// `repair` are the only attributes that not the driver writes.
pub const HEAD_RESET: &str = "reset";
/// Attribute of a head, binary: an encoded [`millrace_proto::v1::RepairRequest`], by which the master
/// tells the next start what is to become of a lost batch. Like `reset`, it is not the driver's.
pub const HEAD_REPAIR: &str = "repair";
/// Attribute of a head, a string: the id of the last commit whose uploads were all seen to be
/// complete while no other commit followed. It says something of the head's batch only where it is
/// the id of the head's own commit.
pub const HEAD_PUBLISHED: &str = "published";
/// What a cluster's table is called unless told otherwise.
pub const DEFAULT_TABLE: &str = "millrace";

/// How long a new table may take to become active.
const ACTIVE_DEADLINE: Duration = Duration::from_secs(120);

/// Hash key of an application's head and its chunks. Names are unique per table, so that two
/// clusters on one table can not both own a head.
#[must_use]
pub fn application_pk(name: &ApplicationName) -> String {
    format!("application#{name}")
}

/// What the range keys of a head's chunks begin with.
pub const CHUNK_SK_PREFIX: &str = "chunk#";

/// Range key of the chunk with this index that the commit `commit_id` of batch `batch` wrote. The
/// commit's id is part of it, so that a fenced driver can not write over the chunks of the one
/// that fenced it.
#[must_use]
pub fn chunk_sk(batch: u64, commit_id: &str, index: u32) -> String {
    format!("{CHUNK_SK_PREFIX}{batch:020}#{commit_id}#{index:06}")
}

/// Hash key of the master's items.
#[must_use]
pub fn cluster_pk(cluster: &str) -> String {
    format!("cluster#{cluster}")
}

/// Range key of the master's record of an application.
#[must_use]
pub fn application_sk(name: &ApplicationName) -> String {
    format!("application#{name}")
}

/// Range key of the master's record of a node.
#[must_use]
pub fn node_sk(node_id: &str) -> String {
    format!("node#{node_id}")
}

/// Range key of the order to drain a node.
#[must_use]
pub fn drain_sk(node_id: &str) -> String {
    format!("drain#{node_id}")
}

/// Range key of a token of a person or a program.
#[must_use]
pub fn token_sk(id: &str) -> String {
    format!("token#{id}")
}

/// Makes the table if it is not there and waits until it is active. True when it was made now.
///
/// # Errors
/// What AWS answers, explained.
pub async fn create_if_missing(client: &Client, table: &str) -> Result<bool, Error> {
    let key = |name: &str, kind: KeyType| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build()
    };
    let text = |name: &str| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S)
            .build()
    };
    let incomplete =
        |error| Error::internal("the description of the table is incomplete").caused_by(error);
    let made = client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key(PK, KeyType::Hash).map_err(incomplete)?)
        .key_schema(key(SK, KeyType::Range).map_err(incomplete)?)
        .attribute_definitions(text(PK).map_err(incomplete)?)
        .attribute_definitions(text(SK).map_err(incomplete)?)
        .send()
        .await;
    let created = match made {
        Ok(_) => true,
        Err(error) if aws::error_code(&error) == Some("ResourceInUseException") => false,
        Err(error) => {
            return Err(aws::explain("dynamodb", "CreateTable", &format!("table {table}"), &error));
        }
    };
    let active = tokio::time::timeout(ACTIVE_DEADLINE, until_active(client, table)).await;
    active.map_err(|_| {
        Error::new(
            Code::TableMissing,
            format!("table {table} is not active after {} s", ACTIVE_DEADLINE.as_secs()),
            "look at the table in DynamoDB and run the command again",
        )
    })??;
    Ok(created)
}

async fn until_active(client: &Client, table: &str) -> Result<(), Error> {
    loop {
        let answer = client.describe_table().table_name(table).send().await.map_err(|error| {
            aws::explain("dynamodb", "DescribeTable", &format!("table {table}"), &error)
        })?;
        if answer.table().and_then(|t| t.table_status()) == Some(&TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
