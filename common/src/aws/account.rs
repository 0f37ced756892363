//! Which account the credentials are of.

use super::{Clients, explain};
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
}
