//! Tests of the shard's core: whatever the answers, each record once, in order, in an unbroken
//! chain.

use std::time::Duration;

use millrace_common::position::{Position, SequenceNumber};
use proptest::prelude::*;

use crate::executor::receiver::core::{Brought, End, Limits, Lost, ShardCore, Start, Step};
use crate::executor::receiver::kinesis::tests::fake::{
    ARRIVED_MS, FakeShard, SERVER_MS, record, seq,
};
use crate::executor::receiver::kinesis::tests::liar::Mood;
use crate::executor::receiver::kinesis::{ChildShard, FailureKind, IteratorAt};

const HOUR_MS: i64 = 3_600_000;
const RETENTION_MS: i64 = 24 * HOUR_MS;

fn after(value: u64) -> Start {
    after_empty_until(value, 0)
}

fn after_empty_until(value: u64, empty_until_ms: i64) -> Start {
    Start::Position(Position { sequence_number: Some(seq(value)), empty_until_ms, ended: false })
}

/// What a whole reading brought.
#[derive(Debug, Default)]
struct Seen {
    records: Vec<u64>,
    numbers: Vec<u64>,
    /// The tail as the runs chain.
    tail: Option<SequenceNumber>,
    end: Option<End>,
    lost: Option<Lost>,
    empty_at_tip: bool,
    /// The reading says that it came to the end of its range.
    is_past_range: bool,
    num_throttles: u32,
}

impl Seen {
    fn add(&mut self, brought: Brought) -> Result<(), TestCaseError> {
        if let Some(run) = brought.run {
            prop_assert_eq!(run.after_seq, self.tail, "the chain is broken");
            prop_assert!(!run.records.is_empty());
            for record in run.records {
                self.records.push((record.arrival_ms - ARRIVED_MS) as u64);
                self.numbers.push(record.sequence_number.to_string().parse().unwrap());
                self.tail = Some(record.sequence_number);
            }
        }
        if let Some(empty) = brought.empty {
            prop_assert_eq!(empty.after_seq, self.tail);
            self.is_past_range |= empty.nothing_before_ms > 0;
            self.empty_at_tip |= empty.millis_behind_latest == 0 && empty.nothing_before_ms == 0;
        }
        self.end = self.end.take().or(brought.end);
        self.lost = self.lost.or(brought.lost);
        Ok(())
    }
}

/// Reads until the end, a loss, or an empty answer at the tip.
fn read_all(
    shard: &FakeShard,
    core: &mut ShardCore,
    moods: impl IntoIterator<Item = Mood>,
) -> Result<Seen, TestCaseError> {
    let mut seen = Seen { tail: core.tail(), ..Seen::default() };
    let mut moods = moods.into_iter();
    let mut now = Duration::ZERO;
    for _ in 0..10_000 {
        if step(shard, core, &mut moods, &mut now, &mut seen)? == Step::Rest || seen.empty_at_tip {
            return Ok(seen);
        }
    }
    Err(TestCaseError::fail("the reading does not come to an end"))
}

/// Does what the core asks for next.
fn step(
    shard: &FakeShard,
    core: &mut ShardCore,
    moods: &mut impl Iterator<Item = Mood>,
    now: &mut Duration,
    seen: &mut Seen,
) -> Result<Step, TestCaseError> {
    let step = core.step(*now);
    match step.clone() {
        Step::WaitUntil(time) => {
            prop_assert!(time > *now, "a wait that does not wait");
            *now = time;
        }
        Step::Rest => {}
        Step::Iterator(at) => {
            let mood = moods.next().unwrap_or(Mood::Truth);
            match mood.make_iterator(shard, at) {
                Ok(iterator) => core.iterator(*now, iterator),
                Err(kind) => core.failed(*now, kind, 0.5),
            }
        }
        Step::Records { iterator, limit } => {
            // A shard answers five times a second.
            *now += Duration::from_millis(200);
            let mood = moods.next().unwrap_or(Mood::Truth);
            match mood.read(shard, &iterator, limit) {
                Ok(answer) => seen.add(core.answer(*now, answer))?,
                Err(kind) => {
                    seen.num_throttles += u32::from(kind == FailureKind::Throttled);
                    core.failed(*now, kind, 0.5);
                }
            }
        }
    }
    Ok(step)
}

