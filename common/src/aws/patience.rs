//! The HTTP client of commands that a person waits for.
//!
//! Promises: an endpoint that does not answer is named after [`FIRST_WORD`]. One answer is waited for
//! [`ANSWER`] at most, and those of an endpoint that has not answered [`IN_VAIN`]: what asks it then
//! fails at once. When an endpoint was given up on, each other one that does not answer is waited for
//! [`AFTERWARDS`]. Never does: send a request again, or change one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{
    RuntimeComponents, RuntimeComponentsBuilder,
};
use aws_smithy_types::config_bag::ConfigBag;

/// After so long people want to know what is waited for.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// How long one answer may take to begin.
const ANSWER: Duration = Duration::from_secs(6);
/// How long an endpoint is asked again and again that does not answer.
const IN_VAIN: Duration = Duration::from_secs(12);
/// The same, when another one was given up on: with the four services of AWS below 20 s in all.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Who says what is waited for.
pub(super) type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// The client that `tell` speaks for.
pub(super) fn client(tell: Tell) -> SharedHttpClient {
    let waits = Arc::new(Shared { tell, waits: Mutex::default() });
    SharedHttpClient::new(Client { inner: plain(), waits })
}

/// What the SDK takes when nobody names a client.
fn plain() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let provider = Provider::Rustls(CryptoMode::AwsLc);
        let mut builder = ConnectorBuilder::default().tls_provider(provider);
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.set_proxy_config(Some(ProxyConfig::from_env()));
        builder.build()
    })
}

/// How long each endpoint was waited for in vain: pure.
#[derive(Debug, Default)]
struct Waits(BTreeMap<String, Endpoint>);

/// An endpoint, as `https://kinesis.eu-west-1.amazonaws.com`.
#[derive(Debug, Default)]
struct Endpoint {
    /// Since when it does not answer.
    since: Option<Instant>,
    is_given_up: bool,
    is_told: bool,
}

impl Waits {
    /// How long an answer of `endpoint` is waited for that is asked now; none when it was given up on.
    fn begin(&mut self, endpoint: &str, now: Instant) -> Option<Duration> {
        let is_another =
            |(name, other): (&String, &Endpoint)| name != endpoint && other.is_given_up;
        let limit = if self.0.iter().any(is_another) { AFTERWARDS } else { IN_VAIN };
        let entry = self.0.entry(endpoint.to_owned()).or_default();
        let waited = now.saturating_duration_since(*entry.since.get_or_insert(now));
        let left = limit.saturating_sub(waited);
        entry.is_given_up = left.is_zero();
        (!left.is_zero()).then_some(left.min(ANSWER))
    }

    /// It has answered, whatever it said.
    fn answered(&mut self, endpoint: &str) {
        if let Some(entry) = self.0.get_mut(endpoint) {
            (entry.since, entry.is_given_up) = (None, false);
        }
    }

    /// True when nobody was told yet that it is waited for.
    fn is_news(&mut self, endpoint: &str) -> bool {
        let entry = self.0.entry(endpoint.to_owned()).or_default();
        !std::mem::replace(&mut entry.is_told, true)
    }
}

struct Shared {
    tell: Tell,
    waits: Mutex<Waits>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("waits", &self.waits).finish_non_exhaustive()
    }
}

impl Shared {
    fn waits<T>(&self, of: impl FnOnce(&mut Waits) -> T) -> T {
        of(&mut self.waits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer to a request, if it comes in time.
    async fn ask(
        &self,
        connector: &SharedHttpConnector,
        request: HttpRequest,
    ) -> Result<HttpResponse, ConnectorError> {
        let endpoint = endpoint_of(request.uri()).to_owned();
        let in_vain = || {
            let text = format!("{endpoint} does not answer");
            ConnectorError::timeout(text.into())
        };
        let limit = self.waits(|waits| waits.begin(&endpoint, Instant::now()));
        let limit = limit.ok_or_else(in_vain)?;
        let mut answer = std::pin::pin!(connector.call(request));
        let answer = tokio::time::timeout(limit, async {
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(FIRST_WORD) => {}
            }
            if self.waits(|waits| waits.is_news(&endpoint)) {
                (self.tell)(&format!("waiting for an answer of {endpoint}"));
            }
            answer.await
        })
        .await
        .unwrap_or_else(|_| Err(in_vain()))?;
        self.waits(|waits| waits.answered(&endpoint));
        Ok(answer)
    }
}

/// The part of an address that names the endpoint.
fn endpoint_of(uri: &str) -> &str {
    let begin = uri.find("://").map_or(0, |at| at + 3);
    let end = uri[begin..].find(['/', '?']).map_or(uri.len(), |at| begin + at);
    &uri[..end]
}

#[derive(Debug)]
struct Client {
    inner: SharedHttpClient,
    waits: Arc<Shared>,
}

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(Connector { inner, waits: Arc::clone(&self.waits) })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}

#[derive(Debug)]
struct Connector {
    inner: SharedHttpConnector,
    waits: Arc<Shared>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (inner, waits) = (self.inner.clone(), Arc::clone(&self.waits));
        HttpConnectorFuture::new(async move { waits.ask(&inner, request).await })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_is_named_without_what_is_asked_of_it() {
        assert_eq!(endpoint_of("http://127.0.0.1:4566/results/a?x=/"), "http://127.0.0.1:4566");
        assert_eq!(endpoint_of("https://sts.amazonaws.com"), "https://sts.amazonaws.com");
        assert_eq!(endpoint_of("https://sts.amazonaws.com?a=b"), "https://sts.amazonaws.com");
    }

    #[test]
    fn one_that_answers_is_never_given_up_on() {
        let (mut waits, start) = (Waits::default(), Instant::now());
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(waits.begin("a", now), Some(ANSWER));
            waits.answered("a");
        }
        assert!(waits.is_news("a"));
        assert!(!waits.is_news("a"), "it is said once");
    }

    #[test]
    fn one_that_comes_back_has_all_the_time_again() {
        let (mut waits, start) = (Waits::default(), Instant::now());
        waits.begin("a", start);
        assert_eq!(waits.begin("a", start + IN_VAIN - FIRST_WORD), Some(FIRST_WORD));
        assert_eq!(waits.begin("a", start + IN_VAIN), None);
        assert_eq!(waits.begin("b", start + IN_VAIN), Some(AFTERWARDS));
        waits.answered("a");
        assert_eq!(waits.begin("a", start + IN_VAIN), Some(ANSWER));
    }

    proptest! {
        #[test]
        fn four_dead_endpoints_take_less_than_20_s_in_all(
            failures_ms in prop::collection::vec(1..10_000_u64, 4),
        ) {
            let (mut waits, start) = (Waits::default(), Instant::now());
            let mut now = start;
            for (endpoint, fails_ms) in ["sts", "kinesis", "dynamodb", "s3"].iter().zip(failures_ms) {
                // Refused, or without an answer, again and again.
                while let Some(limit) = waits.begin(endpoint, now) {
                    prop_assert!(limit <= ANSWER);
                    now += limit.min(Duration::from_millis(fails_ms));
                }
            }
            prop_assert!(now - start < Duration::from_secs(20), "{:?}", now - start);
        }
    }
}
