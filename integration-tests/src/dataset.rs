//! Real log lines: the loghub samples in `shared/data/loghub`, beside the repository.
//!
//! The files are read only. A machine without them skips the tests that need them, loudly.

use std::path::{Path, PathBuf};

/// The five samples, 2,000 lines each.
const FILES: [&str; 5] =
    ["Apache_2k.log", "BGL_2k.log", "OpenSSH_2k.log", "Spark_2k.log", "Zookeeper_2k.log"];

/// Lines in each of the samples.
pub const LINES_PER_FILE: usize = 2_000;

/// Paths of the five samples, or `None` with a loud note for `test` when they are not here.
#[must_use]
pub fn loghub(test: &str) -> Option<Vec<PathBuf>> {
    let shared = match std::env::var_os("MILLRACE_SHARED") {
        Some(path) => PathBuf::from(path),
        None => repository_root().parent()?.join("shared"),
    };
    let files: Vec<PathBuf> =
        FILES.iter().map(|name| shared.join("data/loghub").join(name)).collect();
    match files.iter().find(|file| !file.is_file()) {
        None => Some(files),
        Some(absent) => {
            crate::skip::note(test, &format!("{} is absent (MILLRACE_SHARED)", absent.display()));
            None
        }
    }
}

/// The directory that holds the workspace.
#[must_use]
pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a member of a workspace")
}
