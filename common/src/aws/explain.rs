//! From an SDK error to what a person can do about it: by the error's name, never by its type.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::rights;
use crate::error::{Code, Error};

/// What kind of failure a call met. Who calls decides by this whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The stream, table, bucket, key or upload does not exist.
    Missing,
    /// The credentials are good and the action is not allowed.
    Forbidden,
    /// No credentials, wrong ones, or expired ones.
    Credentials,
    /// The signature's time is too far from the server's.
    ClockSkew,
    /// The resource lives in another region.
    Region,
    /// Too many calls: wait and try again.
    Throttled,
    /// A condition of a conditional write did not hold.
    Conditional,
    /// The shard iterator is too old.
    ExpiredIterator,
    /// No answer in time: a write may have been applied, or may yet be.
    Timeout,
    /// No connection, or it broke: a write may have been applied.
    Unreachable,
    /// The service failed (5xx, or an answer that makes no sense): a write may have been applied.
    ServerFault,
    /// The call is wrong, or an error that Millrace does not know.
    Other,
}

impl Kind {
    /// True when the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Timeout | Self::Unreachable | Self::ServerFault)
    }

    /// True when it is not known whether the call was applied.
    #[must_use]
    pub fn is_outcome_unknown(self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable | Self::ServerFault)
    }
}

const MISSING: &[&str] = &[
    "ResourceNotFoundException",
    "NoSuchBucket",
    "NoSuchKey",
    "NoSuchUpload",
    "NotFound",
    "TableNotFoundException",
];
const FORBIDDEN: &[&str] =
    &["AccessDenied", "AccessDeniedException", "KMSAccessDeniedException", "AllAccessDisabled"];
const CREDENTIALS: &[&str] = &[
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
];
const CLOCK_SKEW: &[&str] = &["RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"];
const REGION: &[&str] = &[
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
];
const THROTTLED: &[&str] = &[
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "Throttling",
    "LimitExceededException",
    "RequestLimitExceeded",
    "SlowDown",
    "KMSThrottlingException",
    "TooManyRequestsException",
];
const CONDITIONAL: &[&str] =
    &["ConditionalCheckFailedException", "PreconditionFailed", "ConditionalRequestConflict"];

/// The error's name as the service sent it.
#[must_use]
pub fn error_code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// What kind of failure it is.
#[must_use]
pub fn kind<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Kind {
    match error {
        SdkError::TimeoutError(_) => Kind::Timeout,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Kind::Timeout,
        SdkError::DispatchFailure(failure) if failure.is_io() => Kind::Unreachable,
        SdkError::DispatchFailure(failure) => {
            let text = format!("{failure:?}").to_ascii_lowercase();
            if text.contains("credential") { Kind::Credentials } else { Kind::Unreachable }
        }
        SdkError::ConstructionFailure(_) => Kind::Other,
        SdkError::ResponseError(_) => Kind::ServerFault,
        _ => {
            let message = error.as_service_error().and_then(|e| e.message()).unwrap_or_default();
            let status = error.raw_response().map_or(0, |response| response.status().as_u16());
            let code = error_code(error).unwrap_or_default();
            match kind_of_answer(code, message, status) {
                // An answer to HEAD has no body to say so.
                Kind::Other if status == 400 && region_of(error).is_some() => Kind::Region,
                kind => kind,
            }
        }
    }
}

/// The region that S3 says a bucket is in.
#[must_use]
pub fn region_of<E>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.raw_response()?.headers().get("x-amz-bucket-region")
}

/// The pure part of [`kind`]: by name first, then by HTTP status.
fn kind_of_answer(code: &str, message: &str, status: u16) -> Kind {
    let is = |names: &[&str]| names.contains(&code);
    let skewed = message.contains("Signature expired") || message.contains("not yet current");
    match () {
        () if code == "ExpiredIteratorException" => Kind::ExpiredIterator,
        () if is(CLOCK_SKEW) || (is(CREDENTIALS) && skewed) => Kind::ClockSkew,
        () if is(CREDENTIALS) => Kind::Credentials,
        () if is(FORBIDDEN) => Kind::Forbidden,
        () if is(REGION) => Kind::Region,
        () if is(THROTTLED) => Kind::Throttled,
        () if is(CONDITIONAL) => Kind::Conditional,
        () if is(MISSING) => Kind::Missing,
        () => match status {
            301 | 307 => Kind::Region,
            403 => Kind::Forbidden,
            404 => Kind::Missing,
            412 => Kind::Conditional,
            429 | 503 => Kind::Throttled,
            500..=599 => Kind::ServerFault,
            // A 200 that carries an error body, as CompleteMultipartUpload may.
            200..=299 => Kind::ServerFault,
            _ => Kind::Other,
        },
    }
}

