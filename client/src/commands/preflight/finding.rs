//! What one trial found, and how it is shown.

use serde::Serialize;

use crate::output::{Align, table};

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As it must be.
    Ok,
    /// The action is denied.
    Missing,
    /// Something else is wrong.
    Failed,
    /// It works, and may surprise.
    Warning,
    /// An action that it works without is denied.
    Optional,
    /// It could not be tried, because of another finding.
    Untried,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "MISSING",
            Self::Failed => "FAILED",
            Self::Warning => "warning",
            Self::Optional => "optional",
            Self::Untried => "untried",
        }
    }
}

/// What one trial found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) subject: String,
    pub(super) check: String,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    /// Actions that are missing, as IAM spells them.
    pub(super) missing: Vec<String>,
    /// The statement to add to the policy.
    pub(super) add: Option<String>,
}

impl Finding {
    pub(super) fn new(
        subject: &str,
        check: &str,
        verdict: Verdict,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.to_owned(),
            check: check.to_owned(),
            verdict,
            detail: detail.into(),
            missing: Vec::new(),
            add: None,
        }
    }
}

/// Why the application can not run; none when it can.
pub(super) fn summary(findings: &[Finding]) -> Option<String> {
    let of = |verdict| findings.iter().filter(move |finding| finding.verdict == verdict);
    let mut what: Vec<String> = Vec::new();
    let mut actions: Vec<&str> =
        of(Verdict::Missing).flat_map(|finding| &finding.missing).map(String::as_str).collect();
    actions.sort_unstable();
    actions.dedup();
    if !actions.is_empty() {
        what.push(format!("it may not {}", actions.join(", ")));
    }
    what.extend(
        of(Verdict::Failed)
            .map(|finding| format!("{} of {}: {}", finding.check, finding.subject, finding.detail)),
    );
    (!what.is_empty()).then(|| what.join("; "))
}

/// A line for each finding, and below it the statements to add.
pub(super) fn show(findings: &[Finding]) -> String {
    const COLUMNS: [(&str, Align); 4] = [
        ("RESULT", Align::Left),
        ("CHECK", Align::Left),
        ("ON", Align::Left),
        ("DETAIL", Align::Left),
    ];
    let row = |finding: &Finding| {
        vec![
            finding.verdict.text().to_owned(),
            finding.check.clone(),
            finding.subject.clone(),
            finding.detail.clone(),
        ]
    };
    let mut text = table(&COLUMNS, findings.iter().map(row));
    for (title, is_optional) in [
        ("add to the policy of these credentials:", false),
        ("the application works without this, and is surer with it:", true),
    ] {
        let of = findings.iter().filter(|f| (f.verdict == Verdict::Optional) == is_optional);
        let mut statements: Vec<&str> = of.filter_map(|finding| finding.add.as_deref()).collect();
        statements.dedup();
        if !statements.is_empty() {
            text.push_str(&format!("\n\n{title}\n{}", statements.join(",\n")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stops_the_application_is_summed_up() {
        let mut findings = vec![
            Finding::new("stream lines", "kinesis:ListShards", Verdict::Ok, ""),
            Finding::new("this host", "clock", Verdict::Warning, "40 s behind AWS"),
            Finding::new("stream lines", "kinesis:GetRecords", Verdict::Untried, "no iterator"),
        ];
        assert_eq!(summary(&findings), None);
        let mut denied = Finding::new("table millrace", "dynamodb:Query", Verdict::Missing, "no");
        denied.missing = vec!["dynamodb:Query".to_owned()];
        denied.add = Some("{\"Action\":[\"dynamodb:Query\"]}".to_owned());
        findings.push(denied);
        assert_eq!(summary(&findings).as_deref(), Some("it may not dynamodb:Query"));
        let text = show(&findings);
        assert!(text.ends_with("credentials:\n{\"Action\":[\"dynamodb:Query\"]}"), "{text}");
    }
}
