//! I7: at the end no process, port or temporary file is left, and no upload of the head is open.

use super::Facts;
use crate::checker::report::{Finding, Invariant, Verdict};

pub(super) fn judge(facts: &Facts) -> Verdict {
    let mut findings = Vec::new();
    let mut num_orphans = 0;
    for key in &facts.open_uploads {
        let head = facts.head.as_ref();
        let is_pending = head.is_some_and(|head| head.files.iter().any(|file| file.key == *key));
        if is_pending {
            findings.push(Finding::new("open upload", format!("{key}: the head names it")));
        } else {
            num_orphans += 1;
        }
    }
    let mut seen = format!("{num_orphans} orphaned uploads");
    match &facts.leftovers {
        None => seen.push_str(", the machine was not looked at"),
        Some(left) => {
            let processes = left.processes.iter();
            findings.extend(processes.map(|(pid, arguments)| {
                Finding::new("process", format!("{pid} lives: {arguments}"))
            }));
            let ports = left.ports.iter();
            findings.extend(ports.map(|port| Finding::new("port", format!("{port} is open"))));
            let files = left.files.iter();
            findings.extend(files.map(|file| Finding::new("file", file.display().to_string())));
            seen.push_str(", the machine was looked at");
        }
    }
    Verdict::new(Invariant::I7, seen, findings)
}
