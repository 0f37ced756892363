//! What belongs to a range, where a replay may write, and when two replays are one.

use proptest::prelude::*;

use super::*;
use crate::application::parse_toml;

const HOUR_MS: i64 = 3_600_000;

fn spec(name: &str, path: &str) -> ApplicationSpec {
    let text = format!(
        "name = \"{name}\"\n[source.logs]\nstream = \"s\"\nformat = \"text\"\n[query]\n\
         sql = \"SELECT line FROM logs\"\n[sink]\npath = \"{path}\"\n"
    );
    parse_toml("app.toml", &text, &[]).unwrap()
}

fn place(text: &str) -> S3Location {
    text.parse().unwrap()
}

fn range(from_ms: i64, to_ms: i64) -> Range {
    Range::new(from_ms, to_ms).unwrap()
}

/// The records of a shard, by index, that a replay of a range reads: an iterator at a time begins at
/// the first record that arrived then or later.
fn read(arrivals: &[i64], range: Range) -> std::ops::Range<usize> {
    let first = arrivals.iter().position(|ms| *ms >= range.from_ms());
    let first = first.unwrap_or(arrivals.len());
    let rest = arrivals[first..].iter().copied();
    first..first + Range::len_before(range.to_ms(), rest)
}

proptest! {
    #[test]
    fn ranges_that_follow_one_another_share_no_record_and_miss_none(
        arrivals in prop::collection::vec(0i64..50, 0..60),
        mut borders in prop::collection::btree_set(0i64..60, 2..6),
    ) {
        // Arrivals need not rise with the numbers.
        let (first, last) = (*borders.first().unwrap(), *borders.last().unwrap());
        let whole = read(&arrivals, range(first, last));
        let mut at = whole.start;
        let mut from = borders.pop_first().unwrap();
        for to in borders {
            let part = read(&arrivals, range(from, to));
            if !part.is_empty() {
                prop_assert_eq!(part.start, at, "a record is missed or read twice");
                at = part.end;
            }
            from = to;
        }
        prop_assert_eq!(at, whole.end);
    }

    #[test]
    fn where_arrivals_rise_a_range_is_what_arrived_in_it(
        mut arrivals in prop::collection::vec(0i64..50, 0..60),
        from in 0i64..50,
        length in 1i64..50,
    ) {
        arrivals.sort_unstable();
        let range = range(from, from + length);
        let of_range = |ms: &&i64| (range.from_ms()..range.to_ms()).contains(*ms);
        let expected: Vec<i64> = arrivals.iter().filter(of_range).copied().collect();
        prop_assert_eq!(&arrivals[read(&arrivals, range)], expected.as_slice());
    }

    #[test]
    fn what_is_refused_is_exactly_what_is_not_held(
        from in 0i64..400, length in 1i64..100, retention in 24u64..200, created in 0i64..300,
    ) {
        let now = 300 * HOUR_MS;
        let range = range(from * HOUR_MS, (from + length) * HOUR_MS);
        let kept = Duration::from_secs(retention * 3_600);
        let answer = range.check_held("s", kept, created * HOUR_MS, now);
        let is_over = from + length <= 300;
        let oldest = 300 - retention as i64;
        // All that a young stream ever got is there, whatever the range.
        let is_held = from >= oldest || created >= oldest;
        prop_assert_eq!(answer.is_ok(), is_over && is_held);
        if let Err(error) = answer {
            prop_assert_eq!(error.code(), Code::ReplayRange);
        }
    }

    #[test]
    fn a_replay_writes_nowhere_where_the_application_does(
        own in "[ab](/[ab]){0,2}", path in "[ab](/[ab]){0,2}",
    ) {
        let of = spec("app", &format!("s3://results/{own}/"));
        let path = place(&format!("s3://results/{path}/"));
        let derived = derive(&of, range(1, 2), path.clone(), None);
        let touches = of.sink.path.prefix.starts_with(&path.prefix)
            || path.prefix.starts_with(&of.sink.path.prefix);
        prop_assert_eq!(derived.is_err(), touches);
    }
}

