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
        let path =
            path.to_str().ok_or_else(|| io::Error::other("the data directory is not UTF-8"))?;
        let database = Database::new(path).map_err(io::Error::other)?;
        // Despite its name this sets how SQLite writes: no forced flush at each commit. State here
        // survives the death of the process, which the page cache sees to, and not a power cut.
        database.enable_bulk_loading().map_err(io::Error::other)?;
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
    let request = serde_json::from_str(body).map_err(|error| unreadable(&error.to_string()))?;
    let answer = operation(request)?;
    serde_json::to_string(&answer)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

/// What a marker at the start of a reading error makes of it, and whether serde's position stays.
type Marker = (&'static str, fn(String) -> DynoxideError, bool);

/// dynoxide checks requests while it reads them, and marks what kind of refusal an error means.
const MARKERS: [Marker; 5] = [
    ("VALIDATION_REQUEST:", DynoxideError::EnvelopedValidation, false),
    ("VALIDATION_AS_READ:", DynoxideError::ValidationException, true),
    ("VALIDATION:", DynoxideError::ValidationException, false),
    ("SERIALIZATION_AS_READ:", DynoxideError::SerializationException, true),
    ("SERIALIZATION:", DynoxideError::SerializationException, false),
];

/// What DynamoDB validates rather than reads, in the words of serde and dynoxide.
const VALIDATED: [&str; 5] = [
    "missing field",
    "unknown variant",
    "invalid type: null",
    "empty AttributeValue",
    "Supplied AttributeValue",
];

fn unreadable(message: &str) -> DynoxideError {
    let plain = without_position(message);
    for (marker, refusal, with_position) in MARKERS {
        let text = if with_position { message } else { plain };
        if let Some(text) = text.strip_prefix(marker) {
            return refusal(text.to_owned());
        }
    }
    if VALIDATED.iter().any(|words| plain.contains(words)) {
        return DynoxideError::ValidationException(plain.to_owned());
    }
    DynoxideError::SerializationException(plain.to_owned())
}

/// The message without the line and column that serde_json puts at its end.
fn without_position(message: &str) -> &str {
    match message.rsplit_once(" at line ") {
        Some((plain, position)) if position.contains("column") => plain,
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn refusals_have_the_names_of_dynamodb() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut engine = Dynoxide::open(&dir.path().join("tables")).expect("open");
        let mut refused = |operation: &str, body: &str| {
            let (status, answer) = engine.call(operation, body);
            assert_eq!(status, 400, "{answer}");
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            let kind = answer["__type"].as_str().expect("a type").to_owned();
            assert!(!answer.to_string().contains("VALIDATION"), "a marker is left: {answer}");
            kind.rsplit_once('#').map(|(_, name)| name.to_owned()).expect("a name")
        };
        assert_eq!(refused("DescribeTable", r#"{"TableName":"x"}"#), "ValidationException");
        assert_eq!(refused("DescribeTable", r#"{"TableName":"xxx"}"#), "ResourceNotFoundException");
        assert_eq!(refused("DescribeTable", r#"{"TableName":5}"#), "SerializationException");
        assert_eq!(refused("DescribeTable", "{"), "SerializationException");
        assert_eq!(
            refused("GetItem", r#"{"TableName":"xxx","Key":{"a":{}}}"#),
            "ValidationException"
        );
        assert_eq!(refused("ExportTable", "{}"), "UnknownOperationException");
    }
}
