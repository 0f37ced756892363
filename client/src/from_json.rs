//! The submission as JSON: proto3's mapping of the very message that API clients send.
//!
//! Promises: what the message does not have is refused by name, with line and column. Never does:
//! fill anything in; the master refuses what is absent.

use millrace_common::error::{Code, Error, Result};
use millrace_proto::v1;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage};

/// The message in the schema.
const MESSAGE: &str = "millrace.v1.SubmitApplicationRequest";

/// Reads a submission; `name` is the file's, for errors.
///
/// # Errors
/// [`Code::NotJson`] for text that is no JSON or not this message.
pub(crate) fn parse(name: &str, text: &str) -> Result<v1::SubmitApplicationRequest> {
    let pool = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET)
        .map_err(|error| Error::internal("the schema can not be read").caused_by(error))?;
    let message = pool
        .get_message_by_name(MESSAGE)
        .ok_or_else(|| Error::internal(format!("the schema has no {MESSAGE}")))?;
    let refused = |error: serde_json::Error| {
        Error::new(
            Code::NotJson,
            format!("{name} is not the JSON of a {MESSAGE}: {error}"),
            "see proto/millrace/v1/client.proto for what it may hold",
        )
    };
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let mut json = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize_with_options(message, &mut json, &options);
    let dynamic = dynamic.map_err(refused)?;
    json.end().map_err(refused)?;
    dynamic
        .transcode_to()
        .map_err(|error| Error::internal("the schema and the code differ").caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_is_protos_own() {
        let text = r#"{
            "requestId": "r-1",
            "upgrade": true,
            "spec": {
                "name": "a",
                "env": {"B": "2"},
                "batch": {"interval_ms": "1000"},
                "sources": [{"name": "logs", "start": {"earliest": true}, "format": "RECORD_FORMAT_TEXT"}]
            }
        }"#;
        let request = parse("r.json", text).unwrap();
        assert_eq!((request.request_id.as_str(), request.upgrade), ("r-1", true));
        let spec = request.spec.unwrap();
        assert_eq!(spec.env["B"], "2");
        assert_eq!(spec.batch.unwrap().interval_ms, 1_000);
        assert_eq!(spec.sources[0].format(), v1::RecordFormat::Text);
        assert!(spec.sink.is_none());
    }

    #[test]
    fn what_is_not_the_message_is_named() {
        for (text, named) in [
            ("", "line 1 column 0"),
            ("[]", "expected"),
            (r#"{"spec": {"nmae": "a"}}"#, "nmae"),
            (r#"{"spec": {"sources": [{"format": "XML"}]}}"#, "XML"),
            (r#"{"spec": {"batch": {"interval_ms": -1}}}"#, "line 1"),
            ("{} {}", "trailing"),
        ] {
            let error = parse("r.json", text).unwrap_err();
            assert_eq!(error.code(), Code::NotJson, "{text}");
            assert!(error.message().contains(named), "{text}: {}", error.message());
        }
    }
}
