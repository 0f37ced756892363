//! Leadership and the writer against the store in memory, failing and lying.

use std::sync::Arc;
use std::time::Duration;

use millrace_common::clock::{Clock as _, ManualClock, SystemClock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::memory::{Fault, MemoryStore};
use super::*;

const TIMING: LeaderTiming = LeaderTiming {
    renew_interval: Duration::from_millis(10),
    step_down_after: Duration::from_millis(200),
    take_over_after: Duration::from_secs(10),
};

fn standby(instance: &str) -> Campaign {
    let text = instance.to_owned();
    Campaign::new(text.clone(), text.clone(), text, 0, TIMING.take_over_after)
}

fn taken(decision: leader::Decision) -> Option<LeaderItem> {
    match decision {
        leader::Decision::Take(item) => Some(item),
        leader::Decision::Wait => None,
    }
}

#[test]
fn a_standby_takes_over_only_what_stands_still() {
    let clock = ManualClock::at(0);
    let mut standby = standby("b");
    let mut item = LeaderItem { term: 3, counter: 7, place: "a".to_owned(), ..Default::default() };
    for _ in 0..20 {
        assert_eq!(taken(standby.observe(clock.monotonic(), Some(&item))), None);
        clock.advance(Duration::from_secs(2));
        item.counter += 1;
    }
    assert_eq!(taken(standby.observe(clock.monotonic(), Some(&item))), None);
    clock.advance(Duration::from_secs(9));
    assert_eq!(taken(standby.observe(clock.monotonic(), Some(&item))), None);
    clock.advance(Duration::from_secs(1));
    let next = taken(standby.observe(clock.monotonic(), Some(&item))).unwrap();
    assert_eq!((next.term, next.counter), (4, item.counter + 1));
}

#[test]
fn nobody_waits_for_a_leader_that_is_known_to_be_gone() {
    let item = LeaderItem { term: 3, counter: 7, place: "a".to_owned(), ..Default::default() };
    let released = LeaderItem { is_released: true, ..item.clone() };
    assert!(taken(standby("b").observe(Duration::ZERO, Some(&released))).is_some());
    assert!(taken(standby("a").observe(Duration::ZERO, Some(&item))).is_some(), "the same place");
    assert_eq!(taken(standby("b").observe(Duration::ZERO, None)).unwrap().term, 1);
}

#[test]
fn a_term_that_nodes_have_seen_is_passed() {
    let mut standby = Campaign::new("b".into(), "b".into(), "b".into(), 41, TIMING.take_over_after);
    assert_eq!(taken(standby.observe(Duration::ZERO, None)).unwrap().term, 42);
}

async fn win(store: &MemoryStore, instance: &str) -> Leadership {
    let clock = SystemClock::shared();
    let poll = Duration::from_millis(1);
    let (known, _) = watch::channel(Known::default());
    campaign(store, &*clock, standby(instance), poll, &known, &CancellationToken::new())
        .await
        .unwrap()
        .unwrap()
}

fn tenure() -> Tenure {
    Tenure::new(SystemClock::shared(), Duration::ZERO, Duration::from_secs(3_600))
}

#[tokio::test]
async fn a_lost_answer_does_not_cost_leadership() {
    // However long a busy machine takes for a renewal.
    let timing = LeaderTiming { step_down_after: Duration::from_secs(3_600), ..TIMING };
    let store = Arc::new(MemoryStore::default());
    store.inject(&[Fault::Fail, Fault::LoseAnswer]);
    let won = win(&store, "a").await;
    let (clock, cancel) = (SystemClock::shared(), CancellationToken::new());
    store.inject(&[Fault::LoseAnswer, Fault::Fail, Fault::LoseAnswer]);
    let held = {
        let (store, clock, cancel) = (Arc::clone(&store), clock.clone(), cancel.clone());
        let won = won.clone();
        tokio::spawn(async move {
            let (known, _) = watch::channel(Known::default());
            hold(&*store, &*clock, won, timing, &tenure(), &known, &cancel).await;
        })
    };
    let renewed = async {
        while store.leader().unwrap().counter < won.item.counter + 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), renewed).await.expect("it goes on renewing");
    cancel.cancel();
    held.await.unwrap();
    let left = store.leader().unwrap();
    assert!(left.is_released);
    assert_eq!(left.term, won.item.term);
}

#[tokio::test]
async fn a_leader_that_can_not_renew_steps_down() {
    let store = MemoryStore::default();
    let won = win(&store, "a").await;
    store.inject(&[Fault::Fail; 1_000]);
    let (clock, cancel) = (SystemClock::shared(), CancellationToken::new());
    let tenure = tenure();
    let (known, shown) = watch::channel(Known::default());
    let held = hold(&store, &*clock, won, TIMING, &tenure, &known, &cancel);
    tokio::time::timeout(Duration::from_secs(5), held).await.expect("it steps down");
    let refusal = shown.borrow().refusal().to_failure();
    assert_eq!(refusal.code, "MR2012");
    assert!(refusal.message.contains(": MR3008: "), "it says why: {refusal:?}");
}

