//! The control endpoint under `/-/`: health, fault rules, and what a test may do to Kinesis.
//!
//! For tests and operators, never for applications. Every answer is JSON or one line of text.

use bytes::Bytes;
use http::{Method, Response};
use s3s::Body;
use serde::Deserialize;

use crate::dispatch::{Services, answer};
use crate::faults::RuleSpec;

const JSON: &str = "application/json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trim {
    stream: String,
    shard: String,
    /// The sequence number of the oldest record that stays.
    keep_from: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    ms: u64,
}

/// Answers a request to the control endpoint.
pub(crate) fn answer_to(
    services: &Services,
    method: &Method,
    path: &str,
    body: &[u8],
) -> Response<Body> {
    match (method.as_str(), path) {
        ("GET", "/-/healthz") => answer(200, "text/plain", Bytes::from_static(b"ok\n")),
        ("GET", "/-/faults") => {
            let rules = services.with_faults(|faults| serde_json::to_vec(faults.rules()));
            match rules {
                Ok(rules) => answer(200, JSON, rules.into()),
                Err(error) => refusal(500, &error.to_string()),
            }
        }
        ("POST", "/-/faults") => add_rules(services, body),
        ("DELETE", "/-/faults") => {
            services.with_faults(|faults| faults.clear());
            answer(200, JSON, Bytes::from_static(b"{}"))
        }
        ("DELETE", path) if path.starts_with("/-/faults/") => {
            let id = &path["/-/faults/".len()..];
            if services.with_faults(|faults| faults.remove(id)) {
                answer(200, JSON, Bytes::from_static(b"{}"))
            } else {
                refusal(404, &format!("there is no rule {id}; GET /-/faults lists them"))
            }
        }
        ("POST", "/-/kinesis/expire-iterators") => {
            services.kinesis.expire_iterators();
            answer(200, JSON, Bytes::from_static(b"{}"))
        }
        ("POST", "/-/kinesis/trim") => trim(services, body),
        ("POST", "/-/kinesis/advance-clock") => {
            with_span(body, |ms| services.kinesis.advance_clock(ms))
        }
        ("POST", "/-/kinesis/transition") => {
            with_span(body, |ms| services.kinesis.set_transition(ms))
        }
        _ => refusal(404, &format!("no {method} {path} here; see docs/emulator.md")),
    }
}

fn add_rules(services: &Services, body: &[u8]) -> Response<Body> {
    // One rule or a list of them; an untagged enum would hide what is wrong with a rule.
    let is_list = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let rules = if is_list {
        serde_json::from_slice::<Vec<RuleSpec>>(body)
    } else {
        serde_json::from_slice::<RuleSpec>(body).map(|rule| vec![rule])
    };
    let rules = match rules {
        Ok(rules) => rules,
        Err(error) => return refusal(400, &format!("not a fault rule: {error}")),
    };
    let ids: Vec<String> =
        services.with_faults(|faults| rules.into_iter().map(|rule| faults.add(rule)).collect());
    answer(200, JSON, serde_json::json!({ "ids": ids }).to_string().into())
}

fn trim(services: &Services, body: &[u8]) -> Response<Body> {
    let trim: Trim = match serde_json::from_slice(body) {
        Ok(trim) => trim,
        Err(error) => return refusal(400, &format!("not a trim: {error}")),
    };
    match services.kinesis.trim(&trim.stream, &trim.shard, &trim.keep_from) {
        Ok(()) => answer(200, JSON, Bytes::from_static(b"{}")),
        Err(error) => refusal(400, &error),
    }
}

fn with_span(body: &[u8], apply: impl FnOnce(u64)) -> Response<Body> {
    match serde_json::from_slice::<Span>(body) {
        Ok(span) => {
            apply(span.ms);
            answer(200, JSON, Bytes::from_static(b"{}"))
        }
        Err(error) => refusal(400, &format!("not a span of time: {error}")),
    }
}

fn refusal(status: u16, message: &str) -> Response<Body> {
    answer(status, JSON, serde_json::json!({ "error": message }).to_string().into())
}
