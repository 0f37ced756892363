//! I2: every object belongs to exactly one committed batch, with the rows that its commit says, and
//! every object that a commit names is there.

use std::collections::BTreeMap;

use super::Facts;
use crate::checker::commits::Commit;
use crate::checker::name::ObjectName;
use crate::checker::output::Object;
use crate::checker::report::{Finding, Invariant, Verdict};

pub(super) fn judge(facts: &Facts) -> Verdict {
    let mut findings = Vec::new();
    let mut batches: BTreeMap<u64, Vec<(&ObjectName, &Object)>> = BTreeMap::new();
    let mut num_rows = 0;
    for object in &facts.objects {
        num_rows += object.rows.len();
        match &object.name {
            Ok(name) => batches.entry(name.batch).or_default().push((name, object)),
            Err(_) => findings.push(Finding::new("foreign", "").in_object(object)),
        }
        findings.extend(is_of_its_commit(facts, object));
    }
    for objects in batches.values() {
        findings.extend(is_of_one_run(objects));
    }
    for (batch, commit) in &facts.commits {
        let here = batches.get(batch).map(Vec::as_slice).unwrap_or_default();
        let missing = missing_of(facts, *batch, commit, here);
        if missing.is_empty() {
            findings.extend(has_other_rows(*batch, commit, here));
        }
        findings.extend(missing);
    }
    let num_known = batches.keys().filter(|batch| facts.commits.contains_key(batch)).count();
    let seen = format!(
        "{} objects, {num_rows} rows, {} batches, the commits of {num_known} known",
        facts.objects.len(),
        batches.len()
    );
    Verdict::new(Invariant::I2, seen, findings)
}

/// What is wrong about an object and the commit of its batch.
fn is_of_its_commit(facts: &Facts, object: &Object) -> Option<Finding> {
    let name = object.name.as_ref().ok()?;
    let finding = |what, detail: String| Some(Finding::new(what, detail).in_object(object));
    let committed = facts.head.as_ref().map_or(0, |head| head.batch);
    if name.batch > committed {
        return finding("uncommitted", format!("the head is at batch {committed}"));
    }
    if let Some(token) = &object.token
        && *token != name.token(&facts.application)
    {
        return finding("another's", format!("its metadata says {token}"));
    }
    let commit = facts.commits.get(&name.batch)?;
    if commit.epoch.is_some_and(|epoch| epoch != name.epoch) {
        let epoch = commit.epoch.unwrap_or_default();
        return finding("another epoch", format!("the batch was committed in epoch {epoch}"));
    }
    let files = commit.files.as_ref()?;
    let rows = object.rows.len() as u64;
    match files.get(&name.key) {
        None => finding("not named", "the commit of its batch does not name it".to_owned()),
        Some(Some(said)) if *said != rows => {
            finding("other rows", format!("it has {rows} rows, its commit says {said}"))
        }
        Some(_) => None,
    }
}

/// Objects that the commit of a batch names and that are not there.
fn missing_of(
    facts: &Facts,
    batch: u64,
    commit: &Commit,
    here: &[(&ObjectName, &Object)],
) -> Vec<Finding> {
    let files = commit.files.iter().flat_map(BTreeMap::keys);
    let missing = files.filter(|key| !here.iter().any(|(name, _)| name.key == **key));
    let found = missing.map(|key| match ObjectName::parse(&facts.application, key) {
        Ok(name) => {
            let finding = Finding::new("missing", "its commit names it");
            Finding { objects: vec![name], ..finding }
        }
        Err(what) => Finding::new("missing", format!("the commit of batch {batch}: {what}")),
    });
    found.collect()
}

/// A batch whose objects hold another number of rows than its commit says. Where rows are known
/// object by object, the objects have been judged themselves.
fn has_other_rows(batch: u64, commit: &Commit, here: &[(&ObjectName, &Object)]) -> Option<Finding> {
    let files = commit.files.as_ref();
    let is_known_by_object = files.is_some_and(|files| files.values().all(Option::is_some));
    let said = commit.num_rows.filter(|_| !is_known_by_object)?;
    let rows: usize = here.iter().map(|(_, object)| object.rows.len()).sum();
    let detail = format!("batch {batch} has {rows} rows, its commit says {said}");
    let objects = here.iter().map(|(name, _)| (*name).clone()).collect();
    let finding = Finding { objects, ..Finding::new("other rows", detail) };
    (said != rows as u64).then_some(finding)
}

/// All objects of a batch come from one run in one epoch.
fn is_of_one_run(objects: &[(&ObjectName, &Object)]) -> Option<Finding> {
    let (first, rest) = objects.split_first()?;
    let other =
        rest.iter().find(|(name, _)| (name.epoch, &name.run) != (first.0.epoch, &first.0.run))?;
    let finding = Finding::new("two runs", "of one batch are visible");
    Some(finding.in_object(first.1).in_object(other.1))
}