#[tokio::test]
async fn a_leader_that_was_overtaken_steps_down_and_writes_nothing_more() {
    let store = Arc::new(MemoryStore::default());
    let first = win(&store, "a").await;
    let node = Record::Node("n1".into());
    store.put(first.item.term, &node).await.unwrap();
    let second = LeaderItem { term: 9, counter: 99, ..first.item.clone() };
    store.write_leader(&second, Some(&first.item)).await.unwrap();
    let (clock, cancel) = (SystemClock::shared(), CancellationToken::new());
    let term = first.item.term;
    let tenure = tenure();
    let (known, _) = watch::channel(Known::default());
    let held = hold(&*store, &*clock, first, TIMING, &tenure, &known, &cancel);
    tokio::time::timeout(Duration::from_secs(5), held).await.expect("it steps down");

    assert_eq!(store.load(9).await.unwrap().nodes, ["n1".into()]);
    let unheard = Record::Node("n2".into());
    assert!(matches!(store.put(term, &unheard).await, Err(StoreError::Refused)), "a new item");
    let reset = store.reset_head(term, &"a".parse().unwrap(), &Default::default()).await;
    assert!(matches!(reset, Err(StoreError::Deposed)), "{reset:?}");
    let (writer, work) = Writer::new(Arc::clone(&store) as Arc<dyn Store>, term, tenure.clone());
    let mut events = writer.events();
    writer.push(1, node);
    tokio::time::timeout(Duration::from_secs(5), work).await.expect("the writer is fenced");
    assert_eq!(*events.borrow_and_update(), WriterEvent::Fenced);
    assert_eq!(store.term_of("node#n1"), Some(9));
}

#[tokio::test]
async fn a_leader_that_was_stopped_writes_nothing_with_what_it_knew() {
    let store = Arc::new(MemoryStore::default());
    let clock = ManualClock::at(0);
    let tenure = Tenure::new(clock.clone(), Duration::ZERO, Duration::from_secs(6));
    let (writer, work) = Writer::new(Arc::clone(&store) as Arc<dyn Store>, 1, tenure);
    clock.advance(Duration::from_secs(6));
    writer.push(1, Record::Node("n1".into()));
    tokio::time::timeout(Duration::from_secs(5), work).await.expect("the writer ends");
    assert_eq!(*writer.events().borrow_and_update(), WriterEvent::Fenced);
    assert_eq!(store.num_puts(), 0);
}

#[tokio::test]
async fn records_are_written_however_often_it_takes() {
    let store = Arc::new(MemoryStore::default());
    store.inject(&[Fault::Fail, Fault::LoseAnswer, Fault::Fail]);
    let (writer, work) = Writer::new(Arc::clone(&store) as Arc<dyn Store>, 1, tenure());
    let work = tokio::spawn(work);
    for ticket in 1..=20 {
        writer.push(ticket, Record::Node("n1".into()));
    }
    let mut events = writer.events();
    let all = events.wait_for(|event| *event == WriterEvent::Written(20));
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("all are written").unwrap();
    assert!(store.num_puts() < 20, "records of one key are written once: {}", store.num_puts());
    drop((writer, events));
    tokio::time::timeout(Duration::from_secs(5), work).await.expect("it ends").unwrap();
}

#[test]
fn a_record_comes_back_as_it_was() {
    use crate::application::{ApplicationRecord, Revised};
    use millrace_proto::v1;

    let mut application = v1::Application { name: "a".to_owned(), ..Default::default() };
    application.set_state(v1::ApplicationState::Running);
    let revised = |revision| Revised {
        spec: v1::ApplicationSpec { name: "a".to_owned(), ..Default::default() },
        revision,
        owner: "ann".to_owned(),
        is_checked: true,
    };
    let record = ApplicationRecord {
        next: Some(revised(2)),
        before: Some(revised(1)),
        application,
        max_epoch: 9,
        last_attempt: 3,
        is_head_expected: true,
        batch_failures: Some(v1::BatchFailures { batch: 7, count: 2 }),
        sequence: 4,
        stop: Some(v1::StopDriver { drain: true, deadline_ms: 5 }),
        failures_ms: vec![5, -1],
        batches: vec![v1::Batch { number: 7, ..Default::default() }],
        outcome: Some(v1::DriverFinished { reason: "r".to_owned(), ..Default::default() }),
    };
    let bytes = codec::encode(&record);
    assert_eq!(codec::decode("k", &bytes).unwrap(), record);
    assert!(codec::decode("k", &bytes[1..]).is_err());
}

#[test]
fn a_token_comes_back_as_it_was() {
    let info = v1::TokenInfo {
        id: "7f".to_owned(),
        name: "ann".to_owned(),
        expires_ms: 5,
        ..Default::default()
    };
    let record = TokenRecord { info, hash: vec![1, 2, 3] };
    let bytes = codec::encode_token(&record);
    assert_eq!(codec::decode_token("k", &bytes).unwrap(), record);
    assert!(codec::decode_token("k", &bytes[1..]).is_err());
}
