//! The engine: dynoxide, which keeps tables in SQLite and knows DynamoDB's expressions and limits.
//!
//! Reads the JSON of an operation into dynoxide's typed requests and writes its answers and errors
//! back as JSON. Holds no rule of DynamoDB itself.

use std::io;
use std::path::Path;

use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Engine, refusal};

/// dynoxide on a file.
pub(super) struct Dynoxide {
    database: Database,
}

impl Dynoxide {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = path
            .to_str()
            .ok_or_else(|| io::Error::other("the data directory is not UTF-8"))?;
        let database = Database::new(path).map_err(io::Error::other)?;
        Ok(Self { database })
    }

    fn dispatch(&self, operation: &str, body: &str) -> Option<Result<String, DynoxideError>> {
        let db = &self.database;
        Some(match operation {
            "CreateTable" => run(body, |r| db.create_table(r)),
            "DeleteTable" => run(body, |r| db.delete_table(r)),
            "DescribeTable" => run(body, |r| db.describe_table(r)),
            "ListTables" => run(body, |r| db.list_tables(r)),
            "UpdateTable" => run(body, |r| db.update_table(r)),
            "GetItem" => run(body, |r| db.get_item(r)),
            "PutItem" => run(body, |r| db.put_item(r)),
            "UpdateItem" => run(body, |r| db.update_item(r)),
            "DeleteItem" => run(body, |r| db.delete_item(r)),
            "Query" => run(body, |r| db.query(r)),
            "Scan" => run(body, |r| db.scan(r)),
            "BatchGetItem" => run(body, |r| db.batch_get_item(r)),
            "BatchWriteItem" => run(body, |r| db.batch_write_item(r)),
            "TransactGetItems" => run(body, |r| db.transact_get_items(r)),
            "TransactWriteItems" => run(body, |r| db.transact_write_items(r)),
            "UpdateTimeToLive" => run(body, |r| db.update_time_to_live(r)),
            "DescribeTimeToLive" => run(body, |r| db.describe_time_to_live(r)),
            "TagResource" => run(body, |r| db.tag_resource(r)),
            "UntagResource" => run(body, |r| db.untag_resource(r)),
            "ListTagsOfResource" => run(body, |r| db.list_tags_of_resource(r)),
            _ => return None,
        })
    }
}

impl Engine for Dynoxide {
    fn call(&mut self, operation: &str, body: &str) -> (u16, String) {
        match self.dispatch(operation, body) {
            Some(Ok(answer)) => (200, answer),
            Some(Err(error)) => (error.status_code(), error.to_json()),
            None => {
                let message = format!(
                    "The emulator does not know DynamoDB {operation}; see docs/emulator.md."
                );
                (400, refusal("UnknownOperationException", &message))
            }
        }
    }
}

fn run<Q: DeserializeOwned, A: Serialize>(
    body: &str,
    operation: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_str(body)
        .map_err(|error| DynoxideError::SerializationException(error.to_string()))?;
    let answer = operation(request)?;
    serde_json::to_string(&answer)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}
