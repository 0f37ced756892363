//! I4: the visible set only grows, ETags never change, and every visible object is named by a
//! commit at or before the head that was read after the listing.

use super::Facts;
use crate::checker::head::SeenHead;
use crate::checker::name::ObjectName;
use crate::checker::observe::Look;
use crate::checker::report::{Finding, Invariant, Verdict};

pub(super) fn judge(facts: &Facts) -> Verdict {
    let Some(observations) = &facts.observations else {
        return Verdict::not_judged(Invariant::I4, "nobody watched");
    };
    let coverage = observations.coverage;
    if coverage.num_listings < 2 {
        return Verdict::not_judged(Invariant::I4, "fewer than two listings were seen");
    }
    let mut findings = Vec::new();
    let (mut num_seen, mut num_unproved) = (0, 0);
    let mut head: Option<&SeenHead> = None;
    for sample in &observations.samples {
        match &sample.head {
            Look::Same => {}
            Look::Missing => head = None,
            Look::Head(now) => head = Some(now),
        }
        let delta = &sample.delta;
        findings.extend(delta.gone.iter().map(|key| about(facts, "vanished", key, String::new())));
        findings.extend(delta.changed.iter().map(|(key, (before, after))| {
            about(facts, "ETag changed", key, format!("from {before} to {after}"))
        }));
        for key in delta.new.keys() {
            num_seen += 1;
            match proof(facts, key, head) {
                Proof::Named => {}
                Proof::Unknown => num_unproved += 1,
                Proof::Against(detail) => findings.push(about(facts, "too early", key, detail)),
            }
        }
    }
    let seen = format!(
        "{num_seen} objects in {} listings at most {} ms apart, {num_unproved} by number only",
        coverage.num_listings, coverage.longest_pause_ms
    );
    Verdict::new(Invariant::I4, seen, findings)
}

/// What a head says about an object that was listed before it was read.
enum Proof {
    /// A commit at or before the head names it.
    Named,
    /// Its batch is committed; what that commit names was not seen.
    Unknown,
    /// It must not be visible.
    Against(String),
}

fn proof(facts: &Facts, key: &str, head: Option<&SeenHead>) -> Proof {
    let name = match ObjectName::parse(&facts.application, key) {
        Ok(name) => name,
        Err(what) => return Proof::Against(what),
    };
    let Some(head) = head else {
        return Proof::Against("there is no head".to_owned());
    };
    if name.batch > head.batch {
        return Proof::Against(format!("the head read after it is at batch {}", head.batch));
    }
    let is_named = match facts.commits.get(&name.batch).and_then(|commit| commit.files.as_ref()) {
        _ if name.batch == head.batch => head.files.iter().any(|file| file.key == key),
        Some(files) => files.contains_key(key),
        None => return Proof::Unknown,
    };
    if is_named { Proof::Named } else { Proof::Against("its commit does not name it".to_owned()) }
}

fn about(facts: &Facts, what: &'static str, key: &str, detail: String) -> Finding {
    let mut finding = Finding::new(what, detail);
    match ObjectName::parse(&facts.application, key) {
        Ok(name) => finding.objects.push(name),
        Err(_) => finding.detail = format!("{key} {}", finding.detail),
    }
    finding
}