#[test]
fn a_replay_is_the_same_only_if_it_writes_the_same() {
    let of = spec("app", "s3://results/app/");
    let path = || place("s3://results/again/");
    let one = derive(&of, range(1, 2), path(), None).unwrap();
    assert!(one.name.as_str().starts_with("app-replay-"), "{}", one.name);
    assert_eq!(one.sources["logs"].start, StartPosition::Timestamp(1));
    let mut faster = of.clone();
    faster.resources.executors.max = 9;
    faster.batch.interval = Duration::from_secs(1);
    faster.sources.get_mut("logs").unwrap().receivers = super::super::Receivers::PerShard;
    assert_eq!(derive(&faster, range(1, 2), path(), None).unwrap().name, one.name);
    let mut other = of.clone();
    other.query.sql = "SELECT upper(line) FROM logs".to_owned();
    let others = [
        derive(&other, range(1, 2), path(), None),
        derive(&of, range(1, 3), path(), None),
        derive(&of, range(1, 2), place("s3://results/elsewhere/"), None),
        derive(&spec("app-2", "s3://results/app/"), range(1, 2), path(), None),
    ];
    for other in others {
        assert_ne!(other.unwrap().name, one.name);
    }
}

#[test]
fn the_longest_name_has_replays() {
    let of = spec(&"a".repeat(APPLICATION_NAME_MAX), "s3://results/app/");
    let replay = derive(&of, range(1, 2), place("s3://results/again/"), None).unwrap();
    assert_eq!(replay.name.as_str().len(), APPLICATION_NAME_MAX);
}

#[test]
fn dead_letters_of_a_replay_have_a_place_of_their_own() {
    let mut of = spec("app", "s3://results/app/");
    of.sink.dead_letter_path = Some(place("s3://results/dead/"));
    let derived = |dead: Option<&str>| {
        let dead = dead.map(place);
        derive(&of, range(1, 2), place("s3://results/again/"), dead).map_err(|e| e.code())
    };
    assert_eq!(derived(None).unwrap_err(), Code::ReplayPath);
    assert_eq!(derived(Some("s3://results/dead/x/")).unwrap_err(), Code::ReplayPath);
    assert_eq!(derived(Some("s3://results/app/x/")).unwrap_err(), Code::ReplayPath);
    assert!(derived(Some("s3://results/dead-again/")).is_ok());
}

#[test]
fn a_replay_crosses_the_wire_and_is_checked_there() {
    let of = spec("app", "s3://results/app/");
    let replay = derive(&of, range(1_000, 2_000), place("s3://results/again/"), None).unwrap();
    assert_eq!(ApplicationSpec::from_proto(&replay.to_proto()).unwrap(), replay);
    let broken = |change: fn(&mut v1::ApplicationSpec)| {
        let mut message = replay.to_proto();
        change(&mut message);
        ApplicationSpec::from_proto(&message).unwrap_err().code()
    };
    assert_eq!(broken(|m| m.name = "app".to_owned()), Code::InvalidValue);
    assert_eq!(
        broken(|m| m.sources[0].start = Some(StartPosition::Earliest.to_proto())),
        Code::InvalidValue
    );
    assert_eq!(broken(|m| m.replay.as_mut().unwrap().to_ms = 1_000), Code::ReplayRange);
}

#[test]
fn moments_are_times_with_an_offset_or_spans_before_now() {
    let at = |text: &str| text.parse::<Moment>().unwrap().resolve(10 * HOUR_MS);
    assert_eq!(at("1970-01-01T01:00:01+01:00"), 1_000);
    assert_eq!(at("-6h"), 4 * HOUR_MS);
    assert_eq!(at("-1h 30m"), 8 * HOUR_MS + HOUR_MS / 2);
    assert_eq!(at("-9000y"), 0);
    for wrong in ["6h", "2026-11-22T10:00:00", "-", "now", "-6"] {
        assert!(wrong.parse::<Moment>().is_err(), "{wrong:?} was taken");
    }
}
