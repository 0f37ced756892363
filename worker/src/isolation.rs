//! What a container gives up before it does anything else: rights it could gain, dumps of its memory,
//! and its claim to outlive others when the machine is out of memory.
//!
//! Called once, on the first thread and before any other is started, for threads inherit it.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Largest dump, in bytes. Not zero: that the kernel passes over when dumps go to a program. One
/// byte is too little for a file, and stops the program too.
const CORE_BYTES: u64 = 1;
/// Of -1000 to 1000, where the more is ended first; the node has 0.
const OUT_OF_MEMORY_SCORE: &str = "500";

/// Gives all of it up.
///
/// # Errors
/// Of the operating system.
pub fn isolate() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, CORE_BYTES, CORE_BYTES)?;
    std::fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE)
}
