//! Pieces of many logs made into one sequence of lines: pure.
//!
//! Promises: the lines of each log come whole and in their order; among logs the older line comes
//! first, as far as they were read. Holds at most one piece of each log and the line it ends in.
//! Never does: ask for a piece.

use std::collections::{BTreeMap, VecDeque};

use millrace_common::error::{Code, Error};
use millrace_proto::v1::{LogChunk, LogLevel, LogLine, LogPlace, LogStream, ReadLogsRequest};
use regex::bytes::{Regex, RegexBuilder};

use super::line::{Stamp, stamp};

/// Longest line that is put together; a longer one comes in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of lines in one message, unless one line alone is longer.
const MESSAGE_BYTES: usize = 64 << 10;
/// What a pattern may need when it is compiled, so that nobody can have the master's memory.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    since_ms: i64,
    pattern: Option<Regex>,
}

impl Filter {
    /// What a request asks for.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] for a pattern that is none.
    pub(super) fn new(request: &ReadLogsRequest) -> Result<Self, Error> {
        let pattern = match request.grep.as_str() {
            "" => None,
            text => {
                let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build();
                Some(built.map_err(|error| {
                    Error::new(
                        Code::InvalidValue,
                        format!("{text:?} is no regular expression"),
                        "put a backslash before each of . * + ? ( ) [ ] { } | ^ $ \\ that is meant \
                         as it stands",
                    )
                    .caused_by(error)
                })?)
            }
        };
        Ok(Self { since_ms: request.since_ms, pattern })
    }

    fn wants(&self, line: &LogLine) -> bool {
        line.time_ms >= self.since_ms
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&line.text))
    }
}

/// One log: a stream of a container.
pub(super) type Key = (String, i32);

/// How far one log was read, and its lines that nobody has yet.
#[derive(Debug)]
pub(super) struct Track {
    offset: u64,
    /// The start of a line whose end has not been read.
    partial: Vec<u8>,
    before: Stamp,
    lines: VecDeque<LogLine>,
    is_over: bool,
    is_dry: bool,
    is_unreadable: bool,
}

impl Track {
    /// A log of which nothing was read, of a container that started then.
    pub(super) fn new(started_ms: i64) -> Self {
        let before = Stamp { time_ms: started_ms, level: LogLevel::Unspecified, message_at: 0 };
        Self {
            offset: 0,
            partial: Vec::new(),
            before,
            lines: VecDeque::new(),
            is_over: false,
            is_dry: false,
            is_unreadable: false,
        }
    }

    /// A log that was read up to there before.
    pub(super) fn at(place: &LogPlace) -> Self {
        let before = Stamp { time_ms: place.time_ms, level: place.level(), message_at: 0 };
        Self { offset: place.next_offset, before, ..Self::new(place.time_ms) }
    }

    /// Where the next piece begins, when one is wanted now.
    pub(super) fn wanted(&self) -> Option<u64> {
        (self.lines.is_empty() && !self.is_over && !self.is_dry).then_some(self.offset)
    }

    /// There may be more of it again.
    pub(super) fn look_again(&mut self) {
        self.is_dry = false;
    }

    /// True when nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_over && self.lines.is_empty()
    }

    /// Takes the piece that was wanted.
    pub(super) fn take(&mut self, chunk: LogChunk, filter: &Filter) {
        // A short piece says nothing: its node leaves out a line that has lost its beginning.
        self.is_dry |= chunk.next_offset == self.offset;
        if chunk.offset != self.offset {
            // What lies between was given back to the disk, and with it the end of this line.
            self.partial.clear();
            self.say(
                match chunk.offset.checked_sub(self.offset) {
                    Some(gone) => format!("millrace: {gone} bytes of this log are kept no more"),
                    None => "millrace: this log has begun anew".to_owned(),
                },
                filter,
            );
        }
        let begins = chunk.offset.saturating_sub(self.partial.len() as u64);
        self.offset = chunk.next_offset;
        self.is_over |= chunk.at_end;
        self.is_unreadable = false;
        self.partial.extend_from_slice(&chunk.data);
        let mut whole = std::mem::take(&mut self.partial);
        if !chunk.at_end && whole.len() <= LINE_BYTES_MAX {
            let end = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            self.partial = whole.split_off(end);
        }
        self.split(begins, &whole, filter);
    }

    /// It can not be read now; `is_final`: nor later.
    pub(super) fn fail(&mut self, why: &str, is_final: bool, filter: &Filter) {
        if !self.is_unreadable {
            self.say(format!("millrace: {why}"), filter);
        }
        self.is_unreadable = true;
        self.is_dry = true;
        self.is_over |= is_final;
    }

    /// The last line has no end, and none is waited for.
    pub(super) fn flush(&mut self, filter: &Filter) {
        let rest = std::mem::take(&mut self.partial);
        self.split(self.offset.saturating_sub(rest.len() as u64), &rest, filter);
    }

    /// Takes lines; `begins`: where in the log the first one does.
    fn split(&mut self, begins: u64, whole: &[u8], filter: &Filter) {
        let mut next_offset = begins;
        for text in whole.split_inclusive(|byte| *byte == b'\n') {
            next_offset += text.len() as u64;
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            self.add(text, next_offset, filter);
        }
    }

    fn add(&mut self, text: &[u8], next_offset: u64, filter: &Filter) {
        let found = stamp(text);
        if let Some(found) = found {
            self.before = found;
        }
        let line = LogLine {
            time_ms: self.before.time_ms,
            level: self.before.level.into(),
            text: text.to_vec(),
            message_at: found.map_or(0, |found| u32::try_from(found.message_at).unwrap_or(0)),
            next_offset,
        };
        if filter.wants(&line) {
            self.lines.push_back(line);
        }
    }

    /// A line of our own about the log.
    fn say(&mut self, text: String, filter: &Filter) {
        let line = LogLine {
            time_ms: self.before.time_ms,
            level: LogLevel::Warn.into(),
            text: text.into_bytes(),
            message_at: 0,
            next_offset: 0,
        };
        if filter.pattern.is_none() {
            self.lines.push_back(line);
        }
    }
}

