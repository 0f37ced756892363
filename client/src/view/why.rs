//! Why an application waits, is late or has ended, as JSON shows it.
//!
//! Promises and keys as in the parent.

use millrace_proto::v1;
use serde::{Deserialize, Serialize};

/// The answer to `millrace why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// The application.
    pub name: String,
    /// `well`, `waiting`, `slow`, `failed` or `ended`.
    pub standing: String,
    /// The one cause; none when nothing is wrong.
    pub cause: Option<CauseView>,
    /// What else is not as it should be, worst first.
    pub others: Vec<CauseView>,
    /// What is known of each step from the submission to a committed batch, in order.
    pub links: Vec<LinkView>,
}

/// One step of that way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// `state`, `cluster`, `driver`, `executors`, `input`, `commits` or `batches`.
    pub name: String,
    /// False where something is not as it should be.
    pub holds: bool,
    /// In one line, with its numbers.
    pub says: String,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseView {
    /// Its kind, as `hot_shard`.
    pub kind: String,
    /// One sentence with the numbers it rests on.
    pub what: String,
    /// What mends it.
    pub next: String,
    /// The code behind it, with a page in docs/errors.
    pub code: Option<String>,
}

impl CauseView {
    fn new(cause: &v1::Cause) -> Self {
        Self {
            kind: cause.kind().as_str_name().trim_start_matches("CAUSE_KIND_").to_lowercase(),
            what: cause.what.clone(),
            next: cause.next_move.clone(),
            code: (!cause.code.is_empty()).then(|| cause.code.clone()),
        }
    }
}

impl LinkView {
    fn new(link: &v1::FactLink) -> Self {
        Self { name: link.name.clone(), holds: link.holds, says: link.says.clone() }
    }
}

impl WhyView {
    /// The master's answer about the application of this name.
    #[must_use]
    pub fn new(name: &str, answer: &v1::WhyApplicationResponse) -> Self {
        Self {
            name: name.to_owned(),
            standing: answer
                .standing()
                .as_str_name()
                .trim_start_matches("STANDING_")
                .to_lowercase(),
            cause: answer.cause.as_ref().map(CauseView::new),
            others: answer.others.iter().map(CauseView::new).collect(),
            links: answer.links.iter().map(LinkView::new).collect(),
        }
    }
}
