//! Revisions and attempts of an application.
//!
//! Promises and keys as in the parent.

use millrace_proto::v1;
use serde::{Deserialize, Serialize};

use super::{FailureView, known, text};

/// One specification of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionView {
    /// Counts from 1.
    pub number: u32,
    /// `checking`, `starting`, `active`, `ended` or `refused`.
    pub state: String,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// What was wrong with it, when it was refused.
    pub failure: Option<FailureView>,
    /// When it was submitted.
    pub submitted_ms: Option<i64>,
    /// Whose token submitted it.
    pub submitted_by: Option<String>,
    /// Its end, null while it is in use.
    pub ended_ms: Option<i64>,
    /// The submitter's name for the submission.
    pub request_id: Option<String>,
    /// Hash of the specification: equal for equal ones.
    pub spec_hash: String,
}

impl RevisionView {
    /// From a message.
    #[must_use]
    pub fn new(revision: &v1::Revision) -> Self {
        let name = revision.state().as_str_name().trim_start_matches("REVISION_STATE_");
        Self {
            number: revision.number,
            state: name.to_lowercase(),
            reason: text(&revision.reason),
            failure: revision.failure.as_ref().map(FailureView::new),
            submitted_ms: known(revision.submitted_ms),
            submitted_by: text(&revision.submitted_by),
            ended_ms: known(revision.ended_ms),
            request_id: text(&revision.request_id),
            spec_hash: revision.spec_hash.clone(),
        }
    }
}

/// One start of the driver, and what it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastAttemptView {
    /// Counts from 1.
    pub number: u32,
    /// The revision that it ran.
    pub revision: u32,
    /// The node that it was on.
    pub node_id: Option<String>,
    /// Its start.
    pub started_ms: Option<i64>,
    /// Its end, null while it lives.
    pub ended_ms: Option<i64>,
    /// Why it ended, null while it lives.
    pub end_reason: Option<String>,
}

/// What an application has been through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// The application.
    pub name: String,
    /// Whose token submitted the revision in use.
    pub owner: Option<String>,
    /// The revision in use.
    pub revision: u32,
    /// The newest revisions, oldest first.
    pub revisions: Vec<RevisionView>,
    /// The newest attempts, oldest first.
    pub attempts: Vec<PastAttemptView>,
}

impl HistoryView {
    /// From a message.
    #[must_use]
    pub fn new(application: &v1::Application) -> Self {
        let attempt = |attempt: &v1::Attempt| PastAttemptView {
            number: attempt.number,
            revision: attempt.revision,
            node_id: text(&attempt.node_id),
            started_ms: known(attempt.started_ms),
            ended_ms: known(attempt.ended_ms),
            end_reason: text(&attempt.end_reason),
        };
        Self {
            name: application.name.clone(),
            owner: text(&application.owner),
            revision: application.revision,
            revisions: application.revisions.iter().map(RevisionView::new).collect(),
            attempts: application.attempts.iter().map(attempt).collect(),
        }
    }
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// What it is revoked by.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// `viewer`, `submitter` or `admin`.
    pub role: String,
    /// When it was made.
    pub created_ms: Option<i64>,
    /// Whose token made it.
    pub created_by: Option<String>,
    /// When it expires; null: never.
    pub expires_ms: Option<i64>,
    /// When it was revoked, null while it is not.
    pub revoked_ms: Option<i64>,
}

impl TokenView {
    /// From a message.
    #[must_use]
    pub fn new(info: &v1::TokenInfo) -> Self {
        let role = info.role().as_str_name().trim_start_matches("ROLE_").to_lowercase();
        Self {
            id: info.id.clone(),
            name: info.name.clone(),
            role,
            created_ms: known(info.created_ms),
            created_by: text(&info.created_by),
            expires_ms: known(info.expires_ms),
            revoked_ms: known(info.revoked_ms),
        }
    }
}
