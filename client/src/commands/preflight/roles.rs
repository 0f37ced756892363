//! The roles that single sources are read as.

use std::collections::BTreeSet;

use millrace_common::aws::AwsSettings;
use millrace_common::error::Result;

use super::{Trial, send};

/// What the findings about a role are on.
pub(super) fn subject(role: &str) -> String {
    format!("role {role}")
}

impl Trial<'_> {
    /// Tries to assume each role that a source names, as its driver will: with the credentials below
    /// the role of `[aws]`.
    pub(super) async fn roles(&mut self) -> Result<()> {
        let roles: BTreeSet<&str> = self.spec.source_roles().collect();
        if roles.is_empty() {
            return Ok(());
        }
        let settings = AwsSettings { role_arn: None, ..self.spec.aws.clone() };
        let nodes = self.clients.beside(&settings).await?;
        for role in roles {
            let answer = send(|| nodes.try_role(role)).await;
            self.judge(&subject(role), "sts:AssumeRole", answer);
        }
        Ok(())
    }
}
