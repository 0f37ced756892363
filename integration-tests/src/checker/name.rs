//! What the key of an object says: which batch, task, epoch and run wrote it.
//!
//! Promises: a key that Millrace does not write for this application is refused, never guessed at.

use std::fmt;

use serde::Serialize;

/// Letters of a UUID with its hyphens.
const UUID_LEN: usize = 36;

/// The place of a row: the object that holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectName {
    /// Batch that wrote it.
    pub batch: u64,
    /// Task of the batch.
    pub task: u64,
    /// Epoch of the driver whose batch it was.
    pub epoch: u64,
    /// Id of the run of the batch.
    pub run: String,
    /// The whole key.
    pub key: String,
}

impl ObjectName {
    /// Reads `<prefix>/<partition>/<application>-e<epoch>-b<batch>-t<task>-<run uuid>.<ext>`.
    ///
    /// # Errors
    /// What the key lacks.
    pub fn parse(application: &str, key: &str) -> Result<Self, String> {
        let foreign = |what: &str| format!("{key} is no key of {application}: {what}");
        let name = key.rsplit('/').next().unwrap_or(key);
        let rest = name.strip_prefix(application).ok_or_else(|| foreign("another name"))?;
        let (epoch, rest) = number(rest, "-e").ok_or_else(|| foreign("no epoch"))?;
        let (batch, rest) = number(rest, "-b").ok_or_else(|| foreign("no batch"))?;
        let (task, rest) = number(rest, "-t").ok_or_else(|| foreign("no task"))?;
        let run = rest.strip_prefix('-').and_then(|rest| rest.get(..UUID_LEN));
        let run = run.filter(|run| run.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'));
        let run = run.ok_or_else(|| foreign("no run"))?.to_owned();
        if !rest[1 + UUID_LEN..].starts_with('.') {
            return Err(foreign("no ending after the run"));
        }
        Ok(Self { batch, task, epoch, run, key: key.to_owned() })
    }

    /// The token that such an object carries in its metadata.
    #[must_use]
    pub fn token(&self, application: &str) -> String {
        format!("{application}/{}/{}/{}", self.epoch, self.batch, self.run)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, task, epoch, key, .. } = self;
        write!(f, "batch {batch}, task {task}, epoch {epoch} ({key})")
    }
}

/// The number after `mark`, and what follows it.
fn number<'a>(text: &'a str, mark: &str) -> Option<(u64, &'a str)> {
    let rest = text.strip_prefix(mark)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "3f0c4e0e-3b1f-4a55-9d5b-000000000000";

    #[test]
    fn a_key_says_what_wrote_it() {
        let key = format!("out/kind=a/my-e1-b2-e3-b17-t0-{RUN}.json.gz");
        let name = ObjectName::parse("my-e1-b2", &key).unwrap();
        assert_eq!((name.epoch, name.batch, name.task), (3, 17, 0));
        assert_eq!(name.token("my-e1-b2"), format!("my-e1-b2/3/17/{RUN}"));
        assert_eq!(name.to_string(), format!("batch 17, task 0, epoch 3 ({key})"));
    }

    #[test]
    fn foreign_keys_are_refused() {
        for key in [
            "out/_SUCCESS",
            "out/app-e1-b1-t0.json",
            "out/app-e1-t0-b1-3f0c4e0e-3b1f-4a55-9d5b-000000000000.json",
            "out/app-e1-b1-t0-3f0c4e0e-3b1f-4a55-9d5b-000000000000",
            "out/other-e1-b1-t0-3f0c4e0e-3b1f-4a55-9d5b-000000000000.json",
            "out/app-e1-b1-t0-zzzzzzzz-3b1f-4a55-9d5b-000000000000.json",
        ] {
            assert!(ObjectName::parse("app", key).is_err(), "{key}");
        }
    }
}