fn read(shard: &FakeShard, start: Start) -> Seen {
    let mut core = ShardCore::new(start, RETENTION_MS, Limits::KINESIS);
    read_all(shard, &mut core, []).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn each_record_once_in_order_whatever_the_answers(
        gaps in prop::collection::vec(1u64..5, 0..40),
        from in 0usize..45,
        is_closed: bool,
        is_old: bool,
        moods in prop::collection::vec(Mood::any(), 0..120),
    ) {
        let values: Vec<u64> = gaps
            .iter()
            .scan(0, |last, gap| { *last += gap; Some(*last) })
            .collect();
        let mut shard = FakeShard::of(values.iter().copied());
        shard.children = is_closed.then(Vec::new);
        // From the oldest on, or after one of the records.
        let start = match from.checked_sub(1).and_then(|index| values.get(index)) {
            Some(value) => after(*value),
            None => Start::TrimHorizon,
        };
        let expected: Vec<u64> = match start {
            Start::Position(_) => values[from..].to_vec(),
            _ => values.clone(),
        };
        // Also where all of it is past the retention, and the stream has not let go of it yet.
        let retention_ms = if is_old { HOUR_MS / 2 } else { RETENTION_MS };
        let mut core = ShardCore::new(start, retention_ms, Limits::KINESIS);
        let seen = read_all(&shard, &mut core, moods)?;
        prop_assert_eq!(seen.lost, None);
        prop_assert_eq!(seen.records, expected);
        prop_assert_eq!(seen.end.is_some(), is_closed);
        prop_assert_eq!(core.tail(), seen.tail);
    }

    #[test]
    fn a_range_is_a_run_of_records_and_its_end_is_told(
        arrivals in prop::collection::vec(0i64..60, 0..40),
        from_ms in 0i64..60,
        length in 1i64..40,
        resumes in 0usize..40,
        is_closed: bool,
        moods in prop::collection::vec(Mood::any(), 0..120),
    ) {
        // Arrivals need not rise with the numbers.
        let mut shard = FakeShard::of(1..=arrivals.len() as u64);
        for (record, arrival) in shard.records.iter_mut().zip(&arrivals) {
            record.arrival_ms = ARRIVED_MS + arrival;
        }
        shard.children = is_closed.then(Vec::new);
        let first = arrivals.iter().position(|ms| *ms >= from_ms).unwrap_or(arrivals.len());
        let rest = arrivals[first..].iter();
        let len = rest.take_while(|ms| **ms < from_ms + length).count();
        let expected: Vec<u64> = (first..first + len).map(|index| index as u64 + 1).collect();
        // From the range's begin, or after one of its records.
        let done = resumes.min(len);
        let start = match done {
            0 => Start::Timestamp(ARRIVED_MS + from_ms),
            _ => after((first + done) as u64),
        };
        // What an answer doubles from before a time, no number tells from what is of it.
        let is_told = |mood: &Mood| done > 0 || *mood != Mood::Double;
        let moods = moods.into_iter().filter(is_told);
        let until = Some(ARRIVED_MS + from_ms + length);
        let mut core = ShardCore::new(start, RETENTION_MS, Limits::KINESIS).until(until);
        let mut seen = Seen { tail: core.tail(), ..Seen::default() };
        let mut now = Duration::ZERO;
        let mut moods = moods;
        while !(seen.is_past_range || seen.empty_at_tip || seen.end.is_some()) {
            prop_assert!(now < Duration::from_secs(3_600), "the reading comes to no end");
            step(&shard, &mut core, &mut moods, &mut now, &mut seen)?;
            prop_assert_eq!(seen.lost, None);
        }
        let read: Vec<u64> = seen.numbers.clone();
        prop_assert_eq!(&read, &expected[done..]);
        let has_later = first + len < arrivals.len();
        prop_assert_eq!(seen.is_past_range, has_later, "exactly where a later record follows");
        prop_assert_eq!(seen.end.is_some(), is_closed && !has_later);
        if has_later {
            // It is said again, for nobody may have heard it, and nothing is read twice.
            seen.is_past_range = false;
            while !seen.is_past_range {
                step(&shard, &mut core, &mut std::iter::empty(), &mut now, &mut seen)?;
            }
            prop_assert_eq!(seen.numbers.len(), read.len());
        }
    }

    #[test]
    fn a_trimmed_tail_is_a_loss_unless_known_to_be_empty(
        num_records in 1usize..30,
        position in 0usize..30,
        trimmed in 0usize..30,
        is_recently_empty: bool,
        is_silent in prop::option::of(prop_oneof![
            Just(RETENTION_MS), Just(RETENTION_MS - 30_000), Just(HOUR_MS), Just(1),
        ]),
        moods in prop::collection::vec(Mood::any(), 0..40),
    ) {
        let mut shard = FakeShard::of((1..=num_records as u64).map(|value| value * 10));
        let position = position.min(num_records - 1);
        shard.num_trimmed = trimmed.min(num_records);
        shard.is_silent_at_trimmed = is_silent;
        let empty_until = SERVER_MS - if is_recently_empty { HOUR_MS } else { 2 * RETENTION_MS };
        let start = after_empty_until((position as u64 + 1) * 10, empty_until);
        let mut core = ShardCore::new(start, RETENTION_MS, Limits::KINESIS);
        let seen = read_all(&shard, &mut core, moods)?;
        let is_trimmed = shard.num_trimmed > position;
        prop_assert_eq!(seen.lost.is_some(), is_trimmed && !is_recently_empty);
        if seen.lost.is_none() {
            let from = (position + 1).max(shard.num_trimmed);
            let expected: Vec<u64> =
                (from..num_records).map(|index| (index as u64 + 1) * 10).collect();
            prop_assert_eq!(seen.records, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The stream lets go of records while they are read: what was not read is told as lost, and
    /// nothing is read past it.
    #[test]
    fn what_expires_before_it_is_read_is_a_loss(
        num_records in 1usize..30,
        pages in prop::collection::vec((1u32..4, 0usize..4), 1..30),
        is_closed: bool,
    ) {
        let mut shard = FakeShard::of(1..=num_records as u64);
        shard.children = is_closed.then(Vec::new);
        let mut core = ShardCore::new(Start::TrimHorizon, HOUR_MS / 2, Limits::KINESIS);
        let mut seen = Seen::default();
        let mut now = Duration::ZERO;
        let mut pages = pages.into_iter();
        for _ in 0..1_000 {
            match core.step(now) {
                Step::WaitUntil(time) => now = time,
                Step::Rest => break,
                Step::Iterator(at) => core.iterator(now, shard.make_iterator(at)),
                Step::Records { iterator, limit } => {
                    let (limit, trimmed) = pages.next().unwrap_or((limit, 0));
                    seen.add(core.answer(now, shard.read(&iterator, limit)))?;
                    if seen.empty_at_tip {
                        break;
                    }
                    // Before the first record was read, nothing is known to be missing.
                    if !seen.records.is_empty() {
                        shard.num_trimmed = (shard.num_trimmed + trimmed).min(num_records);
                    }
                }
            }
        }
        let read: Vec<u64> = (1..=seen.records.len() as u64).collect();
        prop_assert_eq!(&seen.records, &read, "a prefix, without a gap");
        let all = seen.records.len() == num_records;
        prop_assert!(all || seen.lost.is_some(), "{:?}", seen);
        let is_tail_there = shard.num_trimmed < seen.records.len();
        prop_assert!(!is_tail_there || seen.lost.is_none(), "{:?}", seen);
    }
}

/// The stream let go of what is older than a day, and the reader still believes in a week: a reader
/// that was two days behind is told the loss, and one on a sparse shard loses nothing.
#[test]
fn a_retention_that_is_shortened_under_the_reader_hides_no_loss() {
    let arrived = |value: u64, hours_ago: i64| {
        let mut record = record(value);
        record.arrival_ms = SERVER_MS - hours_ago * HOUR_MS;
        record
    };
    for is_shortened in [false, true] {
        let records = [(1, 50), (2, 49), (3, 48), (4, 20), (5, 10)];
        let records = records.map(|(value, hours)| arrived(value, hours)).into();
        let mut shard = FakeShard { records, ..FakeShard::default() };
        let mut core = ShardCore::new(Start::TrimHorizon, 7 * RETENTION_MS, Limits::KINESIS);
        core.iterator(Duration::ZERO, shard.make_iterator(IteratorAt::TrimHorizon));
        let mut numbers = Vec::new();
        let mut take = |core: &mut ShardCore, now: u64, answer| {
            let run = core.answer(Duration::from_secs(now), answer).run;
            numbers.extend(run.into_iter().flat_map(|run| run.records).map(|r| r.sequence_number));
        };
        let Step::Records { iterator, .. } = core.step(Duration::ZERO) else { panic!() };
        take(&mut core, 1, shard.read(&iterator, 2));
        shard.num_trimmed = if is_shortened { 3 } else { 0 };
        for now in 2..60 {
            match core.step(Duration::from_secs(now)) {
                Step::Iterator(at) => {
                    core.iterator(Duration::from_secs(now), shard.make_iterator(at));
                }
                Step::Records { iterator, .. } => take(&mut core, now, shard.read(&iterator, 2)),
                Step::WaitUntil(_) | Step::Rest => {}
            }
        }
        let lost = Lost { after_seq: Some(seq(2)), before_seq: Some(seq(4)) };
        assert_eq!(core.lost(), is_shortened.then_some(lost));
        let expected = if is_shortened { 1..=2 } else { 1..=5 };
        assert_eq!(numbers, expected.map(seq).collect::<Vec<_>>());
    }
}

#[test]
fn a_start_before_what_the_stream_holds_is_a_loss() {
    let shard = FakeShard::of([10]);
    assert_eq!(read(&shard, Start::Timestamp(ARRIVED_MS)).records, [10]);
    let lost = read(&shard, Start::Timestamp(SERVER_MS - 2 * RETENTION_MS)).lost;
    assert_eq!(lost, Some(Lost { after_seq: None, before_seq: Some(seq(10)) }));
}

#[test]
fn the_committed_record_comes_first_and_is_dropped() {
    let seen = read(&FakeShard::of([10, 20, 30]), after(20));
    assert_eq!(seen.records, [30]);
}

#[test]
fn a_loss_names_both_ends_of_the_gap() {
    let mut shard = FakeShard::of([10, 20, 30]);
    shard.num_trimmed = 2;
    let lost = read(&shard, after(10)).lost.unwrap();
    assert_eq!(lost, Lost { after_seq: Some(seq(10)), before_seq: Some(seq(30)) });
}

/// When the reading asks for the oldest record, of a shard that gives nothing at its trimmed tail.
fn looks_at_the_horizon(millis_behind_latest: i64) -> Duration {
    let mut shard = FakeShard::of([10, 20, 30]);
    shard.num_trimmed = 2;
    shard.is_silent_at_trimmed = Some(millis_behind_latest);
    let mut core = ShardCore::new(after(10), RETENTION_MS, Limits::KINESIS);
    let mut now = Duration::ZERO;
    for _ in 0..1_000 {
        match core.step(now) {
            Step::WaitUntil(time) => now = time,
            Step::Rest => break,
            Step::Iterator(IteratorAt::TrimHorizon) => return now,
            Step::Iterator(at) => core.iterator(now, shard.make_iterator(at)),
            Step::Records { iterator, limit } => {
                now += Duration::from_millis(200);
                let brought = core.answer(now, shard.read(&iterator, limit));
                assert_eq!(brought.lost, None, "nothing is known yet");
                assert!(brought.empty.is_some_and(|empty| empty.millis_behind_latest > 0));
            }
        }
    }
    panic!("it waits at the tail for ever")
}

#[test]
fn a_tail_that_gives_nothing_for_ever_is_looked_for_from_the_oldest_record() {
    let at_once = looks_at_the_horizon(RETENTION_MS);
    assert!(at_once < Duration::from_secs(1), "{at_once:?}");
    let after_a_minute = looks_at_the_horizon(HOUR_MS);
    assert!((60..62).contains(&after_a_minute.as_secs()), "{after_a_minute:?}");
}

#[test]
fn a_known_loss_is_passed_over_and_the_next_one_is_not() {
    let mut shard = FakeShard::of([10, 20, 30, 40]);
    shard.num_trimmed = 2;
    let passing_over = |start: Start| {
        ShardCore::new(start, RETENTION_MS, Limits::KINESIS).passing_over(Some(Some(seq(10))))
    };
    let mut core = passing_over(after(10));
    let seen = read_all(&shard, &mut core, []).unwrap();
    assert_eq!((seen.records, seen.lost), (vec![30, 40], None));
    assert_eq!(core.tail(), Some(seq(40)));
    // A reader that goes on behind what was read passes over nothing.
    shard.num_trimmed = 4;
    let seen = read_all(&shard, &mut passing_over(after(30)), []).unwrap();
    assert_eq!(seen.lost, Some(Lost { after_seq: Some(seq(30)), before_seq: None }));
}

#[test]
fn passing_over_a_loss_gives_nothing_twice() {
    // The number of the position is gone from among others that are there.
    let shard = FakeShard::of([10, 20, 40]);
    let core = ShardCore::new(after(30), RETENTION_MS, Limits::KINESIS);
    let seen = read_all(&shard, &mut core.passing_over(Some(Some(seq(30)))), []).unwrap();
    assert_eq!((seen.records, seen.lost), (vec![40], None));
}

#[test]
fn a_shard_that_lost_everything_and_ended_is_a_loss() {
    let mut shard = FakeShard::of([10, 20]);
    shard.num_trimmed = 2;
    shard.children = Some(Vec::new());
    let seen = read(&shard, after(10));
    assert_eq!(seen.lost, Some(Lost { after_seq: Some(seq(10)), before_seq: None }));
    assert_eq!(seen.end, None);
}

#[test]
fn an_ended_shard_names_its_children_with_its_last_records() {
    let mut shard = FakeShard::of([10, 20]);
    let child = ChildShard { shard_id: "c".to_owned(), parents: vec!["p".to_owned()] };
    shard.children = Some(vec![child.clone()]);
    let seen = read(&shard, Start::TrimHorizon);
    assert_eq!(seen.records, [10, 20]);
    assert_eq!(seen.end, Some(End { after_seq: Some(seq(20)), children: vec![child] }));
}

#[test]
fn a_position_that_has_ended_is_not_read() {
    let start = Start::Position(Position { ended: true, ..Position::default() });
    let mut core = ShardCore::new(start, 0, Limits::KINESIS);
    assert_eq!(core.step(Duration::ZERO), Step::Rest);
}

#[test]
fn a_throttle_before_the_first_record_changes_nothing() {
    let shard = FakeShard::of([10, 20]);
    let mut core = ShardCore::new(Start::Timestamp(ARRIVED_MS + 15), RETENTION_MS, Limits::KINESIS);
    let moods = [Mood::Throttle, Mood::Throttle, Mood::Truth, Mood::Throttle, Mood::Expire];
    let seen = read_all(&shard, &mut core, moods).unwrap();
    assert_eq!(seen.records, [20]);
}

#[test]
fn throttles_back_off_and_grow() {
    let mut core = ShardCore::new(Start::TrimHorizon, 0, Limits::KINESIS);
    let mut now = Duration::ZERO;
    let mut last_pause = Duration::ZERO;
    for _ in 0..5 {
        assert!(matches!(core.step(now), Step::Iterator(_)));
        core.failed(now, FailureKind::Throttled, 0.0);
        let Step::WaitUntil(time) = core.step(now) else { panic!("a throttle does not wait") };
        assert!(time - now > last_pause);
        (last_pause, now) = (time - now, time);
    }
}

#[test]
fn an_old_iterator_is_not_used() {
    let mut core = ShardCore::new(after(10), 0, Limits::KINESIS);
    assert_eq!(core.step(Duration::ZERO), Step::Iterator(IteratorAt::Record(seq(10))));
    core.iterator(Duration::ZERO, "0".to_owned());
    assert!(matches!(core.step(Duration::from_secs(200)), Step::Records { .. }));
    let step = core.step(Duration::from_secs(300));
    assert_eq!(step, Step::Iterator(IteratorAt::Record(seq(10))));
}

#[test]
fn answers_keep_below_the_byte_limit() {
    let mut core = ShardCore::new(Start::TrimHorizon, 0, Limits::KINESIS);
    let mut shard = FakeShard::default();
    for value in 1..=3_000 {
        let mut big = record(value);
        big.data = vec![b'x'; 10 << 10].into();
        shard.records.push(big);
    }
    let (mut now, mut num_bytes) = (Duration::ZERO, 0);
    core.iterator(now, "0".to_owned());
    while now < Duration::from_secs(10) {
        match core.step(now) {
            Step::WaitUntil(time) => now = time,
            Step::Records { iterator, limit } => {
                let answer = shard.read(&iterator, limit);
                num_bytes += answer.num_bytes();
                assert!(answer.num_bytes() <= 10 << 20);
                core.answer(now, answer);
            }
            other => panic!("{other:?}"),
        }
    }
    let limit = 2 * 1024 * 1024;
    assert!(num_bytes / now.as_secs() <= limit + limit / 10, "{num_bytes} bytes in {now:?}");
    assert!(num_bytes / now.as_secs() >= limit / 2, "{num_bytes} bytes in {now:?}");
}

#[test]
fn an_empty_start_resumes_at_the_time_it_was_empty() {
    let start = Start::Position(Position {
        sequence_number: None,
        empty_until_ms: SERVER_MS - HOUR_MS,
        ended: false,
    });
    let mut core = ShardCore::new(start, RETENTION_MS, Limits::KINESIS);
    let step = core.step(Duration::ZERO);
    assert_eq!(step, Step::Iterator(IteratorAt::Timestamp(SERVER_MS - HOUR_MS)));
    let long_ago = Start::Position(Position {
        sequence_number: None,
        empty_until_ms: SERVER_MS - 2 * RETENTION_MS,
        ended: false,
    });
    assert!(read(&FakeShard::of([10]), long_ago).lost.is_some());
}
