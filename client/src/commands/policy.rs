//! `millrace policy FILE`: the least IAM policy with which an application works.
//!
//! Promises: no wildcard action, and no resource beyond the application's own streams, items and
//! prefixes. Asks AWS for nothing but the account, and only when nobody told it.

use millrace_common::application::ApplicationSpec;
use millrace_common::aws::Clients;
use millrace_common::aws::rights::{self, Arns, Role, account_of};
use millrace_common::error::{Error, Result};

use super::aws;
use crate::arguments::{Policy, PolicyRole};
use crate::ended::Outcome;
use crate::output::Output;

pub(super) async fn run(output: &Output, command: &Policy) -> Outcome {
    let spec = command.source.load()?;
    let clients = aws(output, &spec.aws).await?;
    let account = account(command.account.as_deref(), &spec, &clients).await?;
    let arns =
        Arns { spec: &spec, account: &account, region: clients.region(), table: &command.table };
    let roles: &[Role] = match command.role {
        PolicyRole::Application if command.optional => &[Role::Application, Role::Optional],
        PolicyRole::Application => &[Role::Application],
        PolicyRole::Master => &[Role::Master],
        PolicyRole::Operator => &[Role::Operator],
    };
    // Always JSON: a policy is nothing else.
    output.json_document(&rights::document(roles, &arns))
}

/// The account that an application's table is in: as told, or that of the credentials, or where
/// there is no STS, that of the first stream.
pub(super) async fn account(
    told: Option<&str>,
    spec: &ApplicationSpec,
    clients: &Clients,
) -> Result<String> {
    if let Some(account) = told {
        return Ok(account.to_owned());
    }
    let unknown = match clients.account().await {
        Ok(account) => return Ok(account),
        Err(error) => error,
    };
    let streams = spec.sources.values().map(|source| source.stream.as_str());
    for stream in streams {
        if let Some(account) = account_of(stream) {
            return Ok(account.to_owned());
        }
        let described = clients.kinesis.describe_stream_summary().stream_name(stream).send().await;
        let summary = described.ok().and_then(|answer| answer.stream_description_summary);
        if let Some(account) = summary.as_ref().and_then(|found| account_of(&found.stream_arn)) {
            return Ok(account.to_owned());
        }
    }
    let message = "the account of these credentials is not known";
    Err(Error::new(unknown.code(), message, "give it with --account").caused_by(unknown))
}
