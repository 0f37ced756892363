//! Replays: an application that reads a past range of its streams into a place of its own, and then
//! ends by itself.
//!
//! Promises: a replay has a name, and so a head, of its own; what it writes never mixes with what
//! the application writes; the same replay has the same name, another one has another. What belongs
//! to a range is decided here and nowhere else. Never does: ask Kinesis or S3.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use millrace_proto::v1;
use prost::Message as _;
use sha2::Digest as _;

use super::s3_location::S3Location;
use super::spec::{ApplicationSpec, SinkSpec, StartPosition};
use crate::error::{Code, Error};
use crate::id::{APPLICATION_NAME_MAX, ApplicationName};

/// What an HTTP Date can be off by: it has whole seconds.
const DATE_MS: i64 = 1_000;
/// Hexadecimal digits that tell one replay of an application from another.
const DIGITS: usize = 8;

/// What is computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The application whose results of the range are computed again.
    pub of: ApplicationName,
    /// Which records.
    pub range: Range,
}

/// A range of time by the arrival of records, `[from, to)`; Unix time in milliseconds.
///
/// Within a shard records follow one another by their numbers and not by their arrival, which Kinesis
/// calls approximate. A range takes a run of them: from the first that arrived at `from` or later up
/// to, and without, the first after it that arrived at `to` or later. So ranges that follow one
/// another share no record and miss none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    from_ms: i64,
    to_ms: i64,
}

impl Range {
    /// A range that holds some time.
    ///
    /// # Errors
    /// [`Code::ReplayRange`] when it ends before it begins, or at once.
    pub fn new(from_ms: i64, to_ms: i64) -> Result<Self, Error> {
        let range = Self { from_ms, to_ms };
        if from_ms < 0 || from_ms >= to_ms {
            return Err(refuse_range(
                format!("a replay {range} holds no time"),
                "give a --to that is later than --from",
            ));
        }
        Ok(range)
    }

    /// Where it begins.
    #[must_use]
    pub fn from_ms(&self) -> i64 {
        self.from_ms
    }

    /// Where it ends; what arrived then is none of it.
    #[must_use]
    pub fn to_ms(&self) -> i64 {
        self.to_ms
    }

    /// How many of these records, in the order of their numbers and from the range's first on, belong
    /// to a range that ends at `until_ms`. Fewer than all: the shard's part of it ends there.
    pub fn len_before(until_ms: i64, arrivals: impl IntoIterator<Item = i64>) -> usize {
        arrivals.into_iter().take_while(|arrival_ms| *arrival_ms < until_ms).count()
    }

    /// Whether the stream holds all of the range now. `server_ms` is a date of Kinesis, 0 when it
    /// gave none: then nothing can be said, and nothing is refused.
    ///
    /// # Errors
    /// [`Code::ReplayRange`] when a part of the range is still to come, or was let go of already;
    /// the error says what the stream holds.
    pub fn check_held(
        &self,
        stream: &str,
        retention: Duration,
        created_ms: i64,
        server_ms: i64,
    ) -> Result<(), Error> {
        if server_ms <= 0 {
            return Ok(());
        }
        if self.to_ms > server_ms + DATE_MS {
            return Err(refuse_range(
                format!(
                    "a replay {self} ends in the future: for stream {stream} it is {} now",
                    shown(server_ms)
                ),
                "give a --to in the past: a replay computes what has arrived",
            ));
        }
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = server_ms.saturating_sub(retention_ms);
        // A stream that is younger than its retention has let go of nothing.
        if self.from_ms < oldest_ms && created_ms < oldest_ms {
            return Err(refuse_range(
                format!(
                    "a replay {self} begins before what stream {stream} still holds: it keeps \
                     records for {} hours, now those since {}",
                    retention.as_secs() / 3_600,
                    shown(oldest_ms)
                ),
                "give a later --from; what is gone from the stream can not be computed again",
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}", shown(self.from_ms), shown(self.to_ms))
    }
}

/// A moment as people name it: a time with its offset from UTC, or how long ago it was (`-6h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Unix time in milliseconds.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

impl Moment {
    /// As Unix time in milliseconds, when it is `now_ms`.
    #[must_use]
    pub fn resolve(self, now_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ago) => {
                now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)).max(0)
            }
        }
    }
}

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(ago) = text.strip_prefix('-').and_then(|t| humantime::parse_duration(t).ok()) {
            return Ok(Self::Ago(ago));
        }
        match text.parse::<Timestamp>() {
            Ok(stamp) if stamp.as_millisecond() >= 0 => Ok(Self::At(stamp.as_millisecond())),
            _ => Err(Error::new(
                Code::InvalidValue,
                format!("{text:?} is no moment"),
                "write a time with its offset, as 2026-11-22T10:00:00Z, or how long ago, as -6h",
            )),
        }
    }
}

