//! boto3 reads and writes the emulator: the second SDK that must work unchanged.
//!
//! Runs where `MILLRACE_PYTHON` names a Python that has boto3, as test.sh sees to.

mod common;

use common::start;
use millrace_emulator::Config;

#[tokio::test]
async fn boto3_reads_and_writes() {
    let Ok(python) = std::env::var("MILLRACE_PYTHON") else {
        eprintln!("\n*** SKIPPED: MILLRACE_PYTHON is not set, so boto3 was NOT tried ***\n");
        return;
    };
    let (handle, _) = start(Config { limited: false, ..Config::default() }).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boto3_roundtrip.py");
    let run = tokio::process::Command::new(python)
        .args([script, &handle.endpoint()])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(3 * common::DEADLINE, run).await.expect("in time");
    let output = output.expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert_eq!(said.lines().count(), 3, "{said}");
    handle.stop().await;
}
