//! Durations and points in time as people write and read them.
//!
//! Promises: a duration needs a unit, a time needs its offset from UTC, so that neither can be
//! misread; what is shown is UTC.

use std::time::Duration;

use jiff::Timestamp;
use millrace_common::application::StartPosition;
use millrace_common::error::Error;

/// A duration with a unit: `90s`, `5m`, `1h 30m`. For clap.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, as 90s, 5m or 1h30m"))?;
    if duration < Duration::from_millis(1) {
        return Err("it must be at least 1ms".to_owned());
    }
    Ok(duration)
}

/// `earliest`, `latest` or a time with its offset. For clap.
pub(crate) fn parse_start(text: &str) -> Result<StartPosition, String> {
    text.parse().map_err(|error: Error| format!("{}; {}", error.message(), error.next_move()))
}

/// A Unix time in milliseconds as UTC with seconds.
pub(crate) fn show_time(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .map_or_else(|_| format!("{ms} ms"), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The same with milliseconds.
pub(crate) fn show_time_ms(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(
        |_| format!("{ms} ms"),
        |time| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
    )
}

/// A time with its offset, or how long ago it was, as Unix time in milliseconds. For clap.
pub(crate) fn parse_since(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let ago = parse_duration(text).map_err(|_| {
        "write how long ago, as 90s or 1h30m, or a time with its offset, as 2026-11-22T10:00:00Z"
    })?;
    let now_ms = Timestamp::now().as_millisecond();
    Ok(now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)).max(0))
}

/// A span of milliseconds in the unit that suits it: `850 ms`, `12.3 s`, `4m 10s`.
pub(crate) fn show_span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        for wrong in ["90", "", "-1s", "0s", "5 fortnights"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn since_takes_a_time_or_how_long_ago_it_was() {
        assert_eq!(parse_since("1970-01-01T01:00:01+01:00"), Ok(1_000));
        let hour = parse_since("1h").unwrap();
        let now = Timestamp::now().as_millisecond();
        assert!((now - 3_700_000..=now - 3_600_000).contains(&hour), "{hour}");
        assert_eq!(parse_since("9000y"), Ok(0));
        assert!(parse_since("2026-11-22T10:00:00").is_err(), "no offset");
    }

    #[test]
    fn a_start_needs_an_offset() {
        assert_eq!(parse_start("earliest"), Ok(StartPosition::Earliest));
        assert_eq!(parse_start("1970-01-01T01:00:01+01:00"), Ok(StartPosition::Timestamp(1_000)));
        assert!(parse_start("2026-11-22T10:00:00").is_err(), "no offset");
        assert!(parse_start("yesterday").is_err());
    }

    #[test]
    fn spans_and_times_read_well() {
        assert_eq!(show_span(850), "850 ms");
        assert_eq!(show_span(12_345), "12.3 s");
        assert_eq!(show_span(250_999), "4m 10s");
        assert_eq!(show_time(1_000), "1970-01-01T00:00:01Z");
    }
}
