//! The emulator's control endpoint: fault rules, and what a test may do to Kinesis.
//!
//! Promises: a rule that the emulator refuses fails the test at once. Owned by the stage.
//! Never does: keep a rule in mind; the emulator's own list is the truth.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::aws::Endpoint;

/// A fault rule as docs/emulator.md describes it.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its name.
    pub id: String,
    /// `kinesis`, `dynamodb` or `s3`.
    pub service: &'static str,
    /// The operation's name.
    pub operation: &'static str,
    /// Text that the request holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// What is done to the call.
    pub action: Value,
    /// How many calls it strikes; no end if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// The chance with which a matching call is struck.
    pub probability: f64,
    /// Where the chance starts from.
    pub seed: u64,
}

impl Rule {
    /// A rule that strikes every call of the operation.
    #[must_use]
    pub fn new(id: &str, service: &'static str, operation: &'static str, action: Value) -> Self {
        Self {
            id: id.to_owned(),
            service,
            operation,
            contains: None,
            action,
            times: None,
            probability: 1.0,
            seed: 1,
        }
    }

    /// Strikes this many calls.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Strikes only calls that hold `text`.
    #[must_use]
    pub fn containing(self, text: &str) -> Self {
        Self { contains: Some(text.to_owned()), ..self }
    }

    /// Strikes by chance.
    #[must_use]
    pub fn by_chance(self, probability: f64, seed: u64) -> Self {
        Self { probability, seed, ..self }
    }
}

/// The control endpoint of one emulator.
#[derive(Clone, Debug)]
pub struct Control {
    address: String,
}

impl Control {
    /// That of the emulator behind `endpoint`.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        Self { address: endpoint.url.trim_start_matches("http://").to_owned() }
    }

    /// Adds rules; one of the same name is replaced.
    ///
    /// # Panics
    /// When the emulator refuses them.
    pub async fn add(&self, rules: &[Rule]) {
        self.call("POST", "/-/faults", &json!(rules)).await;
    }

    /// Removes all rules.
    ///
    /// # Panics
    /// When the emulator does not answer.
    pub async fn clear(&self) {
        self.call("DELETE", "/-/faults", &Value::Null).await;
    }

    /// Removes these rules; those that are gone are fine.
    ///
    /// # Panics
    /// When the emulator does not answer.
    pub async fn remove(&self, rules: &[Rule]) {
        let kept = self.list().await;
        for rule in rules.iter().filter(|rule| kept.iter().any(|one| one["id"] == rule.id)) {
            self.call("DELETE", &format!("/-/faults/{}", rule.id), &Value::Null).await;
        }
    }

    /// How many calls the rule has struck so far; none when there is no such rule.
    ///
    /// # Panics
    /// When the emulator does not answer.
    pub async fn num_struck(&self, id: &str) -> u64 {
        let rules = self.list().await;
        let rule = rules.iter().find(|rule| rule["id"] == id);
        rule.and_then(|rule| rule["num_struck"].as_u64()).unwrap_or(0)
    }

    /// Makes every iterator that is out expire.
    ///
    /// # Panics
    /// When the emulator does not answer.
    pub async fn expire_iterators(&self) {
        self.call("POST", "/-/kinesis/expire-iterators", &Value::Null).await;
    }

    /// Forgets the records of a shard below a sequence number.
    ///
    /// # Panics
    /// When the emulator refuses.
    pub async fn trim(&self, stream: &str, shard: &str, keep_from: &str) {
        let what = json!({"stream": stream, "shard": shard, "keep_from": keep_from});
        self.call("POST", "/-/kinesis/trim", &what).await;
    }

    /// Lets time pass for Kinesis alone, at once.
    ///
    /// # Panics
    /// When the emulator does not answer.
    pub async fn advance_clock(&self, time: Duration) {
        self.call("POST", "/-/kinesis/advance-clock", &span(time)).await;
    }

    /// How long streams are CREATING, UPDATING or DELETING from now on.
    ///
    /// # Panics
    /// When the emulator does not answer.
    pub async fn set_transition(&self, time: Duration) {
        self.call("POST", "/-/kinesis/transition", &span(time)).await;
    }

    async fn list(&self) -> Vec<Value> {
        let rules = self.call("GET", "/-/faults", &Value::Null).await;
        rules.as_array().cloned().unwrap_or_default()
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let what = format!("{method} {path} {body}");
        let answer = self.exchange(method, path, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{what}: {error}: {answer}"))
    }

    /// One request on a connection of its own: the answer ends with the connection.
    async fn exchange(&self, method: &str, path: &str, body: &Value) -> std::io::Result<String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut connection = TcpStream::connect(&self.address).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

fn span(time: Duration) -> Value {
    json!({"ms": u64::try_from(time.as_millis()).unwrap_or(u64::MAX)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_what_the_emulator_reads() {
        let rule = Rule::new("r", "s3", "UploadPart", json!({"type": "throttle"}))
            .times(3)
            .containing("-t0-")
            .by_chance(0.5, 9);
        let expected = json!({
            "id": "r", "service": "s3", "operation": "UploadPart", "contains": "-t0-",
            "action": {"type": "throttle"}, "times": 3, "probability": 0.5, "seed": 9
        });
        assert_eq!(json!(rule), expected);
        let bare = json!(Rule::new("r", "s3", "UploadPart", json!({"type": "throttle"})));
        assert!(bare.get("times").is_none() && bare.get("contains").is_none(), "{bare}");
    }
}
