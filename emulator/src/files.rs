//! Small file operations that more than one service needs.
//!
//! A file written by [`write_atomic`] is always seen whole: the old content or the new one. "Safe"
//! means safe from the death of this process; nothing is forced onto the platter.

use std::fs;
use std::io;
use std::path::Path;

/// Puts `content` at `path` in one step, through a temporary file beside it.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", uuid::Uuid::new_v4().simple()));
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path).inspect_err(|_| {
        // Best effort: the error that matters is the rename's.
        fs::remove_file(&temporary).ok();
    })
}
