//! Larger worlds: three drivers, two faults, more records where the small worlds leave some out.
//!
//! Promises: each world is a test of its own, is tried to its end and says then how many states it
//! has. Tried only with `MILLRACE_MODELS=large`: most worlds take seconds or minutes; which were not
//! seen to their end is said in docs/adr/0017.

use stateright::HasDiscoveries;

use super::by_hand::Variant;
use super::{Config, Gc, LOST, RECORDS, TAKEN, by_hand, discoveries, holds_in_all_states};
use crate::driver::head::{RepairChoice, Sizes};
use crate::model_search::{Order, is_large};

const REREAD: Option<RepairChoice> = Some(RepairChoice::Reread);

fn holds(name: &str, config: Config) {
    if is_large() {
        holds_in_all_states(name, config, Order::DepthFirst);
    } else {
        println!("SKIPPED: {name}: set MILLRACE_MODELS=large to try the large worlds");
    }
}

#[test]
fn a_wrong_driver_is_found_out_in_this_order_too() {
    let wrong = Config { crashes: 1, faults: 0, ..by_hand(Variant::NextBeforeCompletesEnd) };
    let until = HasDiscoveries::AnyOf(RECORDS.into());
    let found = discoveries("wrong, depth first", wrong, Order::DepthFirst, until);
    assert!(RECORDS.iter().any(|property| found.contains_key(property)), "it is not found out");
}

#[test]
fn three_drivers() {
    holds("three drivers", Config { num_drivers: 3, crashes: 2, ..Config::SMALL });
}

#[test]
fn three_drivers_of_one_shard() {
    let small = Config { records: [2, 0], ..Config::SMALL };
    holds("three drivers, one shard", Config { num_drivers: 3, crashes: 2, ..small });
}

#[test]
fn two_faults() {
    holds("two faults", Config { faults: 2, ..Config::SMALL });
}

#[test]
fn removing_orphans() {
    let ruled = Config { gc: Gc::Ruled, runs_during_publish: true, ..Config::SMALL };
    holds("gc, large", ruled);
}

#[test]
fn heads_in_chunks() {
    let sizes = Sizes { inline: 0, chunk: 100 };
    holds("chunks, large", Config { sizes, ..Config::SMALL });
}

#[test]
fn lost() {
    holds("lost, large", LOST);
}

#[test]
fn lost_and_read_again() {
    let asked = Config { repair: REREAD, num_drivers: 3, ..LOST };
    holds("lost and read again, large", asked);
}

#[test]
fn marks() {
    holds("marks, large", Config { marks: true, ..Config::SMALL });
}

#[test]
fn removed_once_marked() {
    holds("removed, large", Config { repair: REREAD, takes: 2, records: [1, 1], ..TAKEN });
}

#[test]
fn removed_and_lost() {
    let both = Config { repair: REREAD, expiries: 2, records: [1, 1], ..TAKEN };
    holds("removed and lost, large", both);
}
