//! The names under which IAM knows an application's streams, table and places.

use std::collections::BTreeSet;

use super::table::On;
use crate::application::{ApplicationSpec, S3Location, SourceSpec};
use crate::table;

/// What is needed to name everything that an application touches.
#[derive(Clone, Copy, Debug)]
pub struct Arns<'a> {
    /// The application.
    pub spec: &'a ApplicationSpec,
    /// The account of its table, and of the streams that are not given by ARN; 12 digits.
    pub account: &'a str,
    /// The region of its table, and of the streams that are not given by ARN.
    pub region: &'a str,
    /// The cluster's table.
    pub table: &'a str,
}

impl Arns<'_> {
    /// The ARNs of all that `on` stands for, each once.
    #[must_use]
    pub fn of(&self, on: On) -> Vec<String> {
        let all: BTreeSet<String> = match on {
            On::Streams => self.spec.sources.values().map(|source| self.stream(source)).collect(),
            On::Head | On::Table => BTreeSet::from([self.table(self.table)]),
            On::LeaseTables => self.spec.lease_tables().map(|table| self.table(table)).collect(),
            On::Results => self.places().map(|place| self.keys_below(place)).collect(),
            On::Buckets => self.places().map(|place| self.bucket(place)).collect(),
            On::Roles => self.spec.source_roles().map(ToOwned::to_owned).collect(),
        };
        all.into_iter().collect()
    }

    /// Hash keys to which a statement on the table is bound; none for the whole table.
    #[must_use]
    pub fn leading_keys(&self, on: On) -> Option<String> {
        (on == On::Head).then(|| table::application_pk(&self.spec.name))
    }

    /// The ARN of a source's stream, given by name or ARN; a role of its own names its account.
    #[must_use]
    pub fn stream(&self, source: &SourceSpec) -> String {
        let stream = &source.stream;
        if stream.starts_with("arn:") {
            return stream.clone();
        }
        let aws = source.aws.over(&self.spec.aws);
        let region = source.aws.region.as_deref().unwrap_or(self.region);
        let account = aws.role_arn.as_deref().and_then(account_of).unwrap_or(self.account);
        format!("arn:{}:kinesis:{region}:{account}:stream/{stream}", partition(region))
    }

    fn table(&self, table: &str) -> String {
        if table.starts_with("arn:") {
            return table.to_owned();
        }
        let Self { account, region, .. } = self;
        format!("arn:{}:dynamodb:{region}:{account}:table/{table}", partition(region))
    }

    fn places(&self) -> impl Iterator<Item = &S3Location> {
        std::iter::once(&self.spec.sink.path).chain(&self.spec.sink.dead_letter_path)
    }

    fn bucket(&self, place: &S3Location) -> String {
        format!("arn:{}:s3:::{}", partition(self.region), place.bucket)
    }

    /// All keys below a place.
    #[must_use]
    pub fn keys_below(&self, place: &S3Location) -> String {
        format!("{}/{}*", self.bucket(place), literal(&place.prefix))
    }
}

/// The account that an ARN names.
#[must_use]
pub fn account_of(arn: &str) -> Option<&str> {
    let account = arn.strip_prefix("arn:")?.split(':').nth(3)?;
    (!account.is_empty()).then_some(account)
}

/// The partition of AWS that a region lies in.
#[must_use]
pub fn partition(region: &str) -> &'static str {
    match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Text in a resource of a policy that stands for itself: `*`, `?` and `$` have a meaning there.
fn literal(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '?' | '$' => {
                plain.push_str("${");
                plain.push(c);
                plain.push('}');
            }
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_tell_their_partition_and_arns_their_account() {
        assert_eq!(partition("eu-west-1"), "aws");
        assert_eq!(partition("cn-north-1"), "aws-cn");
        assert_eq!(partition("us-gov-west-1"), "aws-us-gov");
        let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/lines";
        assert_eq!(account_of(arn), Some("123456789012"));
        assert_eq!(account_of("arn:aws:s3:::results"), None);
        assert_eq!(account_of("lines"), None);
    }

    #[test]
    fn a_prefix_with_signs_of_a_policy_stands_for_itself() {
        assert_eq!(literal("a*b?c$d/"), "a${*}b${?}c${$}d/");
    }
}
