//! Faults by rule: which call is to fail, be delayed, lose its answer, and so on.
//!
//! A pure table of rules: it counts matches and decides, and never touches a request. Rules come
//! from the control endpoint (see docs/emulator.md). Chance comes from the rule's own seed, so that
//! a run can be repeated.

use serde::{Deserialize, Serialize};

/// What is done to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Action {
    /// Answers with an error and does not carry out the call.
    Fail {
        status: u16,
        code: String,
        #[serde(default)]
        message: String,
    },
    /// Answers with the service's throttling error and does not carry out the call.
    Throttle,
    /// Waits, then goes on.
    Delay { ms: u64 },
    /// Carries out the call, then closes the connection without an answer.
    LoseAnswer,
    /// Carries out the call, then answers with status 500.
    ErrorAfterApply,
    /// Closes the connection at once and carries out the call later.
    ApplyLate { ms: u64 },
    /// Carries out the call twice and gives the first answer.
    ApplyTwice,
    /// Answers a GetRecords without records although there are some; other calls are not touched.
    EmptyPage,
    /// Answers a GetShardIterator at a trimmed record with an iterator that gives nothing, for ever,
    /// and says that all the retention is behind it; other calls are not touched.
    StuckIterator,
}

/// A rule as the control endpoint takes and shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSpec {
    /// Name to delete it by; chosen by the table if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// `kinesis`, `dynamodb` or `s3`.
    pub(crate) service: Service,
    /// The API's name of the operation; every operation if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    /// Text that the request must contain: its JSON body, or for S3 its host, path and query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contains: Option<String>,
    pub(crate) action: Action,
    /// How many matching calls are let through first.
    #[serde(default)]
    pub(crate) skip: u64,
    /// How many calls it strikes; no end if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) times: Option<u64>,
    /// The chance with which a matching call is struck.
    #[serde(default = "certain")]
    pub(crate) probability: f64,
    /// Where the chance starts from.
    #[serde(default)]
    pub(crate) seed: u64,
}

fn certain() -> f64 {
    1.0
}

/// The services that rules can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Service {
    Kinesis,
    Dynamodb,
    S3,
}

/// A call as rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) service: Service,
    pub(crate) operation: &'a str,
    pub(crate) subject: &'a [u8],
}

/// What the rules want of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// How long to wait first.
    pub(crate) delay_ms: u64,
    /// What to do then, other than carrying the call out as usual.
    pub(crate) action: Option<Action>,
}

/// A rule with its history.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rule {
    #[serde(flatten)]
    spec: RuleSpec,
    num_matched: u64,
    num_struck: u64,
    #[serde(skip)]
    chance: u64,
}

/// The rules in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct FaultTable {
    rules: Vec<Rule>,
    next_id: u64,
}

impl FaultTable {
    /// Adds a rule and returns its id; a rule of the same id is replaced.
    pub(crate) fn add(&mut self, mut spec: RuleSpec) -> String {
        let id = spec.id.clone().unwrap_or_else(|| {
            self.next_id += 1;
            format!("rule-{}", self.next_id)
        });
        self.remove(&id);
        spec.id = Some(id.clone());
        let chance = spec.seed;
        self.rules.push(Rule { spec, num_matched: 0, num_struck: 0, chance });
        id
    }

    /// Removes a rule; false if there is none of that id.
    pub(crate) fn remove(&mut self, id: &str) -> bool {
        let before = self.rules.len();
        self.rules.retain(|r| r.spec.id.as_deref() != Some(id));
        self.rules.len() < before
    }

    /// Removes all rules.
    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Decides about a call: delays add up, and the first rule that wants more than a delay wins.
    pub(crate) fn decide(&mut self, call: &Call<'_>) -> Decision {
        let mut decision = Decision::default();
        for rule in &mut self.rules {
            if decision.action.is_some() {
                break;
            }
            if rule.strikes(call) {
                match &rule.spec.action {
                    Action::Delay { ms } => decision.delay_ms += ms,
                    other => decision.action = Some(other.clone()),
                }
            }
        }
        decision
    }
}

