//! Kinesis clients of an application: its own, and one for each source that says otherwise.

use std::collections::BTreeMap;

use aws_sdk_kinesis::Client;

use super::{AwsSettings, Clients};
use crate::application::ApplicationSpec;
use crate::error::Error;

/// Finds the client for a stream. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct StreamClients {
    general: Client,
    /// By the stream as the file names it: a name, or an ARN.
    special: BTreeMap<String, Client>,
}

impl StreamClients {
    /// One client for all streams.
    #[must_use]
    pub fn one(client: Client) -> Self {
        Self { general: client, special: BTreeMap::new() }
    }

    /// The clients of an application's sources; `clients` are those of its `[aws]`.
    ///
    /// # Errors
    /// As [`Clients::load`].
    pub async fn load(spec: &ApplicationSpec, clients: &Clients) -> Result<Self, Error> {
        let mut special = BTreeMap::new();
        for source in spec.sources.values() {
            let settings = of_source(&source.aws, &source.stream, &spec.aws, clients.region());
            let client = match settings {
                Some(settings) => clients.beside(&settings).await?.kinesis,
                // Or it would get the client of another source whose stream has its name.
                None if source.stream.starts_with("arn:") => clients.kinesis.clone(),
                None => continue,
            };
            special.insert(source.stream.clone(), client);
        }
        Ok(Self { general: clients.kinesis.clone(), special })
    }

    /// The client for a stream given by name or ARN. A name that a source gives stands for its ARN
    /// too.
    #[must_use]
    pub fn of(&self, stream: &str) -> &Client {
        let by_name = || {
            let (_, name) = stream.rsplit_once(":stream/")?;
            self.special.get(name)
        };
        self.special.get(stream).or_else(by_name).unwrap_or(&self.general)
    }
}

/// The settings of a source that needs a client of its own: because it says so, or because its
/// stream is given by an ARN of another region.
fn of_source(
    own: &AwsSettings,
    stream: &str,
    general: &AwsSettings,
    region: &str,
) -> Option<AwsSettings> {
    let mut settings = own.over(general);
    let of_arn = stream.starts_with("arn:").then(|| stream.split(':').nth(3)).flatten();
    let elsewhere = of_arn.filter(|of_arn| !of_arn.is_empty() && *of_arn != region);
    if let (None, Some(elsewhere)) = (&own.region, elsewhere) {
        settings.region = Some(elsewhere.to_owned());
    }
    (*own != AwsSettings::default() || elsewhere.is_some()).then_some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_region(region: &str) -> AwsSettings {
        AwsSettings { region: Some(region.to_owned()), ..AwsSettings::default() }
    }

    #[test]
    fn a_source_has_a_client_of_its_own_only_where_it_differs() {
        let general = AwsSettings { profile: Some("work".to_owned()), ..in_region("eu-west-1") };
        let none = AwsSettings::default();
        assert_eq!(of_source(&none, "lines", &general, "eu-west-1"), None);
        let near = "arn:aws:kinesis:eu-west-1:1:stream/lines";
        assert_eq!(of_source(&none, near, &general, "eu-west-1"), None);
        let far = "arn:aws:kinesis:us-west-2:1:stream/lines";
        let found = of_source(&none, far, &general, "eu-west-1").unwrap();
        assert_eq!(found, AwsSettings { region: Some("us-west-2".to_owned()), ..general.clone() });
        let found = of_source(&in_region("ap-south-1"), "lines", &general, "eu-west-1").unwrap();
        assert_eq!(found.region.as_deref(), Some("ap-south-1"));
        assert_eq!(found.profile.as_deref(), Some("work"));
    }

    #[test]
    fn a_profile_of_its_own_does_not_take_the_general_role() {
        let role = Some("arn:aws:iam::1:role/r".to_owned());
        let general = AwsSettings { role_arn: role.clone(), ..AwsSettings::default() };
        let own = AwsSettings { profile: Some("other".to_owned()), ..AwsSettings::default() };
        assert_eq!(own.over(&general).role_arn, None);
        assert_eq!(AwsSettings::default().over(&general).role_arn, role);
    }
}
