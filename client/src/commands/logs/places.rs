//! Up to where each log was shown, so that another master can go on from there: pure.
//!
//! Promises: with the places of all lines that were shown, a master gives each line behind them and
//! none of those. Holds at most [`PLACES_MAX`] of them.

use std::collections::BTreeMap;

use millrace_proto::v1;

/// Logs whose place is remembered, a MiB of them at most; of more, the one whose last line is the
/// oldest is forgotten. A node keeps the logs of a hundred ended containers.
const PLACES_MAX: usize = 10_000;

/// Places by container and stream.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<(String, i32), v1::LogPlace>);

impl Places {
    /// This line of the log was shown.
    pub(super) fn note(&mut self, of: &v1::LogLines, line: &v1::LogLine) {
        // What a master says of a log is no part of it.
        if line.next_offset == 0 {
            return;
        }
        let place = v1::LogPlace {
            container_id: of.container_id.clone(),
            stream: of.stream,
            next_offset: line.next_offset,
            time_ms: line.time_ms,
            level: line.level,
        };
        self.0.insert((place.container_id.clone(), place.stream), place);
        if self.0.len() > PLACES_MAX {
            let oldest = self.0.iter().min_by_key(|(_, place)| place.time_ms);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.0.remove(&key);
            }
        }
    }

    /// `request`, for what comes behind.
    pub(super) fn behind(&self, request: &v1::ReadLogsRequest) -> v1::ReadLogsRequest {
        v1::ReadLogsRequest { places: self.0.values().cloned().collect(), ..request.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOGS: [(&str, v1::LogStream); 3] = [
        ("a-a1-e1", v1::LogStream::Stdout),
        ("a-a1-e1", v1::LogStream::Stderr),
        ("a-a1-e2", v1::LogStream::Stderr),
    ];

    fn of(log: usize) -> v1::LogLines {
        let (container_id, stream) = (LOGS[log].0.to_owned(), LOGS[log].1.into());
        v1::LogLines { container_id, stream, ..Default::default() }
    }

    /// A master: line n of a log is its n-th byte; gives what stands behind the places.
    fn answer(written: &[usize; 3], request: &v1::ReadLogsRequest) -> Vec<(usize, u64)> {
        let mut lines = Vec::new();
        for (log, (id, stream)) in LOGS.into_iter().enumerate() {
            let of_log =
                |place: &&v1::LogPlace| place.container_id == id && place.stream() == stream;
            let from = request.places.iter().find(of_log).map_or(0, |place| place.next_offset);
            lines.extend((from..written[log] as u64).map(|line| (log, line)));
        }
        lines
    }

    proptest! {
        #[test]
        fn every_line_is_shown_once_however_often_the_master_changes(
            rounds in prop::collection::vec((prop::array::uniform3(0..4_usize), 0..12_usize), 1..8),
        ) {
            let (mut places, mut written) = (Places::default(), [0; 3]);
            let mut shown: Vec<(usize, u64)> = Vec::new();
            let request = v1::ReadLogsRequest { grep: "x".to_owned(), ..Default::default() };
            let last = ([0; 3], usize::MAX);
            for (more, read) in rounds.into_iter().chain([last]) {
                for log in 0..LOGS.len() {
                    written[log] += more[log];
                }
                let asked = places.behind(&request);
                prop_assert_eq!(&asked.grep, "x");
                // The master goes away after so many of them.
                for (log, number) in answer(&written, &asked).into_iter().take(read) {
                    let line = v1::LogLine { next_offset: number + 1, ..Default::default() };
                    places.note(&of(log), &line);
                    places.note(&of(log), &v1::LogLine::default());
                    shown.push((log, number));
                }
            }
            shown.sort_unstable();
            let all: Vec<_> = (0..LOGS.len())
                .flat_map(|log| (0..written[log] as u64).map(move |line| (log, line)))
                .collect();
            prop_assert_eq!(shown, all);
        }
    }

    #[test]
    fn of_too_many_logs_the_oldest_is_forgotten() {
        let mut places = Places::default();
        for number in 0..=PLACES_MAX {
            let container_id = format!("a-a{number}-e1");
            let of = v1::LogLines { container_id, ..Default::default() };
            let time_ms = if number == 7 { 1 } else { 100 };
            let line = v1::LogLine { time_ms, next_offset: 5, ..Default::default() };
            places.note(&of, &line);
        }
        let asked = places.behind(&v1::ReadLogsRequest::default()).places;
        assert_eq!(asked.len(), PLACES_MAX);
        assert!(asked.iter().all(|place| place.container_id != "a-a7-e1"));
    }
}