impl Rule {
    fn strikes(&mut self, call: &Call<'_>) -> bool {
        let spec = &self.spec;
        let of_operation = spec.operation.as_ref().is_none_or(|o| o == call.operation);
        let subject_fits = spec.contains.as_ref().is_none_or(|c| contains(call.subject, c));
        if spec.service != call.service || !of_operation || !subject_fits {
            return false;
        }
        if spec.times.is_some_and(|times| self.num_struck >= times) {
            return false;
        }
        self.num_matched += 1;
        if self.num_matched <= spec.skip {
            return false;
        }
        let probability = spec.probability;
        if probability < 1.0 && self.draw() >= probability {
            return false;
        }
        self.num_struck += 1;
        true
    }

    /// The next number of the rule's chance, from 0 up to but not 1 (splitmix64).
    fn draw(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn contains(subject: &[u8], text: &str) -> bool {
    text.is_empty() || subject.windows(text.len()).any(|w| w == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> RuleSpec {
        serde_json::from_str(json).expect("a rule")
    }

    fn put(subject: &[u8]) -> Call<'_> {
        Call { service: Service::Kinesis, operation: "PutRecords", subject }
    }

    #[test]
    fn a_rule_strikes_what_it_names_and_nothing_else() {
        let mut table = FaultTable::default();
        table.add(spec(
            r#"{"service":"kinesis","operation":"PutRecords","contains":"logs",
                "action":{"type":"lose_answer"}}"#,
        ));
        assert_eq!(table.decide(&put(b"of logs")).action, Some(Action::LoseAnswer));
        assert_eq!(table.decide(&put(b"of others")), Decision::default());
        let get = Call { operation: "GetRecords", ..put(b"logs") };
        assert_eq!(table.decide(&get), Decision::default());
        let s3 = Call { service: Service::S3, ..put(b"logs") };
        assert_eq!(table.decide(&s3), Decision::default());
    }

    #[test]
    fn skip_and_times_count_matching_calls() {
        let mut table = FaultTable::default();
        table.add(spec(r#"{"service":"kinesis","action":{"type":"throttle"},"skip":2,"times":3}"#));
        let struck: Vec<_> = (0..8).map(|_| table.decide(&put(b"")).action.is_some()).collect();
        assert_eq!(struck, [false, false, true, true, true, false, false, false]);
    }

    #[test]
    fn delays_add_up_before_the_first_other_action() {
        let mut table = FaultTable::default();
        table.add(spec(r#"{"service":"kinesis","action":{"type":"delay","ms":10}}"#));
        table.add(spec(r#"{"service":"kinesis","action":{"type":"delay","ms":5}}"#));
        table.add(spec(r#"{"service":"kinesis","action":{"type":"apply_twice"}}"#));
        table.add(spec(r#"{"service":"kinesis","action":{"type":"throttle"}}"#));
        let expected = Decision { delay_ms: 15, action: Some(Action::ApplyTwice) };
        assert_eq!(table.decide(&put(b"")), expected);
    }

    #[test]
    fn chance_is_repeated_by_its_seed_and_has_its_share() {
        let run = |seed: u64| {
            let mut table = FaultTable::default();
            let rule = r#"{"service":"kinesis","action":{"type":"throttle"},"probability":0.3}"#;
            table.add(RuleSpec { seed, ..spec(rule) });
            (0..1000).map(|_| table.decide(&put(b"")).action.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let share = run(7).iter().filter(|s| **s).count();
        assert!((240..360).contains(&share), "{share} of 1000");
    }

    #[test]
    fn unknown_members_are_refused() {
        let wrong = r#"{"service":"kinesis","action":{"type":"throttle"},"chance":0.3}"#;
        assert!(serde_json::from_str::<RuleSpec>(wrong).is_err());
    }

    #[test]
    fn a_rule_of_the_same_id_is_replaced() {
        let mut table = FaultTable::default();
        let rule = r#"{"id":"a","service":"s3","action":{"type":"throttle"}}"#;
        assert_eq!(table.add(spec(rule)), "a");
        assert_eq!(table.add(spec(rule)), "a");
        assert_eq!(table.rules().len(), 1);
        assert!(table.remove("a"));
        assert!(!table.remove("a"));
    }
}
