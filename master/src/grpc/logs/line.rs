//! Time and level of a line, as Millrace's processes write them, plain or as JSON.
//!
//! Never does: change a line. One that says neither belongs to the line before it.

use millrace_proto::v1::LogLevel;

/// What begins a line of JSON.
const JSON_TIME: &str = "{\"timestamp\":\"";
/// And what stands before its level.
const JSON_LEVEL: &str = "\"level\":\"";

/// What the beginning of a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When it was written, Unix time in milliseconds.
    pub time_ms: i64,
    /// How grave it is.
    pub level: LogLevel,
    /// Where the message begins, in bytes.
    pub message_at: usize,
}

/// Reads the beginning of a line; none when it is not the beginning of an event.
pub(super) fn stamp(line: &[u8]) -> Option<Stamp> {
    // Longer beginnings are no stamps, and what follows need not be text.
    let head = &line[..line.len().min(256)];
    let head = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
    };
    match head.strip_prefix(JSON_TIME) {
        Some(rest) => {
            let (time, rest) = rest.split_once('"')?;
            let level = rest.split_once(JSON_LEVEL).and_then(|(_, rest)| rest.split_once('"'))?.0;
            Some(Stamp { time_ms: time_of(time)?, level: level_of(level)?, message_at: 0 })
        }
        None => {
            let (time, rest) = head.split_once(' ')?;
            let time_ms = time_of(time)?;
            let (level, rest) = rest.trim_start().split_once(' ')?;
            let message_at = head.len() - rest.len();
            Some(Stamp { time_ms, level: level_of(level)?, message_at })
        }
    }
}

fn time_of(text: &str) -> Option<i64> {
    // Cheap, and true of most lines that are none.
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

fn level_of(text: &str) -> Option<LogLevel> {
    match text {
        "TRACE" => Some(LogLevel::Trace),
        "DEBUG" => Some(LogLevel::Debug),
        "INFO" => Some(LogLevel::Info),
        "WARN" => Some(LogLevel::Warn),
        "ERROR" => Some(LogLevel::Error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_json_lines_say_time_and_level() {
        let line = b"1970-01-01T00:00:01.250000Z  WARN millrace_worker::driver: late";
        let found = stamp(line).unwrap();
        assert_eq!((found.time_ms, found.level), (1_250, LogLevel::Warn));
        assert_eq!(&line[found.message_at..], b"millrace_worker::driver: late");
        let line = br#"{"timestamp":"1970-01-01T00:00:01Z","level":"INFO","fields":{}}"#;
        let found = stamp(line).unwrap();
        assert_eq!((found.time_ms, found.level, found.message_at), (1_000, LogLevel::Info, 0));
    }

    #[test]
    fn other_lines_say_nothing() {
        let panic = "thread 'main' panicked at src/main.rs:7:";
        let hours = "1970-01-01T00:00:01Z";
        let loud = "1970-01-01T00:00:01Z LOUD x";
        for line in
            ["", " ", panic, hours, loud, "   at ./src/lib.rs", "7 INFO x", "{\"timestamp\":\""]
        {
            assert_eq!(stamp(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(stamp(b"\xff\xfe"), None);
    }
}
