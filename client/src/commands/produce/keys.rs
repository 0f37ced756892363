//! The partition key of a record.

use md5::{Digest, Md5};
use millrace_common::error::Error;

use super::refuse;

/// How a record gets its partition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyChoice {
    /// The hash of the record: equal records go to one shard.
    Line,
    /// A new one for each record.
    Random,
    /// The value of this field of a JSON object.
    Field(String),
}

impl KeyChoice {
    /// `line`, `random`, or the name of a field.
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "line" => Self::Line,
            "random" => Self::Random,
            field => Self::Field(field.to_owned()),
        }
    }

    /// The key of a record.
    ///
    /// # Errors
    /// When the record has no such field.
    pub(super) fn key_of(&self, data: &[u8]) -> Result<String, Error> {
        match self {
            Self::Line => Ok(Md5::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()),
            Self::Random => Ok(uuid::Uuid::new_v4().simple().to_string()),
            Self::Field(field) => field_of(data, field).ok_or_else(|| {
                refuse(
                    format!("the record is no JSON object with text or a number in {field:?}"),
                    "name a field that every record has with --key, or use line or random",
                )
            }),
        }
    }
}

fn field_of(data: &[u8], field: &str) -> Option<String> {
    match serde_json::from_slice::<serde_json::Value>(data).ok()?.get(field)? {
        serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_asked() {
        let key = |choice: &str, data: &[u8]| KeyChoice::parse(choice).key_of(data);
        assert_eq!(key("line", b"abc").unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        assert_ne!(key("random", b"abc").unwrap(), key("random", b"abc").unwrap());
        assert_eq!(key("host", br#"{"host":"h-1"}"#).unwrap(), "h-1");
        assert_eq!(key("n", br#"{"n":17}"#).unwrap(), "17");
        for wrong in [&b"abc"[..], b"{}", br#"{"host":""}"#, br#"{"host":[1]}"#] {
            assert!(key("host", wrong).is_err());
        }
    }
}
