//! Made-up application logs: the same seed gives the same records but for their times.
//!
//! Promises: JSON of about 235 bytes with eight fields; 50 hosts, 4 levels, messages of 6 to 10
//! words out of 2,000.

use jiff::Timestamp;
use rand::Rng;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

const NUM_WORDS: usize = 2_000;
const NUM_HOSTS: u32 = 50;
const SERVICES: [&str; 8] =
    ["checkout", "catalog", "search", "payment", "shipping", "account", "gateway", "inventory"];
/// Levels with their weights: most lines of a healthy system are quiet.
const LEVELS: [(&str, u32); 4] = [("DEBUG", 10), ("INFO", 75), ("WARN", 10), ("ERROR", 5)];
const ONSETS: [&str; 16] =
    ["b", "br", "c", "d", "dr", "f", "g", "l", "m", "n", "p", "r", "s", "st", "t", "v"];
const RIMES: [&str; 12] = ["a", "e", "i", "o", "u", "an", "en", "il", "or", "us", "ar", "ex"];

/// One record; its fields are in this order in the JSON.
#[derive(Serialize)]
struct AppLog<'a> {
    ts: String,
    level: &'a str,
    host: String,
    service: &'a str,
    request_id: String,
    status: u16,
    latency_ms: f64,
    message: String,
}

/// An endless source of application logs.
#[derive(Debug)]
pub(super) struct AppLogs {
    random: ChaCha8Rng,
    words: Vec<String>,
}

impl AppLogs {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), words: words() }
    }

    /// The next record, as of `now`.
    pub(super) fn record(&mut self, now: Timestamp) -> serde_json::Result<Vec<u8>> {
        let random = &mut self.random;
        let (level, _) =
            LEVELS.choose_weighted(random, |(_, weight)| *weight).unwrap_or(&LEVELS[1]);
        let status = match *level {
            "ERROR" => [500, 502, 503, 504][random.random_range(0..4)],
            "WARN" => [400, 404, 409, 429][random.random_range(0..4)],
            _ => [200, 200, 200, 201, 204][random.random_range(0..5)],
        };
        let num_words = random.random_range(6..=10);
        let message = (0..num_words)
            .map(|_| self.words[random.random_range(0..NUM_WORDS)].as_str())
            .collect::<Vec<_>>()
            .join(" ");
        serde_json::to_vec(&AppLog {
            ts: now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            level,
            host: format!("host-{:02}", random.random_range(0..NUM_HOSTS)),
            service: SERVICES[random.random_range(0..SERVICES.len())],
            request_id: format!("{:032x}", random.random::<u128>()),
            status,
            latency_ms: f64::from(random.random_range(10..50_000_u32)) / 100.0,
            message,
        })
    }
}

/// The vocabulary: pronounceable, without repetition, the same for every seed.
fn words() -> Vec<String> {
    let syllables: Vec<_> = ONSETS
        .iter()
        .flat_map(|onset| RIMES.iter().map(move |rime| format!("{onset}{rime}")))
        .collect();
    // A step that shares no divisor with the number of pairs visits each pair once.
    let num_pairs = syllables.len() * syllables.len();
    const STEP: usize = 7_919;
    (0..NUM_WORDS)
        .map(|index| {
            let pair = index * STEP % num_pairs;
            format!("{}{}", syllables[pair / syllables.len()], syllables[pair % syllables.len()])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn records(seed: u64, count: usize) -> Vec<Value> {
        let mut logs = AppLogs::new(seed);
        (0..count)
            .map(|_| serde_json::from_slice(&logs.record(Timestamp::UNIX_EPOCH).unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_records() {
        assert_eq!(records(7, 100), records(7, 100));
        assert_ne!(records(7, 100), records(8, 100));
    }

    #[test]
    fn records_have_the_promised_shape() {
        let records = records(1, 5_000);
        let distinct = |field: &str| {
            records.iter().map(|record| record[field].to_string()).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(distinct("host"), 50);
        assert_eq!(distinct("level"), 4);
        let mut vocabulary = BTreeSet::new();
        let mut bytes = 0;
        for record in &records {
            assert_eq!(record.as_object().unwrap().len(), 8);
            let message = record["message"].as_str().unwrap();
            let words: Vec<_> = message.split(' ').collect();
            assert!((6..=10).contains(&words.len()), "{message}");
            vocabulary.extend(words.into_iter().map(ToOwned::to_owned));
            bytes += record.to_string().len();
        }
        assert_eq!(vocabulary.len(), NUM_WORDS, "5,000 records use every word");
        let mean = bytes / records.len();
        assert!((225..=245).contains(&mean), "{mean} bytes on average");
    }
}
