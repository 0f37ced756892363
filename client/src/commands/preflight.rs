//! `millrace preflight FILE`: tries every right of an application, and all that its start would find
//! wrong in AWS, with the credentials of whoever calls.
//!
//! Promises: nothing is written and nothing read away; each missing action is named with the
//! statement that allows it. One thing may stay: where nobody may abort an upload, the upload that
//! tried `s3:PutObject` is named, and ends with the bucket's lifecycle rule.

mod finding;
mod head;
mod places;
mod roles;
mod streams;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use millrace_common::application::ApplicationSpec;
use millrace_common::aws::rights::{self, Arns, Right, Role};
use millrace_common::aws::{Clients, Kind, StreamClients, error_code, explain, kind};
use millrace_common::clock::SystemClock;
use millrace_common::error::{Code, Error, Result};
use millrace_common::retry::{self, Backoff};
use serde_json::json;

use self::finding::{Finding, Verdict, summary};
use super::{aws, policy};
use crate::arguments::Preflight;
use crate::ended::Outcome;
use crate::output::Output;

/// Tries of each call: a passing failure must not be taken for a fault of the account.
const TRIES: u32 = 4;
/// What stands in ARNs for an account that is not known.
const ACCOUNT_UNKNOWN: &str = "ACCOUNT";
/// AWS refuses a signature that is older or newer than this; S3 allows 15 minutes.
const SKEW_REFUSED_MS: i64 = 5 * 60 * 1_000;
/// From here on a clock is worth a warning: it is not kept, and will go on drifting.
const SKEW_WARNED_MS: i64 = 30 * 1_000;

pub(super) async fn run(output: &Output, command: &Preflight) -> Outcome {
    let spec = command.source.load()?;
    millrace_sql::validate(&spec).await?;
    let clients = aws(output, &spec.aws).await?;
    let told = command.account.as_deref();
    let (account, unknown) = match policy::account(told, &spec, &clients).await {
        Ok(account) => (Some(account), None),
        // Nothing can be tried by nobody.
        Err(error) if error.code() == Code::Credentials => return Err(error.into()),
        Err(error) => (None, Some(error)),
    };
    let named = account.as_deref().unwrap_or(ACCOUNT_UNKNOWN);
    let arns =
        Arns { spec: &spec, account: named, region: clients.region(), table: &command.table };
    let streams = StreamClients::load(&spec, &clients).await?;
    let mut trial = Trial { spec: &spec, clients: &clients, streams, arns, findings: Vec::new() };
    if let Some(error) = unknown {
        trial.add("these credentials", "account", Verdict::Untried, without_account(&error));
    }
    let spinner = output.spinner(&format!("trying what {} needs", spec.name));
    trial.roles().await?;
    trial.streams().await;
    trial.head().await;
    trial.lease_tables().await;
    trial.places().await;
    spinner.finish_and_clear();
    let findings = trial.findings;
    let missing: Vec<&str> =
        findings.iter().flat_map(|finding| &finding.missing).map(|s| s.as_str()).collect();
    let value = json!({
        "name": spec.name,
        "account": account,
        "region": clients.region(),
        "missing": missing,
        "findings": findings,
    });
    output.result(&value, || finding::show(&findings))?;
    match summary(&findings) {
        None => Ok(()),
        Some(what) => Err(Error::new(
            Code::RightsMissing,
            format!("{} can not run: {what}", spec.name),
            "mend what the lines above name (`millrace policy FILE` prints the whole policy), and \
             run the command again",
        )
        .into()),
    }
}

/// What it means that the account is not known.
fn without_account(error: &Error) -> String {
    let why = std::error::Error::source(error).map_or_else(String::new, |why| format!(" ({why})"));
    format!(
        "it is not known{why}: streams are asked for by name, and statements to add say \
         {ACCOUNT_UNKNOWN} in its place; give it with --account"
    )
}

