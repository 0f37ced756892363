//! AWS misbehaves towards one application, by rules of the emulator's fault layer.
//!
//! Promises: producer, reader and checker are spared. Owned by [`super`].

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Injected, is_degraded_within};
use crate::eventually::{PATIENCE, within};
use crate::faults::control::Rule;
use crate::faults::fault::Weather;
use crate::faults::scene::Scene;

/// The rules of a weather for this application. Producer, reader and checker are spared.
#[must_use]
pub fn rules(weather: Weather, application: &str, seed: u64) -> Vec<Rule> {
    let fail = |status: u16, code: &str| json!({"type": "fail", "status": status, "code": code, "message": "injected"});
    let throttle = || json!({"type": "throttle"});
    let uploads = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"];
    let head = format!("application#{application}");
    let commit = |id: &str, action: Value| {
        let rule = Rule::new(id, "dynamodb", "UpdateItem", action).times(1);
        // No other write of a head carries it.
        rule.containing("spec_hash")
    };
    let complete = |id: &str, action: Value| {
        let rule = Rule::new(id, "s3", "CompleteMultipartUpload", action).times(1);
        rule.containing("-t0-")
    };
    match weather {
        Weather::S3SlowDown => uploads
            .map(|call| Rule::new(&format!("s3-slow-{call}"), "s3", call, throttle()))
            .map(|rule| rule.by_chance(0.5, seed))
            .to_vec(),
        Weather::CompletedAndUnknown => vec![
            complete("complete-lost", json!({"type": "lose_answer"})),
            complete("complete-unknown", fail(404, "NoSuchUpload")),
        ],
        Weather::ErrorInside200 => vec![complete("complete-error", fail(200, "InternalError"))],
        Weather::DynamoThrottled => ["UpdateItem", "GetItem", "Query"]
            .map(|call| Rule::new(&format!("dynamo-{call}"), "dynamodb", call, throttle()))
            .map(|rule| rule.containing(&head))
            .to_vec(),
        Weather::KinesisMoods => vec![
            Rule::new("kinesis-throttle", "kinesis", "GetRecords", throttle()).by_chance(0.5, seed),
            Rule::new("kinesis-empty", "kinesis", "GetRecords", json!({"type": "empty_page"}))
                .by_chance(0.5, seed + 1),
        ],
        Weather::CommitAnswerLost => vec![commit("commit-lost", json!({"type": "lose_answer"}))],
        Weather::CommitLateAndTwice => vec![
            commit("commit-late", json!({"type": "apply_late", "ms": 30_000})),
            commit("commit-twice", json!({"type": "apply_twice"})),
        ],
        Weather::CredentialsExpired => {
            let mut rules = uploads
                .map(|call| Rule::new(&format!("expired-{call}"), "s3", call, Value::Null))
                .map(|rule| Rule { action: fail(403, "ExpiredToken"), ..rule })
                .to_vec();
            rules.extend(["UpdateItem", "GetItem"].map(|call| {
                let action = fail(400, "ExpiredTokenException");
                let rule = Rule::new(&format!("expired-{call}"), "dynamodb", call, action);
                rule.containing(&head)
            }));
            rules.extend(["GetRecords", "GetShardIterator", "ListShards"].map(|call| {
                let action = fail(400, "ExpiredTokenException");
                let rule = Rule::new(&format!("expired-{call}"), "kinesis", call, action);
                // The harness lists shards by the stream's ARN.
                if call == "ListShards" { rule.containing("StreamName") } else { rule }
            }));
            rules
        }
    }
}

pub(super) async fn under(scene: &mut Scene<'_>, weather: Weather, time: Duration) -> Injected {
    let rules = rules(weather, scene.file.name, 1);
    let control = scene.stage.control.clone();
    control.add(&rules).await;
    if weather == Weather::KinesisMoods {
        control.expire_iterators().await;
    }
    let mut injected = Injected::now(Vec::new());
    if rules.iter().all(|rule| rule.times.is_some()) {
        // Each strikes one call; the fault is there when the last has.
        for rule in &rules {
            within(PATIENCE, &format!("{} strikes", rule.id), async || {
                let num = control.num_struck(&rule.id).await;
                if num > 0 { Ok(()) } else { Err(scene.state().await) }
            })
            .await;
        }
        injected.began = Instant::now();
    }
    injected.degraded = is_degraded_within(scene, time).await;
    let mut struck = Vec::new();
    for rule in &rules {
        struck.push(format!("{} {}", rule.id, control.num_struck(&rule.id).await));
    }
    control.remove(&rules).await;
    injected.healed().note(format!("struck: {}", struck.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_a_weather_have_names_of_their_own_and_spare_the_producer() {
        for weather in Weather::ALL {
            let rules = rules(weather, "row", 1);
            let names: std::collections::BTreeSet<_> = rules.iter().map(|rule| &rule.id).collect();
            assert_eq!(names.len(), rules.len());
            assert!(rules.iter().all(|rule| !rule.operation.starts_with("Put")), "{rules:?}");
        }
    }
}