/// The error for people: `service` as in "kinesis", `action` as in "GetRecords", `resource` as in
/// "stream app-logs".
#[must_use]
pub fn explain<E>(
    service: &str,
    action: &str,
    resource: &str,
    error: &SdkError<E, HttpResponse>,
) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let name = error_code(error).unwrap_or_default();
    let detail = match (error.as_service_error().and_then(|e| e.message()), error.raw_response()) {
        (Some(message), _) => message.to_owned(),
        // An answer to HEAD has a name at most.
        (None, Some(answer)) if !name.is_empty() => format!("(HTTP {})", answer.status().as_u16()),
        (None, _) => DisplayErrorContext(error).to_string(),
    };
    let kind = kind(error);
    if let (Kind::Region, Some(region)) = (kind, region_of(error)) {
        let message = format!("{resource} is in another region: it is in {region}");
        return Error::new(Code::BucketRegion, message, in_region(region));
    }
    let (code, next) = advice(service, action, resource, kind, &detail);
    let name = if name.is_empty() { String::new() } else { format!(" {name}") };
    Error::new(code, format!("{service}:{action} on {resource} failed:{name} {detail}"), next)
}

/// What to do about a bucket that lies in `region`.
#[must_use]
pub fn in_region(region: &str) -> String {
    format!(
        "the bucket is in {region}: use one in the region of the application, or set `region` \
         under [aws] to {region} if its streams are there too"
    )
}

fn advice(
    service: &str,
    action: &str,
    resource: &str,
    kind: Kind,
    message: &str,
) -> (Code, String) {
    match kind {
        Kind::Missing => match service {
            "dynamodb" => (
                Code::TableMissing,
                "make the table with `millrace init`, or name another with --table".to_owned(),
            ),
            "kinesis" => (
                Code::StreamMissing,
                "make the stream, or correct `stream`, the region or the endpoint".to_owned(),
            ),
            _ => {
                (Code::BucketMissing, "make the bucket, or correct `path` under [sink]".to_owned())
            }
        },
        Kind::Forbidden => (
            Code::Forbidden,
            format!(
                "allow {} on {resource} for these credentials",
                rights::needed(service, action, message).join(" and ")
            ),
        ),
        Kind::Credentials => (
            Code::Credentials,
            "see AWS_ACCESS_KEY_ID, AWS_PROFILE or the role of this host".to_owned(),
        ),
        Kind::ClockSkew => (Code::ClockSkew, "set this host's clock (NTP)".to_owned()),
        Kind::Region => (
            Code::BucketRegion,
            "set `region` under [aws] to the region of the resource".to_owned(),
        ),
        Kind::Throttled => (Code::Throttled, format!("wait, or raise the limits of {resource}")),
        Kind::Timeout | Kind::Unreachable => (
            Code::AwsUnreachable,
            "see the endpoint (AWS_ENDPOINT_URL), the network and the region".to_owned(),
        ),
        Kind::Conditional | Kind::ExpiredIterator | Kind::ServerFault | Kind::Other => {
            (Code::AwsOther, "look the error's name up in the service's documentation".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_before_statuses() {
        assert_eq!(kind_of_answer("ExpiredIteratorException", "", 400), Kind::ExpiredIterator);
        assert_eq!(kind_of_answer("SlowDown", "", 503), Kind::Throttled);
        assert_eq!(kind_of_answer("AccessDenied", "", 403), Kind::Forbidden);
        assert_eq!(kind_of_answer("ExpiredToken", "", 403), Kind::Credentials);
        assert_eq!(kind_of_answer("ConditionalCheckFailedException", "", 400), Kind::Conditional);
        assert_eq!(kind_of_answer("", "", 404), Kind::Missing);
        assert_eq!(kind_of_answer("", "", 500), Kind::ServerFault);
        assert_eq!(kind_of_answer("InternalError", "", 200), Kind::ServerFault);
        assert_eq!(kind_of_answer("ValidationException", "", 400), Kind::Other);
    }

    #[test]
    fn an_old_signature_is_clock_skew_and_not_a_wrong_key() {
        let message = "Signature expired: 20260101T000000Z is now earlier than ...";
        assert_eq!(kind_of_answer("InvalidSignatureException", message, 400), Kind::ClockSkew);
        assert_eq!(kind_of_answer("InvalidSignatureException", "no", 400), Kind::Credentials);
    }

    #[test]
    fn only_lost_answers_leave_the_outcome_open() {
        for kind in [Kind::Timeout, Kind::Unreachable, Kind::ServerFault] {
            assert!(kind.is_outcome_unknown() && kind.is_transient());
        }
        assert!(Kind::Throttled.is_transient() && !Kind::Throttled.is_outcome_unknown());
        assert!(!Kind::Conditional.is_transient());
    }
}