/// A preflight under way.
struct Trial<'a> {
    spec: &'a ApplicationSpec,
    clients: &'a Clients,
    streams: StreamClients,
    arns: Arns<'a>,
    findings: Vec<Finding>,
}

impl Trial<'_> {
    fn add(&mut self, subject: &str, check: &str, verdict: Verdict, detail: impl Into<String>) {
        self.findings.push(Finding::new(subject, check, verdict, detail));
    }

    /// Judges the answer to a call that tries `action`. An answer that says "you may, but" (a dry
    /// run, a condition that does not hold) proves the right as well as success does.
    fn judge<T, E>(
        &mut self,
        subject: &str,
        action: &'static str,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Option<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let error = match answer {
            Ok(answer) => {
                self.add(subject, action, Verdict::Ok, "");
                return Some(answer);
            }
            Err(error) => error,
        };
        let kind = kind(&error);
        if kind == Kind::Conditional || error_code(&error) == Some("DryRunOperationException") {
            self.add(subject, action, Verdict::Ok, "");
            return None;
        }
        let (service, call) = action.split_once(':').unwrap_or((action, ""));
        let explained = explain(service, call, subject, &error);
        if kind == Kind::Forbidden {
            let said = error.as_service_error().and_then(|e| e.message()).unwrap_or_default();
            self.findings.push(self.denied(subject, action, said));
        } else {
            let detail = format!("{explained}");
            self.add(subject, action, Verdict::Failed, detail);
        }
        None
    }

    /// A right that is missing, with what to add; where a key of the bucket is what denies, the
    /// rights on that key.
    fn denied(&self, subject: &str, action: &'static str, said: &str) -> Finding {
        let (service, call) = action.split_once(':').unwrap_or((action, ""));
        let needed = rights::needed(service, call, said);
        let right = right(action);
        let mut finding = Finding::new(subject, action, Verdict::Missing, "");
        match right {
            Some(right) if needed == [action] => {
                finding.detail = format!("denied; it is needed to {}", right.why);
                finding.add = Some(rights::statement_for(right, &self.arns).to_string());
            }
            _ => {
                finding.detail = format!("denied: {said}");
                finding.add = Some(rights::statement(&needed, "the ARN of the key"));
            }
        }
        finding.missing = needed;
        finding
    }

    /// Compares this host's clock with the Date of an answer.
    fn clock(&mut self, server_ms: Option<i64>) {
        let Some(server_ms) = server_ms else { return };
        let (verdict, detail) = judge_clock(SystemClock::shared().now_ms() - server_ms);
        self.add("this host", "clock", verdict, detail);
    }
}

/// What a clock that is ahead by so much means.
fn judge_clock(ahead_ms: i64) -> (Verdict, String) {
    let seconds = ahead_ms.abs() / 1_000;
    let side = if ahead_ms >= 0 { "ahead of" } else { "behind" };
    match ahead_ms.abs() {
        skew if skew >= SKEW_REFUSED_MS => (
            Verdict::Failed,
            format!("{seconds} s {side} AWS, which refuses such signatures: set it (NTP)"),
        ),
        skew if skew >= SKEW_WARNED_MS => {
            (Verdict::Warning, format!("{seconds} s {side} AWS: keep it by NTP"))
        }
        _ => (Verdict::Ok, String::new()),
    }
}

/// The application's right to this action.
fn right(action: &str) -> Option<&'static Right> {
    rights::of(Role::Application).find(|right| right.action == action)
}

/// Sends a call, again when its failure passes.
async fn send<T, E, F>(call: impl FnMut() -> F) -> Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    retry::call(Backoff::CALL, TRIES, |error| kind(error).is_transient(), call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_refused_where_aws_refuses_it() {
        assert_eq!(judge_clock(-900).0, Verdict::Ok);
        assert_eq!(judge_clock(31_000).0, Verdict::Warning);
        let (verdict, detail) = judge_clock(-301_000);
        assert_eq!(verdict, Verdict::Failed);
        assert!(detail.starts_with("301 s behind AWS"), "{detail}");
    }
}
