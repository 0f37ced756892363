//! Failpoints of a container, set by its environment so that a test can reach into one that it
//! did not start itself.
//!
//! Promises: without the feature `failpoints` this module does not exist. Never does: name a point;
//! those are named where they are hit.

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
