//! Whose the credentials are: their account, and the roles that they may assume.

use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;

use super::{Clients, ROLE_SESSION, explain};
use crate::error::{Code, Error};

impl Clients {
    /// The account of these credentials, by STS; nobody needs a right for that.
    ///
    /// # Errors
    /// What STS answers, explained; also where an endpoint has no STS.
    pub async fn account(&self) -> Result<String, Error> {
        let sts = aws_sdk_sts::Client::new(&self.shared);
        let answer =
            sts.get_caller_identity().send().await.map_err(|error| {
                explain("sts", "GetCallerIdentity", "these credentials", &error)
            })?;
        answer.account.filter(|account| !account.is_empty()).ok_or_else(|| {
            Error::new(
                Code::AwsOther,
                "sts:GetCallerIdentity answers without an account",
                "see that the endpoint speaks STS",
            )
        })
    }

    /// Tries to assume a role; what that gives is thrown away.
    ///
    /// # Errors
    /// What STS answers.
    pub async fn try_role(
        &self,
        role: &str,
    ) -> Result<(), SdkError<AssumeRoleError, HttpResponse>> {
        let sts = aws_sdk_sts::Client::new(&self.shared);
        let call = sts.assume_role().role_arn(role).role_session_name(ROLE_SESSION);
        call.send().await.map(drop)
    }
}
