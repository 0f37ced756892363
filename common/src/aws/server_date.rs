//! The HTTP Date of an answer: the server's clock, which positions trust where they would not trust
//! this host's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};

/// Catches the Date of one call: make one per call, pass a clone to
/// `call.customize().interceptor(..)`, and read it after the answer.
#[derive(Clone, Debug, Default)]
pub struct ServerDate(Arc<AtomicI64>);

impl ServerDate {
    /// Nothing caught yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Unix time in milliseconds (whole seconds, as HTTP has it); none before an answer with a
    /// readable Date.
    #[must_use]
    pub fn get_ms(&self) -> Option<i64> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            ms => Some(ms),
        }
    }
}

impl Intercept for ServerDate {
    fn name(&self) -> &'static str {
        "ServerDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(parse_http_date);
        if let Some(ms) = date {
            self.0.store(ms, Ordering::Release);
        }
        Ok(())
    }
}

fn parse_http_date(text: &str) -> Option<i64> {
    DateTime::from_str(text, Format::HttpDate).ok().and_then(|date| date.to_millis().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        assert_eq!(parse_http_date("Thu, 01 Jan 1970 00:00:01 GMT"), Some(1_000));
        assert_eq!(parse_http_date("yesterday"), None);
        assert_eq!(ServerDate::new().get_ms(), None);
    }
}
