//! Larger worlds: two faults, and faults, deaths and new drivers where the stream's shards change.
//!
//! Promises: each world is a test of its own, is tried to its end and says then how many states it
//! has. Tried only with `MILLRACE_MODELS=large`: most worlds take seconds or minutes; which were not
//! seen to their end is said in docs/adr/0017.

use super::{Config, MERGE, SMALL, SPLIT, holds_in_many};
use crate::model_search::is_large;

/// Blocks that hold all there is.
const WHOLE: Config = Config { blocks_of: &[usize::MAX], ..SMALL };

fn holds(name: &str, config: Config) {
    if is_large() {
        holds_in_many(name, config);
    } else {
        println!("SKIPPED: {name}: set MILLRACE_MODELS=large to try the large worlds");
    }
}

#[test]
fn one_shard_two_faults() {
    holds("one shard, two faults", Config { faults: 2, ..SMALL });
}

#[test]
fn one_shard_a_fault_and_a_death() {
    holds("one shard, a fault and a death", Config { faults: 1, deaths: 1, ..SMALL });
}

#[test]
fn split_and_a_death() {
    holds("split, a death", Config { shards: SPLIT, deaths: 1, ..WHOLE });
}

#[test]
fn merge_and_a_fault() {
    holds("merge, a fault", Config { shards: MERGE, faults: 1, ..WHOLE });
}

#[test]
fn merge_and_a_new_driver() {
    holds("merge, the driver dies", Config { shards: MERGE, restarts: 1, ..WHOLE });
}