/// Takes the lines that are next, the oldest first, up to the first log that has to be read on.
pub(super) fn ready(tracks: &mut BTreeMap<Key, Track>) -> Vec<(Key, LogLine)> {
    let mut lines = Vec::new();
    while tracks.values().all(|track| track.wanted().is_none()) {
        let heads = tracks.iter().filter_map(|(key, track)| {
            let line = track.lines.front()?;
            Some((line.time_ms, key.clone()))
        });
        let Some((_, key)) = heads.min() else { break };
        if let Some(line) = tracks.get_mut(&key).and_then(|track| track.lines.pop_front()) {
            lines.push((key, line));
        }
    }
    lines
}

/// Lines of one log that follow one another, together.
pub(super) fn grouped(lines: Vec<(Key, LogLine)>) -> Vec<(Key, Vec<LogLine>)> {
    let mut groups: Vec<(Key, Vec<LogLine>)> = Vec::new();
    let mut num_bytes = 0;
    for (key, line) in lines {
        num_bytes += line.text.len();
        match groups.last_mut() {
            Some((last, group)) if *last == key && num_bytes <= MESSAGE_BYTES => group.push(line),
            _ => {
                num_bytes = line.text.len();
                groups.push((key, vec![line]));
            }
        }
    }
    groups
}

