//! Failpoints of a container, set by its environment so that a test can reach into one that it
//! did not start itself, and by files so that it can do so while the container runs.
//!
//! Promises: without the feature `failpoints` this module does not exist. Never does: name a point;
//! those are named where they are hit.

use std::path::Path;

/// Names the directory in which a test lays down points for containers that run already.
const DIRECTORY: &str = "FAILPOINTS_DIR";

/// Reads `FAILPOINTS` from the environment. Call it once, at the start of the process.
///
/// # Errors
/// What is wrong with the variable.
pub fn load() -> Result<(), String> {
    let Ok(text) = std::env::var("FAILPOINTS") else { return Ok(()) };
    for entry in text.split(';').filter(|entry| !entry.trim().is_empty()) {
        let (point, action) =
            entry.split_once('=').ok_or_else(|| format!("FAILPOINTS: {entry:?} has no action"))?;
        fail::cfg(point.trim(), action).map_err(|error| format!("FAILPOINTS: {entry}: {error}"))?;
    }
    Ok(())
}

/// Sets `point` when a test has laid it down: a file of its name in `FAILPOINTS_DIR` that holds its
/// action. The file is renamed first, so that of all processes exactly one takes it.
///
/// # Errors
/// What is wrong with the action.
pub fn take(point: &str) -> Result<(), String> {
    match std::env::var_os(DIRECTORY) {
        Some(directory) => take_from(Path::new(&directory), point),
        None => Ok(()),
    }
}

fn take_from(directory: &Path, point: &str) -> Result<(), String> {
    let taken = directory.join(format!("{point}.taken-{}", std::process::id()));
    if std::fs::rename(directory.join(point), &taken).is_err() {
        // Nothing is laid down, or another process was first.
        return Ok(());
    }
    let action =
        std::fs::read_to_string(&taken).map_err(|error| format!("{}: {error}", taken.display()))?;
    fail::cfg(point, action.trim()).map_err(|error| format!("{point}: {action}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_is_laid_down_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let point = "a-point-of-this-test";
        std::fs::write(directory.path().join(point), "1*return\n").unwrap();
        take_from(directory.path(), point).unwrap();
        assert!(fail::list().iter().any(|(name, _)| name == point));
        fail::remove(point);
        take_from(directory.path(), point).unwrap();
        assert!(!fail::list().iter().any(|(name, _)| name == point));
    }

    #[test]
    fn an_action_that_makes_no_sense_is_told() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("p"), "explode").unwrap();
        assert!(take_from(directory.path(), "p").unwrap_err().contains("explode"));
    }
}
