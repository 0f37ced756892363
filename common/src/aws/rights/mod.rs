//! The rights that calls need, as a policy spells them.
//!
//! IAM has no right of the name of some calls: a multipart upload needs `s3:PutObject`. Every right
//! that Millrace needs stands once, in [`RIGHTS`]; policies, checks and documents come from there.

mod arns;
mod policy;
mod table;

pub use self::arns::{Arns, account_of, partition};
pub use self::policy::{document, statement_for};
pub use self::table::{On, RIGHTS, Right, Role, of};

/// What a policy has to allow for a call: `service` as in "s3", `action` as in
/// "CreateMultipartUpload". What the service itself names in its `message` counts first: a bucket
/// with a key of its own asks for rights on the key.
#[must_use]
pub fn needed(service: &str, action: &str, message: &str) -> Vec<String> {
    let named = actions_of_keys(message);
    if !named.is_empty() {
        return named;
    }
    let action = match (service, action) {
        ("s3", "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload") => "PutObject",
        ("s3", "HeadObject") => "GetObject",
        ("s3", "HeadBucket" | "ListObjectsV2") => "ListBucket",
        ("s3", "ListMultipartUploads") => "ListBucketMultipartUploads",
        ("s3", "ListParts") => "ListMultipartUploadParts",
        (_, action) => action,
    };
    vec![format!("{service}:{action}")]
}

/// The rights on encryption keys that a message names; all that a sink needs if it names one.
fn actions_of_keys(message: &str) -> Vec<String> {
    let is_of_key = message.contains("kms:") || message.contains("KMS");
    let needed = ["kms:GenerateDataKey", "kms:Decrypt"];
    if is_of_key { needed.map(str::to_owned).to_vec() } else { Vec::new() }
}

/// A statement to add to a policy, on one line.
#[must_use]
pub fn statement(actions: &[String], resource: &str) -> String {
    serde_json::json!({"Effect": "Allow", "Action": actions, "Resource": resource}).to_string()
}

/// What of a denied call on S3 to allow, with the statement that does. `place` is
/// `bucket/prefix/`; the key's own ARN is only known to the message.
#[must_use]
pub fn on_s3(action: &str, place: &str, message: &str) -> String {
    let actions = needed("s3", action, message);
    if actions.iter().any(|action| action.starts_with("kms:")) {
        let resource = key_of(message).unwrap_or("the ARN of the bucket's key");
        return format!(
            "allow {} on the key of the bucket: add {} to the policy of these credentials, and let \
             the key's own policy allow them",
            actions.join(" and "),
            statement(&actions, resource)
        );
    }
    let resource = format!("arn:aws:s3:::{}*", place.trim_end_matches('*'));
    format!("add {} to the policy of these credentials", statement(&actions, &resource))
}

/// The key that a message names.
fn key_of(message: &str) -> Option<&str> {
    let at = message.find("arn:aws:kms:").or_else(|| message.find("arn:aws-"))?;
    let rest = &message[at..];
    let end = rest.find(|c: char| c.is_whitespace() || c == '"' || c == ',').unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_needs_the_right_to_put() {
        for call in ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"] {
            assert_eq!(needed("s3", call, "Access Denied"), ["s3:PutObject"]);
        }
        assert_eq!(needed("s3", "ListParts", "Access Denied"), ["s3:ListMultipartUploadParts"]);
        assert_eq!(needed("kinesis", "GetRecords", "no"), ["kinesis:GetRecords"]);
        let next = on_s3("UploadPart", "results/word-count/", "Access Denied");
        let statement = r#"{"Action":["s3:PutObject"],"Effect":"Allow","Resource":"arn:aws:s3:::results/word-count/*"}"#;
        assert!(next.contains(statement), "{next}");
    }

    #[test]
    fn a_denied_key_is_named() {
        let message = "User: arn:aws:iam::1:user/u is not authorized to perform: \
                       kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:1:key/k1 because";
        let next = on_s3("CreateMultipartUpload", "results/", message);
        assert!(next.contains("kms:GenerateDataKey and kms:Decrypt"), "{next}");
        assert!(next.contains("\"arn:aws:kms:eu-west-1:1:key/k1\""), "{next}");
    }
}