/// The stream behind a key.
pub(super) fn key(container_id: &str, stream: LogStream) -> Key {
    (container_id.to_owned(), stream.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(offset: u64, data: &str, at_end: bool) -> LogChunk {
        let next_offset = offset + data.len() as u64;
        LogChunk { offset, data: data.into(), next_offset, at_end, ..LogChunk::default() }
    }

    fn texts(lines: &[(Key, LogLine)]) -> Vec<String> {
        lines.iter().map(|(_, line)| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }

    fn one(track: Track) -> BTreeMap<Key, Track> {
        [(key("a", LogStream::Stderr), track)].into()
    }

    fn filter(since_ms: i64, grep: &str) -> Filter {
        let request = ReadLogsRequest { since_ms, grep: grep.to_owned(), ..Default::default() };
        Filter::new(&request).unwrap()
    }

    #[test]
    fn lines_are_whole_and_the_last_needs_no_end() {
        let all = filter(0, "");
        let mut track = Track::new(7);
        track.take(chunk(0, "one\ntw", false), &all);
        let mut tracks = one(track);
        let track = tracks.values_mut().next().unwrap();
        assert_eq!(track.wanted(), None, "there is a line");
        assert_eq!(texts(&ready(&mut tracks)), ["one"]);
        let track = tracks.values_mut().next().unwrap();
        assert_eq!(track.wanted(), Some(6), "there may be more");
        track.take(chunk(6, "o\n\nthree", true), &all);
        assert!(!track.is_over());
        let lines = ready(&mut tracks);
        assert_eq!(texts(&lines), ["two", "", "three"]);
        assert_eq!(lines[0].1.time_ms, 7, "a line without a time has that of the start");
        assert!(tracks.values().all(Track::is_over));
    }

    #[test]
    fn the_older_line_of_two_logs_comes_first_and_continuations_stay_with_it() {
        let all = filter(0, "");
        let line = |second: u32, text: &str| format!("1970-01-01T00:00:0{second}Z INFO {text}\n");
        let mut tracks = BTreeMap::new();
        for (name, data) in [
            ("a", line(1, "first") + "more\n" + &line(4, "last")),
            ("b", line(2, "second") + &line(3, "third")),
        ] {
            let mut track = Track::new(0);
            track.take(chunk(0, &data, true), &all);
            tracks.insert(key(name, LogStream::Stderr), track);
        }
        let lines = ready(&mut tracks);
        let messages: Vec<_> = lines
            .iter()
            .map(|(_, line)| String::from_utf8_lossy(&line.text[line.message_at as usize..]))
            .collect();
        assert_eq!(messages, ["first", "more", "second", "third", "last"]);
        assert_eq!(lines[1].1.time_ms, 1_000);
        assert_eq!(lines[1].1.level(), LogLevel::Info);
    }

    #[test]
    fn nothing_comes_before_all_logs_were_read_as_far() {
        let all = filter(0, "");
        let mut tracks = one(Track::new(0));
        let mut read = Track::new(0);
        read.take(chunk(0, "x\n", false), &all);
        tracks.insert(key("b", LogStream::Stderr), read);
        assert!(ready(&mut tracks).is_empty());
        let other = tracks.get_mut(&key("a", LogStream::Stderr)).unwrap();
        other.take(chunk(0, "", false), &all);
        assert_eq!(other.wanted(), None, "it is dry");
        assert_eq!(texts(&ready(&mut tracks)), ["x"]);
        tracks.values_mut().for_each(Track::look_again);
        assert!(tracks.values().all(|track| track.wanted().is_some()));
    }

    #[test]
    fn what_is_kept_no_more_is_told_and_cuts_no_line() {
        let all = filter(0, "");
        let mut track = Track::new(0);
        track.take(chunk(0, "one\ntw", false), &all);
        track.look_again();
        track.take(chunk(4_096, "five\n", false), &all);
        let mut tracks = one(track);
        let lines = texts(&ready(&mut tracks));
        assert_eq!(lines, ["one", "millrace: 4090 bytes of this log are kept no more", "five"]);
    }

    #[test]
    fn only_what_is_asked_for_comes() {
        let data = "1970-01-01T00:00:01Z INFO late\n1970-01-01T00:00:02Z INFO late again\nlate\n\
                    1970-01-01T00:00:03Z INFO in time\n";
        let wanted = filter(2_000, "^.*la[t]e");
        let mut track = Track::new(0);
        track.take(chunk(0, data, true), &wanted);
        let lines = texts(&ready(&mut one(track)));
        assert_eq!(lines, ["1970-01-01T00:00:02Z INFO late again", "late"]);
        let request = ReadLogsRequest { grep: "(".to_owned(), ..Default::default() };
        assert_eq!(Filter::new(&request).unwrap_err().code(), Code::InvalidValue);
    }

    #[test]
    fn lines_of_one_log_travel_together_up_to_a_size() {
        let line = |bytes: usize| LogLine { text: vec![b'x'; bytes], ..LogLine::default() };
        let (a, b) = (key("a", LogStream::Stderr), key("b", LogStream::Stderr));
        let lines = vec![
            (a.clone(), line(1)),
            (a.clone(), line(2)),
            (b, line(3)),
            (a.clone(), line(MESSAGE_BYTES)),
            (a, line(1)),
        ];
        let sizes: Vec<usize> = grouped(lines).iter().map(|(_, lines)| lines.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
    }

    #[test]
    fn a_log_that_can_not_be_read_says_so_once() {
        let all = filter(0, "");
        let mut track = Track::new(0);
        track.fail("gone", false, &all);
        track.look_again();
        track.fail("gone", true, &all);
        let mut tracks = one(track);
        assert_eq!(texts(&ready(&mut tracks)), ["millrace: gone"]);
        assert!(tracks.values().all(Track::is_over));
    }

    /// Reads a log of `data` from `track` on, in pieces of these sizes, over and over; gives the lines.
    fn read_on(mut track: Track, data: &str, sizes: &[usize], filter: &Filter) -> Vec<LogLine> {
        let mut sizes = sizes.iter().cycle();
        let mut lines = Vec::new();
        while !track.is_over() {
            let offset = usize::try_from(track.offset).unwrap();
            let end = data.len().min(offset + sizes.next().unwrap());
            track.take(chunk(offset as u64, &data[offset..end], end == data.len()), filter);
            track.look_again();
            lines.extend(track.lines.drain(..));
        }
        lines
    }

    proptest! {
        #[test]
        fn who_comes_back_gets_each_line_once(
            lines in prop::collection::vec("(1970-01-01T00:00:0[0-9]Z (INFO|WARN) )?[ab]{0,3}", 0..20),
            is_whole: bool,
            grep in prop::sample::select(vec!["", "a", "^$"]),
            since_ms in 0..9_000_i64,
            sizes in prop::collection::vec(1..40_usize, 1..5),
            shown in 0..20_usize,
        ) {
            let data = lines.join("\n") + if is_whole { "\n" } else { "" };
            let filter = filter(since_ms, grep);
            let all = read_on(Track::new(7), &data, &sizes, &filter);
            let shown = &all[..shown.min(all.len())];
            let resumed = shown.last().map_or_else(|| Track::new(7), |last| {
                let LogLine { next_offset, time_ms, level, .. } = *last;
                Track::at(&LogPlace { next_offset, time_ms, level, ..Default::default() })
            });
            let rest = read_on(resumed, &data, &sizes, &filter);
            prop_assert_eq!([shown, &rest].concat(), all);
        }
    }
}
