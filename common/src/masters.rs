//! Which master to ask next: a list of addresses and what was heard from them, without a clock.
//!
//! Promises: every address of the list is asked in turn; a leader that a refusal names is asked
//! next, once in a round; after a round without success there is a pause with jitter, which grows.
//! Owned by whoever keeps a connection to the leading master. Never does: connect, or wait.

use std::time::Duration;

use crate::error::{Code, Error};
use crate::retry::Backoff;
use crate::rpc;

/// Addresses that are kept beside the configured ones because a master named them as the leader's.
/// A cluster has two or three masters; this bounds what a liar can do.
const LEARNED_MAX: usize = 8;

/// The masters of a cluster.
#[derive(Clone, Debug)]
pub struct Masters {
    /// The configured addresses, then the learned ones.
    addresses: Vec<String>,
    num_configured: usize,
    /// The one to ask.
    at: usize,
    /// Asked in vain in this round.
    num_tried: usize,
    /// True once a named leader was asked in this round.
    has_followed: bool,
    /// Rounds in vain since the last success.
    num_rounds: u32,
}

impl Masters {
    /// The masters of a list as `a:7070,b:7070`.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] when the list is empty or holds something that is no address.
    pub fn parse(list: &str) -> Result<Self, Error> {
        let mut addresses: Vec<String> = Vec::new();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            rpc::endpoint(part)?;
            let address = plain(part);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(Error::new(
                Code::InvalidValue,
                format!("{list:?} names no master"),
                "write host:port, of several masters separated by commas",
            ));
        }
        let num_configured = addresses.len();
        Ok(Self {
            addresses,
            num_configured,
            at: 0,
            num_tried: 0,
            has_followed: false,
            num_rounds: 0,
        })
    }

    /// The address to ask now.
    #[must_use]
    pub fn current(&self) -> &str {
        &self.addresses[self.at]
    }

    /// All addresses as one list, this one first.
    #[must_use]
    pub fn list_after(&self, first: &str) -> String {
        let first = plain(first);
        let others = self.addresses.iter().filter(|address| **address != first);
        let all: Vec<&str> = std::iter::once(first.as_str())
            .filter(|first| !first.is_empty())
            .chain(others.map(String::as_str))
            .collect();
        all.join(",")
    }

    /// The current address is the leader's; it is asked first from now on.
    pub fn succeeded(&mut self) {
        self.num_tried = 0;
        self.has_followed = false;
        self.num_rounds = 0;
    }

    /// The current address did not do; `leader` is the one that its answer named. Gives how long to
    /// wait before the next is asked: not at all within a round. `random` is a number in `0.0..1.0`.
    pub fn failed(&mut self, leader: Option<&str>, backoff: Backoff, random: f64) -> Duration {
        let named = leader.map(plain).filter(|leader| leader != self.current());
        if let Some(leader) = named.filter(|_| !self.has_followed)
            && rpc::endpoint(&leader).is_ok()
        {
            self.has_followed = true;
            self.at = self.learn(leader);
            return Duration::ZERO;
        }
        self.num_tried += 1;
        self.at = (self.at + 1) % self.addresses.len();
        if self.num_tried < self.addresses.len() {
            return Duration::ZERO;
        }
        self.num_tried = 0;
        self.has_followed = false;
        self.num_rounds = self.num_rounds.saturating_add(1);
        backoff.delay(self.num_rounds, random)
    }

    fn learn(&mut self, address: String) -> usize {
        if let Some(known) = self.addresses.iter().position(|known| *known == address) {
            return known;
        }
        if self.addresses.len() >= self.num_configured + LEARNED_MAX {
            self.addresses.remove(self.num_configured);
        }
        self.addresses.push(address);
        self.addresses.len() - 1
    }
}

/// One spelling per address: `http://h:1/` and `h:1` are the same.
fn plain(address: &str) -> String {
    address.trim().trim_start_matches("http://").trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff =
        Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

    #[test]
    fn a_list_is_read_and_checked() {
        let masters = Masters::parse(" http://a:1/, b:2,,a:1 ").unwrap();
        assert_eq!(masters.addresses, ["a:1", "b:2"]);
        assert_eq!(masters.list_after("http://c:3"), "c:3,a:1,b:2");
        assert_eq!(masters.list_after("b:2"), "b:2,a:1");
        for bad in ["", " , ", "not an address"] {
            assert_eq!(Masters::parse(bad).unwrap_err().code(), Code::InvalidValue, "{bad:?}");
        }
    }

    #[test]
    fn a_named_leader_is_asked_next_and_kept() {
        let mut masters = Masters::parse("a:1,b:2").unwrap();
        assert_eq!(masters.failed(Some("http://c:3"), BACKOFF, 0.0), Duration::ZERO);
        assert_eq!(masters.current(), "c:3");
        masters.succeeded();
        // It dies: it is tried again, then the configured ones.
        assert_eq!(masters.failed(None, BACKOFF, 0.0), Duration::ZERO);
        assert_eq!(masters.current(), "a:1");
    }

    #[test]
    fn two_masters_that_name_each_other_do_not_make_a_busy_loop() {
        let mut masters = Masters::parse("a:1,b:2").unwrap();
        let mut waited = Duration::ZERO;
        for _ in 0..30 {
            let other = if masters.current() == "a:1" { "b:2" } else { "a:1" };
            waited += masters.failed(Some(other), BACKOFF, 0.0);
        }
        assert!(waited > Duration::from_secs(10), "{waited:?} in 30 tries");
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let mut masters = Masters::parse("a:1").unwrap();
        for port in 2..100 {
            masters.failed(Some(&format!("x:{port}")), BACKOFF, 0.0);
            masters.succeeded();
        }
        assert_eq!(masters.addresses.len(), 1 + LEARNED_MAX);
        assert_eq!(masters.addresses[0], "a:1");
    }

    proptest! {
        #[test]
        fn every_address_is_asked_in_a_round_and_every_round_ends_with_a_pause(
            num in 1usize..5,
            hints in proptest::collection::vec(proptest::option::of(0usize..7), 1..80),
        ) {
            let list: Vec<String> = (0..num).map(|n| format!("h:{}", n + 1)).collect();
            let mut masters = Masters::parse(&list.join(",")).unwrap();
            let mut in_round = 0;
            for hint in hints {
                in_round += 1;
                let hint = hint.map(|n| format!("h:{}", n + 1));
                if masters.failed(hint.as_deref(), BACKOFF, 0.5).is_zero() {
                    prop_assert!(in_round <= num + LEARNED_MAX + 1, "a round without an end");
                    continue;
                }
                in_round = 0;
            }
            // Without hints one round asks everybody.
            let mut asked = BTreeSet::new();
            masters.succeeded();
            loop {
                asked.insert(masters.current().to_owned());
                if !masters.failed(None, BACKOFF, 0.5).is_zero() {
                    break;
                }
            }
            prop_assert!(list.iter().all(|address| asked.contains(address)));
        }
    }
}