/// The replay of an application: what it computes, over `range`, into `path`.
///
/// # Errors
/// [`Code::ReplayPath`] when `path` touches the application's own places, or bad records would have
/// none; else what [`ApplicationSpec::check`] says.
pub fn derive(
    of: &ApplicationSpec,
    range: Range,
    path: S3Location,
    dead_letter_path: Option<S3Location>,
) -> Result<ApplicationSpec, Error> {
    let mut spec = of.clone();
    spec.replay = Some(Replay { of: of.name.clone(), range });
    spec.drop_sources.clear();
    for source in spec.sources.values_mut() {
        source.start = StartPosition::Timestamp(range.from_ms);
    }
    spec.sink.path = path;
    if of.sink.dead_letter_path.is_some() && dead_letter_path.is_none() {
        return Err(Error::new(
            Code::ReplayPath,
            format!("{} has a place for dead letters, and its replay has none", of.name),
            "name a place for those of the replay with --dead-letter-path",
        ));
    }
    spec.sink.dead_letter_path = dead_letter_path;
    check_places(&of.name, &of.sink, &spec.sink)?;
    spec.name = name(&spec, &of.name)?;
    spec.check()?;
    Ok(spec)
}

/// Sees that a replay writes nowhere where the application `of` writes.
///
/// # Errors
/// [`Code::ReplayPath`] naming both places.
pub fn check_places(of: &ApplicationName, own: &SinkSpec, replay: &SinkSpec) -> Result<(), Error> {
    let places = |sink: &SinkSpec| -> Vec<S3Location> {
        std::iter::once(&sink.path).chain(&sink.dead_letter_path).cloned().collect()
    };
    for theirs in places(own) {
        for mine in places(replay) {
            if theirs.contains(&mine) || mine.contains(&theirs) {
                return Err(Error::new(
                    Code::ReplayPath,
                    format!("a replay into {mine} touches {theirs}, where {of} writes"),
                    "give the replay a place of its own, beside the application's",
                ));
            }
        }
    }
    Ok(())
}

impl ApplicationSpec {
    /// What must hold of a replay, whoever made it.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] naming what does not fit.
    pub(super) fn check_replay(&self) -> Result<(), Error> {
        let Some(Replay { of, range }) = &self.replay else { return Ok(()) };
        let refuse =
            |message: String, next: &str| Err(Error::new(Code::InvalidValue, message, next));
        if *of == self.name {
            return refuse(
                format!("the replay of {of} has the name of the application"),
                "give it a name of its own: the name is the head's",
            );
        }
        let start = StartPosition::Timestamp(range.from_ms);
        match self.sources.iter().find(|(_, source)| source.start != start) {
            None => Ok(()),
            Some((name, source)) => refuse(
                format!("source {name} of a replay {range} starts at {}", source.start),
                "start every source of a replay where its range begins",
            ),
        }
    }
}

/// The replay's name: that of the application, and what tells this replay from its others.
fn name(spec: &ApplicationSpec, of: &ApplicationName) -> Result<ApplicationName, Error> {
    let identity = identity(spec);
    let ending = format!("-replay-{}", &identity[..DIGITS]);
    let front = &of.as_str()[..of.as_str().len().min(APPLICATION_NAME_MAX - ending.len())];
    format!("{front}{ending}").parse()
}

/// A hash of all that decides what is written; not of what decides only how fast.
fn identity(spec: &ApplicationSpec) -> String {
    let mut whole = spec.to_proto();
    for source in &mut whole.sources {
        (source.receivers, source.storage_level) = (None, 0);
    }
    let decisive = v1::ApplicationSpec {
        sources: whole.sources,
        query: whole.query,
        params: whole.params,
        sink: whole.sink,
        replay: whole.replay,
        ..v1::ApplicationSpec::default()
    };
    let hash = sha2::Sha256::digest(decisive.encode_to_vec());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Replay {
    /// As a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::ReplaySpec {
        v1::ReplaySpec {
            of: self.of.to_string(),
            from_ms: self.range.from_ms,
            to_ms: self.range.to_ms,
        }
    }

    /// From a message.
    ///
    /// # Errors
    /// When it names no application, or its range holds no time.
    pub fn from_proto(message: &v1::ReplaySpec) -> Result<Self, Error> {
        let range = Range::new(message.from_ms, message.to_ms)?;
        Ok(Self { of: message.of.parse()?, range })
    }
}

fn refuse_range(message: String, next: &str) -> Error {
    Error::new(Code::ReplayRange, message, next)
}

fn shown(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |stamp| stamp.to_string())
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
