//! The files that objects are made of.
//!
//! A piece is a file that is written once, under a name that is never used again, and is removed
//! when the last object, upload or reader lets go of it. So a reader never sees another object's
//! bytes, and completing an upload copies nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file of some bytes.
#[derive(Debug)]
pub(crate) struct PieceFile {
    path: PathBuf,
    size: u64,
    doomed: AtomicBool,
}

/// A shared hold on a piece.
pub(crate) type Piece = Arc<PieceFile>;

impl PieceFile {
    pub(crate) fn new(path: PathBuf, size: u64) -> Piece {
        Arc::new(Self { path, size, doomed: AtomicBool::new(false) })
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The file name, which is what descriptions on disk keep.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Lets the file be removed once nobody holds it any more.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    /// Lets the file stay after all.
    pub(crate) fn pardon(&self) {
        self.doomed.store(false, Ordering::Relaxed);
    }
}

impl Drop for PieceFile {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove a piece");
        }
    }
}
